use std::time::Duration;

use super::{ConnectionKey, SocketCookie, TcpState};

/// What the tracker wants to know from outside. Each is answered by one [`Answer`], also when the witness cannot say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// How is this socket now?
    Socket {
        /// The connection.
        key: ConnectionKey,
        /// Its cookie, where known: a socket of another cookie on this tuple is another connection.
        cookie: Option<SocketCookie>,
    },
    /// Which process holds this socket?
    Owner {
        /// The connection.
        key: ConnectionKey,
        /// The socket's inode number in `sockfs`, as in `/proc/PID/fd` links (`socket:[N]`).
        inode: u32,
    },
}

/// What a witness said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Socket`].
    Socket {
        /// The connection asked about.
        key: ConnectionKey,
        /// What was found.
        lookup: SocketLookup,
    },
    /// To [`Question::Owner`].
    Owner {
        /// The connection asked about.
        key: ConnectionKey,
        /// The process, `Ok(None)` when no process holds the socket any more, or why it cannot be known.
        owner: Result<Option<Owner>, String>,
    },
}

/// The result of looking a socket up by its tuple.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketLookup {
    /// It is there.
    Found(SocketStatus),
    /// There is no such full socket in that namespace: it is closed or in TIME-WAIT, or the namespace is gone.
    Gone,
    /// The witness could not find out, for this reason.
    Unknown(String),
}

/// A full socket as `NETLINK_SOCK_DIAG` shows it (`inet_sk_diag_fill`, `net/ipv4/inet_diag.c`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketStatus {
    /// State.
    pub state: TcpState,
    /// `sockfs` inode number; 0 when no process holds the socket.
    pub inode: u32,
    /// Retransmission timeouts since the peer last acknowledged new data (`tcpi_retransmits`).
    pub retransmits: u8,
    /// Which timer is pending (`idiag_timer`), and in how long it fires.
    pub timer: Option<(SocketTimer, Duration)>,
}

/// A pending socket timer as `ss` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketTimer {
    /// Retransmission, loss probe or reordering timer (`on`).
    Retransmission,
    /// Keepalive timer (`keepalive`).
    Keepalive,
    /// Zero-window probe timer (`persist`).
    Persist,
}

/// The process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Process id in the initial namespace of this program.
    pub pid: u32,
    /// Command name, at most 15 bytes (`/proc/PID/comm`).
    pub comm: String,
    /// Path in the unified cgroup hierarchy; `None` where it cannot be read.
    pub cgroup: Option<String>,
    /// Container id by the conventions of container runtimes; `None` when the cgroup names none.
    pub container_id: Option<String>,
}
