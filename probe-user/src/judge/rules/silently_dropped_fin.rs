//! `silently_dropped_fin`: a FIN, or a RST, was sent and thrown away, and its receiver goes on waiting.
//!
//! Required, either a segment that this host dropped for a reason that keeps it from its receiver (`skb:kfree_skb`), and a look at
//! the receiver's socket after the sender has had time to send it again: it still waits for what was dropped. Or a segment that
//! connection tracking held for invalid, more than once or with a receiver that waits for long, where the drop itself was not seen.
//! Or this host's own FIN, sent again and again without any answer. Of connections that this host only forwards: [`forwarded`].
//!
//! Anybody can forge a FIN of which only addresses and ports are right. What tells a real one: its sender sends it again, each time after
//! a longer wait ([`may_be_timed`]), or connection tracking has found its sequence number right ([`was_in_window`]). Without either it stays a
//! suspicion.
//!
//! Not this verdict: a segment for a connection that this host does not hold; a FIN of which a copy gets through; a duplicate,
//! which the state of the socket tells; one whose sender goes on talking ([`DroppedSegment::was_no_end`]); one outside of the window, unless
//! it comes again as a real one does; data of the application that is unacknowledged (`retransmit_stalled`).

pub(in crate::judge) mod forwarded;

use std::time::Duration;

use super::retransmit_stalled::gave_up;
use crate::{
    judge::{Cause, Evidence, EvidenceKind, History, MissingEvidence, Ruling, deadline},
    model::{
        Checksum, ConntrackSettings, ConntrackStatus, ControlMessage, DropReason, DroppedSegment, InvalidSegment,
        Knowledge, MonoTime, Origin, Site, are_timed, may_be_timed,
    },
};

/// Judges what was dropped, or else our own FIN.
pub(in crate::judge) fn assess(history: &History<'_>) -> Option<Ruling> {
    dropped(history).or_else(|| unacknowledged(history))
}

/// A segment that was seen to be dropped.
fn dropped(history: &History<'_>) -> Option<Ruling> {
    let [(since, first), (latest_at, latest)] = Evidence::dropped(history.evidence)?;
    let seen_open = history.evidence.iter().rev().find_map(|evidence| {
        matches!(evidence.kind, EvidenceKind::StillOpen { .. }).then_some(evidence.at).filter(|at| *at >= since)
    })?;
    let is_repeated = latest_at > since || seen_open.since(since) >= history.thresholds.fin_confirmed;
    // One that was not seen to be dropped may be on its way yet.
    if !latest.reason.is_seen() && !is_repeated {
        return None;
    }
    let is_outside_window = is_outside_window(history, latest_at, latest);
    let is_real = match (latest.message, latest.origin) {
        (ControlMessage::Fin, Origin::Sent) => is_repeated,
        (ControlMessage::Fin, Origin::Received { .. } | Origin::Forwarded { .. }) => {
            let copies = Evidence::copies(history.evidence, latest);
            is_from_a_timer(&copies, is_outside_window) || is_repeated && was_in_window(latest, history.conntrack)
        }
        // A RST is sent once.
        (
            ControlMessage::Reset
            | ControlMessage::Syn
            | ControlMessage::SynAck
            | ControlMessage::Ack
            | ControlMessage::Data,
            _,
        ) => first.message != ControlMessage::Fin || is_repeated,
    };
    if is_outside_window && (latest.message == ControlMessage::Reset || !is_real) {
        return None;
    }
    let (cause, why) = cause(latest, latest_at, history);
    let mut missing = Vec::new();
    if !is_real {
        missing.push(MissingEvidence::AnotherCopy);
    }
    missing.extend(why);
    Some(Ruling::new(cause, since, missing))
}

/// Whether copies of a FIN come as its sender sends them; where there is a reason to doubt it, without any other explanation.
fn is_from_a_timer(copies: &[MonoTime], is_outside_window: bool) -> bool {
    if is_outside_window { are_timed(copies) } else { may_be_timed(copies) }
}

/// Whether connection tracking has taken a segment for one of its connection's, which it does only within the window that it has followed,
/// unless it is told to be liberal (`tcp_in_window`, `net/netfilter/nf_conntrack_proto_tcp.c`).
fn was_in_window(segment: &DroppedSegment, conntrack: &Knowledge<ConntrackStatus>) -> bool {
    let Knowledge::Known(ConntrackStatus::Tracked(_, settings)) = conntrack else { return false };
    segment.is_tracked == Some(true) && settings.be_liberal == Some(false)
}

/// Whether TCP, or connection tracking, has found that it lies outside of the window: it may be forged, or late (RFC 5961 section 3, RFC
/// 9293 section 3.10.7.4).
fn is_outside_window(history: &History<'_>, at: MonoTime, segment: &DroppedSegment) -> bool {
    segment.reason == DropReason::InvalidSequence
        || Evidence::why_invalid(history.evidence, at, segment).is_some_and(InvalidSegment::is_about_window)
}

/// Who is to blame for a drop, and what is not known of that.
fn cause(segment: &DroppedSegment, at: MonoTime, history: &History<'_>) -> (Cause, Option<MissingEvidence>) {
    if segment.reason.is_seen() && !segment.reason.is_filter() {
        return (Cause::StackDrop, None);
    }
    if let Some(invalid) = Evidence::why_invalid(history.evidence, at, segment) {
        let cause = if invalid.is_about_checksum() { Cause::ConntrackBadChecksum } else { Cause::ConntrackInvalid };
        return (cause, (!segment.reason.is_seen()).then_some(MissingEvidence::WhoDropped));
    }
    if segment.is_tracked == Some(true) {
        return (Cause::FirewallDrop, None);
    }
    let settings = match history.conntrack {
        // It looks at what a bridge forwards only where a rule or `br_netfilter` wants it to, and would know the connection.
        Knowledge::Known(ConntrackStatus::Forgotten(_)) if is_on_a_bridge(history) => {
            return (Cause::FirewallDrop, None);
        }
        Knowledge::Known(ConntrackStatus::Tracked(_, settings) | ConntrackStatus::Forgotten(settings)) => settings,
        Knowledge::Known(ConntrackStatus::Inactive) => return (Cause::FirewallDrop, None),
        Knowledge::NotAsked | Knowledge::Unavailable(_) => {
            return (Cause::FirewallDrop, Some(MissingEvidence::Tracking));
        }
    };
    match segment.is_tracked {
        None => (Cause::FirewallDrop, Some(MissingEvidence::Tracking)),
        // Connection tracking is at work, and has given the packet nothing: it held it for invalid (`nf_conntrack_in`).
        Some(_) => invalid(segment, settings),
    }
}

fn is_on_a_bridge(history: &History<'_>) -> bool {
    Evidence::place(history.evidence).is_some_and(|place| matches!(place.site, Some(Site::Bridge(_))))
}

/// Why connection tracking held a segment for invalid.
fn invalid(segment: &DroppedSegment, settings: &ConntrackSettings) -> (Cause, Option<MissingEvidence>) {
    match (segment.checksum, settings.checksum) {
        // `tcp_error()`, `net/netfilter/nf_conntrack_proto_tcp.c`: looked at first of all.
        (Checksum::Wrong { .. }, Some(true)) => (Cause::ConntrackBadChecksum, None),
        (Checksum::Wrong { .. }, None) => (Cause::ConntrackBadChecksum, Some(MissingEvidence::WhyInvalid)),
        // `nf_checksum()` takes the length of what the kernel holds, padding and all, where nothing has cut it off before: then it finds
        // the sum wrong that the receiver finds right.
        (Checksum::Right, Some(true) | None) if segment.padding_bytes() > 0 => {
            (Cause::ConntrackBadChecksum, Some(MissingEvidence::WhyInvalid))
        }
        (Checksum::NotVerifiable, Some(true) | None) => (Cause::ConntrackInvalid, Some(MissingEvidence::WhyInvalid)),
        (Checksum::Right | Checksum::Offloaded, _) | (_, Some(false)) => (Cause::ConntrackInvalid, None),
    }
}

/// Our own FIN, with nothing else to wait for.
fn unacknowledged(history: &History<'_>) -> Option<Ruling> {
    let sight = Evidence::latest_sight(history.evidence)?;
    let socket = sight.socket;
    let is_fin_alone = socket.unacknowledged_data() == Some(0) && socket.snd_nxt != socket.snd_una;
    let waits_for_it = socket.state?.awaits_fin_ack() && is_fin_alone;
    let retransmits = socket.retransmits?;
    let gave_up = gave_up(history, &sight);
    if !waits_for_it || retransmits < history.thresholds.retransmits_suspected && !gave_up {
        return None;
    }
    let mut missing = Vec::new();
    if !gave_up {
        missing.extend(history.missing_timeouts(retransmits));
        missing.extend(history.missing_events());
    }
    let since = sight.at.before(socket.retransmitting_for.unwrap_or(Duration::ZERO));
    let deadline = deadline::of_retransmission(&sight, false);
    Some(Ruling { deadline, ..Ruling::new(Cause::UnacknowledgedFin, since, missing) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::{
            Confidence, Verdict,
            rules::scene::{SEEN_AT, Scene, fin, quiet, stalled},
        },
        model::{
            DropPlace, DropReason, InvalidSegment, NetfilterHook, Origin, PendingTimer, SocketTimer, SocketView,
            TcpState,
        },
    };

    const STILL_OPEN: EvidenceKind = EvidenceKind::StillOpen { state: TcpState::Established };

    /// Dropped, and a second later the socket is still open.
    fn drop_of(segment: DroppedSegment) -> Scene {
        Scene::default().then(EvidenceKind::SegmentDropped(Box::new(segment))).then(STILL_OPEN)
    }

    /// Dropped at these times in milliseconds, and a second later the socket is still open.
    fn drops_of(segment: &DroppedSegment, times: &[u64]) -> Scene {
        let mut scene = Scene::default();
        for (before, at) in times.iter().scan(0, |before, at| Some((std::mem::replace(before, *at), *at))) {
            let dropped = EvidenceKind::SegmentDropped(Box::new(segment.clone()));
            scene = scene.later(Duration::from_millis(at - before), dropped);
        }
        scene.then(STILL_OPEN)
    }

    /// The first copies of a FIN, as its sender's timer sends them.
    const COPIES: [u64; 3] = [0, 200, 600];

    /// What a segment is blamed on of which copies are dropped where connection tracking knows the connection.
    fn blamed(segment: &DroppedSegment) -> (Cause, Vec<MissingEvidence>) {
        let ruling = drops_of(segment, &COPIES).tracked(Some(true)).judge().unwrap();
        assert_eq!(ruling.verdict, Verdict::SilentlyDroppedFin);
        (ruling.cause, ruling.missing)
    }

    #[test]
    fn a_drop_is_a_finding_only_when_the_socket_still_waits() {
        let only_dropped = Scene::default().then(EvidenceKind::SegmentDropped(Box::new(fin())));
        assert_eq!(only_dropped.judge(), None);
        assert!(drop_of(fin()).judge().is_some());
        assert_eq!(drop_of(fin()).then(EvidenceKind::SegmentGotThrough).judge(), None);
    }

    #[test]
    fn one_dropped_fin_is_a_suspicion_and_copies_as_a_sender_sends_them_are_a_fact() {
        let one = drop_of(fin()).tracked(Some(true));
        let ruling = one.judge().unwrap();
        assert_eq!((ruling.confidence, ruling.since), (Confidence::Suspected, SEEN_AT));
        assert_eq!(ruling.missing, [MissingEvidence::AnotherCopy]);
        let later = one.then(STILL_OPEN).then(STILL_OPEN);
        assert_eq!(later.judge().unwrap().missing, [MissingEvidence::AnotherCopy], "anybody can send one");
        let confidence = |times: &[u64]| drops_of(&fin(), times).tracked(Some(true)).judge().unwrap().confidence;
        // With a probe for a lost tail; where some were not told; with an RTO that is shorter than most; and when the watch began late.
        let with_a_probe = [0, 200, 400, 800];
        let short = [0, 5, 15, 35, 315, 635, 1_275];
        let lasting = [0, 2_000, 4_000];
        for copies in [&COPIES[..], &with_a_probe, &[0, 195, 590], &[0, 1_400, 6_200], &short, &[0, 1_600], &lasting] {
            assert_eq!(confidence(copies), Confidence::Confirmed, "{copies:?}");
        }
        let alike = [0, 1_000, 2_000, 3_000];
        let twice = [0, 400, 800, 1_200, 6_000, 6_400, 6_800];
        for strays in [
            &[0, 1][..],
            &[0, 200],
            &[0, 400],
            &[0, 1, 2, 3],
            &[0, 400, 800, 1_200],
            &[0, 1_000, 1_200, 1_400],
            &alike,
            &twice,
        ] {
            assert_eq!(confidence(strays), Confidence::Suspected, "{strays:?}");
        }
        let other = DroppedSegment { sequence: 7, ..fin() };
        let mixed = drops_of(&fin(), &[0, 200])
            .later(Duration::from_millis(400), EvidenceKind::SegmentDropped(Box::new(other)));
        assert_eq!(mixed.then(STILL_OPEN).judge().unwrap().confidence, Confidence::Suspected, "another FIN is no copy");
        let reset = DroppedSegment { message: ControlMessage::Reset, ..fin() };
        assert_eq!(drop_of(reset).tracked(Some(true)).judge().unwrap().confidence, Confidence::Confirmed);
    }

    #[test]
    fn a_wrong_checksum_is_to_blame_where_connection_tracking_looks_at_it() {
        let wrong = DroppedSegment { checksum: Checksum::Wrong { carried: 1, due: 2 }, ..fin() };
        assert_eq!(blamed(&wrong), (Cause::ConntrackBadChecksum, vec![]));
        let unlooked = drop_of(wrong).then(STILL_OPEN).then(STILL_OPEN).tracked(Some(false)).judge().unwrap();
        assert_eq!(unlooked.cause, Cause::ConntrackInvalid);
        let with_data = DroppedSegment { checksum: Checksum::NotVerifiable, data_bytes: 9, ..fin() };
        assert_eq!(blamed(&with_data), (Cause::ConntrackInvalid, vec![MissingEvidence::WhyInvalid]));
        assert_eq!(blamed(&fin()), (Cause::ConntrackInvalid, vec![]));
    }

    #[test]
    fn what_a_bridge_drops_of_a_connection_that_is_not_tracked_was_not_shown_to_connection_tracking() {
        let cause = |site| {
            let rules = Knowledge::NotAsked;
            let place = DropPlace { site: Some(site), functions: Vec::new(), rules };
            let padded = DroppedSegment { actual_bytes: 46, ..fin() };
            let scene =
                drop_of(padded).then(EvidenceKind::DropPlace(Box::new(place))).then(STILL_OPEN).then(STILL_OPEN);
            (scene.forgotten_by_conntrack().judge().unwrap().cause, site)
        };
        let bridge = Site::Bridge(NetfilterHook::Forward);
        let ip = Site::Netfilter(NetfilterHook::Forward);
        assert_eq!(cause(bridge), (Cause::FirewallDrop, bridge));
        assert_eq!(cause(ip), (Cause::ConntrackBadChecksum, ip));
    }

    #[test]
    fn a_right_checksum_is_wrong_to_who_takes_the_padding_into_it() {
        let padded = DroppedSegment { actual_bytes: 46, ..fin() };
        assert_eq!(blamed(&padded), (Cause::ConntrackBadChecksum, vec![MissingEvidence::WhyInvalid]));
        let unlooked = drop_of(padded).then(STILL_OPEN).then(STILL_OPEN).tracked(Some(false)).judge().unwrap();
        assert_eq!(unlooked.cause, Cause::ConntrackInvalid);
    }

    #[test]
    fn a_segment_that_connection_tracking_accepts_or_never_sees_is_dropped_by_a_rule() {
        assert_eq!(blamed(&DroppedSegment { is_tracked: Some(true), ..fin() }), (Cause::FirewallDrop, vec![]));
        assert_eq!(
            blamed(&DroppedSegment { is_tracked: None, ..fin() }),
            (Cause::FirewallDrop, vec![MissingEvidence::Tracking])
        );
        let unasked = drops_of(&fin(), &COPIES).judge().unwrap();
        assert_eq!((unasked.cause, unasked.missing), (Cause::FirewallDrop, vec![MissingEvidence::Tracking]));
    }

    /// What connection tracking has told of the segment.
    fn held(why: &str, segment: DroppedSegment) -> EvidenceKind {
        let segment = DroppedSegment { reason: DropReason::Unseen, ..segment };
        let why = why.to_owned();
        EvidenceKind::SegmentInvalid(Box::new(InvalidSegment { segment, why, zone: Some(3), hook: None }))
    }

    #[test]
    fn what_connection_tracking_tells_decides_over_what_the_packet_shows() {
        let blamed = |why: &str, later| {
            let with_data = DroppedSegment { checksum: Checksum::NotVerifiable, data_bytes: 9, ..fin() };
            let dropped = EvidenceKind::SegmentDropped(Box::new(with_data.clone()));
            let scene = drops_of(&with_data, &COPIES).then(held(why, with_data)).later(later, dropped);
            let ruling = scene.tracked(Some(true)).judge().unwrap();
            (ruling.cause, ruling.missing)
        };
        let at_once = Duration::from_micros(20);
        assert_eq!(blamed("bad checksum", at_once), (Cause::ConntrackBadChecksum, vec![]));
        assert_eq!(blamed("invalid tcp flag combination", at_once), (Cause::ConntrackInvalid, vec![]));
        let unknown = (Cause::ConntrackInvalid, vec![MissingEvidence::WhyInvalid]);
        assert_eq!(blamed("bad checksum", Duration::from_millis(200)), unknown, "another packet");
    }

    #[test]
    fn what_is_held_for_invalid_and_never_seen_to_be_dropped_is_told_when_its_receiver_waits_for_long() {
        let invalid = || Scene::default().then(held("bad checksum", fin()));
        assert_eq!(invalid().judge(), None);
        assert_eq!(invalid().then(STILL_OPEN).judge(), None, "its receiver may just not have got to it");
        assert_eq!(invalid().then(STILL_OPEN).then(EvidenceKind::SegmentGotThrough).judge(), None);
        for scene in [invalid().then(STILL_OPEN).then(STILL_OPEN).then(STILL_OPEN), {
            invalid().then(held("bad checksum", fin())).then(STILL_OPEN)
        }] {
            let ruling = scene.judge().unwrap();
            assert_eq!((ruling.cause, ruling.confidence), (Cause::ConntrackBadChecksum, Confidence::Suspected));
            assert!(ruling.missing.contains(&MissingEvidence::WhoDropped), "{:?}", ruling.missing);
        }
    }

    #[test]
    fn what_tcp_or_connection_tracking_finds_outside_of_the_window_is_told_when_it_comes_as_a_sender_sends_it() {
        let outside = DroppedSegment { reason: DropReason::InvalidSequence, ..fin() };
        assert_eq!(drop_of(outside.clone()).then(STILL_OPEN).then(STILL_OPEN).judge(), None);
        assert_eq!(drops_of(&outside, &[0, 400, 800]).judge(), None);
        assert_eq!(drops_of(&outside, &[0, 1_600]).judge(), None);
        assert_eq!(blamed(&outside), (Cause::StackDrop, vec![]));
        let reset = DroppedSegment { message: ControlMessage::Reset, ..fin() };
        let told = |segment: DroppedSegment, why: &str| {
            let dropped = EvidenceKind::SegmentDropped(Box::new(segment.clone()));
            let scene = Scene::default().then(held(why, segment)).later(Duration::from_micros(20), dropped);
            scene.then(STILL_OPEN).tracked(Some(true)).judge().is_some()
        };
        for segment in [fin(), reset] {
            assert!(!told(segment.clone(), "SEQ is over the upper bound …") && told(segment, "invalid rst"));
        }
    }

    #[test]
    fn a_fin_that_connection_tracking_found_within_the_window_is_a_fact_without_copies() {
        let valid = || DroppedSegment { is_tracked: Some(true), ..fin() };
        let confidence = |scene: Scene| scene.then(STILL_OPEN).then(STILL_OPEN).judge().unwrap().confidence;
        assert_eq!(confidence(drop_of(valid()).tracked(Some(true))), Confidence::Confirmed);
        assert_eq!(confidence(drop_of(valid()).tracked(Some(true)).liberal()), Confidence::Suspected);
    }

    #[test]
    fn what_no_filter_dropped_is_the_stacks_own_doing() {
        assert_eq!(blamed(&DroppedSegment { reason: DropReason::TcpChecksum, ..fin() }), (Cause::StackDrop, vec![]));
    }

    #[test]
    fn a_fin_that_this_host_drops_itself_is_no_data_that_cannot_be_sent() {
        let probing = SocketView {
            state: Some(TcpState::FinWait1),
            write_seq: Some(1_001),
            backoff: Some(4),
            probes_out: Some(4),
            timer: Some(PendingTimer { kind: SocketTimer::Persist, due_in: Duration::from_secs(1) }),
            ..quiet()
        };
        assert!(probing.cannot_send());
        assert_eq!(Scene::scanned(probing.clone()).judge().unwrap().verdict, Verdict::RetransmitStalled);
        let own = DroppedSegment { origin: Origin::Sent, is_tracked: Some(true), ..fin() };
        let probe = EvidenceKind::Scanned(Box::new(probing));
        let seen = Scene::default().then(EvidenceKind::SegmentDropped(Box::new(own))).then(probe);
        assert_eq!(seen.judge(), None);
        assert_eq!(seen.then(STILL_OPEN).judge().unwrap().cause, Cause::FirewallDrop);
    }

    #[test]
    fn our_own_fin_is_unacknowledged_after_as_many_timeouts_as_data() {
        let closing = |retransmits| SocketView {
            state: Some(TcpState::FinWait1),
            snd_nxt: Some(1_001),
            write_seq: Some(1_001),
            ..stalled(retransmits)
        };
        assert_eq!(Scene::timed_out(closing(3), None).judge(), None);
        let ruling = Scene::timed_out(closing(4), None).judge().unwrap();
        assert_eq!((ruling.cause, ruling.confidence), (Cause::UnacknowledgedFin, Confidence::Suspected));
        let ruling = Scene::timed_out(closing(6), None).judge().unwrap();
        assert_eq!(ruling.confidence, Confidence::Confirmed);
        assert!(ruling.deadline.is_some());
        let acknowledged = SocketView { state: Some(TcpState::FinWait2), ..quiet() };
        assert_eq!(Scene::timed_out(acknowledged, None).judge(), None);
    }
}
