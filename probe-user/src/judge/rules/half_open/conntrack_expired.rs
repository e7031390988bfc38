//! `conntrack_expired`: a connection waits, and connection tracking of its own namespace does not know it any more, though it knows
//! others. What it does not know is invalid to it (`nf_conntrack_tcp_loose` = 0) or new, and a stateful firewall drops both:
//! segments on their way out, which the socket is told (EPERM, `nf_hook_slow`), or the answers on their way in, of which it is told
//! nothing.
//!
//! Not this cause: an entry that was there when the connection began to wait. Conntrack gives up before TCP does (after 300 s, by
//! `nf_conntrack_tcp_timeout_max_retrans` and `_unacknowledged`, where TCP takes a quarter of an hour).

use super::unanswered;
use crate::{
    judge::{Cause, Evidence, EvidenceKind, History, MissingEvidence, Ruling, Step, rules::retransmit_stalled},
    model::{ConntrackSettings, ConntrackStatus, Knowledge, MonoTime},
};

pub(super) fn assess(history: &History<'_>) -> Option<Ruling> {
    let Knowledge::Known(ConntrackStatus::Forgotten(settings)) = history.conntrack else { return None };
    let knew_it = |evidence: &Evidence| matches!(evidence.kind, EvidenceKind::ConntrackEntry(_));
    if history.evidence.iter().any(knew_it) {
        return None;
    }
    let waiting = retransmit_stalled::assess(history).or_else(|| unanswered::assess(history))?;
    let refused_here = match waiting.cause {
        Cause::LocalSendFailure if history.path.has_no_route() => return None,
        Cause::LocalSendFailure => true,
        Cause::PeerSilent | Cause::KeepaliveUnanswered | Cause::WindowProbesUnanswered => false,
        Cause::SourceAddressLost
        | Cause::PeerReset
        | Cause::PeerRestarted
        | Cause::PeerUnreachable
        | Cause::ConntrackExpired
        | Cause::ConntrackBadChecksum
        | Cause::ConntrackInvalid
        | Cause::FirewallDrop
        | Cause::StackDrop
        | Cause::UnacknowledgedFin
        | Cause::FinalAckLost
        | Cause::SynackLost
        | Cause::PathMismatch
        | Cause::ReversePathFiltered
        | Cause::EmbryonicExpired
        | Cause::PeerWindowShut => return None,
    };
    let mut missing = waiting.missing;
    // That is what it is: conntrack does not know the connection.
    missing.retain(|missing| *missing != MissingEvidence::WhySendingFails);
    let drops_answers = Evidence::dropped_steps(history.evidence, Step::AckReceived).next().is_some();
    if !refused_here && !drops_answers {
        missing.push(MissingEvidence::WhatFirewallDrops);
    }
    if may_have_been_forgotten_since(waiting.since, history, settings) {
        missing.push(MissingEvidence::WhenForgotten);
    }
    Some(Ruling { deadline: waiting.deadline, ..Ruling::new(Cause::ConntrackExpired, waiting.since, missing) })
}

/// Whether the connection had waited so long when conntrack was first asked that it may have forgotten it because of that.
fn may_have_been_forgotten_since(since: MonoTime, history: &History<'_>, settings: &ConntrackSettings) -> bool {
    let missed_at = history
        .evidence
        .iter()
        .find_map(|evidence| matches!(evidence.kind, EvidenceKind::ConntrackEntryMissing(_)).then_some(evidence.at));
    match (missed_at, settings.shortest_timeout_of_stalled()) {
        (Some(missed_at), Some(timeout)) => missed_at.since(since) >= timeout,
        (None, _) | (_, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::errno::Errno;

    use super::*;
    use crate::{
        judge::{
            Confidence, Verdict,
            rules::scene::{Scene, stalled},
        },
        model::{ConntrackEntry, SocketView},
    };

    const REFUSED: Option<i32> = Some(-(Errno::EPERM as i32));

    #[test]
    fn what_cannot_leave_and_conntrack_does_not_know_is_forgotten() {
        let ruling = Scene::timed_out(stalled(5), REFUSED).path(true, None).forgotten_by_conntrack().judge().unwrap();
        assert_eq!((ruling.verdict, ruling.cause), (Verdict::HalfOpen, Cause::ConntrackExpired));
        assert_eq!(ruling.confidence, Confidence::Confirmed);
    }

    #[test]
    fn what_leaves_and_is_not_answered_may_be_dropped_coming_back() {
        let ruling = Scene::timed_out(stalled(9), Some(0)).path(true, None).forgotten_by_conntrack().judge().unwrap();
        assert_eq!((ruling.cause, ruling.confidence), (Cause::ConntrackExpired, Confidence::Suspected));
        assert_eq!(ruling.missing, [MissingEvidence::WhatFirewallDrops]);
    }

    #[test]
    fn an_entry_that_ended_while_the_connection_waited_is_not_why_it_waits() {
        let entry = ConntrackEntry { state: None, replied: true, assured: true, expires_in: None, zone: 0 };
        let scene = Scene::timed_out(stalled(9), Some(0)).then(EvidenceKind::ConntrackEntry(entry));
        assert_eq!(scene.forgotten_by_conntrack().judge().unwrap().cause, Cause::PeerSilent);
        let long = SocketView { retransmitting_for: Some(Duration::from_secs(400)), ..stalled(11) };
        let ruling = Scene::timed_out(long, REFUSED).path(true, None).forgotten_by_conntrack().judge().unwrap();
        assert_eq!(ruling.missing, [MissingEvidence::WhenForgotten]);
    }

    #[test]
    fn no_route_or_no_address_is_the_nearer_cause() {
        let unroutable = Some(-(Errno::ENETUNREACH as i32));
        let scene = Scene::timed_out(stalled(5), unroutable).path(true, Some(101)).forgotten_by_conntrack();
        assert_eq!(scene.judge().unwrap().cause, Cause::LocalSendFailure);
        let scene = Scene::timed_out(stalled(5), unroutable).path(false, None).forgotten_by_conntrack();
        assert_eq!(scene.judge().unwrap().cause, Cause::SourceAddressLost);
    }
}
