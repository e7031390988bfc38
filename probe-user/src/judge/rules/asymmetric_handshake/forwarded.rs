//! The same where this host only forwards the connection, and drops what completes the handshake.
//!
//! Required, one of these for the segments that one end has sent:
//! - a SYN-ACK that was dropped twice, and an entry of connection tracking that says that the SYN has passed here;
//! - ACKs or data that were dropped twice (once: suspected), and an entry of connection tracking that has seen the handshake from one
//!   side only;
//! - the same, and a receiver that is a socket of another network namespace of this host, and still waits for the final ACK.
//!
//! Not this verdict: SYN-ACKs of connections of which no SYN has passed here, which are backscatter, or answers that have lost their
//! way; ACKs and data of connections that connection tracking has forgotten, or has seen the handshake of.

use std::net::SocketAddr;

use super::{blamed, is_embryonic_to_conntrack};
use crate::{
    judge::{Cause, Evidence, History, MissingEvidence, Ruling},
    model::{ControlMessage, DroppedSegment, MonoTime, TcpState},
};

/// Judges what was dropped on its way from either end: the first that says something.
pub(in crate::judge) fn assess(history: &History<'_>) -> Option<Ruling> {
    Evidence::senders(history.evidence).into_iter().find_map(|sender| assess_from(history, sender))
}

fn assess_from(history: &History<'_>, sender: SocketAddr) -> Option<Ruling> {
    syn_acks_dropped(history, sender).or_else(|| acks_dropped(history, sender))
}

fn syn_acks_dropped(history: &History<'_>, sender: SocketAddr) -> Option<Ruling> {
    let is_syn_ack = |(_, segment): &(MonoTime, &DroppedSegment)| segment.message == ControlMessage::SynAck;
    let dropped: Vec<_> = Evidence::segments_from(history.evidence, sender).filter(is_syn_ack).collect();
    let [(since, _), .., (_, latest)] = *dropped else { return None };
    let is_known = is_embryonic_to_conntrack(history);
    let receiver = Evidence::receiver_waits(history.evidence, sender);
    let is_waited_for = receiver.is_some_and(|(_, state)| state == TcpState::SynSent);
    // Somebody may have put its address into the SYN.
    let missing = if is_waited_for { Vec::new() } else { vec![MissingEvidence::Receiver] };
    (is_known || is_waited_for).then(|| Ruling::new(blamed(latest, Cause::SynackLost), since, missing))
}

fn acks_dropped(history: &History<'_>, sender: SocketAddr) -> Option<Ruling> {
    // Of a SYN, or a SYN-ACK, nobody knows whether it is missed; a RST ends what has not begun.
    let follows = |(_, segment): &(MonoTime, &DroppedSegment)| {
        matches!(segment.message, ControlMessage::Ack | ControlMessage::Data | ControlMessage::Fin)
    };
    let dropped: Vec<_> = Evidence::segments_from(history.evidence, sender).filter(follows).collect();
    let ((since, _), (_, latest)) = (*dropped.first()?, *dropped.last()?);
    let receiver = Evidence::receiver_waits(history.evidence, sender).map(|(_, state)| state);
    let waits_for_ack = receiver.is_some_and(TcpState::awaits_final_ack);
    if !waits_for_ack && !is_embryonic_to_conntrack(history) {
        return None;
    }
    let missing = if dropped.len() > 1 { Vec::new() } else { vec![MissingEvidence::AnotherCopy] };
    // A receiver that is established has got the final ACK, and what followed until then.
    let cause = if receiver == Some(TcpState::Established) { Cause::EmbryonicExpired } else { Cause::FinalAckLost };
    Some(Ruling::new(blamed(latest, cause), since, missing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::{
            Confidence, EvidenceKind, Verdict,
            rules::scene::{self, Scene},
        },
        model::{ConntrackEntry, ConntrackState, DropReason, Origin, WaitingEnd},
    };

    fn client() -> SocketAddr {
        ([10, 0, 0, 1], 40_000).into()
    }

    fn server() -> SocketAddr {
        ([10, 0, 0, 2], 5672).into()
    }

    fn dropped(message: ControlMessage, sender: SocketAddr, reason: DropReason) -> EvidenceKind {
        let origin = Origin::Forwarded { ifindex: 2, sender };
        EvidenceKind::SegmentDropped(Box::new(DroppedSegment { message, origin, reason, ..scene::fin() }))
    }

    fn ack() -> EvidenceKind {
        dropped(ControlMessage::Ack, client(), DropReason::NetfilterDrop)
    }

    fn syn_ack() -> EvidenceKind {
        dropped(ControlMessage::SynAck, server(), DropReason::NetfilterDrop)
    }

    fn entry(state: ConntrackState) -> EvidenceKind {
        let (replied, assured) = (state > ConntrackState::SynSent, false);
        EvidenceKind::ConntrackEntry(ConntrackEntry { state: Some(state), replied, assured, expires_in: None, zone: 0 })
    }

    fn waits(sender: SocketAddr, state: TcpState) -> EvidenceKind {
        EvidenceKind::EndWaits(WaitingEnd { netns: 7, sender, state })
    }

    fn said<const COUNT: usize>(kinds: [EvidenceKind; COUNT]) -> Option<(Cause, Vec<MissingEvidence>)> {
        let ruling = kinds.into_iter().fold(Scene::default().forwarded(), Scene::then).judge()?;
        assert_eq!(ruling.verdict, Verdict::AsymmetricHandshake);
        assert_eq!(ruling.confidence == Confidence::Confirmed, ruling.missing.is_empty());
        Some((ruling.cause, ruling.missing))
    }

    #[test]
    fn acks_of_a_handshake_that_was_seen_from_one_side_are_a_suspicion_once_and_a_fact_twice() {
        assert_eq!(said([ack(), ack()]), None, "of no connection that is known");
        assert_eq!(said([ack(), entry(ConntrackState::Established), ack()]), None, "it is complete");
        let half = || entry(ConntrackState::SynSent);
        assert_eq!(said([ack(), half()]), Some((Cause::FinalAckLost, vec![MissingEvidence::AnotherCopy])));
        assert_eq!(said([ack(), half(), ack()]), Some((Cause::FinalAckLost, vec![])));
        assert_eq!(said([ack(), half(), ack(), entry(ConntrackState::Established)]), None, "it is complete now");
        let fin = dropped(ControlMessage::Fin, client(), DropReason::NetfilterDrop);
        assert_eq!(said([ack(), half(), fin]), Some((Cause::FinalAckLost, vec![])));
        let filtered = || dropped(ControlMessage::Data, client(), DropReason::IpRpfilter);
        assert_eq!(said([filtered(), half(), filtered()]), Some((Cause::ReversePathFiltered, vec![])));
    }

    #[test]
    fn the_receivers_socket_tells_whether_the_final_ack_has_come() {
        let half = || entry(ConntrackState::SynSent);
        let seen = |state| said([ack(), half(), waits(client(), state), ack()]).map(|(cause, _)| cause);
        assert_eq!(seen(TcpState::NewSynReceived), Some(Cause::FinalAckLost));
        assert_eq!(seen(TcpState::Established), Some(Cause::EmbryonicExpired));
        let tracked = entry(ConntrackState::Established);
        let known = said([ack(), tracked, waits(client(), TcpState::NewSynReceived), ack()]);
        assert_eq!(known, Some((Cause::FinalAckLost, vec![])), "a rule drops what connection tracking accepts");
    }

    #[test]
    fn a_syn_ack_is_told_where_its_syn_has_passed() {
        let passed = || entry(ConntrackState::SynRecv);
        assert_eq!(said([syn_ack(), syn_ack()]), None, "backscatter");
        assert_eq!(said([syn_ack(), passed()]), None, "the client asks again");
        let lost = said([syn_ack(), passed(), syn_ack()]);
        assert_eq!(lost, Some((Cause::SynackLost, vec![MissingEvidence::Receiver])));
        let awaited = said([syn_ack(), passed(), waits(server(), TcpState::SynSent), syn_ack()]);
        assert_eq!(awaited, Some((Cause::SynackLost, vec![])));
    }
}
