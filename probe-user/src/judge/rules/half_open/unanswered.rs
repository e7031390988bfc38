//! `keepalive_unanswered`, `window_probes_unanswered`: probes that a living peer answers at once whatever its application does, and
//! so many without an answer that ordinary loss does not explain them. Keepalive probes of an idle connection
//! (`tcp_keepalive_timer`, `net/ipv4/tcp_timer.c`, RFC 9293 section 3.8.4), or probes of a shut window (`tcp_probe_timer`, section
//! 3.8.6.1). A probe counts when its answer is overdue ([`crate::model::SocketView::unanswered_probes`]).

use nix::errno::Errno;

use std::time::Duration;

use crate::{
    judge::{Cause, Evidence, History, MissingEvidence, Ruling, Sight, deadline},
    model::{MonoTime, SocketView},
};

/// Probes without an answer.
pub(super) fn assess(history: &History<'_>) -> Option<Ruling> {
    let sight = Evidence::latest_sight(history.evidence)?;
    let socket = sight.socket;
    if !socket.state?.is_synchronized() {
        return None;
    }
    let is_shut = socket.window_is_shut();
    if !is_shut && !is_kept_alive(socket) {
        return None;
    }
    let gave_up = history
        .evidence
        .iter()
        .any(|evidence| evidence.at >= sight.at && evidence.kind.error() == Some(Errno::ETIMEDOUT));
    let probes = if gave_up { socket.probes_out? } else { socket.unanswered_probes()? };
    let thresholds = history.thresholds;
    let suspected_at = if is_shut { thresholds.window_probes_suspected } else { thresholds.probes_suspected };
    // A socket may allow fewer probes than make a suspicion; then giving up is the proof.
    if probes == 0 || (probes < suspected_at && !gave_up) {
        return None;
    }
    let (cause, since, deadline) = if is_shut {
        let since = sight.at.before(socket.heard_ago()?);
        (Cause::WindowProbesUnanswered, since, deadline::of_probes(&sight, false))
    } else {
        (Cause::KeepaliveUnanswered, probing_since(&sight)?, deadline::of_keepalive(&sight))
    };
    let mut missing = Vec::new();
    if probes < history.thresholds.probes_confirmed && !gave_up {
        missing.push(MissingEvidence::MoreProbes { count: history.thresholds.probes_confirmed - probes });
    }
    if !gave_up {
        missing.extend(history.missing_events());
    }
    Some(Ruling { deadline, ..Ruling::new(cause, since, missing) })
}

/// Whether the socket is idle and only keepalive waits for the peer.
fn is_kept_alive(socket: &SocketView) -> bool {
    socket.keepalive.is_some_and(|keepalive| keepalive.enabled)
        && socket.packets_out == Some(0)
        && socket.unsent() == Some(0)
        && socket.timer.is_none()
}

/// When the first of the unanswered keepalive probes was sent: the idle time after something last came in, where it is known.
fn probing_since(sight: &Sight<'_>) -> Option<MonoTime> {
    let heard = sight.at.before(sight.socket.heard_ago()?);
    Some(heard + sight.socket.keepalive?.idle.unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::{
            Confidence, EvidenceKind, Verdict,
            rules::scene::{SEEN_AT, Scene, quiet},
        },
        model::{Keepalive, PendingTimer, SocketTimer, TcpState},
    };

    fn idle(probes_out: u8) -> SocketView {
        let second = Duration::from_secs(1);
        SocketView {
            probes_out: Some(probes_out),
            last_ack_ago: Some(second * 20),
            last_data_ago: Some(second * 30),
            keepalive: Some(Keepalive {
                enabled: true,
                idle: Some(second * 10),
                interval: Some(second * 3),
                probes: Some(5),
            }),
            keepalive_due_in: Some(second),
            ..quiet()
        }
    }

    fn shut(probes_out: u8) -> SocketView {
        SocketView {
            write_seq: Some(1_500),
            snd_wnd_bytes: Some(0),
            backoff: Some(5),
            timer: Some(PendingTimer { kind: SocketTimer::Persist, due_in: Duration::from_secs(1) }),
            probing_for: Some(Duration::from_secs(18)),
            ..idle(probes_out)
        }
    }

    fn rule_on(socket: SocketView) -> Option<Ruling> {
        Scene::scanned(socket).judge()
    }

    #[test]
    fn two_unanswered_keepalive_probes_are_a_suspicion_and_four_a_fact() {
        assert_eq!(rule_on(idle(1)), None);
        let ruling = rule_on(idle(2)).unwrap();
        assert_eq!((ruling.verdict, ruling.cause), (Verdict::HalfOpen, Cause::KeepaliveUnanswered));
        assert_eq!(ruling.missing, [MissingEvidence::MoreProbes { count: 2 }]);
        // The first probe went out ten seconds after the last ACK.
        assert_eq!(ruling.since, SEEN_AT.before(Duration::from_secs(10)));
        assert_eq!(rule_on(idle(4)).unwrap().confidence, Confidence::Confirmed);
    }

    #[test]
    fn a_shut_window_whose_probes_stay_unanswered_is_half_open() {
        assert_eq!(rule_on(shut(4)).unwrap().cause, Cause::WindowProbesUnanswered);
        let answered = SocketView { last_ack_ago: Some(Duration::from_secs(4)), ..shut(1) };
        assert_eq!(rule_on(answered).unwrap().verdict, Verdict::ZeroWindowStalled);
    }

    #[test]
    fn a_probe_whose_answer_is_not_overdue_does_not_count() {
        let just_sent = |probes| SocketView { keepalive_due_in: Some(Duration::from_secs(3)), ..idle(probes) };
        assert_eq!(rule_on(just_sent(2)), None);
        assert_eq!(rule_on(just_sent(4)).unwrap().missing, [MissingEvidence::MoreProbes { count: 1 }]);
        let closed = EvidenceKind::StateChange { from: TcpState::Established, to: TcpState::Close, error: Some(110) };
        let gave_up = Scene::scanned(just_sent(1)).then(closed).judge().unwrap();
        assert_eq!(gave_up.confidence, Confidence::Confirmed, "a socket that allows one probe");
    }

    #[test]
    fn a_peer_that_has_sent_data_since_the_probes_is_alive() {
        let heard = SocketView { last_data_ago: Some(Duration::from_secs(2)), ..idle(3) };
        assert_eq!(rule_on(heard), None);
    }

    #[test]
    fn without_keepalive_or_with_data_in_flight_an_idle_connection_is_nothing() {
        let off = idle(3).keepalive.map(|keepalive| Keepalive { enabled: false, ..keepalive });
        assert_eq!(rule_on(SocketView { keepalive: off, ..idle(3) }), None);
        assert_eq!(rule_on(SocketView { packets_out: Some(1), ..idle(3) }), None);
    }
}
