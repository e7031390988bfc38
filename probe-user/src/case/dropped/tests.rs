use super::*;
use crate::{
    case::{Finding, FindingState, Outcome, Output, Tracker},
    judge::{Cause, Confidence},
    model::{
        Answer, ConnectionKey, ConntrackStatus, Event, FilterRules, InvalidSegment, Knowledge, NetfilterHook, Site,
        SocketLookup, SocketStatus, SocketView, dropped_fin,
    },
};

fn key() -> ConnectionKey {
    ConnectionKey { netns: 1, local: ([10, 0, 0, 1], 40_000).into(), remote: ([10, 0, 0, 2], 5672).into() }
}

fn at(ms: u64) -> MonoTime {
    MonoTime::from_ns(1_000_000_000_000 + ms * 1_000_000)
}

fn event(ms: u64, socket: SocketView, kind: EventKind) -> Event {
    Event::Connection(ConnectionEvent { at: at(ms), key: key(), socket, kind })
}

fn fin(ms: u64, origin: Origin) -> Event {
    event(ms, SocketView::default(), EventKind::SegmentDropped(Box::new(dropped_fin(origin))))
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

fn said(tracker: &mut Tracker) -> (Vec<Question>, Vec<Finding>) {
    let (mut questions, mut findings) = (Vec::new(), Vec::new());
    while let Some(output) = tracker.poll_output() {
        match output {
            Output::Question(question) => questions.push(question),
            Output::Finding(finding) => findings.push(*finding),
        }
    }
    (questions, findings)
}

/// A tracker that has seen the FIN dropped and, a second later, the socket in this state.
fn looked_at(state: TcpState, origin: Origin) -> Tracker {
    let mut tracker = Tracker::new();
    tracker.handle_event(fin(0, origin));
    assert_eq!(said(&mut tracker), (vec![], vec![]), "the sender is given time to send it again");
    assert_eq!(tracker.poll_timeout(), Some(at(1_000)));
    tracker.handle_timeout(at(1_000));
    assert_eq!(said(&mut tracker).0, [Question::Socket { key: key(), cookie: None }]);
    tracker.handle_answer(at(1_001), found(state));
    tracker
}

fn answer_all(tracker: &mut Tracker) {
    let unknown = || Err("not asked".to_owned());
    tracker.handle_answer(at(1_002), Answer::Path { key: key(), path: unknown() });
    let inactive = Ok(ConntrackStatus::Inactive);
    tracker.handle_answer(at(1_002), Answer::Conntrack { key: key(), conntrack: inactive });
    let function = Ok(Some("nft_do_chain".to_owned()));
    tracker.handle_answer(at(1_002), Answer::Function { key: key(), address: 0xf00, function });
}

#[test]
fn a_receiver_that_still_waits_is_a_finding_that_names_where_it_was_dropped() {
    let mut tracker = looked_at(TcpState::Established, RECEIVED);
    let (questions, findings) = said(&mut tracker);
    assert!(questions.contains(&Question::Function { key: key(), address: 0xf00 }), "{questions:?}");
    assert_eq!(findings, []);
    answer_all(&mut tracker);
    let (_, findings) = said(&mut tracker);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!((finding.state, finding.ruling.cause), (FindingState::Opened, Cause::FirewallDrop));
    assert_eq!(finding.ruling.confidence, Confidence::Suspected);
    assert!(finding.evidence[0].kind.to_string().contains("nft_do_chain"), "{:?}", finding.evidence);
    assert_eq!(finding.socket.state, Some(TcpState::Established));
}

#[test]
fn the_place_of_a_drop_is_asked_for_once_and_a_late_answer_is_an_update() {
    let mut stack = Stack::default();
    stack[0] = 0xf00;
    let segment = DroppedSegment { stack, is_tracked: Some(false), ..dropped_fin(RECEIVED) };
    let mut tracker = Tracker::new();
    tracker.handle_event(event(0, SocketView::default(), EventKind::SegmentDropped(Box::new(segment.clone()))));
    tracker.handle_timeout(at(1_000));
    tracker.handle_answer(at(1_001), found(TcpState::Established));
    let (questions, _) = said(&mut tracker);
    let asked = questions
        .iter()
        .find_map(|question| if let Question::DropPlace { trace, .. } = question { Some(*trace) } else { None });
    let trace = asked.unwrap();
    assert_eq!((trace.is_by_filter, trace.is_invalid, trace.is_sent), (true, Some(true), false));
    answer_all(&mut tracker);
    assert_eq!(said(&mut tracker).1, [], "it waits for the place");
    tracker.handle_timeout(at(3_500));
    assert_eq!(said(&mut tracker).1.len(), 1);
    let functions = vec!["nf_hook_slow".to_owned(), "ip_local_deliver".to_owned()];
    let site = Site::of_calls(&functions);
    let place = DropPlace { site, functions, rules: Knowledge::Known(FilterRules::default()) };
    tracker.handle_answer(at(3_600), Answer::DropPlace { key: key(), place: Ok(place) });
    let (questions, findings) = said(&mut tracker);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!(finding.state, FindingState::Updated);
    let place = Evidence::place(&finding.evidence).unwrap();
    assert_eq!(place.site, Some(Site::Netfilter(NetfilterHook::Input)));
    tracker.handle_event(event(3_700, SocketView::default(), EventKind::SegmentDropped(Box::new(segment))));
    let again = said(&mut tracker).0.into_iter().chain(questions);
    assert!(!again.into_iter().any(|question| matches!(question, Question::DropPlace { .. })));
}

#[test]
fn a_rule_that_could_not_be_found_out_is_said_to_be_missing_and_why() {
    let mut stack = Stack::default();
    stack[0] = 0xf00;
    let missing_after = |place: Result<DropPlace, String>| {
        let segment = DroppedSegment { stack, is_tracked: Some(false), ..dropped_fin(RECEIVED) };
        let mut tracker = Tracker::new();
        let dropped = || EventKind::SegmentDropped(Box::new(segment.clone()));
        tracker.handle_event(event(0, SocketView::default(), dropped()));
        tracker.handle_event(event(200, SocketView::default(), dropped()));
        tracker.handle_event(event(600, SocketView::default(), dropped()));
        tracker.handle_timeout(at(1_000));
        tracker.handle_answer(at(1_001), found(TcpState::Established));
        tracker.handle_answer(at(1_002), Answer::DropPlace { key: key(), place });
        answer_all(&mut tracker);
        tracker.handle_timeout(at(3_500));
        let mut findings = said(&mut tracker).1;
        let ruling = findings.pop().unwrap().ruling;
        assert_eq!(ruling.confidence, Confidence::Confirmed, "that it is dropped is a fact");
        ruling.missing
    };
    let because = |why: &str| vec![MissingEvidence::DropRule { why: why.to_owned() }];
    assert_eq!(missing_after(Err("no symbols".to_owned())), because("no symbols"));
    let place = |rules| Ok(DropPlace { site: None, functions: Vec::new(), rules });
    assert_eq!(missing_after(place(Knowledge::Unavailable("nft: it ended".to_owned()))), because("nft: it ended"));
    assert_eq!(missing_after(place(Knowledge::Known(FilterRules::default()))), []);
}

#[test]
fn one_of_which_copies_are_dropped_is_a_fact_and_one_that_has_got_a_copy_has_recovered() {
    let mut tracker = looked_at(TcpState::Established, RECEIVED);
    answer_all(&mut tracker);
    let mut states = Vec::new();
    for ms in [1_200, 3_600] {
        states.extend(said(&mut tracker).1.iter().map(|finding| (finding.state, finding.ruling.confidence)));
        tracker.handle_event(fin(ms, RECEIVED));
    }
    while tracker.open_cases() > 0 {
        let now = tracker.poll_timeout().unwrap();
        tracker.handle_timeout(now);
        let state = if now < at(9_000) { TcpState::Established } else { TcpState::CloseWait };
        tracker.handle_answer(now, found(state));
        states.extend(said(&mut tracker).1.iter().map(|finding| (finding.state, finding.ruling.confidence)));
    }
    let recovered = FindingState::Closed(Outcome::Recovered);
    assert_eq!(
        states,
        [
            (FindingState::Opened, Confidence::Suspected),
            (FindingState::Updated, Confidence::Confirmed),
            (recovered, Confidence::Confirmed)
        ]
    );
}

#[test]
fn a_reset_whose_sender_goes_on_talking_was_none() {
    let reset = DroppedSegment { message: ControlMessage::Reset, ..dropped_fin(RECEIVED) };
    for (heard_ago, is_told) in [(Duration::from_secs(2), true), (Duration::from_millis(300), false)] {
        let mut tracker = Tracker::new();
        tracker.handle_event(event(0, SocketView::default(), EventKind::SegmentDropped(Box::new(reset.clone()))));
        tracker.handle_timeout(at(1_000));
        said(&mut tracker);
        let state = TcpState::Established;
        let status =
            SocketStatus { state, inode: 0, retransmits: 0, probes: 0, timer: None, heard_ago, data_ago: None };
        tracker.handle_answer(at(1_001), Answer::Socket { key: key(), lookup: SocketLookup::Found(status) });
        answer_all(&mut tracker);
        assert_eq!((said(&mut tracker).1.len() == 1, tracker.open_cases() == 1), (is_told, is_told));
    }
}

#[test]
fn a_fin_whose_sender_sends_data_afterwards_was_forged_or_late() {
    let found = |data_ago| {
        let (state, heard_ago) = (TcpState::Established, Duration::ZERO);
        let data_ago = Some(Duration::from_millis(data_ago));
        let status = SocketStatus { state, inode: 0, retransmits: 0, probes: 0, timer: None, heard_ago, data_ago };
        Answer::Socket { key: key(), lookup: SocketLookup::Found(status) }
    };
    let looked_at = |data_ago| {
        let mut tracker = Tracker::new();
        tracker.handle_event(fin(0, RECEIVED));
        tracker.handle_timeout(at(1_000));
        said(&mut tracker);
        tracker.handle_answer(at(1_001), found(data_ago));
        answer_all(&mut tracker);
        tracker
    };
    assert_eq!((said(&mut looked_at(500)).1, looked_at(500).open_cases()), (vec![], 0));
    let mut tracker = looked_at(2_000);
    let opened = said(&mut tracker).1;
    assert_eq!(opened[0].ruling.confidence, Confidence::Suspected, "ACKs alone say nothing");
    let next = tracker.poll_timeout().unwrap();
    tracker.handle_timeout(next);
    tracker.handle_answer(next, found(100));
    let closed = said(&mut tracker).1;
    assert_eq!(closed[0].state, FindingState::Closed(Outcome::Recovered));
    assert_eq!(tracker.open_cases(), 0);
}

#[test]
fn a_stray_fin_and_one_whose_copy_came_in_time_are_forgotten() {
    for state in [TcpState::CloseWait, TcpState::TimeWait, TcpState::LastAck] {
        let mut tracker = looked_at(state, RECEIVED);
        assert_eq!((said(&mut tracker), tracker.open_cases()), ((vec![], vec![]), 0));
    }
    let mut tracker = Tracker::new();
    tracker.handle_event(fin(0, RECEIVED));
    tracker.handle_timeout(at(1_000));
    tracker.handle_answer(at(1_001), Answer::Socket { key: key(), lookup: SocketLookup::Gone });
    while let Some(due) = tracker.poll_timeout() {
        tracker.handle_timeout(due);
    }
    assert_eq!((said(&mut tracker).1, tracker.open_cases()), (vec![], 0));
}

/// Connection tracking holds the FIN for invalid, for this reason.
fn held(ms: u64, why: &str) -> Event {
    let segment = DroppedSegment { reason: DropReason::Unseen, location: 0, ..dropped_fin(RECEIVED) };
    let invalid = InvalidSegment { segment, why: why.to_owned(), zone: None, hook: None };
    event(ms, SocketView::default(), EventKind::SegmentInvalid(Box::new(invalid)))
}

#[test]
fn an_invalid_fin_that_gets_through_is_nothing_and_so_is_one_that_is_only_spoken_of() {
    let mut tracker = Tracker::new();
    tracker.handle_event(held(0, "packet (index …) in dir … ignored, state …"));
    assert_eq!(tracker.open_cases(), 0);
    tracker.handle_event(held(10, "invalid rst"));
    tracker.handle_timeout(at(1_010));
    assert_eq!(said(&mut tracker).0, [Question::Socket { key: key(), cookie: None }]);
    tracker.handle_answer(at(1_011), found(TcpState::CloseWait));
    assert_eq!((said(&mut tracker), tracker.open_cases()), ((vec![], vec![]), 0));
}

#[test]
fn an_invalid_fin_of_which_no_drop_is_seen_is_a_finding_when_its_receiver_waits_for_long() {
    let mut tracker = Tracker::new();
    tracker.handle_event(held(0, "bad checksum"));
    let mut opened = Vec::new();
    while opened.is_empty() {
        let now = tracker.poll_timeout().unwrap();
        assert!(now < at(6_000), "it is looked at again and again");
        tracker.handle_timeout(now);
        tracker.handle_answer(now, found(TcpState::Established));
        answer_all(&mut tracker);
        opened.extend(said(&mut tracker).1.into_iter().map(|finding| (now, finding)));
    }
    let [(when, finding)] = opened.as_slice() else { panic!("{opened:?}") };
    assert!(*when >= at(3_000), "{when:?}");
    assert_eq!(finding.ruling.cause, Cause::ConntrackBadChecksum);
    assert_eq!(finding.ruling.confidence, Confidence::Suspected);
}

#[test]
fn a_state_change_tells_at_once_that_a_copy_has_got_through() {
    let mut tracker = looked_at(TcpState::Established, RECEIVED);
    answer_all(&mut tracker);
    said(&mut tracker);
    let (from, to) = (TcpState::Established, TcpState::CloseWait);
    let socket = SocketView { state: Some(to), ..SocketView::default() };
    tracker.handle_event(event(1_500, socket, EventKind::StateChange { from, to }));
    let (_, findings) = said(&mut tracker);
    assert_eq!(findings[0].state, FindingState::Closed(Outcome::Recovered));
    assert_eq!(tracker.open_cases(), 0);
}

#[test]
fn of_a_fin_that_this_host_sent_the_sender_is_looked_at() {
    let mut tracker = looked_at(TcpState::FinWait1, Origin::Sent);
    answer_all(&mut tracker);
    assert_eq!(said(&mut tracker).1.len(), 1);
    assert_eq!(looked_at(TcpState::FinWait2, Origin::Sent).open_cases(), 0);
}
