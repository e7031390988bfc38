//! The same where this host only forwards the connection, and no socket tells who waits.
//!
//! Required, one of these for the segments that one end has sent:
//! - the receiver is a socket of another network namespace of this host, and still waits for what was dropped;
//! - of a FIN, copies that were dropped, and an entry of connection tracking that says that none has got through: it has not
//!   followed a segment that it held for invalid, and a copy that it lets pass moves it on;
//! - of a FIN, two copies that were dropped (suspected), or three: its sender does not get the acknowledgment. Without a sign that the
//!   receiver lives it stays a suspicion: an entry of connection tracking with a reply, which it has not closed, or a segment of its own;
//! - of a RST, which is sent once, an entry that still says that both ends hold the connection open (suspected).
//!
//! A FIN that does not come again as a sender's timer sends it, and that connection tracking has not found within the window, stays a
//! suspicion: it may be forged.
//!
//! Not this verdict: a stray FIN or RST, which comes once and which nobody waits for.

use std::net::SocketAddr;

use super::{cause, is_from_a_timer, is_outside_window, was_in_window};
use crate::{
    judge::{Evidence, EvidenceKind, History, MissingEvidence, Ruling},
    model::{ConntrackEntry, ConntrackState, ConntrackStatus, ControlMessage, DroppedSegment, Knowledge, MonoTime},
};

/// Judges what was dropped on its way from either end: the surest, then the first.
pub(in crate::judge) fn assess(history: &History<'_>) -> Option<Ruling> {
    let mut best: Option<Ruling> = None;
    for sender in Evidence::senders(history.evidence) {
        let Some(ruling) = assess_from(history, sender) else { continue };
        if best.as_ref().is_none_or(|best| ruling.confidence > best.confidence) {
            best = Some(ruling);
        }
    }
    best
}

fn assess_from(history: &History<'_>, sender: SocketAddr) -> Option<Ruling> {
    let dropped = Evidence::dropped_from(history.evidence, sender);
    let (since, _) = *dropped.first()?;
    let (latest_at, latest) = *dropped.last()?;
    let waiting_at = Evidence::receiver_waits(history.evidence, sender).map(|(at, _)| at).filter(|at| *at >= since);
    let is_outside_window = is_outside_window(history, latest_at, latest);
    let mut missing = match latest.message {
        ControlMessage::Fin => of_fin(&dropped, waiting_at, is_outside_window, history)?,
        // TCP itself takes none.
        ControlMessage::Reset if is_outside_window => return None,
        ControlMessage::Reset => of_reset(latest, waiting_at, history.conntrack)?,
        ControlMessage::Syn | ControlMessage::SynAck | ControlMessage::Ack | ControlMessage::Data => return None,
    };
    // One that was not seen to be dropped may be on its way yet.
    if !latest.reason.is_seen() && !missing.is_empty()
        || is_outside_window && missing.contains(&MissingEvidence::AnotherCopy)
    {
        return None;
    }
    let (cause, why) = cause(latest, latest_at, history);
    missing.extend(why);
    Some(Ruling::new(cause, since, missing))
}

/// What is missing to be sure of a dropped FIN; `None` when it is no finding.
fn of_fin(
    dropped: &[(MonoTime, &DroppedSegment)],
    waiting_at: Option<MonoTime>,
    is_outside_window: bool,
    history: &History<'_>,
) -> Option<Vec<MissingEvidence>> {
    let (since, _) = *dropped.first()?;
    let (_, latest) = *dropped.last()?;
    let copies: Vec<_> = dropped.iter().filter(|(_, segment)| segment.is_copy_of(latest)).map(|(at, _)| *at).collect();
    let (is_timed, is_in_window) =
        (is_from_a_timer(&copies, is_outside_window), was_in_window(latest, history.conntrack));
    let is_proven = match waiting_at {
        Some(at) => {
            let is_repeated = copies.len() > 1 || at.since(since) >= history.thresholds.fin_confirmed;
            is_timed || is_in_window && is_repeated
        }
        None if copies.len() < 2 => return None,
        // What is held for invalid does not move the entry on, whether it is dropped or let pass.
        None => {
            let are_enough = copies.len() >= usize::from(history.thresholds.fin_copies_confirmed);
            (is_timed || is_in_window) && are_enough
                || is_timed && latest.reason.is_seen() && has_not_followed(latest, history.conntrack)
        }
    };
    let is_awaited = waiting_at.is_some() || shows_life(history, since, latest);
    let missing =
        [(!is_proven).then_some(MissingEvidence::AnotherCopy), (!is_awaited).then_some(MissingEvidence::Receiver)];
    Some(missing.into_iter().flatten().collect())
}

/// Whether anything shows that the receiver of this FIN is there to miss it: a sender whose peer has gone sends copies, too.
fn shows_life(history: &History<'_>, since: MonoTime, fin: &DroppedSegment) -> bool {
    // Each copy that connection tracking accepts moves the entry on as if it were the other end's (`tcp_conntracks`).
    let last_state = if is_untracked(fin) { ConntrackState::CloseWait } else { ConntrackState::LastAck };
    let is_open = |entry: &ConntrackEntry| {
        let is_between = |state| ConntrackState::Established <= state && state <= last_state;
        entry.replied && entry.state.is_some_and(is_between)
    };
    let sender = fin.origin.forwarded_sender();
    let is_from_receiver = |segment: &DroppedSegment| {
        let from = segment.origin.forwarded_sender();
        from.is_some() && from != sender && segment.message != ControlMessage::Reset
    };
    let is_sign = |evidence: &Evidence| {
        if let EvidenceKind::ConntrackEntry(entry) = &evidence.kind {
            is_open(entry)
        } else if let EvidenceKind::SegmentDropped(segment) = &evidence.kind {
            evidence.at >= since && is_from_receiver(segment)
        } else {
            evidence.at >= since && evidence.as_invalid().is_some_and(|invalid| is_from_receiver(&invalid.segment))
        }
    };
    entry(history.conntrack).is_some_and(is_open) || history.evidence.iter().any(is_sign)
}

/// The same of a RST.
fn of_reset(
    latest: &DroppedSegment,
    waiting_at: Option<MonoTime>,
    conntrack: &Knowledge<ConntrackStatus>,
) -> Option<Vec<MissingEvidence>> {
    if waiting_at.is_some() {
        return Some(Vec::new());
    }
    let is_open = |entry: &ConntrackEntry| entry.state == Some(ConntrackState::Established) && entry.replied;
    let holds_open = is_untracked(latest) && entry(conntrack).is_some_and(is_open);
    holds_open.then(|| vec![MissingEvidence::Receiver])
}

/// Whether connection tracking, which held the FIN for invalid, would have moved on had a copy got through.
fn has_not_followed(segment: &DroppedSegment, conntrack: &Knowledge<ConntrackStatus>) -> bool {
    is_untracked(segment)
        && entry(conntrack).and_then(|entry| entry.state).is_some_and(|state| {
            // A second FIN moves it on from each of these (`tcp_conntracks`, `net/netfilter/nf_conntrack_proto_tcp.c`).
            matches!(state, ConntrackState::Established | ConntrackState::FinWait | ConntrackState::CloseWait)
        })
}

/// One that connection tracking accepts moves the entry on before a rule drops it: the entry then says nothing.
fn is_untracked(segment: &DroppedSegment) -> bool {
    segment.is_tracked == Some(false)
}

const fn entry(conntrack: &Knowledge<ConntrackStatus>) -> Option<&ConntrackEntry> {
    match conntrack {
        Knowledge::Known(ConntrackStatus::Tracked(entry, _)) => Some(entry),
        Knowledge::Known(ConntrackStatus::Forgotten(_) | ConntrackStatus::Inactive)
        | Knowledge::NotAsked
        | Knowledge::Unavailable(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        judge::{
            Cause, Confidence, Verdict,
            rules::scene::{self, SEEN_AT, Scene},
        },
        model::{Checksum, DropReason, InvalidSegment, Origin, TcpState, WaitingEnd},
    };

    fn server() -> SocketAddr {
        ([10, 0, 0, 2], 5672).into()
    }

    fn client() -> SocketAddr {
        ([10, 0, 0, 1], 40_000).into()
    }

    /// A FIN of the server that connection tracking held for invalid.
    fn fin() -> DroppedSegment {
        let origin = Origin::Forwarded { ifindex: 2, sender: server() };
        let checksum = Checksum::Wrong { carried: 1, due: 2 };
        DroppedSegment { origin, sequence: 1_000, checksum, ..scene::fin() }
    }

    fn reset() -> DroppedSegment {
        DroppedSegment { message: ControlMessage::Reset, ..fin() }
    }

    fn drops<const COUNT: usize>(segments: [DroppedSegment; COUNT]) -> Scene {
        let dropped = |segment| EvidenceKind::SegmentDropped(Box::new(segment));
        segments.into_iter().map(dropped).fold(Scene::default().forwarded(), Scene::then)
    }

    /// The first three copies of a FIN, as its sender's timer sends them.
    fn copies_of(segment: &DroppedSegment) -> Scene {
        let dropped = |segment: &DroppedSegment| EvidenceKind::SegmentDropped(Box::new(segment.clone()));
        let [first, second] = [200, 400].map(Duration::from_millis);
        drops([segment.clone()]).later(first, dropped(segment)).later(second, dropped(segment))
    }

    const WAITS: TcpState = TcpState::Established;

    fn waits_for(sender: SocketAddr) -> EvidenceKind {
        EvidenceKind::EndWaits(WaitingEnd { netns: 7, sender, state: WAITS })
    }

    fn said(scene: &Scene) -> Option<(Cause, Vec<MissingEvidence>)> {
        let ruling = scene.judge()?;
        assert_eq!((ruling.verdict, ruling.since), (Verdict::SilentlyDroppedFin, SEEN_AT));
        assert_eq!(ruling.confidence == Confidence::Confirmed, ruling.missing.is_empty());
        Some((ruling.cause, ruling.missing))
    }

    #[test]
    fn a_segment_that_nobody_is_seen_to_wait_for_and_that_comes_once_is_no_finding() {
        for segment in [fin(), reset()] {
            assert_eq!(said(&drops([segment.clone()])), None);
            assert_eq!(said(&drops([segment.clone()]).forgotten_by_conntrack()), None);
            assert_eq!(said(&drops([segment]).tracked_as(ConntrackState::TimeWait, Some(true))), None);
        }
        assert_eq!(said(&drops([fin()]).tracked(Some(true))), None, "a copy will come if it is missed");
    }

    #[test]
    fn a_receiver_on_this_host_that_waits_is_a_finding() {
        let one = drops([fin()]).then(waits_for(server())).tracked(Some(true));
        assert_eq!(said(&one), Some((Cause::ConntrackBadChecksum, vec![MissingEvidence::AnotherCopy])));
        let copies = copies_of(&fin()).then(waits_for(server())).tracked(Some(true));
        assert_eq!(said(&copies), Some((Cause::ConntrackBadChecksum, vec![])));
        assert_eq!(said(&drops([reset()]).then(waits_for(server())).tracked(Some(true))).unwrap().1, []);
        assert_eq!(said(&drops([fin()]).then(waits_for(client())).tracked(Some(true))), None, "that is the sender");
        let gone = drops([fin()]).then(waits_for(server())).then(EvidenceKind::SocketGone);
        assert_eq!(said(&gone.tracked(Some(true))), None);
    }

    #[test]
    fn an_entry_that_has_not_followed_proves_that_no_copy_got_through() {
        for state in [ConntrackState::Established, ConntrackState::FinWait, ConntrackState::CloseWait] {
            let copies = copies_of(&fin()).tracked_as(state, Some(true));
            assert_eq!(said(&copies), Some((Cause::ConntrackBadChecksum, vec![])));
            let again = EvidenceKind::SegmentDropped(Box::new(fin()));
            let two = drops([fin()]).later(Duration::from_millis(400), again);
            let two = said(&two.tracked_as(state, Some(true))).unwrap();
            assert_eq!(two.1, [MissingEvidence::AnotherCopy], "anybody can send two");
        }
        let moved = said(&copies_of(&fin()).tracked_as(ConntrackState::LastAck, Some(true))).unwrap();
        assert_eq!(moved.1, [MissingEvidence::Receiver]);
        let other = DroppedSegment { sequence: 2_000, ..fin() };
        assert_eq!(said(&drops([fin(), other]).tracked(Some(true))), None, "another FIN is no copy");
        let with_data = DroppedSegment { sequence: 990, data_bytes: 10, ..fin() };
        assert!(said(&drops([fin(), with_data]).tracked(Some(true))).is_some(), "one with its data is");
    }

    #[test]
    fn a_rule_that_drops_what_is_valid_is_told_by_the_copies_alone() {
        let valid = || DroppedSegment { is_tracked: Some(true), checksum: Checksum::Right, ..fin() };
        let two = drops([valid(), valid()]).tracked_as(ConntrackState::LastAck, Some(true));
        assert_eq!(said(&two), Some((Cause::FirewallDrop, vec![MissingEvidence::AnotherCopy])));
        let three = drops([valid(), valid(), valid()]).tracked_as(ConntrackState::LastAck, Some(true));
        assert_eq!(said(&three), Some((Cause::FirewallDrop, vec![])));
        let valid_reset = DroppedSegment { message: ControlMessage::Reset, ..valid() };
        assert_eq!(said(&drops([valid_reset]).tracked_as(ConntrackState::Close, Some(true))), None);
    }

    #[test]
    fn without_a_sign_that_the_receiver_lives_copies_stay_a_suspicion() {
        let copies = || copies_of(&fin());
        let missing = |scene: Scene| {
            let mut missing = said(&scene).unwrap().1;
            // Nothing tells here whether checksums are looked at.
            missing.retain(|missing| *missing != MissingEvidence::WhyInvalid);
            missing
        };
        assert_eq!(missing(copies().forgotten_by_conntrack()), [MissingEvidence::Receiver], "its end may be long gone");
        for gone in [ConntrackState::TimeWait, ConntrackState::Close, ConntrackState::LastAck, ConntrackState::SynSent]
        {
            assert_eq!(missing(copies().tracked_as(gone, Some(true))), [MissingEvidence::Receiver], "{gone:?}");
        }
        let unreplied = copies().tracked(Some(true)).unreplied();
        assert_eq!(missing(unreplied), [MissingEvidence::Receiver], "picked up in its middle, from one side");
        let told_before = entry_of(&copies().tracked(Some(true)));
        let expired = copies().then(EvidenceKind::ConntrackEntry(told_before)).forgotten_by_conntrack();
        assert_eq!(missing(expired), [], "it was there when the FIN was dropped");
        let from_receiver =
            |message| DroppedSegment { message, origin: Origin::Forwarded { ifindex: 3, sender: client() }, ..fin() };
        let and = |message| {
            let dropped = EvidenceKind::SegmentDropped(Box::new(from_receiver(message)));
            missing(copies().then(dropped).forgotten_by_conntrack())
        };
        assert_eq!(and(ControlMessage::Ack), []);
        assert_eq!(and(ControlMessage::Reset), [MissingEvidence::Receiver], "it has no connection any more");
        assert_eq!(missing(copies().then(waits_for(server())).forgotten_by_conntrack()), []);
    }

    #[test]
    fn copies_that_come_otherwise_than_a_sender_sends_them_and_outside_of_the_window_may_be_forged() {
        let waits =
            |scene: Scene| said(&scene.then(waits_for(server())).tracked(Some(true))).map(|(_, missing)| missing);
        assert_eq!(waits(drops([fin(), fin(), fin(), fin()])), Some(vec![MissingEvidence::AnotherCopy]));
        let right = || DroppedSegment { checksum: Checksum::Right, ..fin() };
        let outside = |segment: DroppedSegment| {
            let why = "SEQ is over the upper bound …".to_owned();
            EvidenceKind::SegmentInvalid(Box::new(InvalidSegment { segment, why, zone: None, hook: None }))
        };
        let at_once = Duration::from_micros(20);
        let again =
            |scene: Scene| scene.then(outside(right())).later(at_once, EvidenceKind::SegmentDropped(Box::new(right())));
        assert_eq!(waits(again(drops([right()]))), None);
        assert_eq!(waits(again(copies_of(&right()))), Some(vec![]), "what is followed there is wrong");
    }

    fn entry_of(scene: &Scene) -> ConntrackEntry {
        *entry(scene.conntrack()).unwrap()
    }

    #[test]
    fn a_reset_is_suspected_while_connection_tracking_says_that_the_connection_is_open() {
        let open = drops([reset()]).tracked(Some(true));
        assert_eq!(said(&open), Some((Cause::ConntrackBadChecksum, vec![MissingEvidence::Receiver])));
        assert_eq!(said(&drops([reset()]).tracked_as(ConntrackState::CloseWait, Some(true))), None);
    }

    #[test]
    fn what_is_held_for_invalid_and_never_seen_to_be_dropped_is_told_when_it_is_known_to_be_missed() {
        let held = |segment| {
            let segment = DroppedSegment { reason: DropReason::Unseen, ..segment };
            let why = "bad checksum".to_owned();
            EvidenceKind::SegmentInvalid(Box::new(InvalidSegment { segment, why, zone: Some(3), hook: None }))
        };
        let one = || Scene::default().forwarded().then(held(fin()));
        assert_eq!(said(&one().tracked(Some(true))), None);
        assert_eq!(said(&one().then(waits_for(server())).tracked(Some(true))), None, "it may be on its way");
        let two = || one().later(Duration::from_millis(200), held(fin()));
        assert_eq!(said(&two().tracked(Some(true))), None, "one may be lost further on");
        let three = two().later(Duration::from_millis(400), held(fin())).tracked(Some(true));
        assert_eq!(said(&three), Some((Cause::ConntrackBadChecksum, vec![MissingEvidence::WhoDropped])));
    }

    #[test]
    fn of_two_directions_the_surer_counts() {
        let back = DroppedSegment { origin: Origin::Forwarded { ifindex: 3, sender: client() }, ..fin() };
        let scene = drops([fin(), back]).then(waits_for(client())).tracked(Some(true));
        let ruling = scene.judge().unwrap();
        assert_eq!(ruling.since, SEEN_AT + Duration::from_secs(1));
    }
}
