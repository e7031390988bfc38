//! `retransmit_stalled`: data makes no progress though the peer's window is open.
//!
//! Required, either unacknowledged data: a retransmission timeout (`tcp_retransmit_timer`, `net/ipv4/tcp_timer.c`) on a
//! synchronized connection with an open send window, and so many timeouts in a row (`icsk_retransmits`: an acknowledgment of
//! new data sets it back to 0) that ordinary loss does not explain them; or the kernel giving up with ETIMEDOUT. Or data that
//! could not even be sent once: with nothing in flight and the window open the kernel has nothing to retransmit, and waits
//! with the persist timer (`tcp_check_probe_timer`, `include/net/tcp.h`).
//!
//! Not this verdict: a closed window (RFC 9293 section 3.8.6.1), SYN and SYN-ACK repeats, a lone FIN without data, fast
//! retransmit and tail loss probes, a lossy path that makes progress between timeouts, and a peer that goes on talking while
//! it does not acknowledge our data.

use std::time::Duration;

use nix::errno::Errno;

use crate::{
    judge::{Attempt, Cause, Evidence, History, MissingEvidence, Ruling, Sight, deadline},
    model::{COARSEST_TICK, Knowledge, SocketView},
};

/// Doublings of the persist timer that make a suspicion of data that cannot be sent: 1.4 s with the shortest RTO.
const SUSPECTED_AT_BACKOFF: u8 = 2;

/// Judges the latest sight of the socket.
pub(in crate::judge) fn assess(history: &History<'_>) -> Option<Ruling> {
    let sight = Evidence::latest_sight(history.evidence)?;
    let gave_up = gave_up(history, &sight);
    // Of a FIN that was seen to be dropped more is known.
    if sight.socket.only_fin_waits() && Evidence::dropped(history.evidence).is_some() {
        return None;
    }
    if sight.socket.cannot_send() {
        unsent(history, &sight, gave_up)
    } else if sight.socket.has_stalled_data() {
        unacknowledged(history, &sight, gave_up)
    } else {
        None
    }
}

/// Data that could not be sent even once.
fn unsent(history: &History<'_>, sight: &Sight<'_>, gave_up: bool) -> Option<Ruling> {
    let socket = sight.socket;
    let cause = local_cause(history);
    // A lost address is a fact at the first look; what else stops a segment may pass.
    if socket.backoff? < SUSPECTED_AT_BACKOFF && cause != Cause::SourceAddressLost && !gave_up {
        return None;
    }
    let since = sight.at.before(socket.probing_for.unwrap_or(Duration::ZERO));
    let missing = missing_evidence(history, sight, cause, 0, gave_up);
    Some(Ruling { deadline: deadline::of_probes(sight, false), ..Ruling::new(cause, since, missing) })
}

/// Data that was sent and is not acknowledged.
fn unacknowledged(history: &History<'_>, sight: &Sight<'_>, gave_up: bool) -> Option<Ruling> {
    let socket = sight.socket;
    let retransmits = socket.retransmits?;
    let attempt = Evidence::latest_attempt(history.evidence);
    // Of a timeout that only a scan has seen nothing is known: before 6.17 the tracepoints do not tell of what failed.
    let has_left = attempt.is_some_and(|attempt| {
        attempt.socket.retransmits == socket.retransmits && attempt.send_result.is_some_and(|result| result >= 0)
    });
    // That a segment could be sent says that IPv4 may do without the address (IP_TRANSPARENT, `ip_route_output_key_hash_rcu`). IPv6
    // does not look at the source when it sends: the answers go astray.
    let does_without = has_left && !history.path.needs_its_address();
    let source_is_lost = history.path.address_is_gone() && !does_without;
    let has_no_way = source_is_lost || history.path.has_no_route() && !has_left;
    let cause = if has_no_way || attempt.is_some_and(Attempt::failed_locally) {
        local_cause(history)
    } else if peer_is_heard(socket) {
        return None;
    } else {
        Cause::PeerSilent
    };
    let is_settled = gave_up || (cause == Cause::SourceAddressLost && retransmits > 0);
    if retransmits < history.thresholds.retransmits_suspected && !is_settled {
        return None;
    }
    let since = sight.at.before(socket.retransmitting_for.unwrap_or(Duration::ZERO));
    let missing = missing_evidence(history, sight, cause, retransmits, gave_up);
    Some(Ruling { deadline: deadline::of_retransmission(sight, false), ..Ruling::new(cause, since, missing) })
}

/// Why segments do not leave this host.
fn local_cause(history: &History<'_>) -> Cause {
    if history.path.address_is_gone() { Cause::SourceAddressLost } else { Cause::LocalSendFailure }
}

/// Whether the kernel has given the connection up since this sight: `tcp_write_err()` reports ETIMEDOUT, or the ICMP error remembered in
/// `sk_err_soft` (RFC 1122 section 4.2.3.5).
pub(super) fn gave_up(history: &History<'_>, sight: &Sight<'_>) -> bool {
    let is_giving_up =
        |error| matches!(error, Errno::ETIMEDOUT | Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ENOPROTOOPT);
    history.evidence.iter().any(|evidence| evidence.at >= sight.at && evidence.kind.error().is_some_and(is_giving_up))
}

/// Whether an ACK or data has come in since the first retransmission: then the peer is there, and what it lacks is our data. Its own
/// data does not count as an ACK ([`SocketView::heard_ago`]).
pub(super) fn peer_is_heard(socket: &SocketView) -> bool {
    let heard = [socket.last_ack_ago, socket.last_data_ago].into_iter().flatten().min();
    match (heard, socket.retransmitting_for) {
        (Some(heard_ago), Some(retransmitting_for)) => heard_ago + COARSEST_TICK < retransmitting_for,
        (None, _) | (_, None) => false,
    }
}

/// Whether sending failed with what a packet filter of this host gives that drops (`nf_hook_slow`, `net/netfilter/core.c`).
fn is_refused(history: &History<'_>) -> bool {
    let result = Evidence::latest_attempt(history.evidence).and_then(|timeout| timeout.send_result);
    result.is_some_and(|result| Errno::from_raw(result.saturating_neg()) == Errno::EPERM)
}

fn missing_evidence(
    history: &History<'_>,
    sight: &Sight<'_>,
    cause: Cause,
    retransmits: u8,
    gave_up: bool,
) -> Vec<MissingEvidence> {
    let mut missing = Vec::new();
    match cause {
        Cause::PeerSilent => {
            if !gave_up {
                missing.extend(history.missing_timeouts(retransmits));
            }
            if sight.socket.heard_ago().is_none() {
                missing.push(MissingEvidence::LastAckTime);
            }
            // Giving up tells the error.
            if sight.socket.soft_error.is_none() && !gave_up {
                missing.push(MissingEvidence::IcmpErrors);
            }
        }
        Cause::LocalSendFailure => match history.path {
            Knowledge::NotAsked | Knowledge::Unavailable(_) => {
                missing.push(MissingEvidence::LocalAddressAndRoute);
            }
            Knowledge::Known(_) if is_refused(history) || history.path.has_no_route() => {}
            Knowledge::Known(path) if path.route.is_ok() => missing.push(MissingEvidence::WhySendingFails),
            Knowledge::Known(_) => missing.push(MissingEvidence::LocalAddressAndRoute),
        },
        // The address is not there: nothing that was lost could explain it away.
        Cause::SourceAddressLost => {
            let fails_to_send = Evidence::latest_attempt(history.evidence).is_some_and(Attempt::failed_locally);
            if !history.path.needs_its_address() && !fails_to_send {
                missing.push(MissingEvidence::TransparentSocket);
            }
            return missing;
        }
        Cause::PeerReset
        | Cause::PeerRestarted
        | Cause::PeerUnreachable
        | Cause::ConntrackExpired
        | Cause::KeepaliveUnanswered
        | Cause::WindowProbesUnanswered
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
        | Cause::PeerWindowShut => {}
    }
    if !gave_up {
        missing.extend(history.missing_events());
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::{
            Confidence, EvidenceKind, Verdict,
            rules::scene::{SEEN_AT, Scene, stalled},
        },
        model::TcpState,
    };

    fn rule_on(
        socket: SocketView,
        send_result: Option<i32>,
        then: &[EvidenceKind],
        events_lost: u64,
    ) -> Option<Ruling> {
        let seen = Scene::timed_out(socket, send_result).lost(events_lost);
        then.iter().cloned().fold(seen, Scene::then).judge()
    }

    #[test]
    fn a_few_timeouts_are_nothing_four_a_suspicion_six_a_fact() {
        assert_eq!(rule_on(stalled(3), None, &[], 0), None);
        let four = rule_on(stalled(4), None, &[], 0).unwrap();
        assert_eq!((four.cause, four.confidence), (Cause::PeerSilent, Confidence::Suspected));
        assert_eq!(four.missing, [MissingEvidence::MoreTimeouts { count: 2 }]);
        assert_eq!(four.since, SEEN_AT.before(Duration::from_secs(3)));
        let six = rule_on(stalled(6), None, &[], 0).unwrap();
        assert_eq!((six.confidence, six.missing), (Confidence::Confirmed, vec![]));
    }

    #[test]
    fn the_kernel_giving_up_is_proof_however_few_the_timeouts() {
        let closed = EvidenceKind::StateChange { from: TcpState::Established, to: TcpState::Close, error: Some(110) };
        let ruling = rule_on(stalled(2), None, &[closed], 0).unwrap();
        assert_eq!((ruling.cause, ruling.confidence), (Cause::PeerSilent, Confidence::Confirmed));
    }

    #[test]
    fn a_closed_window_no_data_or_an_unfinished_handshake_is_not_this_verdict() {
        assert_eq!(rule_on(SocketView { snd_wnd_bytes: Some(0), ..stalled(9) }, None, &[], 0), None);
        assert_eq!(rule_on(SocketView { snd_nxt: Some(1_000), ..stalled(9) }, None, &[], 0), None);
        assert_eq!(rule_on(SocketView { state: Some(TcpState::SynSent), ..stalled(9) }, None, &[], 0), None);
        let lone_fin = SocketView { state: Some(TcpState::FinWait1), snd_nxt: Some(1_001), ..stalled(9) };
        assert_eq!(rule_on(lone_fin, None, &[], 0).unwrap().verdict, Verdict::SilentlyDroppedFin);
    }

    #[test]
    fn what_is_unavailable_makes_no_verdict() {
        assert_eq!(rule_on(SocketView { snd_wnd_bytes: None, ..stalled(9) }, None, &[], 0), None);
        assert_eq!(rule_on(SocketView { retransmits: None, ..stalled(9) }, None, &[], 0), None);
    }

    #[test]
    fn a_peer_that_still_talks_is_not_silent() {
        let talking = SocketView { last_ack_ago: Some(Duration::from_secs(1)), ..stalled(9) };
        assert_eq!(rule_on(talking, None, &[], 0), None);
        let sending = SocketView { last_data_ago: Some(Duration::from_secs(1)), ..stalled(9) };
        assert_eq!(rule_on(sending, None, &[], 0), None);
        let known_by_data_alone = SocketView { last_ack_ago: None, last_data_ago: Some(Duration::ZERO), ..stalled(9) };
        assert_eq!(rule_on(known_by_data_alone, None, &[], 0), None);
    }

    #[test]
    fn without_the_times_of_the_last_ack_and_data_silence_is_only_suspected() {
        for stalled in
            [SocketView { last_ack_ago: None, ..stalled(9) }, SocketView { last_data_ago: None, ..stalled(9) }]
        {
            let ruling = rule_on(stalled, None, &[], 0).unwrap();
            assert_eq!(
                (ruling.confidence, ruling.missing),
                (Confidence::Suspected, vec![MissingEvidence::LastAckTime])
            );
        }
    }

    #[test]
    fn where_icmp_errors_are_not_told_silence_is_only_suspected() {
        let ruling = rule_on(SocketView { soft_error: None, ..stalled(9) }, None, &[], 0).unwrap();
        assert_eq!((ruling.confidence, ruling.missing), (Confidence::Suspected, vec![MissingEvidence::IcmpErrors]));
    }

    #[test]
    fn lost_events_lower_the_confidence() {
        let ruling = rule_on(stalled(9), None, &[], 3).unwrap();
        assert_eq!(ruling.confidence, Confidence::Suspected);
        assert_eq!(ruling.missing, [MissingEvidence::LostEvents { count: 3 }]);
    }

    #[test]
    fn what_a_filter_of_this_host_refuses_needs_no_other_explanation() {
        let scene = |result| Scene::timed_out(stalled(5), Some(result)).path(true, None);
        let ruling = scene(-(Errno::EPERM as i32)).judge().unwrap();
        assert_eq!((ruling.cause, ruling.confidence), (Cause::LocalSendFailure, Confidence::Confirmed));
        let ruling = scene(-(Errno::ENOBUFS as i32)).judge().unwrap();
        assert_eq!(ruling.missing, [MissingEvidence::WhySendingFails]);
    }

    #[test]
    fn a_lost_address_is_a_fact_only_where_the_socket_is_known_to_need_it() {
        let scene = |sent, transparent| Scene::timed_out(stalled(4), sent).path(false, None).transparent(transparent);
        let rule_on = |sent, transparent| scene(sent, transparent).judge().unwrap();
        let known = rule_on(None, Some(false));
        assert_eq!((known.cause, known.confidence), (Cause::SourceAddressLost, Confidence::Confirmed));
        let unknown = rule_on(None, None);
        assert_eq!((unknown.cause, unknown.confidence), (Cause::SourceAddressLost, Confidence::Suspected));
        assert_eq!(unknown.missing, [MissingEvidence::TransparentSocket]);
        assert_eq!(rule_on(Some(-101), None).confidence, Confidence::Confirmed);
        // As over IPv6; where the flag is not known, that it could be sent tells.
        assert_eq!(rule_on(Some(0), Some(false)).cause, Cause::SourceAddressLost);
        assert_eq!(rule_on(Some(0), None).cause, Cause::PeerSilent);
        assert_eq!(rule_on(None, Some(true)).cause, Cause::PeerSilent);
    }

    #[test]
    fn that_there_is_no_route_is_said_only_where_it_was_asked_for_with_the_sockets_mark() {
        let scene = Scene::timed_out(stalled(5), Some(-101)).path(true, Some(101));
        assert_eq!(scene.judge().unwrap().confidence, Confidence::Confirmed);
        let without_mark = scene.mark(None).judge().unwrap();
        assert_eq!(without_mark.missing, [MissingEvidence::LocalAddressAndRoute]);
    }

    #[test]
    fn a_timeout_of_which_no_attempt_was_told_has_left_only_where_there_is_a_way() {
        // Two retransmissions were sent, then the way went: before 6.17 the tracepoint is silent from then on.
        let scene = |local_address, errno| {
            Scene::timed_out(stalled(2), Some(0))
                .seen(&stalled(5), EvidenceKind::Scanned(Box::new(stalled(5))))
                .path(local_address, errno)
        };
        assert_eq!(scene(true, None).judge().unwrap().cause, Cause::PeerSilent);
        assert_eq!(scene(true, Some(101)).judge().unwrap().cause, Cause::LocalSendFailure);
        assert_eq!(scene(false, Some(101)).judge().unwrap().cause, Cause::SourceAddressLost);
        // A socket that may send from a foreign address does.
        let transparent = Scene::timed_out(stalled(5), Some(0)).path(false, None).transparent(None);
        assert_eq!(transparent.judge().unwrap().cause, Cause::PeerSilent);
    }

    #[test]
    fn a_retransmission_that_cannot_leave_the_host_is_a_local_failure() {
        let ruling = rule_on(stalled(5), Some(-113), &[], 0).unwrap();
        assert_eq!((ruling.cause, ruling.confidence), (Cause::LocalSendFailure, Confidence::Suspected));
        assert_eq!(rule_on(stalled(5), Some(-16), &[], 0).unwrap().cause, Cause::PeerSilent);
    }
}
