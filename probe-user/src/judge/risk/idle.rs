use std::time::Duration;

use super::{Limit, RiskKind};
use crate::model::{ConnectionEvent, ConnectionKey, Keepalive, SocketCookie, SocketView, TcpState};

/// A connection on which nothing waits and nothing has come or gone for some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Which.
    pub key: ConnectionKey,
    /// The socket, where known.
    pub cookie: Option<SocketCookie>,
    /// The inode of the socket's file; `None` where that is not known, `Some(0)` where no process holds it.
    pub inode: Option<u64>,
    /// Whether the peer has closed its half (CLOSE-WAIT); else it is ESTABLISHED.
    pub peer_has_closed: bool,
    /// For how long nothing has come or gone.
    pub idle_for: Duration,
    /// Whether the kernel will ask the peer.
    pub probing: Probing,
}

/// Whether and when an idle connection is probed by keepalive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probing {
    /// Keepalive is off.
    Off,
    /// After this time without traffic.
    After(Duration),
    /// After this time or a longer one.
    AfterAtLeast(Duration),
    /// This kernel does not tell.
    Unknown,
}

impl Idle {
    /// Of a socket as it was looked at; `None` of one that is not idle, or of which that is not known.
    pub fn of(event: &ConnectionEvent) -> Option<Self> {
        let socket = &event.socket;
        let peer_has_closed = match socket.state? {
            TcpState::Established => false,
            TcpState::CloseWait => true,
            TcpState::SynSent
            | TcpState::SynReceived
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::TimeWait
            | TcpState::Close
            | TcpState::LastAck
            | TcpState::Listen
            | TcpState::Closing
            | TcpState::NewSynReceived => return None,
        };
        // What waits for an answer is the business of findings.
        let waits = socket.write_seq? != socket.snd_una? || socket.probes_out.unwrap_or(0) > 0;
        let idle_for = socket.idle_for()?;
        (!waits).then(|| Self {
            key: event.key,
            cookie: socket.cookie,
            inode: socket.inode,
            peer_has_closed,
            idle_for,
            probing: Probing::of(socket, idle_for),
        })
    }

    /// The connection's state.
    pub const fn state(&self) -> TcpState {
        if self.peer_has_closed { TcpState::CloseWait } else { TcpState::Established }
    }

    /// What may go wrong with it where connections are forgotten after `limit`.
    pub fn kind(&self, limit: Limit) -> Option<RiskKind> {
        if self.idle_for < limit.idle_from() {
            return None;
        }
        if self.peer_has_closed {
            return Some(RiskKind::CloseWaitLeak);
        }
        match self.probing {
            Probing::Off => Some(RiskKind::IdleWithoutKeepalive),
            Probing::After(time) | Probing::AfterAtLeast(time) if time >= limit.time => {
                Some(RiskKind::KeepaliveTooLate)
            }
            Probing::After(_) | Probing::AfterAtLeast(_) | Probing::Unknown => None,
        }
    }
}

impl Probing {
    fn of(socket: &SocketView, idle_for: Duration) -> Self {
        match socket.keepalive {
            None => Self::Unknown,
            Some(Keepalive { enabled: false, .. }) => Self::Off,
            Some(Keepalive { idle: Some(time), .. }) => Self::After(time),
            // The timer is set for that time from when keepalive was turned on or the connection made, and, when it fires, anew for
            // what is left of that time since the last segment (`tcp_keepalive_timer`, `net/ipv4/tcp_timer.c`). After an answered
            // probe it waits an interval first, so that a longer one than the time is the time.
            Some(Keepalive { idle: None, .. }) => {
                socket.keepalive_due_in.map_or(Self::Unknown, |due_in| Self::AfterAtLeast(idle_for + due_in))
            }
        }
    }

    /// The time, or the shortest that it can be, and whether it is known.
    pub const fn time(self) -> Option<(Duration, bool)> {
        match self {
            Self::After(time) => Some((time, true)),
            Self::AfterAtLeast(time) => Some((time, false)),
            Self::Off | Self::Unknown => None,
        }
    }
}
