use std::collections::BTreeMap;

use crate::case::{Finding, FindingId, FindingState, Outcome};

/// Findings remembered for the report at the end. A watch without end must not grow without end: beyond this, the oldest
/// that have come to a good end are forgotten, then the oldest that are over.
const MOST_REMEMBERED: usize = 20_000;

/// The latest state of every finding of a watch.
#[derive(Debug, Default)]
pub(super) struct Findings {
    latest: BTreeMap<FindingId, Finding>,
}

impl Findings {
    /// Remembers a change.
    pub(super) fn take(&mut self, finding: Finding) {
        self.latest.insert(finding.id, finding);
        if self.latest.len() > MOST_REMEMBERED
            && let Some(id) = self.least_wanted()
        {
            self.latest.remove(&id);
        }
    }

    fn least_wanted(&self) -> Option<FindingId> {
        let rank = |finding: &Finding| match finding.state {
            FindingState::Closed(outcome) if Outcome::is_resolved(outcome) => 0,
            FindingState::Closed(_) => 1,
            FindingState::Opened | FindingState::Updated => 2,
        };
        self.latest.values().min_by_key(|finding| (rank(finding), finding.at)).map(|finding| finding.id)
    }

    /// How many there are, and how many of them are not over.
    pub(super) fn count(&self) -> (usize, usize) {
        let open = self.latest.values().filter(|finding| !matches!(finding.state, FindingState::Closed(_))).count();
        (self.latest.len(), open)
    }

    /// All of them, in the order they were opened.
    pub(super) fn into_vec(self) -> Vec<Finding> {
        let mut findings: Vec<_> = self.latest.into_values().collect();
        findings.sort_by_key(|finding| finding.id.opened_at);
        findings
    }
}
