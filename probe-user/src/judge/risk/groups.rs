use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{Idle, KeepaliveTimes, Limit, Risk, RiskKind, Risks, Service, ServiceDirection};
use crate::model::{ConnectionKey, LocalPorts, Owner, OwnerKnowledge};

/// Risks told in one look. More nobody reads; those with the fewest connections are left out, and counted.
const MOST_RISKS: usize = 50;
/// Connections named in a risk: enough to look one up, on this host and on the peer.
const MOST_EXAMPLES: usize = 3;

/// What the connection is for. Where its listener is gone, the kind of its two ports tells.
pub fn service(ports: &LocalPorts, key: &ConnectionKey) -> Service {
    let (local, remote) = (key.local.port(), key.remote.port());
    let is_ephemeral = |port| ports.ephemeral.as_ref().is_some_and(|range| range.contains(&port));
    if ports.listening.contains(&local) || (!is_ephemeral(local) && is_ephemeral(remote)) {
        Service { port: local, direction: ServiceDirection::Accepted }
    } else {
        Service { port: remote, direction: ServiceDirection::Outgoing }
    }
}

/// An idle connection with which something may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Risky {
    /// What.
    pub kind: RiskKind,
    /// The connection.
    pub idle: Idle,
    /// What its times are held against.
    pub limit: Limit,
    /// What it is for.
    pub service: Service,
}

/// What connections have in common that are counted together. The holder is without its pid: workers of one service are alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Common {
    kind: RiskKind,
    netns: u32,
    holder: OwnerKnowledge,
    service: Service,
    limit: Limit,
}

/// Counts alike connections together. Its size is bounded by how many it is given.
#[derive(Debug, Default)]
pub struct Groups {
    groups: BTreeMap<Common, Group>,
}

#[derive(Debug, Default)]
struct Group {
    pids: BTreeSet<u32>,
    count: usize,
    over_limit: usize,
    keepalive: Option<KeepaliveTimes>,
    /// The longest idle first.
    examples: Vec<Idle>,
}

impl Groups {
    /// Takes in a connection and who holds its socket.
    pub fn add(&mut self, risky: &Risky, holder: OwnerKnowledge) {
        let Risky { kind, idle, limit, service } = *risky;
        let (holder, pid) = match holder {
            OwnerKnowledge::Process(owner) => {
                let pid = owner.pid;
                (OwnerKnowledge::Process(Owner { pid: 0, ..owner }), Some(pid))
            }
            OwnerKnowledge::NoProcess | OwnerKnowledge::NotAsked | OwnerKnowledge::Unavailable(_) => (holder, None),
        };
        let group = self.groups.entry(Common { kind, netns: idle.key.netns, holder, service, limit }).or_default();
        group.pids.extend(pid);
        group.count += 1;
        group.over_limit += usize::from(idle.idle_for >= limit.time);
        if let Some((time, exact)) = idle.probing.time().filter(|_| kind == RiskKind::KeepaliveTooLate) {
            let so_far = group.keepalive.unwrap_or(KeepaliveTimes { shortest: time, longest: time, exact });
            group.keepalive = Some(KeepaliveTimes {
                shortest: so_far.shortest.min(time),
                longest: so_far.longest.max(time),
                exact: so_far.exact && exact,
            });
        }
        let place = group.examples.partition_point(|example| example.idle_for >= idle.idle_for);
        if place < MOST_EXAMPLES {
            group.examples.insert(place, idle);
            group.examples.truncate(MOST_EXAMPLES);
        }
    }

    /// Hands over what was counted, the most connections first.
    pub fn tell(self, risks: &mut Risks) {
        let mut all: Vec<_> = self.groups.into_iter().map(|(common, group)| group.risk(common)).collect();
        // The order among equals is that of what they have in common: the same in every run.
        all.sort_by_key(|risk| Reverse(risk.count));
        let left_out = all.split_off(all.len().min(MOST_RISKS));
        risks.left_out = left_out.len();
        risks.connections_left_out = left_out.iter().map(|risk| risk.count).sum();
        risks.risks = all;
    }
}

impl Group {
    fn risk(self, common: Common) -> Risk {
        let Common { kind, netns, holder, service, limit } = common;
        let holder = match (holder, self.pids.first()) {
            (OwnerKnowledge::Process(owner), Some(pid)) => OwnerKnowledge::Process(Owner { pid: *pid, ..owner }),
            (holder, _) => holder,
        };
        Risk {
            kind,
            netns,
            holder,
            processes: self.pids.len(),
            service,
            limit,
            count: self.count,
            over_limit: self.over_limit,
            longest_idle: self.examples.first().map(|example| example.idle_for).unwrap_or_default(),
            keepalive: self.keepalive,
            examples: self.examples,
        }
    }
}
