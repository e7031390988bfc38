//! The way of a forwarded packet: it came in by one interface, and the route from there says by which it leaves. What comes in by a port
//! of a bridge or of Open vSwitch leaves by another port, which no route knows but the address of the link layer tells ([`Ports`]).

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    route::{RouteAttribute, RouteType},
};
use netlink_packet_sock_diag::constants::IPPROTO_TCP;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{
    machine::{Machines, tap_behind},
    peer,
    ports::Ports,
};
use crate::{
    model::{Behind, ConnectionKey, ForwardPath, Interface, LinkAddress, Port},
    witness::{
        netlink::Netlink,
        netns::{Namespaces, Roster},
        path::{prefix_length, route_address, to},
    },
};

/// How a packet came in: by which interface, and for which address of the link layer.
pub(in crate::witness) type Arrival = (u32, Option<LinkAddress>);

/// Looks up the ways of these flows of one namespace, each with how its packet came in.
pub(in crate::witness) fn look_up_all(
    namespaces: &mut Namespaces,
    roster: &mut Roster,
    netns: u32,
    asked: &[(ConnectionKey, Arrival)],
) -> Vec<Result<ForwardPath, String>> {
    let found = namespaces.ask_about(netns, "rtnetlink", asked, |asked| {
        let (mut machines, mut ports) = (Machines::default(), Ports::default());
        Ok(asked.iter().map(|(key, arrival)| query(key, *arrival, &mut machines, &mut ports)).collect::<Vec<_>>())
    });
    let peers: HashSet<i32> = found.iter().flatten().flat_map(Found::peers).collect();
    let peers = if peers.is_empty() { HashMap::new() } else { peer::resolve(namespaces, roster, netns, &peers) };
    found.into_iter().map(|path| path.map(|path| path.resolved(&peers))).collect()
}

/// A way of which the network namespaces behind veth pairs have only the numbers that this namespace gives them.
struct Found {
    path: ForwardPath,
    ingress_peer: Option<i32>,
    egress_peer: Option<i32>,
}

impl Found {
    fn peers(&self) -> impl Iterator<Item = i32> + use<> {
        [self.ingress_peer, self.egress_peer].into_iter().flatten()
    }

    fn resolved(mut self, inodes: &HashMap<i32, u32>) -> ForwardPath {
        let ports = [(&mut self.path.ingress, self.ingress_peer), (&mut self.path.egress, self.egress_peer)];
        for (port, peer) in ports {
            if let (Some(port), Some(inode)) = (port, peer.and_then(|peer| inodes.get(&peer)))
                && port.behind.is_none()
            {
                port.behind = Some(Behind::Netns(*inode));
            }
        }
        self.path
    }
}

/// Looks up in the namespace this thread is in.
fn query(
    key: &ConnectionKey,
    (ingress, destination_mac): Arrival,
    machines: &mut Machines,
    ports: &mut Ports,
) -> io::Result<Found> {
    let rtnetlink = Rtnetlink(Netlink::open(NETLINK_ROUTE)?);
    let link = rtnetlink.link(ingress)?;
    let bridge = link.as_ref().and_then(|link| link.controller);
    let (ends_here, by_route) = rtnetlink.forward(key, if bridge.is_some() { None } else { Some(ingress) })?;
    let egress = match (bridge, by_route, destination_mac) {
        _ if ends_here => None,
        (None, Some(index), _) => rtnetlink.link(index)?,
        (Some(bridge), _, Some(mac)) => ports.towards(&rtnetlink, bridge, ingress, mac)?,
        (None, None, _) | (Some(_), _, None) => None,
    };
    let peer = |link: &Option<Link>| link.as_ref().and_then(|link| link.peer);
    let (ingress_peer, egress_peer) = (peer(&link), peer(&egress));
    let path = ForwardPath {
        ends_here,
        ingress: link.map(|link| link.into_port(machines)),
        egress: egress.map(|link| link.into_port(machines)),
    };
    Ok(Found { path, ingress_peer, egress_peer })
}

/// What is told of an interface.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) interface: Interface,
    /// Its address of the link layer.
    pub(super) mac: Option<LinkAddress>,
    /// The bridge, or Open vSwitch, that has it as a port.
    pub(super) controller: Option<u32>,
    kind: Option<InfoKind>,
    /// The number that this namespace has for the one that the other end of a veth pair is in.
    pub(super) peer: Option<i32>,
    /// The index that the other end has there.
    pub(super) peer_index: Option<u32>,
}

impl Link {
    pub(super) fn of(message: &LinkMessage) -> Self {
        let mut link = Self {
            interface: Interface { index: message.header.index, name: String::new() },
            mac: None,
            controller: None,
            kind: None,
            peer: None,
            peer_index: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.interface.name.clone_from(name),
                LinkAttribute::LinkNetNsId(number) => link.peer = Some(*number),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Link(index) => link.peer_index = Some(*index),
                LinkAttribute::Controller(index) => link.controller = Some(*index).filter(|index| *index != 0),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.clone()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        // Other kinds are upon a device of that namespace, such as a MACVLAN.
        link.peer = link.peer.filter(|_| link.kind == Some(InfoKind::Veth));
        link
    }

    fn into_port(self, machines: &mut Machines) -> Port {
        let is_tap = self.kind == Some(InfoKind::Tun);
        let machine = tap_behind(&self.interface.name, is_tap).and_then(|tap| machines.of_tap(tap));
        Port { behind: machine.map(Behind::Machine), interface: self.interface }
    }
}

pub(super) struct Rtnetlink(pub(super) Netlink);

impl Rtnetlink {
    /// `None` when it has gone.
    pub(super) fn link(&self, index: u32) -> io::Result<Option<Link>> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        self.ask_link(request)
    }

    pub(super) fn ask_link(&self, request: LinkMessage) -> io::Result<Option<Link>> {
        match self.0.ask(RouteNetlinkMessage::GetLink(request))? {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(answer)) => Ok(Some(Link::of(&answer))),
            _ => Ok(None),
        }
    }

    /// Asks which way a packet to `key.local` goes that came in by this interface (`ip route get TO from FROM iif INTERFACE`), or where
    /// that says nothing, whether it is for this host at all: whether it is, and by which interface it leaves.
    fn forward(&self, key: &ConnectionKey, ingress: Option<u32>) -> io::Result<(bool, Option<u32>)> {
        let (from, to_address): (IpAddr, IpAddr) = (key.remote.ip(), key.local.ip());
        let mut request = to(to_address);
        if let Some(index) = ingress {
            request.header.source_prefix_length = prefix_length(from);
            request.attributes.extend([
                RouteAttribute::Source(route_address(from)),
                RouteAttribute::Iif(index),
                RouteAttribute::IpProto(IPPROTO_TCP),
                RouteAttribute::Sport(key.remote.port()),
                RouteAttribute::Dport(key.local.port()),
            ]);
        }
        Ok(match self.0.ask(RouteNetlinkMessage::GetRoute(request))? {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(answer)) => {
                let egress = answer.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                });
                (answer.header.kind == RouteType::Local, egress)
            }
            // No way on from there: the reverse-path filter, no forwarding, or an address that none may come from.
            _ if ingress.is_some() => self.forward(key, None)?,
            _ => (false, None),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_this_host_is_not_forwarded() {
        let key = ConnectionKey { netns: 1, local: ([127, 0, 0, 1], 1).into(), remote: ([127, 0, 0, 1], 2).into() };
        let path = query(&key, (1, None), &mut Machines::default(), &mut Ports::default()).unwrap().path;
        assert!(path.ends_here);
        assert_eq!((path.ingress.unwrap().interface.name.as_str(), path.egress), ("lo", None));
    }
}
