//! `peer_reset`: a reset after a silence (`tcp_reset`, `net/ipv4/tcp_input.c`) answers what this host had sent: the peer no longer
//! knew the connection.
//!
//! `peer_restarted`: a SYN for the connection (RFC 9293 section 3.10.7.4). This host answers with a challenge ACK (RFC 5961 section
//! 4), and a peer that really began anew answers that with a reset (RFC 9293 section 3.10.7.3). SYNs without a reset may be forged.
//!
//! Neither: whatever a peer does whose FIN has come in. It has told this host that it closes; who writes to it all the same, as pools
//! do, gets a reset (RFC 9293 section 3.6.1), and its port is its own to use again.

use std::time::Duration;

use crate::{
    judge::{Cause, Evidence, EvidenceKind, History, MissingEvidence, Ruling},
    model::TcpState,
};

/// A client whose SYN is not answered sends it again; a stray one comes alone.
const SUSPECTED_AT_SYNS: usize = 2;

pub(super) fn assess(history: &History<'_>) -> Option<Ruling> {
    restarted(history).or_else(|| reset(history))
}

fn restarted(history: &History<'_>) -> Option<Ruling> {
    let reset = Evidence::reset_received(history.evidence);
    if reset.map_or(history.socket, |reset| reset.socket).state.is_some_and(TcpState::peer_has_closed) {
        return None;
    }
    let is_syn = |evidence: &&Evidence| matches!(evidence.kind, EvidenceKind::SynReceived);
    let first = history.evidence.iter().find(is_syn)?;
    let reset = reset.filter(|reset| reset.at >= first.at);
    let was_reset = reset.is_some();
    if !was_reset && history.evidence.iter().filter(is_syn).count() < SUSPECTED_AT_SYNS {
        return None;
    }
    // Since when the peer has not known it, only the peer could say; until then it was there.
    let silence = reset.map_or(history.socket, |reset| reset.socket).heard_ago().unwrap_or(Duration::ZERO);
    Some(Ruling::new(
        Cause::PeerRestarted,
        reset.map_or(first.at, |reset| reset.at).before(silence),
        if was_reset { Vec::new() } else { vec![MissingEvidence::ResetAfterSyn] },
    ))
}

fn reset(history: &History<'_>) -> Option<Ruling> {
    let reset = Evidence::reset_received(history.evidence)?;
    let socket = reset.socket;
    if socket.state?.peer_has_closed() {
        return None;
    }
    let silence = socket.heard_ago()?;
    let was_asked = socket.unacknowledged()? > 0 || socket.probes_out? > 0;
    (was_asked && silence >= history.thresholds.silence_before_reset)
        .then(|| Ruling::new(Cause::PeerReset, reset.at.before(silence), Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::{
            Confidence,
            rules::scene::{SEEN_AT, Scene, quiet},
        },
        model::SocketView,
    };

    #[test]
    fn a_syn_for_the_connection_and_a_reset_say_that_the_peer_began_anew() {
        let idle = quiet();
        let syn = Scene::default().seen(&idle, EvidenceKind::SynReceived);
        assert_eq!(syn.judge(), None, "a stray one");
        let again = Scene::default().seen(&idle, EvidenceKind::SynReceived).then(EvidenceKind::SynReceived);
        let ruling = again.judge().unwrap();
        assert_eq!((ruling.cause, ruling.confidence), (Cause::PeerRestarted, Confidence::Suspected));
        assert_eq!(ruling.missing, [MissingEvidence::ResetAfterSyn]);
        let ruling = syn.then(EvidenceKind::ResetReceived(Box::new(idle))).judge().unwrap();
        assert_eq!((ruling.cause, ruling.confidence), (Cause::PeerRestarted, Confidence::Confirmed));
    }

    fn reset_after(silence: Duration, unacknowledged: u32) -> Option<Ruling> {
        let socket = SocketView {
            snd_nxt: Some(1_000 + unacknowledged),
            last_ack_ago: Some(silence),
            last_data_ago: Some(silence),
            ..quiet()
        };
        rule_on_reset(socket)
    }

    fn rule_on_reset(socket: SocketView) -> Option<Ruling> {
        Scene::default().seen(&socket, EvidenceKind::ResetReceived(Box::new(socket.clone()))).judge()
    }

    #[test]
    fn a_reset_that_answers_data_after_a_silence_says_that_the_peer_had_forgotten() {
        let ruling = reset_after(Duration::from_secs(30), 100).unwrap();
        assert_eq!((ruling.cause, ruling.confidence), (Cause::PeerReset, Confidence::Confirmed));
        assert_eq!(ruling.since, SEEN_AT.before(Duration::from_secs(30)));
        assert_eq!(reset_after(Duration::from_secs(2), 100), None, "amid traffic");
        assert_eq!(reset_after(Duration::from_secs(30), 0), None, "nothing was asked: the peer's application ended it");
    }
    fn long_silent(state: TcpState) -> SocketView {
        let silence = Some(Duration::from_secs(30));
        let socket = quiet();
        SocketView { state: Some(state), snd_nxt: Some(1_100), last_ack_ago: silence, last_data_ago: silence, ..socket }
    }

    #[test]
    fn a_peer_whose_fin_has_come_owes_no_answer() {
        for state in [TcpState::Established, TcpState::FinWait1, TcpState::FinWait2] {
            assert_eq!(rule_on_reset(long_silent(state)).unwrap().cause, Cause::PeerReset, "{state:?}");
        }
        for state in [TcpState::CloseWait, TcpState::LastAck, TcpState::Closing] {
            let socket = long_silent(state);
            assert_eq!(rule_on_reset(socket.clone()), None, "{state:?}");
            let again = Scene::default().seen(&socket, EvidenceKind::SynReceived).then(EvidenceKind::SynReceived);
            assert_eq!(again.judge(), None, "its port is used again while this end is in {state:?}");
            assert_eq!(again.then(EvidenceKind::ResetReceived(Box::new(socket))).judge(), None, "{state:?}");
        }
    }

    #[test]
    fn data_that_has_just_come_or_a_silence_that_is_not_known_is_none() {
        let heard = SocketView { last_data_ago: Some(Duration::from_secs(1)), ..long_silent(TcpState::Established) };
        assert_eq!(rule_on_reset(heard), None);
        let unknown = SocketView { last_data_ago: None, ..long_silent(TcpState::Established) };
        assert_eq!(rule_on_reset(unknown), None);
    }
}
