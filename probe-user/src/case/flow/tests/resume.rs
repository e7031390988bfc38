//! What a run before has left open.

use super::*;

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
