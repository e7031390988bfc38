//! What a run took in, as a file: `connprobe record` writes it, `connprobe replay` draws the same conclusions from it. Pure: bytes
//! and inputs, no files and no clock.
//!
//! A recording is a line that says what it is, and frames behind it ([`format`]). Each frame holds some inputs, stands for itself, and
//! is checked as a whole: whatever happens to its end, a recording can be read up to the last whole frame.
//!
//! [`Hider`] takes out of the inputs what a bug report should not tell.

#![deny(clippy::disallowed_methods, clippy::wildcard_enum_match_arm)]

mod format;
mod hide;
mod input;
mod reader;
mod scrub;

pub use format::{EncodeError, FORMAT, FrameWriter, MAGIC, header};
pub use hide::Hider;
pub use input::{Closing, Input, Opening, SameMoment};
pub use reader::{Damage, DamageKind, NotARecording, Reader};

#[cfg(test)]
pub(crate) mod arbitrary;
#[cfg(test)]
mod tests;
