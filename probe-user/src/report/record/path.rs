use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use super::schema::one_of_or_null;
use crate::model::{Knowledge, NeighbourState, PathStatus};

/// The way to the peer, as it was when last looked up.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PathBody {
    /// Whether the local address is one of the namespace: on an interface, or local by a route.
    pub local_address: bool,
    /// `SO_MARK` of the socket, 0 for none; `null` where it is not known (it takes `CAP_NET_ADMIN`).
    pub mark: Option<u32>,
    /// Whether the socket has `IP_TRANSPARENT`, and so needs no address of this host; `null` where it is not known (before Linux
    /// 5.10).
    pub transparent: Option<bool>,
    /// Name of the interface a packet to the peer would leave by; `null` when there is no route.
    pub egress_interface: Option<String>,
    /// The router it would go to; `null` when there is no route, or the peer is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Whether the link address of that router, or of the peer, is known: `resolved`, `incomplete` or `failed`; `null` when it has
    /// not been asked for.
    #[schemars(extend("enum" = one_of_or_null(["resolved", "incomplete", "failed"])))]
    pub next_hop: Option<&'static str>,
    /// What looking the route up gave, a positive errno; `null` when there is one.
    pub route_errno: Option<i32>,
    /// Name of the interface the last segment came in by; `null` where that is not known.
    pub ingress_interface: Option<String>,
    /// Whether segments come in by another interface than they would leave by; `null` where either is not known. By itself it
    /// is no fault.
    pub asymmetric: Option<bool>,
    /// Strictness of the reverse-path filter on the interface the last segment came in by: 0 none, 1 strict, 2 loose; `null` for
    /// IPv6 or where it cannot be read.
    pub reverse_path_filter: Option<u8>,
}

impl PathBody {
    pub(super) fn new(path: &Knowledge<PathStatus>) -> Option<Self> {
        let Knowledge::Known(path) = path else { return None };
        let route = path.route.as_ref().ok();
        let ingress = path.ingress.as_ref();
        Some(Self {
            local_address: path.local_address,
            mark: path.socket.mark,
            transparent: path.socket.transparent,
            egress_interface: route.map(|route| route.egress.name.clone()),
            gateway: route.and_then(|route| route.gateway),
            next_hop: route.and_then(|route| route.neighbour).map(NeighbourState::name),
            route_errno: path.route.as_ref().err().copied(),
            ingress_interface: ingress.map(|ingress| ingress.name.clone()),
            asymmetric: route.zip(ingress).map(|(route, ingress)| route.egress.index != ingress.index),
            reverse_path_filter: path.reverse_path_filter,
        })
    }
}
