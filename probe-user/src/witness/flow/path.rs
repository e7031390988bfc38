//! The way of a forwarded packet: it came in by one interface, and the route from there says by which it leaves. What comes in by a port
//! of a bridge or of Open vSwitch leaves by another port, which no route knows but the address of the link layer tells ([`Ports`]).

use std::{
    collections::{HashMap, HashSet},
    io,
};

use netlink_packet_route::{
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    route::{RouteAttribute, RouteType},
};
use netlink_packet_sock_diag::constants::IPPROTO_TCP;

use super::{
    machine::{Machines, tap_behind},
    peer,
    ports::Ports,
};
use crate::{
    model::{Behind, ConnectionKey, ForwardPath, Interface, LinkAddress, Port},
    witness::{
        netns::{Namespaces, Roster},
        rtnetlink::{Rtnetlink, from, to},
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
    let rtnetlink = Rtnetlink::open()?;
    let arrived_by = link(&rtnetlink, ingress)?;
    let bridge = arrived_by.as_ref().and_then(|link| link.controller);
    let (ends_here, by_route) = forward(&rtnetlink, key, if bridge.is_some() { None } else { Some(ingress) })?;
    let egress = match (bridge, by_route, destination_mac) {
        _ if ends_here => None,
        (None, Some(index), _) => link(&rtnetlink, index)?,
        (Some(bridge), _, Some(mac)) => ports.towards(&rtnetlink, bridge, ingress, mac)?,
        (None, None, _) | (Some(_), _, None) => None,
    };
    let peer = |link: &Option<Link>| link.as_ref().and_then(|link| link.peer);
    let (ingress_peer, egress_peer) = (peer(&arrived_by), peer(&egress));
    let path = ForwardPath {
        ends_here,
        ingress: arrived_by.map(|link| link.into_port(machines)),
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

/// `None` when it has gone.
pub(super) fn link(rtnetlink: &Rtnetlink, index: u32) -> io::Result<Option<Link>> {
    let mut question = LinkMessage::default();
    question.header.index = index;
    Ok(rtnetlink.link(question)?.ok().as_ref().map(Link::of))
}

/// Asks which way a packet to `key.local` goes that came in by this interface (`ip route get TO from FROM iif INTERFACE`), or where
/// that says nothing, whether it is for this host at all: whether it is, and by which interface it leaves.
fn forward(rtnetlink: &Rtnetlink, key: &ConnectionKey, ingress: Option<u32>) -> io::Result<(bool, Option<u32>)> {
    let mut question = to(key.local.ip());
    if let Some(index) = ingress {
        question = from(key.remote.ip(), question);
        question.attributes.extend([
            RouteAttribute::Iif(index),
            RouteAttribute::IpProto(IPPROTO_TCP),
            RouteAttribute::Sport(key.remote.port()),
            RouteAttribute::Dport(key.local.port()),
        ]);
    }
    match rtnetlink.route(question)? {
        Ok(answer) => {
            let egress = answer.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            Ok((answer.header.kind == RouteType::Local, egress))
        }
        // No way on from there: the reverse-path filter, no forwarding, or an address that none may come from.
        Err(_) if ingress.is_some() => forward(rtnetlink, key, None),
        Err(_) => Ok((false, None)),
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
