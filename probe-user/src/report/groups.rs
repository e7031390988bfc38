//! Findings that are alike: a thousand connections that lose their address have one cause and one owner, and are told once.

use std::{cmp::Reverse, collections::HashMap};

use super::sentences::held;
use crate::{
    case::{Finding, FlowView},
    judge::Cause,
    model::{Knowledge, OwnerKnowledge},
};

/// Findings with one cause, one owner and one service.
pub(super) struct Group<'a> {
    port: u16,
    /// The one to be told in full: of the surest the one that ends first.
    pub(super) example: &'a Finding,
    /// The others, in the order they were opened.
    pub(super) others: Vec<&'a Finding>,
}

/// What findings have in common that are alike; the cause says the verdict.
#[derive(PartialEq, Eq, Hash)]
struct Kind<'a> {
    cause: Cause,
    netns: u32,
    owner: &'a OwnerKnowledge,
    port: u16,
    /// Of connections that are only forwarded, the interfaces: behind each is another machine.
    way: Option<[Option<u32>; 2]>,
    is_over: bool,
}

impl Group<'_> {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.others.len() + 1
    }

    /// What they have in common, in a line.
    pub(super) fn title(&self) -> String {
        let ruling = &self.example.ruling;
        let over = if self.example.is_over() { ", over" } else { "" };
        let owner = held(self.example);
        format!("{}, {}{over}: port {}, {owner}", ruling.verdict.name(), ruling.cause.name(), self.port)
    }
}

/// Puts together what is alike: the largest groups first, then in the order they were opened.
pub(super) fn groups<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Vec<Group<'a>> {
    let findings: Vec<_> = findings.into_iter().collect();
    let mut with_port = HashMap::new();
    for finding in &findings {
        for end in ends(finding) {
            *with_port.entry(end).or_insert(0_usize) += 1;
        }
    }
    // The service's port is the one that many have at the same end; of one connection alone, the lower.
    let service = |finding: &Finding| {
        let common = |end: &(bool, u16)| (with_port.get(end).copied().unwrap_or(0), Reverse(end.1));
        ends(finding).into_iter().max_by_key(common).map_or(0, |(_, port)| port)
    };
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut places = HashMap::new();
    for finding in findings {
        let kind = Kind {
            cause: finding.ruling.cause,
            netns: finding.id.key.netns,
            owner: &finding.owner,
            port: service(finding),
            way: finding.flow.as_deref().map(way),
            is_over: finding.is_over(),
        };
        let port = kind.port;
        let place = *places.entry(kind).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) if rank(finding) < rank(group.example) => {
                group.others.push(std::mem::replace(&mut group.example, finding));
            }
            Some(group) => group.others.push(finding),
            None => groups.push(Group { port, example: finding, others: Vec::new() }),
        }
    }
    groups.iter_mut().for_each(|group| group.others.sort_by_key(|finding| finding.id.opened_at));
    groups.sort_by_key(|group| Reverse(group.count()));
    groups
}

fn ends(finding: &Finding) -> [(bool, u16); 2] {
    let key = &finding.id.key;
    [(true, key.local.port()), (false, key.remote.port())]
}

fn way(flow: &FlowView) -> [Option<u32>; 2] {
    let Knowledge::Known(path) = &flow.path else { return [None, None] };
    [&path.ingress, &path.egress].map(|port| port.as_ref().map(|port| port.interface.index))
}

fn rank(finding: &Finding) -> impl Ord + use<> {
    let deadline = finding.ruling.deadline.map(|deadline| deadline.at);
    (Reverse(finding.ruling.confidence), deadline.is_none(), deadline)
}
