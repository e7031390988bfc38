use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
};

use super::{Flow, FlowWake};
use crate::model::{ConnectionKey, MonoTime};

/// Flows followed at once. A firewall that drops stray FINs by the thousand must not cost memory; those with findings, and those of which copies were dropped, go last.
pub(in crate::case) const MAX_FLOWS: usize = 4_096;

/// The two ends of a packet in either direction, in one network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::case) struct FlowTuple {
    netns: u32,
    ends: (SocketAddr, SocketAddr),
}

impl FlowTuple {
    /// Of a packet, or of one that goes the other way.
    pub(in crate::case) fn of(key: &ConnectionKey) -> Self {
        let ConnectionKey { netns, local, remote } = *key;
        Self { netns, ends: if local <= remote { (local, remote) } else { (remote, local) } }
    }
}

/// Every flow, with when each wakes up, and which is to be evicted first.
#[derive(Debug, Default)]
pub(in crate::case) struct Flows {
    flows: HashMap<FlowTuple, Flow>,
    wakes: BTreeSet<(MonoTime, FlowTuple)>,
    by_touch: BTreeSet<(bool, MonoTime, FlowTuple)>,
}

impl Flows {
    pub(in crate::case) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(in crate::case) fn contains(&self, key: &ConnectionKey) -> bool {
        self.flows.contains_key(&FlowTuple::of(key))
    }

    /// When the next one wakes up.
    pub(in crate::case) fn next_wake(&self) -> Option<MonoTime> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// Takes out one that was to wake up by `now`, with what for.
    pub(in crate::case) fn wake(&mut self, now: MonoTime) -> Option<(Flow, Option<FlowWake>)> {
        let (at, tuple) = self.wakes.first().copied().filter(|(at, _)| *at <= now)?;
        // The tables are always changed together; this only keeps a mistake from looping.
        self.wakes.remove(&(at, tuple));
        let mut flow = self.take_tuple(&tuple)?;
        let wake = flow.wake.take().map(|(_, wake)| wake);
        Some((flow, wake))
    }

    /// Takes out the flow of this packet; [`keep`](Self::keep) puts it back.
    pub(in crate::case) fn take(&mut self, key: &ConnectionKey) -> Option<Flow> {
        self.take_tuple(&FlowTuple::of(key))
    }

    fn take_tuple(&mut self, tuple: &FlowTuple) -> Option<Flow> {
        let flow = self.flows.remove(tuple)?;
        if let Some((at, _)) = flow.wake {
            self.wakes.remove(&(at, *tuple));
        }
        self.by_touch.remove(&(flow.is_serious(), flow.touched, *tuple));
        Some(flow)
    }

    /// Puts one in. What is returned had to make room for it.
    pub(in crate::case) fn keep(&mut self, flow: Flow) -> Option<Flow> {
        let evicted = match self.by_touch.first().copied() {
            Some((_, _, oldest)) if self.flows.len() >= MAX_FLOWS => self.take_tuple(&oldest),
            Some(_) | None => None,
        };
        let tuple = flow.tuple();
        if let Some((at, _)) = flow.wake {
            self.wakes.insert((at, tuple));
        }
        self.by_touch.insert((flow.is_serious(), flow.touched, tuple));
        self.flows.insert(tuple, flow);
        evicted
    }
}
