use std::time::Duration;

pub use crate::model::HookCount;
use crate::{
    case::{Finding, FindingState},
    judge::{Confidence, risk::Risks},
};

/// A watch as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How long it was.
    pub watched: Duration,
    /// The latest state of every finding, in the order they were opened.
    pub findings: Vec<Finding>,
    /// Findings that are not among these, for there were too many, or nobody will read them here.
    pub forgotten: Forgotten,
    /// What the hooks did.
    pub hooks: Vec<HookCount>,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Questions that were not asked because the witnesses had too many already.
    pub unasked: u64,
    /// What may go wrong later; `None` when that was not asked.
    pub risks: Option<Risks>,
}

impl Summary {
    /// Events that were lost, at whatever place.
    pub fn lost(&self) -> u64 {
        self.hooks.iter().map(|hook| hook.lost + hook.missed).sum::<u64>() + self.undecodable
    }

    /// Findings that somebody has to act on: still open, or ended badly.
    pub fn unresolved(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !is_resolved(finding))
    }

    /// Findings that have come to a good end.
    pub fn resolved(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| is_resolved(finding))
    }

    /// The highest confidence among the unresolved findings.
    pub fn highest_confidence(&self) -> Option<Confidence> {
        let remembered = self.unresolved().map(|finding| finding.ruling.confidence).max();
        remembered.max(self.forgotten.highest_confidence)
    }

    /// How many findings there were, and how many of them are unresolved.
    pub fn counts(&self) -> (usize, usize) {
        let Forgotten { findings, unresolved, highest_confidence: _ } = self.forgotten;
        (self.findings.len() + findings, self.unresolved().count() + unresolved)
    }
}

/// What is known of findings that are not remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// How many.
    pub findings: usize,
    /// How many of them somebody has to act on.
    pub unresolved: usize,
    /// The highest confidence among those.
    pub highest_confidence: Option<Confidence>,
}

impl Forgotten {
    /// One more.
    pub fn add(&mut self, finding: &Finding) {
        self.findings += 1;
        if !is_resolved(finding) {
            self.unresolved += 1;
            self.highest_confidence = self.highest_confidence.max(Some(finding.ruling.confidence));
        }
    }
}

fn is_resolved(finding: &Finding) -> bool {
    match finding.state {
        FindingState::Opened | FindingState::Updated => false,
        FindingState::Closed(outcome) => outcome.is_resolved(),
    }
}
