//! What nobody waits for.

use super::*;
use crate::model::{DropReason, InZone, InvalidSegment};

#[test]
fn a_stray_segment_is_forgotten() {
    for message in [ControlMessage::Fin, ControlMessage::Reset] {
        let stray = DroppedSegment { message, ..segment(false) };
        for world in [
            World::default(),
            World { is_tracking: true, ..World::default() },
            World::tracked(ConntrackState::TimeWait),
        ] {
            let mut lab = Lab::new(world);
            lab.drops([0], key(), &stray);
            lab.run_until(200_000);
            assert_eq!((lab.states(), lab.tracker.open_cases()), (vec![], 0));
        }
    }
}

#[test]
fn of_strays_hardly_anything_is_asked() {
    let asked_of = |message| {
        let mut lab = Lab::new(World { is_tracking: true, ..World::default() });
        lab.drops([0], key(), &DroppedSegment { message, ..segment(false) });
        lab.tracker.handle_timeout(at(1_000));
        let mut asked = 0;
        while let Some(Output::Question(question)) = lab.tracker.poll_output() {
            asked += 1;
            lab.tracker.handle_answer(at(1_001), lab.world.answer(&question));
        }
        asked
    };
    assert_eq!(asked_of(ControlMessage::Fin), 1, "for its socket");
    assert_eq!(asked_of(ControlMessage::Reset), 2, "and for what connection tracking knows");
}

#[test]
fn what_is_for_an_address_of_this_host_is_no_flow() {
    let mut lab = Lab::new(World { ends_here: true, ..World::tracked(ConntrackState::Established) });
    lab.drops([0, 200, 600, 950], key(), &segment(false));
    lab.run_until(1_500);
    assert_eq!((lab.states(), lab.tracker.open_cases()), (vec![], 0));
}

#[test]
fn flows_beyond_the_bound_go_the_oldest_without_a_finding_first() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established));
    lab.drops([0, 200, 600], key(), &segment(false));
    lab.run_until(2_000);
    assert_eq!(lab.states().len(), 1);
    for netns in 2..u32::try_from(table::MAX_FLOWS).unwrap() + 100 {
        lab.tracker.handle_event(drop_at(2_000, ConnectionKey { netns, ..key() }, segment(false)));
    }
    lab.run_until(4_000);
    assert_eq!((lab.states().len(), lab.tracker.open_cases()), (1, table::MAX_FLOWS));
}

/// What is asked of 500 connections of each of which these are dropped: for sockets, for entries in the default zone, in all zones,
/// and all together.
fn asked_of_a_flood(segments: &[DroppedSegment]) -> (u32, u32, u32, u32) {
    let mut lab = Lab::new(World { is_tracking: true, ..World::default() });
    for port in 0..500 {
        let key = ConnectionKey { remote: ([10, 0, 0, 9], port).into(), ..key() };
        for (ms, segment) in (0..).zip(segments) {
            lab.tracker.handle_event(drop_at(ms, key, segment.clone()));
        }
    }
    let mut asked = (0, 0, 0, 0);
    let mut now = at(1);
    while now < at(9_000) {
        while let Some(Output::Question(question)) = lab.tracker.poll_output() {
            let zone = if let Question::FlowConntrack { zone, .. } = question { Some(zone) } else { None };
            asked.0 += u32::from(matches!(question, Question::Socket { .. }));
            asked.1 += u32::from(zone == Some(InZone::Only(0)));
            asked.2 += u32::from(zone == Some(InZone::Any));
            asked.3 += 1;
            lab.tracker.handle_answer(now, lab.world.answer(&question));
        }
        let Some(due) = lab.tracker.poll_timeout() else { break };
        now = now.max(due);
        lab.tracker.handle_timeout(now);
    }
    asked
}

#[test]
fn of_a_flood_of_strays_a_sample_is_looked_into_and_hardly_a_table_gone_through() {
    assert_eq!(asked_of_a_flood(&[step(ControlMessage::Ack), step(ControlMessage::Ack)]), (32, 28, 4, 64));
}

#[test]
fn of_a_flood_of_resets_each_is_looked_up_and_hardly_a_table_gone_through() {
    assert_eq!(asked_of_a_flood(&[step(ControlMessage::Reset)]), (500, 496, 4, 1_000));
}

#[test]
fn a_reset_beyond_those_that_are_searched_for_is_looked_up_in_the_zone_that_is_named() {
    let mut lab = Lab::new(World { is_tracking: true, ..World::default() });
    for port in 0..10 {
        let key = ConnectionKey { remote: ([10, 0, 0, 9], port).into(), ..key() };
        let segment = DroppedSegment { reason: DropReason::Unseen, ..step(ControlMessage::Reset) };
        let invalid = InvalidSegment { segment, why: "invalid rst".to_owned(), zone: Some(5), hook: None };
        let kind = EventKind::SegmentInvalid(Box::new(invalid));
        let event = ConnectionEvent { at: at(0), key, socket: SocketView::default(), kind };
        lab.tracker.handle_event(Event::Connection(event));
    }
    lab.held = Some(Vec::new());
    lab.run_until(2_000);
    let of = |wanted| {
        let is_it = |question: &&Question| matches!(question, Question::FlowConntrack { zone, .. } if *zone == wanted);
        lab.held.iter().flatten().filter(is_it).count()
    };
    assert_eq!((of(InZone::First(5)), of(InZone::Only(5))), (4, 6));
}
