//! What connprobe reads from outside: records of its kernel programs, recordings, settings, and whatever events and answers they lead
//! to. A target is given bytes, and must neither panic nor break what it asserts.
//!
//! Each is run on its corpus (`corpus/NAME`), and on what that mutates to, whenever tests run; for long by `cargo xtask fuzz`.

mod tracker;

use connprobe::{
    cli::check_settings,
    decode::{Units, decode, decode_closed},
    recording::Reader,
};
use connprobe_common::{
    abi::{ABI_VERSION, DropRecord, InvalidRecord, SocketRecord},
    connection::ConnectionRecord,
};

/// Names the target that the fuzzing program runs.
pub const TARGET_VARIABLE: &str = "CONNPROBE_FUZZ_TARGET";

/// Something that is given anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A record of a kernel program becomes an event.
    Decode,
    /// A recording is read and replayed.
    Recording,
    /// A configuration file of the daemon is read.
    Settings,
    /// The tracker is handed inputs in the encoding of recordings (CBOR, one item an input), without their frames: a mutated one would
    /// not get past its checksum.
    Tracker,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 4] = [Self::Decode, Self::Recording, Self::Settings, Self::Tracker];

    /// Its name, which is that of its corpus.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Recording => "recording",
            Self::Settings => "settings",
            Self::Tracker => "tracker",
        }
    }

    /// The target with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }

    /// Runs it.
    ///
    /// # Panics
    ///
    /// When something is wrong with what is tested.
    pub fn run(self, data: &[u8]) {
        match self {
            Self::Decode => decode_record(data),
            Self::Recording => read_recording(data),
            Self::Settings => read_settings(data),
            Self::Tracker => tracker::take_in(data),
        }
    }
}

/// The first byte chooses the kernel's units and the kind of record: bytes of another length than its own are none.
fn decode_record(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let mut record = rest.to_vec();
    let sizes =
        [size_of::<SocketRecord>(), size_of::<DropRecord>(), size_of::<InvalidRecord>(), size_of::<ConnectionRecord>()];
    if let Some(size) = usize::from(choice >> 4).checked_sub(1).and_then(|kind| sizes.get(kind).copied()) {
        record.resize(size, 0);
        // Every record begins with it.
        record.splice(..2, ABI_VERSION.to_ne_bytes());
    }
    let bit = |mask: u8, bit: u32| (choice & mask != 0).then_some(bit);
    let hz = u32::from(choice & 3) * 250;
    let units = Units { hz, sock_dead_bit: bit(4, 0), sock_done_bit: bit(4, 1), sock_keepopen_bit: bit(8, 9) };
    let decoded = decode(&record, units);
    assert_eq!(decoded, decode(&record, units), "the same bytes are the same event");
    assert!(decoded.is_err() || decode_closed(&record, units).is_err(), "no record is of two kinds");
}

fn read_recording(data: &[u8]) {
    if let Ok(reader) = Reader::new(data) {
        tracker::replay(reader);
    }
}

fn read_settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match check_settings(text) {
        Ok(meaning) => assert!(meaning.ends_with('\n'), "{meaning}"),
        Err(error) => assert!(!error.to_string().is_empty(), "an error says what is wrong"),
    }
}
