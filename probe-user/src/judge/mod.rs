//! From evidence to a verdict. Pure: the same history always gives the same ruling.
//!
//! A verdict is a fact about a connection; the advice is derived from its cause ([`remedies`]). One file per verdict under
//! `rules/`.

#![deny(clippy::disallowed_methods, clippy::wildcard_enum_match_arm)]

mod deadline;
mod evidence;
mod remedy;
pub mod risk;
mod rules;
mod ruling;
mod thresholds;

pub use deadline::{Deadline, DeadlineSource, KernelTimer};
pub use evidence::{Attempt, Evidence, EvidenceKind, Sight, Step, SynAckRepeat};
pub use remedy::{Forwarded, Remedy, Waiting, forwarded_remedies, remedies, risk_remedies};
pub use ruling::{Cause, Confidence, MissingEvidence, Ruling, Verdict};
pub use thresholds::Thresholds;

use crate::model::{ConnectionKey, ConntrackStatus, Knowledge, PathStatus, ServiceStatus, SocketView, Vantage};

/// What a case knows when it is judged.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// Which connection; of one that is only forwarded, as the receiver of the segment that was dropped first would name it.
    pub key: &'a ConnectionKey,
    /// From where it is seen.
    pub vantage: Vantage,
    /// The latest view of the socket.
    pub socket: &'a SocketView,
    /// What has been seen, in time order. Old entries between the first and the latest may have been left out.
    pub evidence: &'a [Evidence],
    /// What is known of the way to the peer.
    pub path: &'a Knowledge<PathStatus>,
    /// What connection tracking of this host knows of the connection.
    pub conntrack: &'a Knowledge<ConntrackStatus>,
    /// What this host serves on the connection's port.
    pub service: &'a Knowledge<ServiceStatus>,
    /// From when on something is a suspicion, and when a fact.
    pub thresholds: &'a Thresholds,
    /// Events lost anywhere since the case was opened: one of them may have been about this connection.
    pub events_lost: u64,
}

impl History<'_> {
    /// The timeouts in a row that are missing for a fact, if any, after so many.
    fn missing_timeouts(&self, retransmits: u8) -> Option<MissingEvidence> {
        let count = self.thresholds.retransmits_confirmed.saturating_sub(retransmits);
        (count > 0).then_some(MissingEvidence::MoreTimeouts { count })
    }

    /// What may have been missed, if anything was lost.
    fn missing_events(&self) -> Option<MissingEvidence> {
        let count = self.events_lost;
        (count > 0).then_some(MissingEvidence::LostEvents { count })
    }
}

/// Judges a history by every rule; the first that applies rules. `None` when nothing is wrong, or not yet.
pub fn judge(history: &History<'_>) -> Option<Ruling> {
    match history.vantage {
        Vantage::Endpoint => judge_socket(history),
        Vantage::Forwarder => rules::asymmetric_handshake::forwarded::assess(history)
            .or_else(|| rules::silently_dropped_fin::forwarded::assess(history)),
    }
}

fn judge_socket(history: &History<'_>) -> Option<Ruling> {
    let of_stalled = |ruling| rules::asymmetric_handshake::of_stalled(history, ruling);
    rules::asymmetric_handshake::assess(history)
        .or_else(|| rules::half_open::assess(history))
        .or_else(|| rules::zero_window_stalled::assess(history))
        .or_else(|| rules::retransmit_stalled::assess(history).map(of_stalled))
        .or_else(|| rules::silently_dropped_fin::assess(history))
}
