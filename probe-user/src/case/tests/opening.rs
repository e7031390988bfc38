//! From the first suspicion to a finding.

use super::*;
use crate::judge::Verdict;

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
