//! Where addresses are translated.

use super::*;

#[test]
fn a_segment_of_a_translated_connection_may_be_for_an_address_of_this_host() {
    let mut world = World { ends_here: true, ..World::tracked(ConntrackState::Established) };
    world.entries[0].original = (client(), ([10, 0, 0, 100], 443).into());
    let mut lab = Lab::new(world);
    lab.drops([0, 200, 600, 1_400], key(), &segment(false));
    lab.run_until(3_000);
    assert_eq!(lab.outcome(), Some(FindingState::Opened));
}

#[test]
fn where_addresses_are_translated_the_ends_are_looked_for_by_their_own_names() {
    let virtual_ip: SocketAddr = ([10, 0, 0, 100], 443).into();
    let mut world = World::tracked(ConntrackState::Established);
    world.entries[0].original = (client(), virtual_ip);
    let mut lab = Lab::new(world);
    lab.drops([0, 200], key(), &segment(false));
    lab.tracker.handle_timeout(at(1_000));
    let mut ends = Vec::new();
    while let Some(Output::Question(question)) = lab.tracker.poll_output() {
        if let Question::FlowEnds { receiver, sender, .. } = question {
            ends.push((receiver, sender));
        }
        lab.tracker.handle_answer(at(1_001), lab.world.answer(&question));
    }
    let translated = ((client(), virtual_ip), (server(), client()));
    assert_eq!(ends.last(), Some(&translated));
}

#[test]
fn a_finding_about_a_translated_connection_names_each_socket_as_it_names_itself() {
    let (virtual_ip, outside) = (([10, 0, 0, 100], 443).into(), ([10, 0, 0, 254], 61_000).into());
    let mut world = World::tracked(ConntrackState::Established);
    (world.entries[0].original, world.entries[0].reply) = ((client(), virtual_ip), (server(), outside));
    let other_zone = TrackedFlow { original: (client(), virtual_ip), ..entry(ConntrackState::FinWait, 4, None) };
    world.entries.insert(0, TrackedFlow { reply: (virtual_ip, client()), ..other_zone });
    for (packet, receiver, sender) in [
        ((server(), client()), (client(), virtual_ip), server()),
        ((virtual_ip, client()), (client(), virtual_ip), server()),
        ((client(), server()), (server(), outside), client()),
        ((outside, server()), (server(), outside), client()),
    ] {
        let mut lab = Lab::new(world.clone());
        lab.drops(COPIES, ConnectionKey { netns: 1, local: packet.1, remote: packet.0 }, &segment(false));
        let finding = &lab.findings[0];
        let flow = finding.flow.as_ref().unwrap();
        assert_eq!((flow.packet, flow.receiver_socket(), flow.sender()), (packet, receiver, sender));
        assert_eq!((flow.key.initiator, flow.key.responder), (client(), virtual_ip));
        assert_eq!(flow.translation.map(|translation| translation.translated), Some((outside, server())));
        // The entry may go before the finding does.
        lab.world.entries.clear();
        lab.run_until(200_000);
        let closed = lab.findings.last().unwrap();
        assert!(closed.is_over() && closed.flow.as_ref().unwrap().translation.is_some(), "{closed:?}");
    }
}
