use std::{collections::HashSet, net::SocketAddr, ops::RangeInclusive, time::Duration};

/// The ports of a namespace that tell who opened a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalPorts {
    /// Ports that something listens on.
    pub listening: HashSet<u16>,
    /// Ports that outgoing connections get (`net.ipv4.ip_local_port_range`); `None` where that cannot be read.
    pub ephemeral: Option<RangeInclusive<u16>>,
}

/// What connection tracking of a namespace knows of idle connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalConntrack {
    /// After how long it forgets an idle connection.
    pub timeout: Duration,
    /// The idle connections it has an entry of, each as its socket sees it: local end, remote end.
    pub known: HashSet<(SocketAddr, SocketAddr)>,
    /// Whether it has any entry over IPv4.
    pub tracks_v4: bool,
    /// Whether it has any entry over IPv6.
    pub tracks_v6: bool,
}
