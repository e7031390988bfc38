//! When a look at a socket shows that its connection is well again.

use std::time::Duration;

use crate::{
    judge::{Cause, Evidence, EvidenceKind, Ruling},
    model::{COARSEST_TICK, MonoTime, SocketStatus},
};

/// A socket without a timer makes no event when the peer is heard of again: it is looked at so often.
const LOOK_AT_REST: Duration = Duration::from_secs(10);

/// Whether what was wrong by `ruling` is over, as a look shows that was asked for at `asked_at`.
pub(super) fn has_recovered(ruling: &Ruling, seen: &[Evidence], asked_at: MonoTime, status: &SocketStatus) -> bool {
    // The look came after it was asked for, and so what it tells is younger, never older.
    let is_heard_since = |moment| asked_at.before(status.heard_ago + COARSEST_TICK) > moment;
    match ruling.cause {
        // It has been at rest all along. SYNs and resets do not count as heard (`tcp_validate_incoming` comes before `tcp_ack`,
        // `net/ipv4/tcp_input.c`); an ACK or data shows that the peer still has the connection, and that somebody forged the SYN.
        Cause::PeerRestarted => {
            let is_syn = |evidence: &&Evidence| matches!(evidence.kind, EvidenceKind::SynReceived);
            seen.iter().rev().find(is_syn).is_some_and(|latest| is_heard_since(latest.at))
        }
        // As above, for a client; a server has its socket only now. With data in flight rest says that it was acknowledged.
        Cause::FinalAckLost | Cause::SynackLost | Cause::ReversePathFiltered => {
            let latest = Evidence::syn_acks_received(seen).next_back();
            status.state.is_synchronized()
                && status.is_at_rest()
                && latest.is_none_or(|(latest, _)| is_heard_since(latest))
        }
        // Data alone does not set the count of probes back.
        Cause::KeepaliveUnanswered => status.is_at_rest() || is_heard_since(ruling.since),
        Cause::PeerReset
        | Cause::PeerUnreachable
        | Cause::ConntrackExpired
        | Cause::WindowProbesUnanswered
        | Cause::PeerSilent
        | Cause::SourceAddressLost
        | Cause::LocalSendFailure
        | Cause::UnacknowledgedFin
        | Cause::PathMismatch
        | Cause::EmbryonicExpired
        | Cause::PeerWindowShut => status.is_at_rest(),
        // A receiver is at rest all along: its state tells (`Case::dropped`).
        Cause::ConntrackBadChecksum | Cause::ConntrackInvalid | Cause::FirewallDrop | Cause::StackDrop => false,
    }
}

/// After how long to look again at a socket that has not recovered.
pub(super) fn next_look_in(status: &SocketStatus) -> Duration {
    status.timer.map_or(LOOK_AT_REST, |(_, due_in)| due_in)
}
