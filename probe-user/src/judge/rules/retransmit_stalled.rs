//! `retransmit_stalled`: unacknowledged data makes no progress though the peer's window is open.
//!
//! Required: a retransmission timeout (`tcp_retransmit_timer`, `net/ipv4/tcp_timer.c`) on a synchronized connection with
//! unacknowledged data and an open send window, and so many timeouts in a row (`icsk_retransmits`: an acknowledgment of new
//! data sets it back to 0) that ordinary loss does not explain them; or the kernel giving up with ETIMEDOUT.
//!
//! Not this verdict: a closed window (the persist timer, RFC 9293 section 3.8.6.1), SYN and SYN-ACK repeats, a lone FIN
//! without data, fast retransmit and tail loss probes, a lossy path that makes progress between timeouts, and a peer that
//! goes on talking while it does not acknowledge our data.

use std::time::Duration;

use nix::errno::Errno;

use crate::{
    judge::{Cause, Confidence, Evidence, EvidenceKind, History, MissingEvidence, Ruling, Timeout, Verdict, deadline},
    model::SocketView,
};

/// Timeouts in a row that make a suspicion. With the smallest RTO the fourth comes 3 s after the segment was first sent. At 5 %
/// random loss a segment gets there once in some hundred thousand.
pub const SUSPECTED_AT_RETRANSMITS: u8 = 4;
/// Timeouts in a row that ordinary loss no longer explains: at 5 % loss in each direction, one segment in a hundred million.
/// With the smallest RTO that is 12.6 s of silence.
pub const CONFIRMED_AT_RETRANSMITS: u8 = 6;

/// Judges the latest timeout.
pub(in crate::judge) fn assess(history: &History<'_>) -> Option<Ruling> {
    let (at, timeout) = Evidence::latest_timeout(history.evidence)?;
    if !is_stalled_data(&timeout.socket) {
        return None;
    }
    let retransmits = timeout.socket.retransmits?;
    let gave_up = history.evidence.iter().any(|evidence| evidence.at >= at && is_giving_up(&evidence.kind));
    if retransmits < SUSPECTED_AT_RETRANSMITS && !gave_up {
        return None;
    }
    let cause = if timeout.failed_locally() {
        Cause::LocalSendFailure
    } else if peer_is_heard(&timeout.socket) {
        return None;
    } else {
        Cause::PeerSilent
    };
    let missing = missing_evidence(history, timeout, cause, retransmits, gave_up);
    Some(Ruling {
        verdict: Verdict::RetransmitStalled,
        cause,
        confidence: if missing.is_empty() { Confidence::Confirmed } else { Confidence::Suspected },
        since: at.before(timeout.socket.retransmitting_for.unwrap_or(Duration::ZERO)),
        deadline: deadline::of_retransmission(at, &timeout.socket),
        missing,
    })
}

fn is_stalled_data(socket: &SocketView) -> bool {
    socket.state.is_some_and(|state| state.is_synchronized())
        && socket.unacknowledged_data().is_some_and(|bytes| bytes > 0)
        && socket.snd_wnd_bytes.is_some_and(|bytes| bytes > 0)
}

/// `tcp_write_err()` reports ETIMEDOUT, or the ICMP error remembered in `sk_err_soft` (RFC 1122 section 4.2.3.5).
fn is_giving_up(kind: &EvidenceKind) -> bool {
    kind.error().is_some_and(|error| {
        matches!(error, Errno::ETIMEDOUT | Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ENOPROTOOPT)
    })
}

/// Whether an ACK has come in since the first retransmission: then the peer is there, and what it lacks is our data.
fn peer_is_heard(socket: &SocketView) -> bool {
    // Both times are as coarse as the kernel's tick, at most 10 ms.
    const TICK: Duration = Duration::from_millis(10);
    match (socket.last_ack_ago, socket.retransmitting_for) {
        (Some(last_ack_ago), Some(retransmitting_for)) => last_ack_ago + TICK < retransmitting_for,
        (None, _) | (_, None) => false,
    }
}

fn missing_evidence(
    history: &History<'_>,
    timeout: &Timeout,
    cause: Cause,
    retransmits: u8,
    gave_up: bool,
) -> Vec<MissingEvidence> {
    let mut missing = Vec::new();
    match cause {
        Cause::PeerSilent => {
            if retransmits < CONFIRMED_AT_RETRANSMITS && !gave_up {
                missing.push(MissingEvidence::MoreTimeouts { count: CONFIRMED_AT_RETRANSMITS - retransmits });
            }
            if timeout.socket.last_ack_ago.is_none() {
                missing.push(MissingEvidence::LastAckTime);
            }
        }
        Cause::LocalSendFailure => missing.push(MissingEvidence::LocalAddressAndRoute),
    }
    if history.events_lost > 0 && !gave_up {
        missing.push(MissingEvidence::LostEvents { count: history.events_lost });
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::judge,
        model::{ConnectionKey, MonoTime, TcpState},
    };

    fn stalled(retransmits: u8) -> SocketView {
        SocketView {
            state: Some(TcpState::Established),
            snd_una: Some(1_000),
            snd_nxt: Some(1_100),
            write_seq: Some(1_100),
            snd_wnd_bytes: Some(64_000),
            retransmits: Some(retransmits),
            rto: Some(Duration::from_millis(200 << retransmits.min(9))),
            retransmitting_for: Some(Duration::from_secs(3)),
            last_ack_ago: Some(Duration::from_secs(4)),
            user_timeout: Some(Duration::ZERO),
            orphaned: Some(false),
            tcp_retries2: Some(15),
            ..SocketView::default()
        }
    }

    fn rule_on(
        socket: SocketView,
        send_result: Option<i32>,
        then: &[EvidenceKind],
        events_lost: u64,
    ) -> Option<Ruling> {
        let at = MonoTime::from_ns(100_000_000_000);
        let key = ConnectionKey {
            netns: 1,
            local: "10.0.0.1:40000".parse().unwrap(),
            remote: "10.0.0.2:5672".parse().unwrap(),
        };
        let mut evidence = vec![Evidence {
            at,
            kind: EvidenceKind::RetransmissionTimeout(Box::new(Timeout { send_result, socket: socket.clone() })),
        }];
        evidence.extend(then.iter().map(|kind| Evidence { at: at + Duration::from_secs(1), kind: kind.clone() }));
        judge(&History { key: &key, socket: &socket, evidence: &evidence, events_lost })
    }

    #[test]
    fn a_few_timeouts_are_nothing_four_a_suspicion_six_a_fact() {
        assert_eq!(rule_on(stalled(3), None, &[], 0), None);
        let four = rule_on(stalled(4), None, &[], 0).unwrap();
        assert_eq!((four.cause, four.confidence), (Cause::PeerSilent, Confidence::Suspected));
        assert_eq!(four.missing, [MissingEvidence::MoreTimeouts { count: 2 }]);
        assert_eq!(four.since, MonoTime::from_ns(97_000_000_000));
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
        assert_eq!(rule_on(lone_fin, None, &[], 0), None);
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
    }

    #[test]
    fn without_the_time_of_the_last_ack_silence_is_only_suspected() {
        let ruling = rule_on(SocketView { last_ack_ago: None, ..stalled(9) }, None, &[], 0).unwrap();
        assert_eq!((ruling.confidence, ruling.missing), (Confidence::Suspected, vec![MissingEvidence::LastAckTime]));
    }

    #[test]
    fn lost_events_lower_the_confidence() {
        let ruling = rule_on(stalled(9), None, &[], 3).unwrap();
        assert_eq!(ruling.confidence, Confidence::Suspected);
        assert_eq!(ruling.missing, [MissingEvidence::LostEvents { count: 3 }]);
    }

    #[test]
    fn a_retransmission_that_cannot_leave_the_host_is_a_local_failure() {
        let ruling = rule_on(stalled(5), Some(-113), &[], 0).unwrap();
        assert_eq!((ruling.cause, ruling.confidence), (Cause::LocalSendFailure, Confidence::Suspected));
        assert_eq!(rule_on(stalled(5), Some(-16), &[], 0).unwrap().cause, Cause::PeerSilent);
    }
}
