//! How a finding ends.

use super::*;

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
