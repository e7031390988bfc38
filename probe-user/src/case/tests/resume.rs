//! A finding that a run before has left open.

use super::*;
use crate::judge::EvidenceKind;

/// What a run before has told last of a stalled connection; as it was kept.
fn left_open() -> Finding {
    let finding = stalled(7).1.findings.pop().unwrap();
    assert_eq!((finding.state, finding.ruling.confidence), (FindingState::Updated, Confidence::Confirmed));
    let kept = serde_json::to_string(&finding).unwrap();
    assert_eq!(serde_json::from_str::<Finding>(&kept).unwrap(), finding);
    finding
}

/// A tracker that goes on with it, and what it asks first.
fn resumed() -> (Tracker, Finding, Vec<Question>) {
    let finding = left_open();
    let mut tracker = Tracker::new();
    assert!(tracker.resume(at(40_000), finding.clone()));
    let said = said(&mut tracker);
    assert_eq!(states(&said), [], "nothing is told before it is known what has become of it");
    (tracker, finding, said.questions)
}

#[test]
fn what_still_waits_is_told_again_as_the_same_finding_when_all_answers_are_in() {
    let (mut tracker, before, questions) = resumed();
    let kinds: Vec<_> = questions.iter().map(|question| matches!(question, Question::Socket { .. })).collect();
    assert_eq!((kinds.len(), kinds[0]), (3, true), "{questions:?}");
    tracker.handle_answer(at(40_001), found(7));
    tracker.handle_answer(at(40_001), Answer::Path { key: key(1), path: Ok(path(true)) });
    assert_eq!(states(&said(&mut tracker)), [], "connection tracking may have forgotten it");
    tracker.handle_answer(at(40_002), Answer::Conntrack { key: key(1), conntrack: Ok(ConntrackStatus::Inactive) });
    let mut told = said(&mut tracker).findings;
    assert_eq!(told.len(), 1);
    let now = told.remove(0);
    assert_eq!((now.state, now.id, now.ruling.since), (FindingState::Updated, before.id, before.ruling.since));
    assert_eq!((now.ruling.cause, now.ruling.confidence), (Cause::PeerSilent, Confidence::Confirmed));
    assert_eq!(now.owner, before.owner);
    assert_eq!(now.evidence[..before.evidence.len()], before.evidence);
    assert_eq!(now.evidence.last().map(|last| &last.kind), Some(&EvidenceKind::WatchResumed));
    // From then on it is as any other.
    tracker.handle_event(timeout_event(1, 8));
    assert!(states(&said(&mut tracker)).iter().all(|state| *state == FindingState::Updated));
}

#[test]
fn answers_that_do_not_come_are_not_waited_for_long() {
    let (mut tracker, before, _) = resumed();
    let due = tracker.poll_timeout().unwrap();
    assert_eq!(due, at(42_000));
    tracker.handle_timeout(due);
    let told = said(&mut tracker).findings;
    assert_eq!((told.len(), told[0].state, told[0].id), (1, FindingState::Updated, before.id));
}

#[test]
fn what_has_recovered_or_ended_meanwhile_is_closed() {
    let (mut tracker, before, _) = resumed();
    tracker.handle_answer(at(40_001), found(0));
    let told = said(&mut tracker).findings;
    assert_eq!((told[0].state, told[0].id), (FindingState::Closed(Outcome::Recovered), before.id));

    let (mut tracker, before, _) = resumed();
    tracker.handle_answer(at(40_001), Answer::Socket { key: key(1), lookup: SocketLookup::Gone });
    answer_surroundings(&mut tracker);
    let due = tracker.poll_timeout().unwrap();
    tracker.handle_timeout(due);
    let told = said(&mut tracker).findings;
    assert_eq!((told[0].state, told[0].id), (FindingState::Closed(Outcome::Unobserved), before.id));
    assert_eq!(tracker.open_cases(), 0);
}

#[test]
fn another_socket_on_its_tuple_is_another_finding() {
    let (mut tracker, before, _) = resumed();
    let Event::Connection(mut event) = timeout_event(1, 4) else { unreachable!() };
    (event.at, event.socket.cookie) = (at(40_100), Some(SocketCookie(8)));
    tracker.handle_event(Event::Connection(event));
    let told = said(&mut tracker).findings;
    assert_eq!((told[0].state, told[0].id), (FindingState::Closed(Outcome::Unobserved), before.id));
}

#[test]
fn what_is_over_or_twice_there_is_not_taken() {
    let (mut tracker, before, _) = resumed();
    assert!(!tracker.resume(at(40_000), before.clone()));
    let over = Finding { state: FindingState::Closed(Outcome::Reset), ..before };
    assert!(!Tracker::new().resume(at(40_000), over));
}
