use std::io::{self, Read};

use ciborium::Value;

use super::{
    FORMAT, Input, MAGIC,
    format::{FRAME_HEADER_BYTES, MOST_PAYLOAD_BYTES, checksum},
};

/// Longer than any first line of a recording.
const LONGEST_HEADER_BYTES: usize = 128;

/// Why a file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum NotARecording {
    /// It does not begin as recordings do.
    #[error("it is no recording of connprobe")]
    Foreign,
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// Another version of the format.
    #[error(
        "it was recorded in format {format} by connprobe {program}; this is connprobe {}, which reads format {FORMAT}",
        env!("CARGO_PKG_VERSION")
    )]
    OtherFormat {
        /// The version of its format.
        format: u32,
        /// The version of the program that made it.
        program: String,
    },
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// Where and why reading ended before the end.
#[derive(Debug, thiserror::Error)]
#[error("the recording {kind} at byte {at_byte}, after {after_inputs} inputs")]
pub struct Damage {
    /// What is wrong.
    pub kind: DamageKind,
    /// Where the frame begins that cannot be read.
    pub at_byte: u64,
    /// How many inputs were read before.
    pub after_inputs: u64,
}

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum DamageKind {
    /// It is not there to its end: the recorder was interrupted while it wrote.
    #[error("ends in the middle of a frame")]
    Truncated,
    /// It is not what was written.
    #[error("is damaged (its checksum is wrong)")]
    Checksum,
    /// It is what was written, and no inputs that this version knows.
    #[error("holds what this version of connprobe does not know ({0})")]
    Unknown(String),
    /// Reading failed.
    #[error("cannot be read ({0})")]
    Read(io::Error),
}

/// Reads a recording, frame after frame.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    /// Where the next frame begins.
    at_byte: u64,
    inputs: u64,
    has_ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    ///
    /// When this is no recording that can be read.
    pub fn new(mut source: R) -> Result<Self, NotARecording> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') && line.len() < LONGEST_HEADER_BYTES && source.read(&mut byte)? > 0 {
            line.extend_from_slice(&byte);
        }
        if line.is_empty() {
            return Err(NotARecording::Empty);
        }
        let text = std::str::from_utf8(&line).ok().and_then(|text| text.strip_suffix('\n'));
        let words: Vec<&str> = text.unwrap_or_default().split(' ').collect();
        let [MAGIC, format, program, ..] = words.as_slice() else { return Err(NotARecording::Foreign) };
        let format = format.parse().map_err(|_| NotARecording::Foreign)?;
        if format != FORMAT {
            return Err(NotARecording::OtherFormat { format, program: (*program).to_owned() });
        }
        let at_byte = u64::try_from(line.len()).unwrap_or(u64::MAX);
        Ok(Self { source, at_byte, inputs: 0, has_ended: false })
    }

    /// How many inputs were read.
    pub const fn inputs(&self) -> u64 {
        self.inputs
    }

    /// The inputs of the next frame; `None` at the end, and after an error.
    ///
    /// # Errors
    ///
    /// When there is a frame that cannot be read. What comes behind it cannot be, either.
    pub fn next_frame(&mut self) -> Result<Option<Vec<Input>>, Damage> {
        if self.has_ended {
            return Ok(None);
        }
        match self.read_frame() {
            Ok(Some((inputs, bytes))) => {
                self.at_byte = self.at_byte.saturating_add(bytes);
                self.inputs = self.inputs.saturating_add(u64::try_from(inputs.len()).unwrap_or(u64::MAX));
                Ok(Some(inputs))
            }
            Ok(None) => {
                self.has_ended = true;
                Ok(None)
            }
            Err(kind) => {
                self.has_ended = true;
                Err(Damage { kind, at_byte: self.at_byte, after_inputs: self.inputs })
            }
        }
    }

    fn read_frame(&mut self) -> Result<Option<(Vec<Input>, u64)>, DamageKind> {
        let header = self.read_up_to(FRAME_HEADER_BYTES)?;
        if header.is_empty() {
            return Ok(None);
        }
        let Some((length, crc)) =
            header.split_first_chunk::<4>().and_then(|(length, rest)| Some((*length, *rest.first_chunk::<4>()?)))
        else {
            return Err(DamageKind::Truncated);
        };
        let payload_bytes = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if payload_bytes > MOST_PAYLOAD_BYTES {
            return Err(DamageKind::Checksum);
        }
        let payload = self.read_up_to(payload_bytes)?;
        if payload.len() < payload_bytes {
            return Err(DamageKind::Truncated);
        }
        if checksum(length, &payload) != u32::from_le_bytes(crc) {
            return Err(DamageKind::Checksum);
        }
        let bytes = u64::try_from(FRAME_HEADER_BYTES + payload_bytes).unwrap_or(u64::MAX);
        Ok(Some((inputs_of(&payload)?, bytes)))
    }

    /// So many bytes, or fewer at the end of the file. Memory is taken as they come, not as a damaged length claims.
    fn read_up_to(&mut self, bytes: usize) -> Result<Vec<u8>, DamageKind> {
        let mut read = Vec::new();
        let limit = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.source.by_ref().take(limit).read_to_end(&mut read).map_err(DamageKind::Read)?;
        Ok(read)
    }
}

fn inputs_of(payload: &[u8]) -> Result<Vec<Input>, DamageKind> {
    let unknown = |error: &dyn std::fmt::Display| DamageKind::Unknown(error.to_string());
    let (bytes, compressed) = lz4_flex::block::uncompressed_size(payload).map_err(|error| unknown(&error))?;
    if bytes > MOST_PAYLOAD_BYTES {
        return Err(unknown(&"a frame that is too large"));
    }
    let block = lz4_flex::block::decompress(compressed, bytes).map_err(|error| unknown(&error))?;
    let mut rest = block.as_slice();
    let mut inputs = Vec::new();
    while !rest.is_empty() {
        let item: Value = ciborium::from_reader(&mut rest).map_err(|error| unknown(&error))?;
        if !is_possible(&item) {
            return Err(unknown(&"a time that no kernel tells"));
        }
        inputs.push(item.deserialized().map_err(|error| unknown(&error))?);
    }
    Ok(inputs)
}

/// Whether no time in it is longer than any the kernel can tell. Those of real recordings can be added and multiplied; one that was made up
/// must not end the program. A time is a map with seconds and nanoseconds.
fn is_possible(item: &Value) -> bool {
    const LONGEST_SECONDS: u64 = u32::MAX as u64;
    let is_too_long = |(name, value): &(Value, Value)| {
        name.as_text() == Some("secs") && value.as_integer().is_some_and(|seconds| seconds > LONGEST_SECONDS.into())
    };
    let has_too_long = item.as_map().is_some_and(|fields| fields.iter().any(is_too_long));
    let values = item.as_map().into_iter().flatten().map(|(_, value)| value);
    !has_too_long && values.chain(item.as_array().into_iter().flatten()).all(is_possible)
}
