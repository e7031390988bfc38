//! What is not known stands in the finding.

use super::*;
use crate::model::Hook;

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
