use serde::{Deserialize, Serialize};

use super::{
    ConnectionKey, ConntrackStatus, DropPlace, DropTrace, FlowConntrack, FlowEnds, ForwardPath, LinkAddress,
    NeighbourState, Owner, PathStatus, Route, SocketCookie, SocketStatus, Tuple,
};

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
        inode: u64,
    },
    /// Is the local address still on this host, and which way would a packet to the peer take?
    Path {
        /// The connection.
        key: ConnectionKey,
        /// Index of the interface its last segment came in by, where known.
        ingress_ifindex: Option<u32>,
    },
    /// Does connection tracking still know it?
    Conntrack {
        /// The connection.
        key: ConnectionKey,
    },
    /// What serves the local port, and is the peer one of its clients otherwise?
    Service {
        /// The connection.
        key: ConnectionKey,
    },
    /// Which kernel function is at this address?
    Function {
        /// The connection whose segment was dropped there.
        key: ConnectionKey,
        /// The address.
        address: u64,
    },
    /// Which way does a packet take that is forwarded, to `key.local`?
    ForwardPath {
        /// The connection, named as the packet's receiver would.
        key: ConnectionKey,
        /// The interface it came in by.
        ingress_ifindex: u32,
        /// The address of the link layer it is for.
        destination_mac: Option<LinkAddress>,
    },
    /// What does connection tracking know of a forwarded connection?
    FlowConntrack {
        /// The connection, named as the packet's receiver would.
        key: ConnectionKey,
        /// Where to look.
        zone: InZone,
    },
    /// Which sockets of other network namespaces of this host are the ends of a forwarded connection?
    FlowEnds {
        /// The connection, named as the packet's receiver would.
        key: ConnectionKey,
        /// The receiver's socket: its local and its remote end.
        receiver: Tuple,
        /// The sender's.
        sender: Tuple,
    },
    /// Where in the kernel was it dropped, and by which rule?
    DropPlace {
        /// The connection whose segment was dropped.
        key: ConnectionKey,
        /// What is known of the drop.
        trace: DropTrace,
    },
}

impl Question {
    /// The connection it is about.
    pub const fn key(&self) -> &ConnectionKey {
        match self {
            Self::Socket { key, .. }
            | Self::Owner { key, .. }
            | Self::Path { key, .. }
            | Self::Conntrack { key }
            | Self::Service { key }
            | Self::Function { key, .. }
            | Self::DropPlace { key, .. }
            | Self::ForwardPath { key, .. }
            | Self::FlowConntrack { key, .. }
            | Self::FlowEnds { key, .. } => key,
        }
    }
}

/// In which zone of connection tracking to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InZone {
    /// In all of them, for which the kernel goes through its whole table.
    Any,
    /// In this one, where it was found before; and in all, where it is not there.
    First(u16),
    /// In this one alone, which takes a look-up.
    Only(u16),
}

/// What a witness said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// To [`Question::Path`].
    Path {
        /// The connection asked about.
        key: ConnectionKey,
        /// What was found, or why it cannot be known.
        path: Result<PathStatus, String>,
    },
    /// To [`Question::Conntrack`].
    Conntrack {
        /// The connection asked about.
        key: ConnectionKey,
        /// What was found, or why it cannot be known.
        conntrack: Result<ConntrackStatus, String>,
    },
    /// To [`Question::Service`].
    Service {
        /// The connection asked about.
        key: ConnectionKey,
        /// What was found, or why it cannot be known.
        service: Result<ServiceStatus, String>,
    },
    /// To [`Question::Function`].
    Function {
        /// The connection asked about.
        key: ConnectionKey,
        /// The address asked about.
        address: u64,
        /// The function's name; `Ok(None)` when none is there, or why it cannot be known.
        function: Result<Option<String>, String>,
    },
    /// To [`Question::ForwardPath`].
    ForwardPath {
        /// The connection asked about.
        key: ConnectionKey,
        /// What was found, or why it cannot be known.
        path: Result<ForwardPath, String>,
    },
    /// To [`Question::FlowConntrack`].
    FlowConntrack {
        /// The connection asked about.
        key: ConnectionKey,
        /// What was found, or why it cannot be known.
        conntrack: Result<FlowConntrack, String>,
    },
    /// To [`Question::FlowEnds`].
    FlowEnds {
        /// The connection asked about.
        key: ConnectionKey,
        /// What was found.
        ends: FlowEnds,
    },
    /// To [`Question::DropPlace`].
    DropPlace {
        /// The connection asked about.
        key: ConnectionKey,
        /// What was found, or why it cannot be known.
        place: Result<DropPlace, String>,
    },
}

/// What is known of something a witness was asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Knowledge<T> {
    /// Not asked, or not answered yet.
    #[default]
    NotAsked,
    /// As it was when last asked.
    Known(T),
    /// It cannot be known, for this reason.
    Unavailable(String),
}

impl<T> From<Result<T, String>> for Knowledge<T> {
    fn from(answer: Result<T, String>) -> Self {
        answer.map_or_else(Self::Unavailable, Self::Known)
    }
}

impl Knowledge<PathStatus> {
    /// Whether the local address is known to be gone.
    pub fn address_is_gone(&self) -> bool {
        matches!(self, Self::Known(path) if path.address_is_gone())
    }

    /// Whether the socket is known to be none that may do without an address of this host.
    pub fn needs_its_address(&self) -> bool {
        matches!(self, Self::Known(path) if path.socket.transparent == Some(false))
    }

    /// Whether segments are known to come in by another interface than they leave by.
    pub fn is_asymmetric(&self) -> bool {
        matches!(self, Self::Known(path) if path.mismatch().is_some())
    }

    /// Whether there is known to be no route.
    pub fn has_no_route(&self) -> bool {
        matches!(self, Self::Known(path) if path.no_route().is_some())
    }

    /// The route to a next hop that does not answer.
    pub fn silent_next_hop(&self) -> Option<&Route> {
        let Self::Known(PathStatus { route: Ok(route), .. }) = self else { return None };
        route.neighbour.is_some_and(NeighbourState::is_silent).then_some(route)
    }
}

/// The result of looking a socket up by its tuple.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketLookup {
    /// It is there.
    Found(SocketStatus),
    /// There is no such full socket in that namespace: it is closed or in TIME-WAIT, or the namespace is gone.
    Gone,
    /// The witness could not find out, for this reason.
    Unknown(String),
}

/// What this host serves on the local port of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// `sockfs` inode number of the socket that listens there; `None` when none does.
    pub listener_inode: Option<u32>,
    /// Established connections of the port with the same peer.
    pub connections_with_peer: usize,
}
