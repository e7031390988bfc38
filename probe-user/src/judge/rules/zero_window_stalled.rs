//! `zero_window_stalled`: the peer keeps its window shut and answers the probes (RFC 9293 section 3.8.6.1).
//!
//! Required: data that waits with none in flight, a send window of 0, the persist timer running for longer than a slow reader
//! takes, and probes that are answered (`icsk_probes_out` is set back by each ACK, `tcp_ack`, `net/ipv4/tcp_input.c`). The
//! network is well: the application at the other end does not read.
//!
//! Not this verdict: probes without an answer (`half_open`), and a window that is open (`retransmit_stalled`).

use std::time::Duration;

use crate::{
    judge::{Cause, Evidence, History, MissingEvidence, Ruling, Sight, deadline},
    model::{MonoTime, SocketView},
};

/// Judges the latest sight of the socket.
pub(in crate::judge) fn assess(history: &History<'_>) -> Option<Ruling> {
    let sight = Evidence::latest_sight(history.evidence)?;
    let socket = sight.socket;
    if !socket.window_is_shut() || !socket.state?.is_synchronized() {
        return None;
    }
    let since = shut_since(history)?;
    let shut_for = sight.at.since(since);
    if shut_for < history.thresholds.window_shut_suspected || !is_answered(&sight, since)? {
        return None;
    }
    let missing =
        if shut_for < history.thresholds.window_shut_confirmed { vec![MissingEvidence::MoreTime] } else { Vec::new() };
    let deadline = deadline::of_probes(&sight, true);
    Some(Ruling { deadline, ..Ruling::new(Cause::PeerWindowShut, since, missing) })
}

/// Since when the window has been shut without a break: for as long as the backoff has not begun anew, as it does when the window
/// opens by a crack (`tcp_ack_probe`), which leaves `icsk_probes_tstamp` as it is.
fn shut_since(history: &History<'_>) -> Option<MonoTime> {
    let mut since: Option<MonoTime> = None;
    let mut backoff = u8::MAX;
    for sight in Evidence::sights_back(history.evidence) {
        let socket = sight.socket;
        match socket.backoff {
            Some(earlier) if socket.window_is_shut() && earlier <= backoff => backoff = earlier,
            Some(_) | None => break,
        }
        let began = sight.at.before(waited(socket)?);
        since = Some(since.map_or(began, |since| since.min(began)));
    }
    since
}

/// Whether the peer answers: no answer is overdue, or one has come since the first probe, a wait after the window was shut. What is
/// overdue now may still become `half_open`.
fn is_answered(sight: &Sight<'_>, shut_since: MonoTime) -> Option<bool> {
    let socket = sight.socket;
    let first_probe = shut_since + socket.rto?;
    Some(socket.unanswered_probes()? == 0 || socket.heard_ago().is_some_and(|ago| sight.at.before(ago) >= first_probe))
}

/// The waits of the persist timer so far, at least: the backoff does not grow beyond `tcp_retries2` (`tcp_send_probe0`).
fn waited(socket: &SocketView) -> Option<Duration> {
    let doublings = u32::from(socket.backoff?).min(16);
    let due_in = socket.timer?.due_in;
    let waits = socket.rto?.saturating_mul((2u32 << doublings) - 1).saturating_sub(due_in);
    Some(socket.probing_for.map_or(waits, |probing_for| waits.min(probing_for)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::{
            Confidence, EvidenceKind, Verdict,
            rules::scene::{SEEN_AT, Scene, quiet},
        },
        model::{PendingTimer, SocketTimer},
    };

    fn shut(backoff: u8, window: u32) -> SocketView {
        SocketView {
            write_seq: Some(90_000),
            snd_wnd_bytes: Some(window),
            backoff: Some(backoff),
            timer: Some(PendingTimer { kind: SocketTimer::Persist, due_in: Duration::from_millis(200) }),
            probing_for: Some(Duration::from_secs(1_000)),
            ..quiet()
        }
    }

    fn rule_on(backoff: u8, window: u32) -> Option<Ruling> {
        Scene::scanned(shut(backoff, window)).judge()
    }

    #[test]
    fn a_backoff_that_grows_no_more_is_followed_over_time() {
        // With tcp_retries2 at 6 the backoff alone never tells of more than 25 s.
        let seen = |scene: Scene, backoff| scene.then(EvidenceKind::Scanned(Box::new(shut(backoff, 0))));
        let capped = (0..9).fold(Scene::scanned(shut(6, 0)), |scene, _| seen(scene, 6));
        assert_eq!(capped.judge().unwrap().confidence, Confidence::Confirmed);
        let opened_between = seen(seen(Scene::scanned(shut(6, 0)), 1), 5);
        assert_eq!(opened_between.judge().unwrap().since, SEEN_AT.before(Duration::from_millis(10_400)));
    }

    #[test]
    fn a_slow_reader_is_nothing_a_stuck_one_is() {
        // A second shut, however long ago the first probe was.
        assert_eq!(rule_on(1, 0), None);
        let ruling = rule_on(5, 0).unwrap();
        assert_eq!((ruling.verdict, ruling.confidence), (Verdict::ZeroWindowStalled, Confidence::Suspected));
        assert_eq!(ruling.since, SEEN_AT.before(Duration::from_millis(12_400)));
        let ruling = rule_on(7, 0).unwrap();
        assert_eq!((ruling.confidence, ruling.deadline), (Confidence::Confirmed, None));
    }

    #[test]
    fn a_peer_that_has_answered_no_probe_since_it_shut_its_window_is_not_said_to_answer() {
        let unanswered = |last_ack_ago| {
            let heard_ago = Some(Duration::from_secs(last_ack_ago));
            let socket =
                SocketView { probes_out: Some(2), last_ack_ago: heard_ago, last_data_ago: heard_ago, ..shut(5, 0) };
            Scene::scanned(socket).judge()
        };
        // It was shut 12.4 s ago.
        assert_eq!(unanswered(13), None);
        assert_eq!(unanswered(4).unwrap().verdict, Verdict::ZeroWindowStalled);
    }

    #[test]
    fn a_small_window_is_not_a_shut_one() {
        assert_eq!(rule_on(7, 500), None);
    }
}
