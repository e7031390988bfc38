use super::*;
use crate::{
    case::{Finding, FindingState, Output, Tracker, tracker::MOST_GUESSES},
    judge::{Cause, Confidence},
    model::{
        Answer, ConnectionKey, ConntrackStatus, ControlMessage, DropReason, DroppedSegment, Event, SocketLookup,
        SocketView, dropped_fin,
    },
};

fn key() -> ConnectionKey {
    ConnectionKey { netns: 1, local: ([10, 0, 0, 1], 5672).into(), remote: ([10, 0, 0, 2], 40_000).into() }
}

fn at(ms: u64) -> MonoTime {
    MonoTime::from_ns(1_000_000_000_000 + ms * 1_000_000)
}

fn event(ms: u64, socket: SocketView, kind: EventKind) -> Event {
    Event::Connection(ConnectionEvent { at: at(ms), key: key(), socket, kind })
}

fn repeat(ms: u64, timeouts: u8, repeats: u32) -> Event {
    let socket = SocketView {
        state: Some(TcpState::NewSynReceived),
        retransmits: Some(timeouts),
        total_retransmits: Some(repeats),
        ..SocketView::default()
    };
    event(ms, socket, EventKind::SynAckRetransmission)
}

fn dropped(ms: u64, message: ControlMessage, origin: Origin, reason: DropReason) -> Event {
    let segment = DroppedSegment { message, reason, ..dropped_fin(origin) };
    event(ms, SocketView::default(), EventKind::SegmentDropped(Box::new(segment)))
}

const RECEIVED: Origin = Origin::Received { ifindex: 2 };

fn found(state: TcpState) -> Answer {
    let status = SocketStatus {
        state,
        inode: 0,
        retransmits: 0,
        probes: 0,
        timer: None,
        heard_ago: Duration::ZERO,
        data_ago: None,
    };
    Answer::Socket { key: key(), lookup: SocketLookup::Found(status) }
}

/// Answers everything that is asked, with this about the socket, as time goes on until `until`; gives what was found.
fn run(tracker: &mut Tracker, until: u64, socket: &Answer) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut now = at(0);
    loop {
        while let Some(output) = tracker.poll_output() {
            let answer = match output {
                Output::Finding(finding) => {
                    findings.push(*finding);
                    continue;
                }
                Output::Question(Question::Socket { .. }) => socket.clone(),
                Output::Question(Question::Path { .. }) => Answer::Path { key: key(), path: Err(String::new()) },
                Output::Question(Question::Conntrack { .. }) => {
                    Answer::Conntrack { key: key(), conntrack: Ok(ConntrackStatus::Inactive) }
                }
                Output::Question(Question::Service { .. }) => Answer::Service {
                    key: key(),
                    service: Ok(ServiceStatus { listener_inode: Some(7), connections_with_peer: 0 }),
                },
                Output::Question(
                    Question::DropPlace { .. }
                    | Question::ForwardPath { .. }
                    | Question::FlowConntrack { .. }
                    | Question::FlowEnds { .. },
                ) => panic!("not of a handshake"),
                Output::Question(Question::Owner { .. }) => Answer::Owner { key: key(), owner: Ok(None) },
                Output::Question(Question::Function { address, .. }) => {
                    Answer::Function { key: key(), address, function: Ok(None) }
                }
            };
            tracker.handle_answer(now, answer);
        }
        match tracker.poll_timeout() {
            Some(due) if due <= at(until) => {
                now = due;
                tracker.handle_timeout(due);
            }
            Some(_) | None => return findings,
        }
    }
}

fn gone() -> Answer {
    Answer::Socket { key: key(), lookup: SocketLookup::Gone }
}

fn told(findings: &[Finding]) -> Vec<(FindingState, Cause, Confidence)> {
    findings.iter().map(|finding| (finding.state, finding.ruling.cause, finding.ruling.confidence)).collect()
}

#[test]
fn a_request_whose_ack_is_dropped_is_told_and_recovers_when_it_is_established() {
    let mut tracker = Tracker::new();
    tracker.handle_event(repeat(1_000, 0, 0));
    assert_eq!(run(&mut tracker, 1_000, &found(TcpState::NewSynReceived)), []);
    tracker.handle_event(dropped(1_001, ControlMessage::Ack, RECEIVED, DropReason::NetfilterDrop));
    let findings = run(&mut tracker, 2_000, &found(TcpState::NewSynReceived));
    assert_eq!(told(&findings)[0], (FindingState::Opened, Cause::FinalAckLost, Confidence::Suspected));
    tracker.handle_event(repeat(3_000, 1, 1));
    let findings = run(&mut tracker, 5_000, &found(TcpState::NewSynReceived));
    assert_eq!(told(&findings), [(FindingState::Updated, Cause::FinalAckLost, Confidence::Confirmed)]);
    let findings = run(&mut tracker, 9_000, &found(TcpState::Established));
    assert_eq!(findings[0].state, FindingState::Closed(Outcome::Recovered));
    assert_eq!(tracker.open_cases(), 0);
}

#[test]
fn a_request_that_is_given_up_has_timed_out_and_one_that_just_goes_was_not_seen_to_end() {
    for (timeouts, outcome) in [(4, Outcome::TimedOut), (2, Outcome::Unobserved)] {
        let mut tracker = Tracker::new();
        for count in 0..=timeouts {
            tracker.handle_event(repeat(1_000 * ((2 << count) - 1), count, count.into()));
            tracker.handle_event(dropped(
                1_000 * ((2 << count) - 1) + 1,
                ControlMessage::Ack,
                RECEIVED,
                DropReason::NetfilterDrop,
            ));
            run(&mut tracker, 1_000 * ((2 << count) - 1) + 10, &found(TcpState::NewSynReceived));
        }
        let findings = run(&mut tracker, 70_000, &gone());
        assert_eq!(findings.last().unwrap().state, FindingState::Closed(outcome));
    }
}

/// Of a flood of clients, each of which has made the SYN-ACK be sent again as often as `repeats` says of the timeouts.
fn flooded(repeats: fn(u8) -> u32) -> Tracker {
    let mut tracker = Tracker::new();
    for count in 0..=3 {
        for port in 0..500u16 {
            let Event::Connection(event) = repeat(1_000 * ((2 << count) - 1), count, repeats(count)) else { panic!() };
            let key = ConnectionKey { remote: ([10, 0, 0, 2], port).into(), ..key() };
            tracker.handle_event(Event::Connection(ConnectionEvent { key, ..event }));
        }
    }
    tracker
}

#[test]
fn of_a_flood_only_so_many_requests_are_looked_into() {
    let most = usize::try_from(MOST_GUESSES).unwrap();
    // The last come after the first ten seconds.
    for (repeats, windows) in
        [((|timeouts| timeouts.into()) as fn(u8) -> u32, 1), (|timeouts| 3 * u32::from(timeouts), 2)]
    {
        let mut tracker = flooded(repeats);
        let questions = std::iter::from_fn(|| tracker.poll_output()).collect::<Vec<_>>();
        assert!(questions.iter().all(|output| matches!(output, Output::Question(Question::Service { .. }))));
        assert_eq!(questions.len(), windows * most);
    }
}

#[test]
fn a_client_that_repeats_its_syn_is_told_once_it_was_looked_into() {
    let mut tracker = Tracker::new();
    tracker.handle_event(repeat(1_000, 0, 2));
    let findings = run(&mut tracker, 2_000, &found(TcpState::NewSynReceived));
    assert_eq!(told(&findings), [(FindingState::Opened, Cause::SynackLost, Confidence::Suspected)]);
}

#[test]
fn syn_ack_repeats_of_an_unknown_client_are_forgotten() {
    let mut tracker = Tracker::new();
    for count in 0..5 {
        tracker.handle_event(repeat(1_000 * ((2 << count) - 1), count, count.into()));
        assert_eq!(run(&mut tracker, 1_000 * ((2 << count) - 1) + 10, &found(TcpState::NewSynReceived)), []);
        assert_eq!(tracker.open_cases(), 1, "it is kept until the next repeat");
    }
    assert_eq!(run(&mut tracker, 200_000, &gone()), []);
    assert_eq!(tracker.open_cases(), 0);
}

#[test]
fn syns_that_come_the_wrong_way_are_told_without_a_socket_until_they_stop() {
    let mut tracker = Tracker::new();
    let syn = |ms| dropped(ms, ControlMessage::Syn, RECEIVED, DropReason::IpRpfilter);
    tracker.handle_event(syn(0));
    assert_eq!(run(&mut tracker, 500, &gone()), []);
    tracker.handle_event(syn(1_000));
    let findings = run(&mut tracker, 3_500, &gone());
    assert_eq!(told(&findings), [(FindingState::Opened, Cause::ReversePathFiltered, Confidence::Confirmed)]);
    tracker.handle_event(syn(3_600));
    assert_eq!(run(&mut tracker, 8_000, &gone()), [], "the client may try again");
    let findings = run(&mut tracker, 30_000, &gone());
    assert_eq!(findings[0].state, FindingState::Closed(Outcome::Unobserved));
    assert_eq!(tracker.open_cases(), 0);
}

#[test]
fn a_connection_attempt_that_gets_through_after_all_has_recovered() {
    let mut tracker = Tracker::new();
    let socket = SocketView { state: Some(TcpState::SynSent), retransmits: Some(1), ..SocketView::default() };
    let syn_ack = |ms| dropped(ms, ControlMessage::SynAck, RECEIVED, DropReason::NetfilterDrop);
    tracker.handle_event(syn_ack(0));
    let timeout = EventKind::RetransmissionTimeout { send_result: Some(0) };
    tracker.handle_event(event(1_000, socket.clone(), timeout));
    tracker.handle_event(syn_ack(1_001));
    let findings = run(&mut tracker, 1_900, &found(TcpState::SynSent));
    assert_eq!(told(&findings), [(FindingState::Opened, Cause::SynackLost, Confidence::Confirmed)]);
    let (from, to) = (TcpState::SynSent, TcpState::Established);
    tracker.handle_event(event(2_000, socket, EventKind::StateChange { from, to }));
    let findings = run(&mut tracker, 2_100, &found(TcpState::Established));
    assert_eq!(findings[0].state, FindingState::Closed(Outcome::Recovered));
    assert_eq!(tracker.open_cases(), 0);
}
