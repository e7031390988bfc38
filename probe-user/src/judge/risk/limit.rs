use std::time::Duration;

use super::Idle;
use crate::model::LocalConntrack;

/// After which part of the limit without traffic a connection counts as idle: one with a heartbeat is never so long without, for
/// heartbeats come several times within the limit.
const IDLE_PART: u32 = 10;

/// After how long an idle connection is forgotten by what it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Limit {
    /// How long.
    pub time: Duration,
    /// Who says so.
    pub set_by: LimitSource,
}

/// Where a limit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitSource {
    /// The operator.
    IdleTimeout,
    /// Connection tracking of the connection's own namespace (`net.netfilter.nf_conntrack_tcp_timeout_established`).
    Conntrack,
}

impl LimitSource {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IdleTimeout => "idle_timeout",
            Self::Conntrack => "conntrack",
        }
    }
}

impl Limit {
    /// From when on a connection counts as idle.
    pub fn idle_from(self) -> Duration {
        idle_from(self.time)
    }
}

/// From when on a connection counts as idle where connections are forgotten after this time.
pub fn idle_from(time: Duration) -> Duration {
    time / IDLE_PART
}

/// Whether the connection passes it: it has an entry, or tracks others over the same IP version and would have forgotten this one by
/// now.
fn passes(idle: &Idle, conntrack: &LocalConntrack) -> bool {
    let tracks = if idle.key.local.is_ipv4() { conntrack.tracks_v4 } else { conntrack.tracks_v6 };
    conntrack.known.contains(&(idle.key.local, idle.key.remote)) || (tracks && idle.idle_for >= conntrack.timeout)
}

/// What holds for this connection: the operator's idle timeout, or what local connection tracking has, where it has it and that
/// is shorter. `None` where nothing is on the way that could forget it.
pub fn limit(idle: &Idle, idle_timeout: Duration, conntrack: Option<&LocalConntrack>) -> Option<Limit> {
    let by_operator = Limit { time: idle_timeout, set_by: LimitSource::IdleTimeout };
    if idle.peer_has_closed {
        // What its own application does not close is no matter of the way.
        return Some(by_operator);
    }
    match conntrack {
        Some(conntrack) if conntrack.timeout < idle_timeout && passes(idle, conntrack) => {
            Some(Limit { time: conntrack.timeout, set_by: LimitSource::Conntrack })
        }
        Some(_) | None => (!stays_on_this_host(idle)).then_some(by_operator),
    }
}

/// Whether both ends are in this namespace: then packets pass no other host.
fn stays_on_this_host(idle: &Idle) -> bool {
    let (local, remote) = (idle.key.local.ip(), idle.key.remote.ip());
    local == remote || remote.is_loopback()
}
