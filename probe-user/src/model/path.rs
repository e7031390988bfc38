use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The way from a connection's namespace to its peer, as rtnetlink shows it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStatus {
    /// Whether the local address is one of the namespace: on an interface, or local by a route (`ip route add local`).
    pub local_address: bool,
    /// What of the socket decides on the way of its segments.
    pub socket: SocketRouting,
    /// The route to the peer, else what looking it up gave, a positive errno.
    pub route: Result<Route, i32>,
    /// The interface the connection's last segment came in by, where that is known.
    pub ingress: Option<Interface>,
    /// How strictly that interface filters by the reverse path (`net.ipv4.conf.*.rp_filter`, the higher of its own and that of
    /// `all`): 0 not at all, 1 strictly, 2 loosely. `None` for IPv6, which has no such filter, or where it cannot be read.
    pub reverse_path_filter: Option<u8>,
}

impl PathStatus {
    /// Whether the local address is missed: it is not one of the namespace, and the socket is not one that may do without.
    pub fn address_is_gone(&self) -> bool {
        !self.local_address && self.socket.transparent != Some(true)
    }

    /// The interface that segments come in by and the one they leave by, where both are known and differ.
    pub fn mismatch(&self) -> Option<(&Interface, &Interface)> {
        let (ingress, egress) = (self.ingress.as_ref()?, &self.route.as_ref().ok()?.egress);
        (ingress.index != egress.index).then_some((ingress, egress))
    }

    /// Why there is no route, a positive errno. Where the route was asked for without something that the socket has, policy routing
    /// may know another answer: that says nothing.
    pub fn no_route(&self) -> Option<i32> {
        let was_asked_for_as_it_is = self.local_address && self.socket.mark.is_some();
        self.route.as_ref().err().copied().filter(|_| was_asked_for_as_it_is)
    }
}

/// What of a socket decides on the way of its segments besides their addresses and ports (`ip_route_output_ports`,
/// `include/net/route.h`). `None` is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketRouting {
    /// `SO_MARK`; 0 stands for none.
    pub mark: Option<u32>,
    /// `SO_BINDTODEVICE`, or the VRF it was accepted in: index of the interface; 0 stands for none.
    pub bound_to: Option<u32>,
    /// `IP_TRANSPARENT`: it may send from an address that is nobody's on this host (TPROXY, HAProxy's `usesrc`).
    pub transparent: Option<bool>,
}

/// Where a packet to the peer would go now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The interface it leaves by.
    pub egress: Interface,
    /// The router it goes to; `None` when the peer is on the link itself.
    pub gateway: Option<IpAddr>,
    /// What is known of that router, or of the peer where there is none.
    pub neighbour: Option<NeighbourState>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name; empty when it has gone.
    pub name: String,
}

/// Whether a neighbour's link address is known (`NUD_*`, `include/uapi/linux/neighbour.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NeighbourState {
    /// It is known, or none is needed.
    Resolved,
    /// It is being asked for.
    Incomplete,
    /// Nobody has answered.
    Failed,
}

impl NeighbourState {
    /// Whether it does not answer. One that is there answers within milliseconds; so one that is still being asked when a connection
    /// has waited through several timeouts is not there either.
    pub const fn is_silent(self) -> bool {
        match self {
            Self::Incomplete | Self::Failed => true,
            Self::Resolved => false,
        }
    }

    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resolved => "resolved",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}
