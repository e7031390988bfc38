//! Risks: connections that nothing is wrong with, and that will be in limbo for reasons that can be seen today. Never findings.
//!
//! [`Idle::kind`] chooses, [`limit`] says what holds for a connection, [`Groups`] counts alike ones together. Whoever looks for
//! idle connections hands each to these three in turn.

mod groups;
mod idle;
mod limit;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use groups::{Groups, Risky, service};
pub use idle::{Idle, Probing};
pub use limit::{Limit, LimitSource, idle_from, limit};

use crate::model::{MonoTime, OwnerKnowledge};

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RiskKind {
    /// The connection is idle, nobody sees to it that it stays known on the way, and its loss would be noticed by no one.
    IdleWithoutKeepalive,
    /// Keepalive is on, but its first probe comes when the connection may be forgotten already.
    KeepaliveTooLate,
    /// The peer has closed its half long ago, and the application does not close the other.
    CloseWaitLeak,
}

impl RiskKind {
    /// All, the most useful to know first.
    pub const ALL: [Self; 3] = [Self::IdleWithoutKeepalive, Self::KeepaliveTooLate, Self::CloseWaitLeak];

    /// The name in records, text and handbook.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IdleWithoutKeepalive => "idle_without_keepalive",
            Self::KeepaliveTooLate => "keepalive_too_late",
            Self::CloseWaitLeak => "close_wait_leak",
        }
    }
}

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceDirection {
    /// This host's process, to a service of the peer's.
    Outgoing,
    /// The peer, to a service of this host's.
    Accepted,
}

impl ServiceDirection {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outgoing => "outgoing",
            Self::Accepted => "accepted",
        }
    }
}

/// The port that names what a connection is for, and at which end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// The peer's port of an outgoing connection, this host's of an accepted one.
    pub port: u16,
    /// Who opened the connection.
    pub direction: ServiceDirection,
}

/// One risk: connections of one owner, for one service, in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risk {
    /// What may go wrong.
    pub kind: RiskKind,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Who holds the sockets.
    pub holder: OwnerKnowledge,
    /// How many processes alike do, of which the holder is the one with the lowest pid.
    pub processes: usize,
    /// What for.
    pub service: Service,
    /// What the times are held against.
    pub limit: Limit,
    /// How many connections.
    pub count: usize,
    /// How many of them have been idle for longer than the limit already.
    pub over_limit: usize,
    /// For how long the longest.
    pub longest_idle: Duration,
    /// When keepalive would begin, where it is on.
    pub keepalive: Option<KeepaliveTimes>,
    /// Some of them, those that are idle for longest first.
    pub examples: Vec<Idle>,
}

/// Times of keepalive of several sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveTimes {
    /// The shortest.
    pub shortest: Duration,
    /// The longest.
    pub longest: Duration,
    /// Whether they are known, or only that they are at least as long.
    pub exact: bool,
}

/// How idle connections were looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookedBy {
    /// By a BPF iterator, which tells everything.
    Iterator,
    /// Through `NETLINK_SOCK_DIAG`: it does not show the peer's keepalive probes, and of the times of keepalive only a lower bound.
    SockDiag,
}

impl LookedBy {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Iterator => "iterator",
            Self::SockDiag => "sock_diag",
        }
    }
}

/// What one look for risks has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risks {
    /// When.
    pub at: MonoTime,
    /// How.
    pub looked_by: LookedBy,
    /// The idle timeout that the operator takes what is on the way to have.
    pub idle_timeout: Duration,
    /// The risks, the most connections first.
    pub risks: Vec<Risk>,
    /// Risks left out of those, for there were too many.
    pub left_out: usize,
    /// Connections that those left out would have counted.
    pub connections_left_out: usize,
    /// Idle connections not judged, for there were too many.
    pub not_judged: usize,
    /// Idle connections of which this kernel does not tell whether keepalive is on, or soon enough.
    pub keepalive_unknown: usize,
    /// What could not be looked at, each in a sentence without its full stop.
    pub gaps: Vec<String>,
    /// Gaps left out of those, for there were too many.
    pub gaps_left_out: usize,
}

/// Gaps told. Where more than a few namespaces cannot be looked at, it is for one reason.
const MOST_GAPS: usize = 5;

impl Risks {
    /// A look that has brought nothing yet.
    pub const fn new(at: MonoTime, looked_by: LookedBy, idle_timeout: Duration) -> Self {
        Self {
            at,
            looked_by,
            idle_timeout,
            risks: Vec::new(),
            left_out: 0,
            connections_left_out: 0,
            not_judged: 0,
            keepalive_unknown: 0,
            gaps: Vec::new(),
            gaps_left_out: 0,
        }
    }

    /// Takes in what could not be looked at.
    pub fn gap(&mut self, gap: String) {
        if self.gaps.len() < MOST_GAPS {
            self.gaps.push(gap);
        } else {
            self.gaps_left_out += 1;
        }
    }
}
