//! What people and pipelines read. Pure: findings, coverage and counters in, records and text out.
//!
//! [`record`] is the public contract (one JSON object a line), [`text`] the report for a person at 3 a.m. Both say the same.
//! [`handbook`] says what their words mean.

#![deny(clippy::disallowed_methods, clippy::wildcard_enum_match_arm)]

mod groups;
pub mod handbook;
mod heartbeat;
mod host;
mod printable;
pub mod record;
mod sentences;
mod summary;
pub mod text;
mod vantages;
mod wall_clock;

pub use heartbeat::{ConnectionCounts, Cost, Heartbeat, SinkHealth};
pub use host::Host;
pub use printable::Printable;
pub use summary::{Forgotten, HookCount, Summary};
pub use wall_clock::WallClock;

#[cfg(test)]
pub(crate) mod tests;
