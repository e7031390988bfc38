//! What ends a connection.

use super::*;
use crate::{judge::MissingEvidence, model::InvalidSegment};

#[test]
fn an_invalid_fin_that_is_only_forwarded_is_told_with_zone_ends_and_interfaces() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established));
    lab.drops(COPIES, key(), &segment(false));
    assert_eq!(lab.states(), [(FindingState::Opened, Confidence::Confirmed)]);
    let finding = &lab.findings[0];
    assert_eq!((finding.ruling.cause, finding.ruling.since), (Cause::ConntrackInvalid, at(0)));
    assert!(finding.at <= at(1_100), "the copies until the look count");
    let flow = finding.flow.as_ref().unwrap();
    assert_eq!(flow.key, FlowKey { netns: 1, zone: Some(5), initiator: client(), responder: server() });
    assert_eq!((flow.packet, flow.is_direction_known), ((server(), client()), true));
    assert_eq!((flow.translation, flow.receiver_socket()), (None, (client(), server())));
    let Knowledge::Known(path) = &flow.path else { panic!("{flow:?}") };
    assert_eq!(path.ingress.as_ref().unwrap().interface.index, IN);
    assert!(finding.evidence[0].kind.to_string().contains("FIN from 10.0.0.2:5672"), "{:?}", finding.evidence);
    assert!(finding.evidence[0].kind.to_string().contains("nft_do_chain"), "{:?}", finding.evidence);
    // A copy passes.
    lab.world.entries = vec![entry(ConntrackState::FinWait, 5, Some(Direction::Reply))];
    lab.run_until(20_000);
    assert_eq!(lab.outcome(), RECOVERED);
    assert_eq!(lab.tracker.open_cases(), 0);
}

#[test]
fn a_sender_that_falls_silent_is_not_taken_to_have_given_up_before_the_witnesses_have_answered() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established).with_receiver(TcpState::Established));
    lab.held = Some(Vec::new());
    lab.drops([0, 500, 1_000], key(), &segment(false));
    lab.run_until(9_000);
    assert_eq!(lab.outcome(), Some(FindingState::Opened));
    for question in lab.held.take().unwrap() {
        lab.tracker.handle_answer(lab.now, lab.world.answer(&question));
    }
    lab.run_until(30_000);
    assert_eq!((lab.outcome(), lab.tracker.open_cases()), (Some(FindingState::Updated), 1));
}

#[test]
fn the_other_ends_own_fin_does_not_count_as_a_copy() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established));
    lab.drops(COPIES, key(), &segment(false));
    lab.world.entries = vec![entry(ConntrackState::CloseWait, 5, Some(Direction::Original))];
    lab.drops([12_600], key(), &segment(false));
    lab.run_until(20_000);
    assert_eq!(lab.outcome(), Some(FindingState::Opened));
    lab.world.entries = vec![entry(ConntrackState::TimeWait, 5, Some(Direction::Original))];
    lab.run_until(40_000);
    assert_eq!(lab.outcome(), RECOVERED);
}

#[test]
fn a_fin_whose_copy_got_through_before_the_look_is_forgotten() {
    let mut lab = Lab::new(World::tracked(ConntrackState::TimeWait).with_receiver(TcpState::CloseWait));
    lab.drops([0, 200], key(), &segment(false));
    lab.run_until(200_000);
    assert_eq!((lab.states(), lab.tracker.open_cases()), (vec![], 0));
}

#[test]
fn a_receiver_on_this_host_is_looked_at_until_it_has_got_a_copy() {
    let mut lab = Lab::new(World::default().with_receiver(TcpState::Established));
    lab.drops([0], key(), &segment(true));
    lab.run_until(1_000);
    assert_eq!(lab.states(), [], "it may be a stray");
    lab.drops([1_400], key(), &segment(true));
    assert_eq!(lab.states(), [(FindingState::Opened, Confidence::Confirmed)]);
    let flow = lab.findings[0].flow.as_ref().unwrap();
    assert_eq!(flow.ends.receiver, Some(end(TcpState::Established)));
    assert_eq!(flow.receiver_owner.process().map(|owner| owner.pid), Some(9));
    lab.run_until(100_000);
    assert_eq!(lab.states().len(), 1, "as long as it waits");
    lab.world = World::default().with_receiver(TcpState::CloseWait);
    lab.run_until(120_000);
    assert_eq!(lab.outcome(), RECOVERED);
}

#[test]
fn a_fin_to_a_receiver_on_this_host_whose_sender_sends_data_afterwards_was_forged_or_late() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established).with_receiver(TcpState::Established));
    lab.drops([0, 400], key(), &segment(false));
    lab.run_until(20_000);
    assert_eq!(lab.states(), [(FindingState::Opened, Confidence::Suspected)]);
    lab.world.ends.receiver.as_mut().unwrap().status.data_ago = Some(Duration::from_secs(1));
    lab.run_until(40_000);
    assert_eq!((lab.outcome(), lab.tracker.open_cases()), (RECOVERED, 0));
}

#[test]
fn copies_that_come_otherwise_than_a_sender_sends_them_are_forgotten_when_no_more_come() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established));
    lab.drops([0, 400, 800, 1_200], key(), &segment(false));
    lab.run_until(1_500);
    assert_eq!(lab.states(), [(FindingState::Opened, Confidence::Suspected)]);
    lab.run_until(20_000);
    assert_eq!(lab.outcome(), Some(FindingState::Closed(Outcome::Unobserved)));
}

#[test]
fn a_rule_that_drops_valid_copies_is_told_until_they_stop_coming() {
    let mut lab = Lab::new(World::tracked(ConntrackState::LastAck));
    lab.drops(COPIES, key(), &segment(true));
    assert_eq!(lab.states(), [(FindingState::Opened, Confidence::Confirmed)]);
    assert_eq!(lab.findings[0].ruling.cause, Cause::FirewallDrop);
    // The next two were due at 12.6 and 25.4 s.
    lab.run_until(25_000);
    assert_eq!(lab.states().len(), 1);
    lab.run_until(60_000);
    assert_eq!(lab.outcome(), Some(FindingState::Closed(Outcome::Unobserved)), "it got through, or was given up");
}

#[test]
fn both_directions_are_one_case() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established));
    lab.drops([0], key(), &segment(false));
    lab.drops([100], back(), &segment(false));
    lab.drops([200], key(), &segment(false));
    lab.drops([300], back(), &segment(false));
    lab.drops([600], key(), &segment(false));
    lab.run_until(3_000);
    assert_eq!(lab.findings.len(), 1);
    assert_eq!(lab.tracker.open_cases(), 1);
    assert_eq!(lab.findings[0].flow.as_ref().unwrap().packet, (server(), client()));
}

#[test]
fn a_reset_is_suspected_until_the_end_that_waits_is_seen() {
    let reset = DroppedSegment { message: ControlMessage::Reset, ..segment(false) };
    let mut lab = Lab::new(World::tracked(ConntrackState::Established));
    lab.drops([0], key(), &reset);
    lab.run_until(3_000);
    assert_eq!(lab.states(), [(FindingState::Opened, Confidence::Suspected)]);
    let mut lab = Lab::new(World::tracked(ConntrackState::Established).with_receiver(TcpState::Established));
    lab.drops([0], key(), &reset);
    lab.run_until(3_000);
    assert_eq!(lab.states(), [(FindingState::Opened, Confidence::Confirmed)]);
    lab.world.ends = FlowEnds::default();
    lab.run_until(30_000);
    assert_eq!(lab.outcome(), Some(FindingState::Closed(Outcome::Unobserved)));
}

#[test]
fn of_several_zones_the_one_that_held_it_for_invalid_is_named() {
    let held_in = |zone| {
        let mut world = World::tracked(ConntrackState::Established);
        world.entries.insert(0, entry(ConntrackState::FinWait, 4, Some(Direction::Reply)));
        let mut lab = Lab::new(world);
        let invalid = InvalidSegment { segment: segment(false), why: "bad checksum".to_owned(), zone, hook: None };
        let kind = EventKind::SegmentInvalid(Box::new(invalid));
        let event = ConnectionEvent { at: at(0), key: key(), socket: SocketView::default(), kind };
        lab.tracker.handle_event(Event::Connection(event));
        lab.drops(COPIES, key(), &segment(false));
        let flow = lab.findings[0].flow.clone().unwrap();
        (flow.key.zone, lab.findings[0].ruling.confidence)
    };
    assert_eq!(held_in(Some(5)), (Some(5), Confidence::Confirmed));
    assert_eq!(held_in(None), (None, Confidence::Confirmed));
    assert_eq!(held_in(Some(9)), (None, Confidence::Confirmed), "there it is no longer known");
}

#[test]
fn a_rule_that_could_not_be_found_out_is_said_to_be_missing_and_why() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established));
    let mut with_calls = segment(false);
    with_calls.stack[0] = 0xf00;
    lab.drops(COPIES, key(), &with_calls);
    let ruling = &lab.findings.last().unwrap().ruling;
    assert_eq!(ruling.missing, [MissingEvidence::DropRule { why: "not found".to_owned() }]);
    assert_eq!(ruling.confidence, Confidence::Confirmed);
}

#[test]
fn the_other_ends_segments_do_not_end_the_case_of_a_fin() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established));
    for (ms, key, segment) in [
        (0, key(), segment(false)),
        (50, back(), step(ControlMessage::Data)),
        (200, key(), segment(false)),
        (300, back(), step(ControlMessage::Data)),
        (600, key(), segment(false)),
        (700, back(), step(ControlMessage::Data)),
    ] {
        lab.drops([ms], key, &segment);
    }
    lab.run_until(2_000);
    assert_eq!(lab.states(), [(FindingState::Opened, Confidence::Confirmed)]);
    assert_eq!(lab.findings[0].flow.as_ref().unwrap().packet, (server(), client()));
}
