use std::collections::BTreeMap;

use crate::{
    case::{Finding, FindingId, FindingState, Outcome},
    report::Forgotten,
};

/// Findings remembered for the report at the end, some 10 kB each. A watch without end must not grow without end: beyond this, the
/// oldest that have come to a good end are forgotten, then the oldest that are over.
const MOST_REMEMBERED: usize = 20_000;

/// The latest state of every finding of a watch, or, where no report will be made of them, of those that are open.
#[derive(Debug, Default)]
pub(super) struct Findings {
    latest: BTreeMap<FindingId, Finding>,
    open: usize,
    forgotten: Forgotten,
    /// Whether one that is over is forgotten at once, and only counted.
    open_only: bool,
}

impl Findings {
    /// Remembers only those that are open.
    pub(super) fn keep_open_only(&mut self) {
        self.open_only = true;
    }

    /// Remembers a change.
    pub(super) fn take(&mut self, finding: Finding) {
        let is_open = is_open(&finding);
        let (id, was_open) = (finding.id, self.latest.get(&finding.id).is_some_and(self::is_open));
        self.open = self.open.saturating_add(usize::from(is_open)).saturating_sub(usize::from(was_open));
        self.latest.insert(id, finding);
        if self.open_only && !is_open {
            self.forget(&id);
        } else if self.latest.len() > MOST_REMEMBERED
            && let Some(id) = self.least_wanted()
        {
            self.forget(&id);
        }
    }

    fn forget(&mut self, id: &FindingId) {
        if let Some(finding) = self.latest.remove(id) {
            self.open = self.open.saturating_sub(usize::from(is_open(&finding)));
            self.forgotten.add(&finding);
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

    /// How many there have been, and how many of them are not over.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.latest.len() + self.forgotten.findings, self.open)
    }

    /// All that are remembered, in the order they were opened, and what is known of the others.
    pub(super) fn finish(self) -> (Vec<Finding>, Forgotten) {
        let mut findings: Vec<_> = self.latest.into_values().collect();
        findings.sort_by_key(|finding| finding.id.opened_at);
        (findings, self.forgotten)
    }
}

fn is_open(finding: &Finding) -> bool {
    !matches!(finding.state, FindingState::Closed(_))
}
