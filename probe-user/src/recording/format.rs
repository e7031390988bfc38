//! The bytes of a recording.
//!
//! ```text
//! recording = "connprobe-recording 1 0.1.0\n" frame*        name, format version, version of the program
//! frame     = length crc payload                           length of the payload and CRC-32 of length and payload, u32 little-endian
//! payload   = LZ4 block behind its uncompressed length (u32 little-endian)
//! block     = input*                                       CBOR (RFC 8949), one item an input
//! ```
//!
//! CBOR names each field and each variant, so that within a format version fields may be added: who does not know them skips them, and
//! one that is missing is absent.

use super::Input;

/// What the first line of a recording begins with.
pub const MAGIC: &str = "connprobe-recording";
/// The version of the format.
pub const FORMAT: u32 = 1;

/// Bytes before a frame's payload.
pub(super) const FRAME_HEADER_BYTES: usize = 8;
/// A frame's payload, compressed or not, is at most so long: what claims to be longer is damaged.
pub(super) const MOST_PAYLOAD_BYTES: usize = 16 << 20;
/// The largest inputs, coverages and lists of a firewall's rules, take some hundred kilobytes.
const MOST_INPUT_BYTES: usize = 8 << 20;
/// Inputs are collected up to this many bytes, within which LZ4 finds what is alike.
const FULL_BYTES: usize = 64 << 10;

/// The line that a recording begins with.
pub fn header() -> String {
    format!("{MAGIC} {FORMAT} {}\n", env!("CARGO_PKG_VERSION"))
}

/// Why an input could not be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// It is no CBOR.
    #[error("an input cannot be encoded: {0}")]
    Cbor(#[from] ciborium::ser::Error<std::io::Error>),
    /// It is larger than a frame may be.
    #[error("an input of {0} bytes is larger than a frame may be")]
    TooLarge(usize),
}

/// Collects inputs and makes frames of them: [`add`](Self::add) until [`is_full`](Self::is_full), or until they have waited long enough,
/// then [`take`](Self::take).
#[derive(Debug, Default)]
pub struct FrameWriter {
    block: Vec<u8>,
    inputs: u64,
}

impl FrameWriter {
    /// Adds an input.
    ///
    /// # Errors
    ///
    /// When it cannot be written; those before it stay.
    pub fn add(&mut self, input: &Input) -> Result<(), EncodeError> {
        let before = self.block.len();
        let written = ciborium::into_writer(input, &mut self.block).map_err(EncodeError::from);
        let length = self.block.len() - before;
        let is_too_large = length > MOST_INPUT_BYTES;
        let added = written.and(if is_too_large { Err(EncodeError::TooLarge(length)) } else { Ok(()) });
        match added {
            Ok(()) => self.inputs += 1,
            Err(_) => self.block.truncate(before),
        }
        added
    }

    /// Whether a frame should be made of what is collected.
    pub const fn is_full(&self) -> bool {
        self.block.len() >= FULL_BYTES
    }

    /// The frame of what is collected, and how many inputs it holds; `None` when that is nothing.
    pub fn take(&mut self) -> Option<(Vec<u8>, u64)> {
        if self.inputs == 0 {
            return None;
        }
        let payload = lz4_flex::block::compress_prepend_size(&self.block);
        self.block.clear();
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
        frame.extend_from_slice(&length);
        frame.extend_from_slice(&checksum(length, &payload).to_le_bytes());
        frame.extend_from_slice(&payload);
        Some((frame, std::mem::take(&mut self.inputs)))
    }
}

pub(super) fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}
