use std::collections::BTreeMap;

use crate::{
    case::{Finding, FindingId, FindingState, Outcome},
    judge::Verdict,
    model::Filter,
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
    filter: Filter,
    verdicts: Vec<Verdict>,
}

impl Findings {
    /// Remembers only those that are open.
    pub(super) fn keep_open_only(&mut self) {
        self.open_only = true;
    }

    /// Of these connections with these verdicts; an empty list means all.
    pub(super) fn only(filter: Filter, verdicts: Vec<Verdict>) -> Self {
        Self { filter, verdicts, ..Self::default() }
    }

    /// From now on of these connections.
    pub(super) fn ask_about(&mut self, filter: Filter) {
        self.filter = filter;
    }

    /// Whether it is to be told. Once told, it is to its end, whatever becomes of it; one that becomes what was asked for is opened then.
    pub(super) fn wants(&self, finding: &mut Finding) -> bool {
        if self.latest.contains_key(&finding.id) {
            return true;
        }
        // Of packets the programs let those of either end pass: they may be only forwarded.
        let is_asked_about = finding.flow.is_some() || self.filter.passes(&finding.id.key);
        let is_wanted = self.verdicts.is_empty() || self.verdicts.contains(&finding.ruling.verdict);
        match finding.state {
            FindingState::Opened => is_asked_about && is_wanted,
            FindingState::Updated if is_asked_about && is_wanted => {
                finding.state = FindingState::Opened;
                true
            }
            FindingState::Updated | FindingState::Closed(_) => false,
        }
    }

    /// Remembers a change.
    pub(super) fn take(&mut self, finding: Finding) {
        let is_open = !finding.is_over();
        let (id, was_open) = (finding.id, self.latest.get(&finding.id).is_some_and(|before| !before.is_over()));
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
            self.open = self.open.saturating_sub(usize::from(!finding.is_over()));
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        judge::{Cause, Confidence, Ruling},
        model::{ConnectionKey, Filter, Knowledge, MonoTime, OwnerKnowledge, SocketView},
    };

    pub(in crate::app) fn finding(case: u64, state: FindingState, verdict: Verdict) -> Finding {
        let key =
            ConnectionKey { netns: 7, local: ([10, 0, 0, 1], 40_000).into(), remote: ([10, 0, 0, 2], 5672).into() };
        let at = MonoTime::from_ns(1);
        Finding {
            id: FindingId { key, cookie: None, opened_at: at, case },
            state,
            at,
            flow: None,
            socket: SocketView::default(),
            path: Knowledge::NotAsked,
            ruling: Ruling {
                verdict,
                cause: Cause::PeerSilent,
                confidence: Confidence::Suspected,
                since: at,
                deadline: None,
                missing: Vec::new(),
            },
            owner: OwnerKnowledge::NotAsked,
            evidence: Vec::new(),
            evidence_left_out: 0,
        }
    }

    /// What is told of these changes, each by its state.
    fn told(findings: &mut Findings, changes: Vec<Finding>) -> Vec<FindingState> {
        let mut told = Vec::new();
        for mut change in changes {
            if findings.wants(&mut change) {
                told.push(change.state);
                findings.take(change);
            }
        }
        told
    }

    #[test]
    fn what_becomes_what_was_asked_for_is_opened_then_and_told_to_its_end() {
        use FindingState::{Closed, Opened, Updated};
        let over = Closed(Outcome::Reset);
        let changes = || {
            vec![
                finding(1, Opened, Verdict::RetransmitStalled),
                finding(1, Updated, Verdict::HalfOpen),
                finding(1, Updated, Verdict::RetransmitStalled),
                finding(1, over, Verdict::RetransmitStalled),
            ]
        };
        let of = |verdicts: &[Verdict]| told(&mut Findings::only(Filter::default(), verdicts.to_vec()), changes());
        assert_eq!(of(&[]), [Opened, Updated, Updated, over]);
        assert_eq!(of(&[Verdict::HalfOpen]), [Opened, Updated, over]);
        assert_eq!(of(&[Verdict::ZeroWindowStalled]), []);
    }

    #[test]
    fn of_a_socket_of_this_host_only_the_remote_end_is_the_peer() {
        let of = |peer: &str| {
            let filter = Filter { peers: vec![peer.parse().unwrap()], ..Filter::default() };
            told(&mut Findings::only(filter, Vec::new()), vec![finding(1, FindingState::Opened, Verdict::HalfOpen)])
                .len()
        };
        assert_eq!((of("10.0.0.2/32"), of("10.0.0.1/32")), (1, 0));
    }
}
