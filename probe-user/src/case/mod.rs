//! Connections under suspicion: their evidence, their timers, the questions asked about them, and their findings. Pure.

#![deny(clippy::disallowed_methods, clippy::wildcard_enum_match_arm)]

mod allowance;
mod at_rest;
mod cases;
mod dropped;
mod due;
mod evidence_log;
mod finding;
mod flow;
mod handshake;
mod open_case;
mod questions;
mod recovery;
mod standards;
mod surroundings;
mod tracker;
mod wakes;

pub use cases::{MAX_CASES, MAX_SERIOUS_CASES};
pub use finding::{Finding, FindingId, FindingState, Outcome};
pub use flow::FlowView;
pub use tracker::{Output, Tracker};

#[cfg(test)]
mod tests;
