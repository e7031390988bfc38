//! What completes a handshake.

use super::*;

#[test]
fn acks_that_a_firewall_drops_which_has_seen_only_the_syn_are_told_until_it_sees_the_answer() {
    let mut lab = Lab::new(World::tracked(ConntrackState::SynSent));
    lab.world.entries[0].entry.replied = false;
    lab.drops([0], back(), &step(ControlMessage::Ack));
    lab.run_until(600);
    assert_eq!(lab.states(), [(FindingState::Opened, Confidence::Suspected)]);
    lab.drops([800], back(), &step(ControlMessage::Data));
    lab.run_until(1_000);
    assert_eq!(lab.states().last(), Some(&(FindingState::Updated, Confidence::Confirmed)));
    let finding = lab.findings.last().unwrap().clone();
    assert_eq!(finding.ruling.cause, Cause::FinalAckLost);
    let flow = finding.flow.unwrap();
    assert_eq!((flow.key.initiator, flow.packet), (client(), (client(), server())));
    lab.world = World::tracked(ConntrackState::Established);
    lab.run_until(20_000);
    assert_eq!(lab.outcome(), RECOVERED);
    let last = lab.findings.last().unwrap().evidence.last().unwrap().clone();
    assert_eq!(last.kind, EvidenceKind::HandshakeCompleted);
    assert_eq!(lab.tracker.open_cases(), 0);
}

#[test]
fn acks_that_are_no_longer_dropped_while_nothing_else_is_known_are_let_be() {
    let mut lab = Lab::new(World::tracked(ConntrackState::SynSent));
    lab.drops([0, 400, 1_200], back(), &step(ControlMessage::Data));
    lab.run_until(60_000);
    assert_eq!(lab.outcome(), Some(FindingState::Closed(Outcome::Unobserved)));
    assert_eq!(lab.tracker.open_cases(), 0);
}

#[test]
fn a_server_that_waits_for_the_final_ack_is_seen_to_have_got_it() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established).with_receiver(TcpState::NewSynReceived));
    lab.drops([0, 400], back(), &step(ControlMessage::Ack));
    lab.run_until(1_500);
    assert_eq!(lab.findings.last().map(|finding| finding.ruling.cause), Some(Cause::FinalAckLost));
    assert_eq!(lab.states().last().map(|(_, confidence)| *confidence), Some(Confidence::Confirmed));
    lab.world = World::tracked(ConntrackState::Established).with_receiver(TcpState::Established);
    lab.run_until(20_000);
    assert_eq!(lab.outcome(), RECOVERED);
}

#[test]
fn syn_acks_of_a_request_that_passed_here_are_told_and_backscatter_is_not() {
    let drops = |world: World, end: TcpState| {
        let mut lab = Lab::new(world.with_receiver(end));
        lab.drops([0, 1_000, 3_000], key(), &step(ControlMessage::SynAck));
        lab.run_until(3_500);
        lab
    };
    let mut lab = drops(World::tracked(ConntrackState::SynRecv), TcpState::SynSent);
    let latest = lab.findings.last().unwrap();
    assert_eq!((latest.ruling.cause, latest.ruling.confidence), (Cause::SynackLost, Confidence::Confirmed));
    lab.world = World::tracked(ConntrackState::Established).with_receiver(TcpState::Established);
    lab.run_until(20_000);
    assert_eq!(lab.outcome(), RECOVERED);
    let mut lab = drops(World { is_tracking: true, ..World::default() }, TcpState::SynSent);
    lab.run_until(200_000);
    assert_eq!((lab.states(), lab.tracker.open_cases()), (vec![], 0), "no SYN has passed here");
}

#[test]
fn data_of_a_complete_connection_that_is_dropped_is_no_handshake() {
    for world in [
        World::tracked(ConntrackState::Established).with_receiver(TcpState::Established),
        World { is_tracking: true, ..World::default() },
        World::default(),
    ] {
        let mut lab = Lab::new(world);
        lab.drops([0, 400, 1_200, 2_800], back(), &step(ControlMessage::Data));
        lab.run_until(200_000);
        assert_eq!((lab.states(), lab.tracker.open_cases()), (vec![], 0));
    }
}

#[test]
fn segments_of_one_burst_are_no_copies_of_each_other() {
    let mut lab = Lab::new(World::tracked(ConntrackState::SynSent));
    lab.drops([0, 1, 2], back(), &step(ControlMessage::Data));
    lab.drops([1_400, 3_000], back(), &step(ControlMessage::Data));
    lab.run_until(6_000);
    assert_eq!(lab.states().len(), 1, "{:?}", lab.states());
    assert_eq!(lab.states(), [(FindingState::Opened, Confidence::Confirmed)]);
}

#[test]
fn as_long_as_a_receiver_on_this_host_waits_for_the_final_ack_it_is_not_over() {
    let mut lab = Lab::new(World::tracked(ConntrackState::SynSent).with_receiver(TcpState::NewSynReceived));
    lab.drops([0, 400], back(), &step(ControlMessage::Ack));
    lab.run_until(50_000);
    assert_eq!(lab.outcome(), Some(FindingState::Updated));
    lab.world.ends = FlowEnds::default();
    lab.run_until(100_000);
    assert_eq!(lab.outcome(), Some(FindingState::Closed(Outcome::Unobserved)));
}

#[test]
fn a_reset_completes_no_handshake() {
    let mut lab = Lab::new(World::tracked(ConntrackState::SynRecv));
    lab.drops([0, 1_000, 3_000], key(), &step(ControlMessage::SynAck));
    lab.run_until(3_500);
    assert_eq!(lab.outcome(), Some(FindingState::Opened));
    lab.world = World::tracked(ConntrackState::Close);
    lab.run_until(9_000);
    assert_eq!(lab.outcome(), Some(FindingState::Closed(Outcome::Unobserved)));
}

#[test]
fn a_zone_that_sees_one_direction_by_design_makes_no_finding() {
    let mut world = World::tracked(ConntrackState::Established);
    world.entries.push(entry(ConntrackState::SynSent, 9, None));
    let mut lab = Lab::new(world);
    lab.drops([0, 400, 1_200], back(), &step(ControlMessage::Data));
    lab.run_until(200_000);
    assert_eq!((lab.states(), lab.tracker.open_cases()), (vec![], 0));
}
