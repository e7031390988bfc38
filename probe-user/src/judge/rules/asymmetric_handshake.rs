//! `asymmetric_handshake`: the two ends disagree about the handshake, or its packets took different paths with a consequence.
//!
//! Required, one of:
//! - a segment of the handshake that this host drops (`skb:kfree_skb`), while the end that waits for it goes on waiting ([`dropped`]);
//! - a SYN-ACK that comes again though this host has long been sending data (RFC 9293 section 3.5, [`client`]);
//! - a SYN-ACK of this host that is sent again, for a client that is known to be real ([`server`]);
//! - data that nobody acknowledges, on a connection of which this host's connection tracking has seen only one direction, or whose
//!   segments come in by another interface than they leave by ([`of_stalled`]).
//!
//! Of connections that this host only forwards: [`forwarded`].
//!
//! Not this verdict: SYNs that nobody answers; SYN-ACKs that are repeated for a client of whom nothing else is known (scans, floods,
//! health checks); a listener that waits for data (`TCP_DEFER_ACCEPT`); a full backlog; two paths that work.

pub(in crate::judge) mod forwarded;

use crate::{
    judge::{Cause, Evidence, EvidenceKind, History, MissingEvidence, Ruling, Step, deadline},
    model::{ConntrackState, DropReason, DroppedSegment, Knowledge, MonoTime, SocketView, TcpState},
};

/// A SYN-ACK that cannot leave is tried once more by its timer, and then the request is dropped (`reqsk_timer_handler`,
/// `net/ipv4/inet_connection_sock.c`): a third one answers a SYN that the client has repeated.
const SYN_ACKS_OF_A_REAL_CLIENT: usize = 3;
/// A SYN is dropped, and the client sends it again.
const SYNS_DROPPED: usize = 2;
/// Timeouts of a request socket before a client that is known otherwise is missed: 7 s after its SYN.
const REQUEST_TIMEOUTS: u8 = 2;

/// Judges what was seen of the handshake itself.
pub(in crate::judge) fn assess(history: &History<'_>) -> Option<Ruling> {
    dropped(history).or_else(|| client(history)).or_else(|| server(history))
}

/// A step of the handshake that this host itself drops.
fn dropped(history: &History<'_>) -> Option<Ruling> {
    let of = |step| Evidence::dropped_steps(history.evidence, step);
    let found = |step, cause, missing| {
        let (since, _) = of(step).next()?;
        let (_, latest) = of(step).next_back()?;
        Some(Ruling::new(blamed(latest, cause), since, missing))
    };
    let repeats = Evidence::syn_ack_repeats(history.evidence).count();
    if of(Step::SynAckReceived).count() > 1 && Evidence::syn_timeouts(history.evidence).next().is_some() {
        return found(Step::SynAckReceived, Cause::SynackLost, Vec::new());
    }
    if of(Step::SynAckSent).count() >= SYN_ACKS_OF_A_REAL_CLIENT {
        return found(Step::SynAckSent, Cause::SynackLost, Vec::new());
    }
    let acks = of(Step::AckReceived).count();
    if acks > 0 && repeats > 0 && !is_established(history) {
        let is_repeated = acks > 1 || repeats > 1;
        let missing = if is_repeated { Vec::new() } else { vec![MissingEvidence::AnotherCopy] };
        return found(Step::AckReceived, Cause::FinalAckLost, missing);
    }
    if of(Step::AckSent).next().is_some() && Evidence::syn_acks_received(history.evidence).next().is_some() {
        return found(Step::AckSent, Cause::FinalAckLost, Vec::new());
    }
    // A listener on all addresses serves none of those that this host only forwards to.
    let is_served = matches!(history.service, Knowledge::Known(service) if service.listener_inode.is_some())
        && !history.path.address_is_gone();
    if is_served && of(Step::SynReceived).count() >= SYNS_DROPPED {
        let (_, latest) = of(Step::SynReceived).next_back()?;
        // A firewall that keeps SYNs from a port is ordinary.
        return (latest.reason == DropReason::IpRpfilter)
            .then(|| found(Step::SynReceived, Cause::ReversePathFiltered, Vec::new()))
            .flatten();
    }
    None
}

/// Whether the socket is known to have seen the handshake through.
fn is_established(history: &History<'_>) -> bool {
    history.socket.state.is_some_and(TcpState::is_synchronized)
}

/// The reverse-path filter is a cause of its own, whichever step it drops.
fn blamed(segment: &DroppedSegment, otherwise: Cause) -> Cause {
    if segment.reason == DropReason::IpRpfilter { Cause::ReversePathFiltered } else { otherwise }
}

/// This host is established and sends; the peer asks again for the final ACK.
fn client(history: &History<'_>) -> Option<Ruling> {
    let waits = |socket: &SocketView| {
        socket.state.is_some_and(TcpState::is_synchronized)
            && socket.unacknowledged_data().is_some_and(|bytes| bytes > 0)
            && socket.retransmits.is_some_and(|count| count > 0)
    };
    let (since, _) = Evidence::syn_acks_received(history.evidence).next()?;
    if !waits(history.socket) {
        return None;
    }
    // Data that waits was sent, and sent again, before the SYN-ACK came: by the socket then, or where that is not told, by the timeout
    // before it. A listener that only waits for data would have had it.
    let timed_out_before = |at: MonoTime| {
        history.evidence.iter().any(|evidence| {
            evidence.at < at
                && matches!(&evidence.kind, EvidenceKind::RetransmissionTimeout(attempt) if waits(&attempt.socket))
        })
    };
    let telling = Evidence::syn_acks_received(history.evidence)
        .filter(|(at, socket)| waits(socket) || socket.state.is_none() && timed_out_before(*at))
        .count();
    let all = Evidence::syn_acks_received(history.evidence).count();
    let retransmits = history.socket.retransmits?;
    if telling == 0 && retransmits < history.thresholds.retransmits_suspected {
        return None;
    }
    // A listener whose backlog is full ignores the ACK, and looks the same from here (`listen_overflow` in `tcp_check_req`,
    // `net/ipv4/tcp_minisocks.c`).
    let mut missing = vec![MissingEvidence::PeersBacklog];
    if telling < 2 && !(all > 1 && retransmits >= history.thresholds.retransmits_confirmed) {
        missing.push(MissingEvidence::AnotherSynAck);
    }
    let deadline =
        Evidence::latest_sight(history.evidence).and_then(|sight| deadline::of_retransmission(&sight, false));
    Some(Ruling { deadline, ..Ruling::new(Cause::FinalAckLost, since, missing) })
}

/// This host has sent its SYN-ACK again and again, and drops nothing of the connection that was seen.
fn server(history: &History<'_>) -> Option<Ruling> {
    if is_established(history) {
        return None;
    }
    let (since, _) = Evidence::syn_ack_repeats(history.evidence).next()?;
    let (_, latest) = Evidence::syn_ack_repeats(history.evidence).next_back()?;
    let missing = || vec![MissingEvidence::PeersEnd];
    // Who has got a SYN-ACK does not send its SYN again. A flood may do so for any number of clients that there are not: it is told of
    // those that were looked into, whatever came of it.
    if latest.is_asked_for_again() {
        let is_looked_into = *history.service != Knowledge::NotAsked;
        return is_looked_into.then(|| Ruling::new(Cause::SynackLost, since, missing()));
    }
    let is_known = matches!(history.service, Knowledge::Known(service) if service.connections_with_peer > 0);
    (is_known && latest.timeouts? >= REQUEST_TIMEOUTS && latest.syn_repeats() == Some(0))
        .then(|| Ruling::new(Cause::FinalAckLost, since, missing()))
}

/// Takes what another rule has found to be data without an answer for the consequence of a one-sided handshake or of different paths,
/// where that is known of the connection.
pub(in crate::judge) fn of_stalled(history: &History<'_>, stalled: Ruling) -> Ruling {
    let is_silent = stalled.cause == Cause::PeerSilent;
    let is_refused = stalled.cause == Cause::LocalSendFailure && !history.path.has_no_route();
    let of = |cause, missing| Ruling { deadline: stalled.deadline, ..Ruling::new(cause, stalled.since, missing) };
    let received = Evidence::dropped_steps(history.evidence, Step::AckReceived).next_back();
    if is_silent && received.is_some_and(|(_, segment)| segment.reason == DropReason::IpRpfilter) {
        return of(Cause::ReversePathFiltered, Vec::new());
    }
    if (is_silent || is_refused) && is_embryonic_to_conntrack(history) {
        let mut missing = stalled.missing.clone();
        // That is what it is: what belongs to no complete handshake is invalid.
        missing.retain(|missing| *missing != MissingEvidence::WhySendingFails);
        if Evidence::latest_dropped_step(history.evidence).is_none() && !is_refused {
            missing.push(MissingEvidence::WhatFirewallDrops);
        }
        return of(Cause::EmbryonicExpired, missing);
    }
    if is_silent && history.path.is_asymmetric() && was_busy(history) {
        let mut missing = stalled.missing.clone();
        missing.push(MissingEvidence::WhatOneSideDrops);
        return of(Cause::PathMismatch, missing);
    }
    stalled
}

/// Whether this host's connection tracking has, or last had, an entry that began with a SYN and has not seen the handshake through. One
/// that was made of a connection in its middle (`nf_conntrack_tcp_loose`) begins as established.
fn is_embryonic_to_conntrack(history: &History<'_>) -> bool {
    let latest = Evidence::latest_conntrack_entry(history.evidence);
    latest.and_then(|entry| entry.state).is_some_and(ConntrackState::is_embryonic)
}

/// Whether the peer was heard of not long before the connection stalled.
fn was_busy(history: &History<'_>) -> bool {
    let Some(sight) = Evidence::latest_sight(history.evidence) else { return false };
    match (sight.socket.heard_ago(), sight.socket.retransmitting_for) {
        (Some(heard_ago), Some(stalled_for)) => {
            heard_ago.saturating_sub(stalled_for) <= history.thresholds.embryonic_within
        }
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        judge::{
            Attempt, Confidence, SynAckRepeat,
            rules::scene::{SEEN_AT, Scene, fin, quiet, stalled},
        },
        model::{ConntrackEntry, ControlMessage, Origin},
    };

    const RECEIVED: Origin = Origin::Received { ifindex: 3 };

    fn drop_of(message: ControlMessage, origin: Origin, reason: DropReason) -> EvidenceKind {
        EvidenceKind::SegmentDropped(Box::new(DroppedSegment { message, origin, reason, ..fin() }))
    }

    fn repeat(timeouts: u8, repeats: u32) -> EvidenceKind {
        EvidenceKind::SynAckRetransmission(SynAckRepeat { timeouts: Some(timeouts), repeats: Some(repeats) })
    }

    fn syn_sent() -> EvidenceKind {
        let socket = SocketView { state: Some(TcpState::SynSent), retransmits: Some(1), ..SocketView::default() };
        EvidenceKind::RetransmissionTimeout(Attempt { send_result: Some(0), socket })
    }

    fn syn_ack(socket: SocketView) -> EvidenceKind {
        EvidenceKind::SynAckReceived(Box::new(socket))
    }

    fn ruled(scene: &Scene) -> Option<(Cause, Confidence)> {
        let ruling = scene.judge()?;
        assert_eq!(ruling.verdict, ruling.cause.verdict());
        Some((ruling.cause, ruling.confidence))
    }

    #[test]
    fn a_final_ack_that_this_host_drops_is_a_suspicion_once_and_a_fact_twice() {
        let ack = || drop_of(ControlMessage::Ack, RECEIVED, DropReason::NetfilterDrop);
        assert_eq!(ruled(&Scene::default().then(ack())), None, "nobody waits for it");
        let once = Scene::default().then(repeat(0, 0)).then(ack());
        assert_eq!(once.judge().unwrap().missing, [MissingEvidence::AnotherCopy]);
        assert_eq!(ruled(&once.then(ack())), Some((Cause::FinalAckLost, Confidence::Confirmed)));
        let filtered = drop_of(ControlMessage::Data, RECEIVED, DropReason::IpRpfilter);
        let scene = Scene::default().then(repeat(0, 0)).then(repeat(1, 1)).then(filtered);
        assert_eq!(ruled(&scene), Some((Cause::ReversePathFiltered, Confidence::Confirmed)));
    }

    #[test]
    fn repeats_of_a_syn_ack_alone_are_ordinary_unless_the_client_is_known() {
        let silent = || (0..5).fold(Scene::default(), |scene, count| scene.then(repeat(count, count.into())));
        assert_eq!(ruled(&silent()), None);
        assert_eq!(ruled(&silent().served(0)), None);
        let ruling = silent().served(1).judge().unwrap();
        assert_eq!((ruling.cause, ruling.since), (Cause::FinalAckLost, SEEN_AT));
        assert_eq!(ruling.missing, [MissingEvidence::PeersEnd]);
        assert_eq!(ruled(&Scene::default().then(repeat(0, 0)).then(repeat(1, 1)).served(1)), None, "too early");
    }

    #[test]
    fn a_client_that_repeats_its_syn_has_not_got_the_syn_ack() {
        let repeated = |count| Scene::default().then(repeat(0, 0)).then(repeat(0, count));
        assert_eq!(ruled(&repeated(1).served(0)), None, "it may have crossed the SYN-ACK");
        assert_eq!(ruled(&repeated(2).served(0)), Some((Cause::SynackLost, Confidence::Suspected)));
        assert_eq!(ruled(&repeated(2)), None, "one of a flood, which is not looked into");
    }

    #[test]
    fn a_syn_ack_that_cannot_leave_is_told_when_the_client_has_asked_again() {
        let dropped = |count| {
            let syn_ack = || drop_of(ControlMessage::SynAck, Origin::Sent, DropReason::NetfilterDrop);
            (0..count).fold(Scene::default(), |scene, _| scene.then(syn_ack()))
        };
        assert_eq!(ruled(&dropped(2)), None);
        assert_eq!(ruled(&dropped(3)), Some((Cause::SynackLost, Confidence::Confirmed)));
    }

    #[test]
    fn a_client_whose_host_drops_the_answers_is_told_why() {
        for (reason, cause) in
            [(DropReason::NetfilterDrop, Cause::SynackLost), (DropReason::IpRpfilter, Cause::ReversePathFiltered)]
        {
            let syn_ack = || drop_of(ControlMessage::SynAck, RECEIVED, reason);
            assert_eq!(ruled(&Scene::default().then(syn_ack()).then(syn_sent())), None, "one may be a stray");
            let scene = Scene::default().then(syn_ack()).then(syn_sent()).then(syn_ack());
            assert_eq!(ruled(&scene), Some((cause, Confidence::Confirmed)));
            assert_eq!(ruled(&Scene::default().then(syn_ack()).then(syn_ack())), None, "nobody has asked: backscatter");
        }
        assert_eq!(ruled(&Scene::default().then(syn_sent()).then(syn_sent())), None, "nobody answers");
    }

    #[test]
    fn a_syn_that_comes_the_wrong_way_matters_where_somebody_listens() {
        let syns = |reason| {
            let syn = || drop_of(ControlMessage::Syn, RECEIVED, reason);
            Scene::default().then(syn()).then(syn())
        };
        assert_eq!(ruled(&syns(DropReason::IpRpfilter)), None);
        let expected = Some((Cause::ReversePathFiltered, Confidence::Confirmed));
        assert_eq!(ruled(&syns(DropReason::IpRpfilter).served(0)), expected);
        assert_eq!(ruled(&syns(DropReason::NetfilterDrop).served(0)), None, "a filtered port");
    }

    #[test]
    fn a_syn_ack_while_data_waits_says_that_the_final_ack_was_lost() {
        let waits = stalled(2);
        let one = Scene::timed_out(waits.clone(), Some(0)).seen(&waits, syn_ack(waits.clone()));
        assert_eq!(one.judge().unwrap().missing, [MissingEvidence::PeersBacklog, MissingEvidence::AnotherSynAck]);
        let two = one.seen(&waits, syn_ack(waits.clone()));
        assert_eq!(two.judge().unwrap().missing, [MissingEvidence::PeersBacklog]);
        assert!(two.judge().unwrap().deadline.is_some());
        // Before 6.11 the socket is not told.
        let untold = Scene::timed_out(waits, Some(0)).then(syn_ack(SocketView::default()));
        assert_eq!(ruled(&untold), Some((Cause::FinalAckLost, Confidence::Suspected)));
    }

    #[test]
    fn a_listener_that_waits_for_data_repeats_its_syn_ack_and_is_no_finding() {
        let idle = quiet();
        let scene = (0..4).fold(Scene::default(), |scene, _| scene.seen(&idle, syn_ack(idle.clone())));
        assert_eq!(ruled(&scene), None);
        // Then the client writes, and a segment of it is lost.
        let lost_once = stalled(1);
        let timeout = Attempt { send_result: Some(0), socket: lost_once.clone() };
        let scene = scene.seen(&lost_once, EvidenceKind::RetransmissionTimeout(timeout));
        assert_eq!(ruled(&scene), None);
    }

    #[test]
    fn what_this_host_drops_of_its_own_is_told_to_a_client_without_data_too() {
        let own = drop_of(ControlMessage::Ack, Origin::Sent, DropReason::NetfilterDrop);
        let idle = quiet();
        let scene = Scene::default().seen(&idle, syn_ack(idle.clone())).then(own);
        assert_eq!(ruled(&scene), Some((Cause::FinalAckLost, Confidence::Confirmed)));
    }

    fn entry(state: ConntrackState) -> EvidenceKind {
        EvidenceKind::ConntrackEntry(ConntrackEntry {
            state: Some(state),
            replied: false,
            assured: false,
            expires_in: None,
            zone: 0,
        })
    }

    #[test]
    fn data_that_waits_on_a_connection_that_conntrack_has_seen_half_of_is_embryonic() {
        let waiting = || Scene::timed_out(stalled(6), Some(0)).path(true, None);
        assert_eq!(ruled(&waiting()), Some((Cause::PeerSilent, Confidence::Confirmed)));
        let half = waiting().then(entry(ConntrackState::SynSent));
        assert_eq!(half.judge().unwrap().missing, [MissingEvidence::WhatFirewallDrops]);
        let dropped = half.then(drop_of(ControlMessage::Ack, RECEIVED, DropReason::NetfilterDrop));
        assert_eq!(ruled(&dropped), Some((Cause::EmbryonicExpired, Confidence::Confirmed)));
        let picked_up = waiting().then(entry(ConntrackState::Established));
        assert_eq!(picked_up.judge().unwrap().cause, Cause::PeerSilent);
        let refused = Some(-(nix::errno::Errno::EPERM as i32));
        let refused = Scene::timed_out(stalled(4), refused).path(true, None).then(entry(ConntrackState::SynSent));
        assert_eq!(ruled(&refused), Some((Cause::EmbryonicExpired, Confidence::Confirmed)));
    }

    #[test]
    fn two_paths_are_suspected_when_data_waits_soon_after_the_peer_was_heard_of() {
        let waiting = |socket| Scene::timed_out(socket, Some(0)).path(true, None).arrives_by("eth1", 3);
        let ruling = waiting(stalled(6)).judge().unwrap();
        assert_eq!((ruling.cause, ruling.confidence), (Cause::PathMismatch, Confidence::Suspected));
        assert_eq!(ruling.missing, [MissingEvidence::WhatOneSideDrops]);
        let heard = Some(Duration::from_secs(3_600));
        let idle = SocketView { last_ack_ago: heard, last_data_ago: heard, ..stalled(6) };
        assert_eq!(waiting(idle).judge().unwrap().cause, Cause::PeerSilent);
        assert_eq!(ruled(&waiting(quiet())), None, "two paths that work");
        let filtered = drop_of(ControlMessage::Ack, RECEIVED, DropReason::IpRpfilter);
        let expected = Some((Cause::ReversePathFiltered, Confidence::Confirmed));
        assert_eq!(ruled(&waiting(stalled(4)).then(filtered)), expected);
    }
}
