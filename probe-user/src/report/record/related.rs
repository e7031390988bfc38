use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::{
    case::{Finding, FindingState},
    model::CommunityId,
};

/// Connections with open findings that are remembered; beyond this, new ones name no others.
const MOST_REMEMBERED: usize = 20_000;

/// The open findings of each connection, whatever they are seen from.
#[derive(Clone, Debug, Default)]
pub(super) struct Related(BTreeMap<CommunityId, BTreeSet<Uuid>>);

impl Related {
    /// Takes in a change, and gives the other open findings about the same connection.
    pub(super) fn of(&mut self, finding: &Finding, id: Uuid) -> Vec<Uuid> {
        let connection = finding.community_id();
        let is_new = !self.0.contains_key(&connection);
        if is_new && self.0.len() >= MOST_REMEMBERED {
            return Vec::new();
        }
        let open = self.0.entry(connection.clone()).or_default();
        match finding.state {
            FindingState::Opened | FindingState::Updated => open.insert(id),
            FindingState::Closed(_) => open.remove(&id),
        };
        let others = open.iter().filter(|other| **other != id).copied().collect();
        if open.is_empty() {
            self.0.remove(&connection);
        }
        others
    }
}
