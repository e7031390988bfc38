use std::time::Duration;

use super::*;
use crate::{
    case::{Output, Tracker},
    judge::{Cause, Confidence, MissingEvidence},
    model::{
        Answer, ConntrackEntry, ConntrackSettings, ConntrackState, ControlMessage, Direction, Event, HostEnd, InZone,
        Interface, InvalidSegment, Owner, Port, Question, SocketLookup, SocketStatus, TcpState, TrackedFlow,
        dropped_fin,
    },
};

const IN: u32 = 3;

fn client() -> SocketAddr {
    ([10, 0, 0, 1], 40_000).into()
}

fn server() -> SocketAddr {
    ([10, 0, 0, 2], 5672).into()
}

/// Of a packet from the server to the client.
fn key() -> ConnectionKey {
    ConnectionKey { netns: 1, local: client(), remote: server() }
}

fn back() -> ConnectionKey {
    ConnectionKey { netns: 1, local: server(), remote: client() }
}

fn at(ms: u64) -> MonoTime {
    MonoTime::from_ns(1_000_000_000_000 + ms * 1_000_000)
}

fn segment(is_tracked: bool) -> DroppedSegment {
    DroppedSegment { is_tracked: Some(is_tracked), ..dropped_fin(Origin::Received { ifindex: IN }) }
}

fn drop_at(ms: u64, key: ConnectionKey, segment: DroppedSegment) -> Event {
    let kind = EventKind::SegmentDropped(Box::new(segment));
    Event::Connection(ConnectionEvent { at: at(ms), key, socket: SocketView::default(), kind })
}

fn entry(state: ConntrackState, zone: u16, closed_by: Option<Direction>) -> TrackedFlow {
    let entry = ConntrackEntry { state: Some(state), replied: true, assured: true, expires_in: None, zone };
    TrackedFlow { entry, original: (client(), server()), reply: (server(), client()), closed_by }
}

fn end(state: TcpState) -> HostEnd {
    let status = SocketStatus { state, inode: 9, retransmits: 0, probes: 0, timer: None, heard_ago: Duration::ZERO };
    HostEnd { netns: 8, status }
}

/// What the witnesses say whenever they are asked.
#[derive(Clone, Default)]
struct World {
    entries: Vec<TrackedFlow>,
    is_tracking: bool,
    ends: FlowEnds,
    ends_here: bool,
}

impl World {
    fn tracked(state: ConntrackState) -> Self {
        Self { entries: vec![entry(state, 5, None)], is_tracking: true, ..Self::default() }
    }

    fn with_receiver(self, state: TcpState) -> Self {
        Self { ends: FlowEnds { receiver: Some(end(state)), sender: None }, ..self }
    }

    fn answer(&self, question: &Question) -> Answer {
        match *question {
            Question::Socket { key, .. } => Answer::Socket { key, lookup: SocketLookup::Gone },
            Question::FlowConntrack { key, .. } => {
                let active = FlowConntrack::Active(self.entries.clone(), ConntrackSettings::default());
                let conntrack = if self.is_tracking { active } else { FlowConntrack::Inactive };
                Answer::FlowConntrack { key, conntrack: Ok(conntrack) }
            }
            Question::FlowEnds { key, .. } => Answer::FlowEnds { key, ends: self.ends.clone() },
            Question::ForwardPath { key, ingress_ifindex, .. } => {
                let port = |index, name: &str| {
                    Some(Port { interface: Interface { index, name: name.to_owned() }, behind: None })
                };
                let (ingress, egress) = (port(ingress_ifindex, "uplink"), port(4, "tap0"));
                Answer::ForwardPath { key, path: Ok(ForwardPath { ends_here: self.ends_here, ingress, egress }) }
            }
            Question::Function { key, address } => {
                Answer::Function { key, address, function: Ok(Some("nft_do_chain".to_owned())) }
            }
            Question::Owner { key, inode } => {
                let pid = u32::try_from(inode).unwrap();
                Answer::Owner { key, owner: Ok(Some(Owner { pid, ..Owner::default() })) }
            }
            Question::DropPlace { key, .. } => Answer::DropPlace { key, place: Err("not found".to_owned()) },
            Question::Path { .. } | Question::Conntrack { .. } | Question::Service { .. } => {
                panic!("not of a flow: {question:?}")
            }
        }
    }
}

/// A tracker with its witnesses.
struct Lab {
    tracker: Tracker,
    world: World,
    now: MonoTime,
    findings: Vec<Finding>,
    /// Questions about flows that wait for their answers, while the witnesses are slow.
    held: Option<Vec<Question>>,
}

impl Lab {
    fn new(world: World) -> Self {
        Self { tracker: Tracker::new(), world, now: at(0), findings: Vec::new(), held: None }
    }

    /// Lets time pass, and answers whatever is asked.
    fn run_until(&mut self, ms: u64) {
        loop {
            self.settle();
            match self.tracker.poll_timeout() {
                Some(due) if due <= at(ms) => {
                    self.now = self.now.max(due);
                    self.tracker.handle_timeout(due);
                }
                Some(_) | None => break,
            }
        }
        self.now = at(ms);
    }

    fn settle(&mut self) {
        while let Some(output) = self.tracker.poll_output() {
            match output {
                Output::Finding(finding) => self.findings.push(*finding),
                Output::Question(question) => match &mut self.held {
                    Some(held) if !matches!(question, Question::Socket { .. }) => held.push(question),
                    Some(_) | None => self.tracker.handle_answer(self.now, self.world.answer(&question)),
                },
            }
        }
    }

    fn drops(&mut self, copies: impl IntoIterator<Item = u64>, key: ConnectionKey, segment: &DroppedSegment) {
        for ms in copies {
            self.run_until(ms);
            self.tracker.handle_event(drop_at(ms, key, segment.clone()));
        }
        self.settle();
    }

    fn states(&self) -> Vec<(FindingState, Confidence)> {
        self.findings.iter().map(|finding| (finding.state, finding.ruling.confidence)).collect()
    }

    fn outcome(&self) -> Option<FindingState> {
        self.findings.last().map(|finding| finding.state)
    }
}

/// When a sender with the shortest RTO sends a FIN: at once and after 0.2, 0.6, 1.4, 3, 6.2 s.
const COPIES: [u64; 6] = [0, 200, 600, 1_400, 3_000, 6_200];
const RECOVERED: Option<FindingState> = Some(FindingState::Closed(Outcome::Recovered));

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

/// A lab whose tracker goes on with what this one has left open.
fn resumed(lab: Lab, ms: u64) -> Lab {
    let kept = serde_json::to_string(lab.findings.last().unwrap()).unwrap();
    let mut next = Lab::new(lab.world);
    next.now = at(ms);
    assert!(next.tracker.resume(at(ms), serde_json::from_str(&kept).unwrap()));
    next
}

#[test]
fn a_forwarded_connection_is_gone_on_with_after_a_restart() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established));
    lab.drops(COPIES, key(), &segment(false));
    let before = lab.findings[0].clone();
    let mut lab = resumed(lab, 8_000);
    lab.run_until(11_000);
    assert_eq!(lab.states(), [(FindingState::Updated, Confidence::Confirmed)]);
    assert_eq!(lab.findings[0].id, before.id);
    assert_eq!(lab.findings[0].flow, before.flow);
    lab.drops([12_600], key(), &segment(false));
    // A copy passes.
    lab.world.entries = vec![entry(ConntrackState::FinWait, 5, Some(Direction::Reply))];
    lab.run_until(40_000);
    assert_eq!((lab.outcome(), lab.findings.len()), (RECOVERED, 2));
}

#[test]
fn a_forwarded_connection_that_has_ended_meanwhile_is_closed_after_a_restart() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established));
    lab.drops(COPIES, key(), &segment(false));
    lab.world.entries = Vec::new();
    let mut lab = resumed(lab, 8_000);
    lab.run_until(300_000);
    assert!(matches!(lab.outcome(), Some(FindingState::Closed(_))), "{:?}", lab.states());
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
fn a_fin_whose_copy_got_through_before_the_look_is_forgotten() {
    let mut lab = Lab::new(World::tracked(ConntrackState::TimeWait).with_receiver(TcpState::CloseWait));
    lab.drops([0, 200], key(), &segment(false));
    lab.run_until(200_000);
    assert_eq!((lab.states(), lab.tracker.open_cases()), (vec![], 0));
}

#[test]
fn what_is_for_an_address_of_this_host_is_no_flow() {
    let mut lab = Lab::new(World { ends_here: true, ..World::tracked(ConntrackState::Established) });
    lab.drops([0, 200, 600, 950], key(), &segment(false));
    lab.run_until(1_500);
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
fn a_segment_of_a_translated_connection_may_be_for_an_address_of_this_host() {
    let mut world = World { ends_here: true, ..World::tracked(ConntrackState::Established) };
    world.entries[0].original = (client(), ([10, 0, 0, 100], 443).into());
    let mut lab = Lab::new(world);
    lab.drops([0, 200, 600, 1_400], key(), &segment(false));
    lab.run_until(3_000);
    assert_eq!(lab.outcome(), Some(FindingState::Opened));
}

#[test]
fn both_directions_are_one_case() {
    let mut lab = Lab::new(World::tracked(ConntrackState::Established));
    lab.drops([0], key(), &segment(false));
    lab.drops([100], back(), &segment(false));
    lab.drops([200], key(), &segment(false));
    lab.drops([300], back(), &segment(false));
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

fn step(message: ControlMessage) -> DroppedSegment {
    DroppedSegment { message, ..segment(false) }
}

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
