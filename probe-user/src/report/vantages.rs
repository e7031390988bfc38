//! Findings about one connection that is seen from several places on this host: from its ends and where it is forwarded. They are told
//! together.

use std::collections::{BTreeMap, HashMap};

use crate::{
    case::{Finding, FindingId},
    model::{CommunityId, Vantage},
};

/// Findings, one a connection, with what else is seen of each.
pub(super) struct Vantages<'a> {
    /// Of each connection the most telling one, in the order they were given.
    pub(super) first: Vec<&'a Finding>,
    others: HashMap<FindingId, Vec<&'a Finding>>,
}

impl<'a> Vantages<'a> {
    pub(super) fn of(findings: impl IntoIterator<Item = &'a Finding>) -> Self {
        let mut by_connection: BTreeMap<CommunityId, Vec<(usize, &Finding)>> = BTreeMap::new();
        for (place, finding) in findings.into_iter().enumerate() {
            by_connection.entry(finding.community_id()).or_default().push((place, finding));
        }
        let (mut first, mut others) = (Vec::new(), HashMap::new());
        for mut findings in by_connection.into_values() {
            findings.sort_by_key(|(place, finding)| (rank(finding), *place));
            let mut findings = findings.into_iter();
            let Some(best) = findings.next() else { continue };
            first.push(best);
            others.insert(best.1.id, findings.map(|(_, finding)| finding).collect());
        }
        first.sort_by_key(|(place, _)| *place);
        Self { first: first.into_iter().map(|(_, finding)| finding).collect(), others }
    }

    /// What else is seen of the connection of one of the first.
    pub(super) fn others(&self, finding: &Finding) -> &[&'a Finding] {
        self.others.get(&finding.id).map_or(&[], Vec::as_slice)
    }
}

/// Who has seen what was dropped knows why; then who holds a socket knows whose it is.
fn rank(finding: &Finding) -> (bool, Vantage) {
    (!finding.evidence.iter().any(|evidence| evidence.segment().is_some()), finding.vantage())
}
