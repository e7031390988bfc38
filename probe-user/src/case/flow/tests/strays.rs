//! What nobody waits for.

use super::*;
use crate::model::InZone;

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
    lab.drops([0, 200], key(), &segment(false));
    lab.run_until(2_000);
    assert_eq!(lab.states().len(), 1);
    for netns in 2..u32::try_from(table::MAX_FLOWS).unwrap() + 100 {
        lab.tracker.handle_event(drop_at(2_000, ConnectionKey { netns, ..key() }, segment(false)));
    }
    lab.run_until(4_000);
    assert_eq!((lab.states().len(), lab.tracker.open_cases()), (1, table::MAX_FLOWS));
}

#[test]
fn of_a_flood_of_strays_a_sample_is_looked_into_and_hardly_a_table_gone_through() {
    let mut lab = Lab::new(World { is_tracking: true, ..World::default() });
    for port in 0..500 {
        let key = ConnectionKey { remote: ([10, 0, 0, 9], port).into(), ..key() };
        lab.tracker.handle_event(drop_at(0, key, step(ControlMessage::Ack)));
        lab.tracker.handle_event(drop_at(1, key, step(ControlMessage::Ack)));
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
    assert_eq!(asked, (32, 28, 4, 64));
}
