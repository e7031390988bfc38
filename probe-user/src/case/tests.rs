mod resume;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    judge::{Cause, Confidence, MissingEvidence, Verdict},
    model::{
        Answer, ConnectionEvent, ConnectionKey, ConntrackStatus, ControlMessage, DropReason, DroppedSegment, Event,
        EventKind, Hook, Interface, LossPlace, MonoTime, Origin, Owner, OwnerKnowledge, PathStatus, PendingTimer,
        Question, Route, ServiceStatus, SocketCookie, SocketLookup, SocketRouting, SocketStatus, SocketTimer,
        SocketView, TcpState, dropped_fin,
    },
};

fn at(ms: u64) -> MonoTime {
    MonoTime::from_ns(1_000_000_000_000 + ms * 1_000_000)
}

fn key(port: u16) -> ConnectionKey {
    ConnectionKey { netns: 4_026_532_177, local: ([10, 0, 0, 1], port).into(), remote: ([10, 0, 0, 2], 5672).into() }
}

/// The socket at its `count`th timeout in a row, first sent 200 ms before the first.
fn socket(count: u8) -> SocketView {
    let rto = Duration::from_millis(200 << count.saturating_sub(1).min(20));
    SocketView {
        state: Some(TcpState::Established),
        cookie: Some(SocketCookie(7)),
        snd_una: Some(1_000),
        snd_nxt: Some(1_100),
        write_seq: Some(1_100),
        snd_wnd_bytes: Some(64_000),
        retransmits: Some(count),
        rto: Some(rto),
        retransmitting_for: Some(Duration::from_millis(200 * ((1u64 << count.clamp(1, 30)) - 2))),
        last_ack_ago: Some(Duration::from_secs(3_600)),
        last_data_ago: Some(Duration::from_secs(3_600)),
        user_timeout: Some(Duration::ZERO),
        orphaned: Some(false),
        tcp_retries2: Some(15),
        tcp_orphan_retries: Some(0),
        error: Some(0),
        soft_error: Some(0),
        ..SocketView::default()
    }
}

fn path(local_address: bool) -> PathStatus {
    let egress = Interface { index: 2, name: "eth0".to_owned() };
    let route = Ok(Route { egress, gateway: None, neighbour: None });
    let socket = SocketRouting { mark: Some(0), bound_to: Some(0), transparent: Some(false) };
    PathStatus { local_address, socket, route, ingress: None, reverse_path_filter: None }
}

fn timeout_event(port: u16, count: u8) -> Event {
    // Timeouts 1, 2, 3, … come 0.2, 0.6, 1.4, … s after the segment was first sent.
    let ms = 200 * ((1 << count) - 1);
    Event::Connection(ConnectionEvent {
        at: at(ms),
        key: key(port),
        socket: socket(count),
        kind: EventKind::RetransmissionTimeout { send_result: Some(0) },
    })
}

fn closed(ms: u64, error: i32) -> Event {
    Event::Connection(ConnectionEvent {
        at: at(ms),
        key: key(1),
        socket: SocketView { state: Some(TcpState::Close), error: Some(error), ..socket(4) },
        kind: EventKind::StateChange { from: TcpState::Established, to: TcpState::Close },
    })
}

fn status(retransmits: u8) -> SocketStatus {
    SocketStatus {
        state: TcpState::Established,
        inode: 99,
        retransmits,
        probes: 0,
        heard_ago: Duration::from_secs(3_600),
        timer: None,
    }
}

fn found(retransmits: u8) -> Answer {
    Answer::Socket { key: key(1), lookup: SocketLookup::Found(status(retransmits)) }
}

#[derive(Debug, Default)]
struct Said {
    questions: Vec<Question>,
    findings: Vec<Finding>,
}

fn said(tracker: &mut Tracker) -> Said {
    let mut said = Said::default();
    while let Some(output) = tracker.poll_output() {
        match output {
            Output::Question(question) => said.questions.push(question),
            Output::Finding(finding) => said.findings.push(*finding),
        }
    }
    said
}

/// A tracker that has seen the first `count` timeouts of one connection. From the fourth on, all it asks is answered.
fn stalled(count: u8) -> (Tracker, Said) {
    let mut tracker = Tracker::new();
    for count in 1..=count {
        if count == 4 {
            answer_everything(&mut tracker);
        }
        tracker.handle_event(timeout_event(1, count));
        if count >= 4 {
            answer_surroundings(&mut tracker);
        }
    }
    let said = said(&mut tracker);
    (tracker, said)
}

/// No process holds the connection any more, and all is well around it.
fn answer_everything(tracker: &mut Tracker) {
    tracker.handle_answer(at(0), found(3));
    tracker.handle_answer(at(0), Answer::Owner { key: key(1), owner: Ok(None) });
    answer_surroundings(tracker);
}

fn answer_surroundings(tracker: &mut Tracker) {
    tracker.handle_answer(at(0), Answer::Path { key: key(1), path: Ok(path(true)) });
    tracker.handle_answer(at(0), Answer::Conntrack { key: key(1), conntrack: Ok(ConntrackStatus::Inactive) });
}

fn states(said: &Said) -> Vec<FindingState> {
    said.findings.iter().map(|finding| finding.state).collect()
}

// ---- opening -------------------------------------------------------------------------------------------------------

#[test]
fn three_timeouts_make_no_finding_but_ask_for_the_owner_and_the_path() {
    let (mut tracker, said_so_far) = stalled(3);
    assert!(said_so_far.findings.is_empty());
    let socket = Question::Socket { key: key(1), cookie: Some(SocketCookie(7)) };
    let path = Question::Path { key: key(1), ingress_ifindex: None };
    assert_eq!(said_so_far.questions, [socket, path, Question::Conntrack { key: key(1) }]);
    tracker.handle_answer(at(1_401), found(3));
    assert_eq!(said(&mut tracker).questions, [Question::Owner { key: key(1), inode: 99 }]);
}

#[test]
fn the_fourth_opens_a_suspicion_that_names_owner_since_and_deadline() {
    let (mut tracker, _) = stalled(3);
    tracker.handle_answer(at(1_401), found(3));
    let owner = Owner { pid: 812, comm: "haproxy".to_owned(), ..Owner::default() };
    tracker.handle_answer(at(1_402), Answer::Owner { key: key(1), owner: Ok(Some(owner.clone())) });
    answer_surroundings(&mut tracker);
    tracker.handle_event(timeout_event(1, 4));
    answer_surroundings(&mut tracker);
    let said = said(&mut tracker);
    let [finding] = said.findings.as_slice() else { panic!("{said:?}") };
    assert_eq!(finding.state, FindingState::Opened);
    assert_eq!((finding.ruling.verdict, finding.ruling.cause), (Verdict::RetransmitStalled, Cause::PeerSilent));
    assert_eq!(finding.ruling.confidence, Confidence::Suspected);
    assert_eq!(finding.owner, OwnerKnowledge::Process(owner));
    assert_eq!(finding.ruling.since, at(200));
    // The first timeout past 924.6 s after the first retransmission: 200 ms x (2^10 - 2) doubled up to 120 s, then 120 s each.
    assert_eq!(finding.ruling.deadline.unwrap().at, at(200 + 924_400 + 120_000));
    assert_eq!(finding.evidence.len(), 4);
}

#[test]
fn a_connection_that_was_dying_before_we_looked_is_found_at_its_next_timeout() {
    let mut tracker = Tracker::new();
    tracker.handle_event(timeout_event(1, 9));
    let answers = [
        found(9),
        Answer::Owner { key: key(1), owner: Ok(None) },
        Answer::Path { key: key(1), path: Ok(path(true)) },
        Answer::Conntrack { key: key(1), conntrack: Ok(ConntrackStatus::Inactive) },
    ];
    for answer in answers {
        assert!(said(&mut tracker).findings.is_empty(), "it waits for the answers");
        tracker.handle_answer(at(102_201), answer);
    }
    let said = said(&mut tracker);
    assert_eq!(states(&said), [FindingState::Opened]);
    assert_eq!(said.findings[0].ruling.confidence, Confidence::Confirmed);
    assert_eq!(said.findings[0].ruling.since, at(200));
    assert_eq!(said.findings[0].owner, OwnerKnowledge::NoProcess);
}

#[test]
fn answers_that_do_not_come_are_not_waited_for_long() {
    let mut tracker = Tracker::new();
    tracker.handle_event(timeout_event(1, 9));
    assert!(said(&mut tracker).findings.is_empty());
    let due = tracker.poll_timeout().unwrap();
    assert_eq!(due, at(102_200 + 2_000));
    tracker.handle_timeout(due);
    assert_eq!(states(&said(&mut tracker)), [FindingState::Opened]);
}

#[test]
fn nothing_is_certain_that_an_answer_still_to_come_may_change() {
    let mut tracker = Tracker::new();
    tracker.handle_event(timeout_event(1, 9));
    tracker.handle_answer(at(102_201), found(9));
    tracker.handle_answer(at(102_202), Answer::Owner { key: key(1), owner: Ok(None) });
    tracker.handle_answer(at(102_203), Answer::Path { key: key(1), path: Ok(path(true)) });
    tracker.handle_timeout(at(104_200));
    let ruling = said(&mut tracker).findings.remove(0).ruling;
    assert_eq!((ruling.cause, ruling.confidence), (Cause::PeerSilent, Confidence::Suspected));
    assert_eq!(ruling.missing, [MissingEvidence::ConntrackAnswer]);
    let inactive = Ok(ConntrackStatus::Inactive);
    tracker.handle_answer(at(104_300), Answer::Conntrack { key: key(1), conntrack: inactive });
    let updated = said(&mut tracker);
    assert_eq!(states(&updated), [FindingState::Updated]);
    assert_eq!(
        (updated.findings[0].ruling.confidence, &updated.findings[0].ruling.missing[..]),
        (Confidence::Confirmed, &[][..])
    );
}

#[test]
fn what_comes_while_answers_are_waited_for_does_not_hurry_the_judgment() {
    let mut tracker = Tracker::new();
    tracker.handle_event(unsendable(10_000, 3));
    tracker.handle_event(unsendable(10_100, 4));
    assert_eq!(states(&said(&mut tracker)), []);
    tracker.handle_answer(at(10_200), found(0));
    tracker.handle_answer(at(10_200), Answer::Owner { key: key(1), owner: Ok(None) });
    tracker.handle_answer(at(10_200), Answer::Conntrack { key: key(1), conntrack: Ok(ConntrackStatus::Inactive) });
    tracker.handle_answer(at(10_300), Answer::Path { key: key(1), path: Ok(path(false)) });
    let findings = said(&mut tracker).findings;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].ruling.cause, Cause::SourceAddressLost);
}

#[test]
fn sequence_numbers_that_count_from_another_start_are_no_progress() {
    let (mut tracker, _) = stalled(4);
    let Event::Connection(mut scanned) = timeout_event(1, 4) else { unreachable!() };
    scanned.kind = EventKind::Scanned;
    scanned.socket = SocketView { sequence_is_relative: true, snd_una: Some(7), ..scanned.socket };
    tracker.handle_event(Event::Connection(scanned));
    assert!(said(&mut tracker).findings.iter().all(|finding| !matches!(finding.state, FindingState::Closed(_))));
}

/// The socket as a scan finds it: data to send, the window open, and nothing in flight.
fn unsendable(ms: u64, backoff: u8) -> Event {
    Event::Connection(ConnectionEvent {
        at: at(ms),
        key: key(1),
        socket: SocketView {
            snd_nxt: Some(1_000),
            packets_out: Some(0),
            retransmits: Some(0),
            probes_out: Some(backoff),
            backoff: Some(backoff),
            timer: Some(PendingTimer { kind: SocketTimer::Persist, due_in: Duration::from_secs(1) }),
            probing_for: Some(Duration::from_secs(3)),
            ..socket(1)
        },
        kind: EventKind::Scanned,
    })
}

#[test]
fn what_cannot_be_sent_from_a_lost_address_is_found_by_the_scan() {
    let mut tracker = Tracker::new();
    tracker.handle_event(unsendable(10_000, 1));
    assert_eq!(said(&mut tracker).questions.len(), 3);
    tracker.handle_answer(at(10_001), found(0));
    tracker.handle_answer(at(10_002), Answer::Owner { key: key(1), owner: Ok(None) });
    tracker.handle_answer(at(10_003), Answer::Path { key: key(1), path: Ok(path(false)) });
    let inactive = Ok(ConntrackStatus::Inactive);
    tracker.handle_answer(at(10_004), Answer::Conntrack { key: key(1), conntrack: inactive });
    let opened = said(&mut tracker);
    assert_eq!(states(&opened), [FindingState::Opened]);
    let ruling = &opened.findings[0].ruling;
    assert_eq!((ruling.cause, ruling.confidence), (Cause::SourceAddressLost, Confidence::Confirmed));
    assert_eq!(ruling.since, at(7_000));
    // The next scans see the same and say nothing new, until the address is back.
    tracker.handle_event(unsendable(15_000, 1));
    assert_eq!(states(&said(&mut tracker)), []);
    let probing = SocketStatus { timer: Some((SocketTimer::Persist, Duration::from_secs(1))), ..status(0) };
    tracker.handle_answer(at(15_001), Answer::Socket { key: key(1), lookup: SocketLookup::Found(probing) });
    assert_eq!(tracker.open_cases(), 1);
    tracker.handle_answer(at(16_000), found(0));
    assert_eq!(states(&said(&mut tracker)), [FindingState::Closed(Outcome::Recovered)]);
}

#[test]
fn further_timeouts_update_the_finding_only_when_something_changes() {
    let (mut tracker, first) = stalled(4);
    assert_eq!(states(&first), [FindingState::Opened]);
    tracker.handle_event(timeout_event(1, 5));
    assert_eq!(states(&said(&mut tracker)), []);
    tracker.handle_event(timeout_event(1, 6));
    let sixth = said(&mut tracker);
    assert_eq!(states(&sixth), [FindingState::Updated]);
    assert_eq!(sixth.findings[0].ruling.confidence, Confidence::Confirmed);
    assert_eq!(sixth.findings[0].id, first.findings[0].id);
    tracker.handle_event(timeout_event(1, 7));
    assert_eq!(states(&said(&mut tracker)), []);
}

#[test]
fn the_same_tuple_in_two_namespaces_is_two_cases() {
    let (mut tracker, _) = stalled(4);
    let Event::Connection(mut other) = timeout_event(1, 4) else { unreachable!() };
    other.key.netns = 1;
    tracker.handle_event(Event::Connection(other));
    assert_eq!(tracker.open_cases(), 2);
}

// ---- closing -------------------------------------------------------------------------------------------------------

#[test]
fn a_socket_without_timeouts_has_recovered() {
    let (mut tracker, _) = stalled(4);
    let due = tracker.poll_timeout().unwrap();
    assert!(due <= at(3_000) + Duration::from_secs(1), "a recovery is looked for soon after each retransmission");
    tracker.handle_timeout(due);
    tracker.handle_answer(due, found(0));
    let said = said(&mut tracker);
    assert_eq!(states(&said), [FindingState::Closed(Outcome::Recovered)]);
    assert_eq!((tracker.open_cases(), tracker.poll_timeout()), (0, None));
}

#[test]
fn a_socket_still_retransmitting_is_looked_at_again_only_when_the_next_timeout_is_overdue() {
    let (mut tracker, _) = stalled(4);
    let first_look = tracker.poll_timeout().unwrap();
    tracker.handle_timeout(first_look);
    said(&mut tracker);
    tracker.handle_answer(first_look, found(4));
    assert!(tracker.poll_timeout().unwrap() > at(3_000 + 3_200), "the next timeout is due 3.2 s after the fourth");
}

#[test]
fn new_data_acknowledged_between_two_timeouts_closes_as_recovered_and_starts_afresh() {
    let (mut tracker, _) = stalled(4);
    let Event::Connection(mut progress) = timeout_event(1, 4) else { unreachable!() };
    progress.at = at(9_000);
    progress.socket = SocketView { snd_una: Some(1_100), snd_nxt: Some(1_200), ..socket(1) };
    tracker.handle_event(Event::Connection(progress));
    assert_eq!(states(&said(&mut tracker)), [FindingState::Closed(Outcome::Recovered)]);
    assert_eq!(tracker.open_cases(), 1);
}

/// The peer asks for an idle connection anew, twice; its owner and all around it are known.
fn restarted() -> Tracker {
    let mut tracker = Tracker::new();
    for ms in [1_000, 2_000] {
        let idle = SocketView { snd_nxt: Some(1_000), write_seq: Some(1_000), retransmits: Some(0), ..socket(1) };
        let event = ConnectionEvent { at: at(ms), key: key(1), socket: idle, kind: EventKind::SynReceived };
        tracker.handle_event(Event::Connection(event));
    }
    answer_everything(&mut tracker);
    let opened = said(&mut tracker).findings;
    assert_eq!(opened.last().unwrap().ruling.cause, Cause::PeerRestarted);
    tracker
}

#[test]
fn a_connection_that_a_peer_asks_for_anew_has_not_recovered_because_it_is_still_there() {
    let mut tracker = restarted();
    for _ in 0..3 {
        let due = tracker.poll_timeout().unwrap();
        tracker.handle_timeout(due);
        tracker.handle_answer(due, found(0));
        assert_eq!(states(&said(&mut tracker)), []);
        assert!(tracker.poll_timeout().unwrap() >= due + Duration::from_secs(10), "it makes no hurry");
    }
    let due = tracker.poll_timeout().unwrap();
    tracker.handle_timeout(due);
    let heard = SocketStatus { heard_ago: Duration::from_secs(5), ..status(0) };
    tracker.handle_answer(due, Answer::Socket { key: key(1), lookup: SocketLookup::Found(heard) });
    assert_eq!(states(&said(&mut tracker)), [FindingState::Closed(Outcome::Recovered)]);
}

#[test]
fn a_peer_heard_of_before_its_syn_has_not_recovered_however_late_the_answer_comes() {
    let mut tracker = restarted();
    let due = tracker.poll_timeout().unwrap();
    tracker.handle_timeout(due);
    // It was last heard of just before the second SYN, and so it was when the question was asked.
    let heard = SocketStatus { heard_ago: due.since(at(1_990)), ..status(0) };
    tracker.handle_answer(at(60_000), Answer::Socket { key: key(1), lookup: SocketLookup::Found(heard) });
    assert_eq!(states(&said(&mut tracker)), []);
}

#[test]
fn the_kernel_giving_up_closes_as_timed_out() {
    let (mut tracker, _) = stalled(6);
    tracker.handle_event(closed(900_000, 110));
    let said = said(&mut tracker);
    assert_eq!(states(&said), [FindingState::Closed(Outcome::TimedOut)]);
    assert_eq!(tracker.open_cases(), 0);
}

#[test]
fn a_short_user_timeout_is_reported_though_it_ends_before_a_suspicion() {
    let (mut tracker, before) = stalled(2);
    assert!(before.findings.is_empty());
    tracker.handle_event(closed(1_000, 110));
    let said = said(&mut tracker);
    assert_eq!(states(&said), [FindingState::Opened, FindingState::Closed(Outcome::TimedOut)]);
    assert_eq!(said.findings[0].ruling.confidence, Confidence::Confirmed);
}

#[test]
fn an_application_that_closes_ends_the_finding_normally_and_a_reset_as_reset() {
    let (mut tracker, _) = stalled(4);
    tracker.handle_event(closed(5_000, 0));
    assert_eq!(states(&said(&mut tracker)), [FindingState::Closed(Outcome::ClosedNormally)]);

    let (mut tracker, _) = stalled(4);
    let Event::Connection(reset) = timeout_event(1, 4) else { unreachable!() };
    tracker.handle_event(Event::Connection(ConnectionEvent { at: at(5_000), kind: EventKind::ResetReceived, ..reset }));
    tracker.handle_event(closed(5_000, 104));
    let said = said(&mut tracker);
    assert_eq!(said.findings.last().unwrap().state, FindingState::Closed(Outcome::Reset));
}

#[test]
fn a_reset_is_the_end_whether_or_not_the_change_of_state_is_told() {
    let reset = |ms| {
        let socket = SocketView { state: Some(TcpState::Established), ..socket(7) };
        Event::Connection(ConnectionEvent { at: at(ms), key: key(1), socket, kind: EventKind::ResetReceived })
    };
    for is_told in [false, true] {
        let (mut tracker, _) = stalled(7);
        tracker.handle_event(reset(40_000));
        if is_told {
            tracker.handle_event(closed(40_000, 104));
        }
        assert_eq!(states(&said(&mut tracker)).last(), Some(&FindingState::Closed(Outcome::Reset)));
        assert_eq!(tracker.open_cases(), 0);
    }
    // Of one that was never suspected it is the first event, and the last.
    let mut tracker = Tracker::new();
    tracker.handle_event(reset(0));
    assert_eq!(states(&said(&mut tracker)), [FindingState::Opened, FindingState::Closed(Outcome::Reset)]);
    assert_eq!(tracker.open_cases(), 0);
}

#[test]
fn a_connection_that_is_ended_from_outside_was_closed_here() {
    let (mut tracker, _) = stalled(6);
    let Event::Connection(reset) = timeout_event(1, 6) else { unreachable!() };
    tracker.handle_event(Event::Connection(ConnectionEvent { at: at(20_000), kind: EventKind::ResetSent, ..reset }));
    tracker.handle_event(closed(20_000, 103));
    assert_eq!(states(&said(&mut tracker)), [FindingState::Closed(Outcome::ClosedNormally)]);
}

#[test]
fn a_socket_gone_without_a_word_is_unobserved_but_only_after_a_grace() {
    let (mut tracker, _) = stalled(4);
    let due = tracker.poll_timeout().unwrap();
    tracker.handle_timeout(due);
    tracker.handle_answer(due, Answer::Socket { key: key(1), lookup: SocketLookup::Gone });
    assert_eq!(states(&said(&mut tracker)), []);
    let due = tracker.poll_timeout().unwrap();
    tracker.handle_timeout(due);
    assert_eq!(states(&said(&mut tracker)), [FindingState::Closed(Outcome::Unobserved)]);
}

#[test]
fn another_socket_on_the_same_tuple_ends_the_old_ones_finding() {
    let (mut tracker, _) = stalled(4);
    let Event::Connection(mut other) = timeout_event(1, 1) else { unreachable!() };
    other.at = at(9_000);
    other.socket.cookie = Some(SocketCookie(8));
    tracker.handle_event(Event::Connection(other));
    assert_eq!(states(&said(&mut tracker)), [FindingState::Closed(Outcome::Unobserved)]);
    assert_eq!(tracker.open_cases(), 1);
}

#[test]
fn the_end_of_an_unsuspected_connection_is_nothing() {
    let mut tracker = Tracker::new();
    tracker.handle_event(closed(1, 110));
    assert_eq!((said(&mut tracker).findings.len(), tracker.open_cases()), (0, 0));
}

#[test]
fn a_single_timeout_is_forgotten_when_the_next_does_not_come() {
    let (mut tracker, _) = stalled(1);
    assert_eq!(tracker.open_cases(), 1);
    let due = tracker.poll_timeout().unwrap();
    tracker.handle_timeout(due);
    let said = said(&mut tracker);
    assert_eq!((said.questions.len(), said.findings.len(), tracker.open_cases()), (0, 0, 0));
}

// ---- what is missing -----------------------------------------------------------------------------------------------

#[test]
fn lost_events_keep_later_cases_confirmed_and_earlier_ones_suspected() {
    let (mut tracker, _) = stalled(4);
    tracker.handle_event(Event::Lost { at: at(3_001), place: LossPlace::Ring(Hook::TcpRetransmitSkb), count: 5 });
    tracker.handle_event(timeout_event(1, 6));
    let before = said(&mut tracker);
    assert!(before.findings.iter().all(|finding| finding.ruling.confidence == Confidence::Suspected), "{before:?}");
    tracker.handle_event(timeout_event(2, 6));
    tracker.handle_answer(at(13_000), Answer::Conntrack { key: key(2), conntrack: Ok(ConntrackStatus::Inactive) });
    tracker.handle_timeout(at(15_000));
    let after = said(&mut tracker);
    assert_eq!(after.findings[0].ruling.confidence, Confidence::Confirmed);
}

#[test]
fn a_witness_that_cannot_say_stands_in_the_finding() {
    let (mut tracker, _) = stalled(6);
    let unknown = SocketLookup::Unknown("no permission".to_owned());
    tracker.handle_answer(at(13_000), Answer::Socket { key: key(1), lookup: unknown });
    let findings = said(&mut tracker).findings;
    let last = findings.last().unwrap();
    assert_eq!(last.ruling.missing, [MissingEvidence::Socket { why: "no permission".to_owned() }]);
}

#[test]
fn a_finding_of_which_nothing_more_can_be_learned_does_not_stay_open_for_ever() {
    let (mut tracker, _) = stalled(6);
    let mut closed = Vec::new();
    for _ in 0..4 {
        let Some(due) = tracker.poll_timeout() else { break };
        tracker.handle_timeout(due);
        let lookup = SocketLookup::Unknown("no network namespace was found".to_owned());
        tracker.handle_answer(due, Answer::Socket { key: key(1), lookup });
        closed = said(&mut tracker).findings;
    }
    assert_eq!(closed.last().unwrap().state, FindingState::Closed(Outcome::Unobserved));
    assert_eq!(tracker.open_cases(), 0);
}

// ---- contract ------------------------------------------------------------------------------------------------------

#[test]
fn a_timeout_handed_in_early_or_twice_does_nothing() {
    let (mut tracker, _) = stalled(4);
    let due = tracker.poll_timeout().unwrap();
    tracker.handle_timeout(due.before(Duration::from_nanos(1)));
    assert!(said(&mut tracker).questions.is_empty());
    tracker.handle_timeout(due);
    let asked = said(&mut tracker).questions.len();
    tracker.handle_timeout(due);
    assert_eq!((asked <= 1, said(&mut tracker).questions.len()), (true, 0));
}

#[test]
fn one_case_more_than_fits_evicts_the_oldest_and_says_so() {
    const ROOM: usize = 1_000;
    let mut tracker = Tracker::with_room(0, ROOM);
    for index in 0..=u32::try_from(ROOM).unwrap() {
        let Event::Connection(mut event) = timeout_event(1, 6) else { unreachable!() };
        event.at = at(20_000 + u64::from(index));
        event.key.netns = index;
        event.socket.cookie = Some(SocketCookie(u64::from(index) + 1));
        tracker.handle_event(Event::Connection(event));
    }
    let said = said(&mut tracker);
    let evicted: Vec<_> =
        said.findings.iter().filter(|finding| finding.state == FindingState::Closed(Outcome::Evicted)).collect();
    assert_eq!((evicted.len(), tracker.open_cases()), (1, ROOM));
    assert_eq!(evicted[0].id.key.netns, 0);
}

/// What a virtual address that moves away does to the connections that were made from it. The witnesses answer one question every five
/// milliseconds, and take only so many at once.
#[test]
fn of_a_thousand_connections_that_lose_their_address_at_once_each_gets_its_cause_and_owner() {
    const CASES: u16 = 1_000;
    for room in [1, 256] {
        let mut tracker = Tracker::new();
        for port in 1..=CASES {
            let Event::Connection(event) = unsendable(10_000, 3) else { unreachable!() };
            let socket = SocketView { cookie: Some(SocketCookie(port.into())), ..event.socket };
            tracker.handle_event(Event::Connection(ConnectionEvent { key: key(port), socket, ..event }));
        }
        let mut in_flight = std::collections::VecDeque::new();
        let mut paths_asked = Vec::new();
        let mut latest = std::collections::BTreeMap::new();
        for step in 0.. {
            while let Some(output) = tracker.poll_output() {
                match output {
                    Output::Finding(finding) => {
                        latest.insert(finding.id.key, *finding);
                    }
                    Output::Question(question) if in_flight.len() < room => in_flight.push_back(question),
                    Output::Question(question) => {
                        tracker.put_back(question);
                        break;
                    }
                }
            }
            let is_whole = |finding: &Finding| {
                finding.ruling.cause == Cause::SourceAddressLost
                    && finding.owner.process().is_some_and(|owner| owner.pid == u32::from(finding.id.key.local.port()))
            };
            if latest.len() == usize::from(CASES) && latest.values().all(is_whole) {
                break;
            }
            assert!(tracker.questions_waiting() <= 4 * usize::from(CASES), "none waits twice");
            assert!(step < 8 * u64::from(CASES), "each waits for its turn once: {} left", in_flight.len());
            let now = at(10_000 + 5 * step);
            tracker.handle_timeout(now);
            let Some(question) = in_flight.pop_front() else { continue };
            let answer = match question {
                Question::Socket { key, .. } => {
                    let timer = Some((SocketTimer::Persist, Duration::from_secs(1)));
                    let status = SocketStatus { inode: key.local.port().into(), timer, ..status(0) };
                    Answer::Socket { key, lookup: SocketLookup::Found(status) }
                }
                Question::Owner { key, inode } => {
                    let pid = inode.try_into().unwrap();
                    Answer::Owner { key, owner: Ok(Some(Owner { pid, ..Owner::default() })) }
                }
                Question::Path { key, .. } => {
                    paths_asked.push(key);
                    Answer::Path { key, path: Ok(path(false)) }
                }
                Question::Conntrack { key } => Answer::Conntrack { key, conntrack: Ok(ConntrackStatus::Inactive) },
                Question::Function { key, address } => Answer::Function { key, address, function: Ok(None) },
                Question::ForwardPath { .. } | Question::FlowConntrack { .. } | Question::FlowEnds { .. } => {
                    unreachable!()
                }
                Question::Service { key } => Answer::Service { key, service: Err(String::new()) },
                Question::DropPlace { key, .. } => Answer::DropPlace { key, place: Err("not found".to_owned()) },
            };
            tracker.handle_answer(now, answer);
        }
        assert_eq!(paths_asked, (1..=CASES).map(key).collect::<Vec<_>>(), "first come, first asked");
    }
}

#[derive(Clone, Debug)]
enum Input {
    Event { port: u16, ms: u64, cookie: u64, count: u8, una: u32, kind: u8, error: i32 },
    Found { port: u16, ms: u64, retransmits: u8, inode: u32 },
    Gone { port: u16, ms: u64 },
    Unknown { port: u16, ms: u64 },
    Owner { port: u16, ms: u64, known: bool },
    Function { port: u16, ms: u64 },
    Service { port: u16, ms: u64, served: bool },
    Lost { ms: u64 },
    Timeout { ms: u64 },
    TimeoutWhenDue,
}

fn input() -> impl Strategy<Value = Input> {
    let (port, ms) = (1u16..4, 0u64..2_000_000);
    prop_oneof![
        8 => (port.clone(), ms.clone(), 0u64..3, 0u8..12, 0u32..3, 0u8..16, prop_oneof![Just(0), Just(110), Just(104)])
            .prop_map(|(port, ms, cookie, count, una, kind, error)| Input::Event { port, ms, cookie, count, una, kind, error }),
        2 => (port.clone(), ms.clone(), 0u8..5, 0u32..2)
            .prop_map(|(port, ms, retransmits, inode)| Input::Found { port, ms, retransmits, inode }),
        1 => (port.clone(), ms.clone()).prop_map(|(port, ms)| Input::Gone { port, ms }),
        1 => (port.clone(), ms.clone()).prop_map(|(port, ms)| Input::Unknown { port, ms }),
        1 => (port.clone(), ms.clone()).prop_map(|(port, ms)| Input::Function { port, ms }),
        1 => (port.clone(), ms.clone(), any::<bool>()).prop_map(|(port, ms, served)| Input::Service { port, ms, served }),
        1 => (port, ms.clone(), any::<bool>()).prop_map(|(port, ms, known)| Input::Owner { port, ms, known }),
        1 => ms.clone().prop_map(|ms| Input::Lost { ms }),
        1 => ms.prop_map(|ms| Input::Timeout { ms }),
        4 => Just(Input::TimeoutWhenDue),
    ]
}

fn apply(tracker: &mut Tracker, input: Input) {
    match input {
        Input::Event { port, ms, cookie, count, una, kind, error } => {
            let kind = match kind {
                0 => EventKind::SynAckRetransmission,
                1 => EventKind::ResetReceived,
                2 => EventKind::ResetSent,
                3 => EventKind::SocketError,
                4 => EventKind::StateChange { from: TcpState::Established, to: TcpState::Close },
                5 => EventKind::SegmentDropped(Box::new(dropped_fin(Origin::Received { ifindex: 1 }))),
                6 => EventKind::StateChange { from: TcpState::Established, to: TcpState::CloseWait },
                7 => EventKind::SynAckReceived,
                9..=12 => {
                    let messages = [ControlMessage::Syn, ControlMessage::SynAck, ControlMessage::Ack];
                    let message = messages[usize::from(count % 3)];
                    let origin = if kind % 2 == 0 { Origin::Sent } else { Origin::Received { ifindex: 1 } };
                    let reason = if kind < 11 { DropReason::IpRpfilter } else { DropReason::NetfilterDrop };
                    EventKind::SegmentDropped(Box::new(DroppedSegment { message, reason, ..dropped_fin(origin) }))
                }
                8 => EventKind::StateChange { from: TcpState::SynSent, to: TcpState::Established },
                _ => EventKind::RetransmissionTimeout { send_result: None },
            };
            let state = if let EventKind::StateChange { to, .. } = kind {
                to
            } else if kind == EventKind::SynAckRetransmission {
                TcpState::NewSynReceived
            } else if cookie == 0 && matches!(kind, EventKind::RetransmissionTimeout { .. }) {
                TcpState::SynSent
            } else {
                TcpState::Established
            };
            let socket = SocketView {
                state: Some(state),
                cookie: (cookie > 0).then_some(SocketCookie(cookie)),
                snd_una: Some(una),
                error: Some(error),
                ..socket(count)
            };
            tracker.handle_event(Event::Connection(ConnectionEvent { at: at(ms), key: key(port), socket, kind }));
        }
        Input::Found { port, ms, retransmits, inode } => {
            let lookup = SocketLookup::Found(SocketStatus { inode, ..status(retransmits) });
            tracker.handle_answer(at(ms), Answer::Socket { key: key(port), lookup });
        }
        Input::Gone { port, ms } => {
            tracker.handle_answer(at(ms), Answer::Socket { key: key(port), lookup: SocketLookup::Gone });
        }
        Input::Unknown { port, ms } => {
            let lookup = SocketLookup::Unknown(String::new());
            tracker.handle_answer(at(ms), Answer::Socket { key: key(port), lookup });
        }
        Input::Owner { port, ms, known } => {
            let owner = if known { Ok(None) } else { Err("no".to_owned()) };
            tracker.handle_answer(at(ms), Answer::Owner { key: key(port), owner });
        }
        Input::Function { port, ms } => {
            tracker.handle_answer(at(ms), Answer::Function { key: key(port), address: 0xf00, function: Ok(None) });
        }
        Input::Service { port, ms, served } => {
            let listener_inode = served.then_some(7);
            let service = Ok(ServiceStatus { listener_inode, connections_with_peer: usize::from(served) });
            tracker.handle_answer(at(ms), Answer::Service { key: key(port), service });
        }
        Input::Lost { ms } => {
            tracker.handle_event(Event::Lost { at: at(ms), place: LossPlace::Decode, count: 1 });
        }
        Input::Timeout { ms } => tracker.handle_timeout(at(ms)),
        Input::TimeoutWhenDue => {
            if let Some(due) = tracker.poll_timeout() {
                tracker.handle_timeout(due);
            }
        }
    }
}

proptest! {
    /// Whatever comes in, in whatever order: no panic, every finding is opened once before anything else is said of it and
    /// closed at most once, after which nothing more is said, also by a tracker that goes on where another one has ended; and left
    /// alone, the tracker comes to rest.
    #[test]
    fn findings_live_from_one_opening_to_one_end(
        inputs in proptest::collection::vec(input(), 0..200),
        restarts in proptest::collection::btree_set(0usize..200, 0..3),
    ) {
        let mut tracker = Tracker::new();
        let mut life: std::collections::BTreeMap<FindingId, bool> = std::collections::BTreeMap::new();
        let mut open: std::collections::BTreeMap<FindingId, Finding> = std::collections::BTreeMap::new();
        for (number, input) in inputs.into_iter().enumerate() {
            if restarts.contains(&number) {
                tracker = Tracker::new();
                // Later than anything before.
                let now = at(10_000_000 * number as u64 + 10_000_000);
                tracker.handle_timeout(now);
                for finding in open.values() {
                    prop_assert!(tracker.resume(now, finding.clone()));
                }
            }
            apply(&mut tracker, input);
            for finding in said(&mut tracker).findings {
                if finding.is_over() {
                    open.remove(&finding.id);
                } else {
                    open.insert(finding.id, finding.clone());
                }
                match finding.state {
                    FindingState::Opened => prop_assert_eq!(life.insert(finding.id, false), None),
                    FindingState::Updated => prop_assert_eq!(life.get(&finding.id), Some(&false)),
                    FindingState::Closed(_) => prop_assert_eq!(life.insert(finding.id, true), Some(false)),
                }
            }
            prop_assert!(tracker.open_cases() <= 3);
            prop_assert!(tracker.open_cases() == 0 || tracker.poll_timeout().is_some(), "every case waits for something");
        }
        for _ in 0..100 {
            let Some(due) = tracker.poll_timeout() else { break };
            tracker.handle_timeout(due);
            for question in said(&mut tracker).questions {
                if let Question::Socket { key, .. } = question {
                    tracker.handle_answer(due, Answer::Socket { key, lookup: SocketLookup::Gone });
                }
            }
        }
        prop_assert_eq!(tracker.open_cases(), 0);
    }
}
