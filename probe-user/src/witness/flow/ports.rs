//! By which port of a bridge, or of Open vSwitch, a frame leaves: the one that leads to the address it is for.

use std::io;

use netlink_packet_route::{
    AddressFamily,
    link::{LinkAttribute, LinkMessage},
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::path::{Link, link};
use crate::{model::LinkAddress, witness::rtnetlink::Rtnetlink};

/// So many veth pairs are asked for the address of their other end.
const MOST_PEERS: usize = 1_024;

/// The ports of a namespace, listed once for all that are asked about together.
#[derive(Default)]
pub(super) struct Ports(Option<Vec<Port>>);

struct Port {
    link: Link,
    /// The address of the other end of a veth pair.
    peer_mac: Option<LinkAddress>,
}

impl Ports {
    /// The port of this bridge that leads to the address; `None` where that is not known.
    pub(super) fn towards(
        &mut self,
        rtnetlink: &Rtnetlink,
        bridge: u32,
        ingress: u32,
        mac: LinkAddress,
    ) -> io::Result<Option<Link>> {
        // Open vSwitch has learnt addresses, too, but its daemon keeps them to itself.
        if let Some(port) = forwarding_entry(rtnetlink, bridge, mac)? {
            return if port == ingress || port == bridge { Ok(None) } else { link(rtnetlink, port) };
        }
        let ports = match &mut self.0 {
            Some(ports) => ports,
            unknown @ None => unknown.insert(list(rtnetlink)?),
        };
        let leads_there = |port: &&Port| {
            port.link.controller == Some(bridge) && port.link.interface.index != ingress && port.leads_to(mac)
        };
        Ok(ports.iter().find(leads_there).map(|port| port.link.clone()))
    }
}

impl Port {
    fn leads_to(&self, mac: LinkAddress) -> bool {
        self.peer_mac == Some(mac) || self.link.mac.is_some_and(|own| own == mac || is_tap_of(own, mac))
    }
}

/// libvirt gives a tap the address of its machine, with 0xfe in front, so that no bridge takes it for its own
/// (`virNetDevTapCreateInBridgePort`).
fn is_tap_of(tap: LinkAddress, machine: LinkAddress) -> bool {
    let ([first, tap @ ..], [_, machine @ ..]) = (tap, machine);
    first == 0xfe && tap == machine
}

fn list(rtnetlink: &Rtnetlink) -> io::Result<Vec<Port>> {
    let mut links = Vec::new();
    rtnetlink.links(|link| links.extend(Some(Link::of(&link)).filter(|link| link.controller.is_some())))?;
    let mut asked = 0;
    let with_peer = |link: Link| {
        let is_asked = link.peer.is_some() && asked < MOST_PEERS;
        asked += usize::from(is_asked);
        let peer_mac = if is_asked { peer_mac(rtnetlink, &link) } else { None };
        Port { link, peer_mac }
    };
    Ok(links.into_iter().map(with_peer).collect())
}

/// The address of the other end of a veth pair, in another namespace: `IFLA_TARGET_NETNSID` spares entering it (Linux 4.20).
fn peer_mac(rtnetlink: &Rtnetlink, link: &Link) -> Option<LinkAddress> {
    let mut question = LinkMessage::default();
    question.header.index = link.peer_index?;
    question.attributes.push(LinkAttribute::IfNetnsId(link.peer?));
    Link::of(&rtnetlink.link(question).ok()?.ok()?).mac
}

/// The port by which a bridge has heard of this address (`rtnl_fdb_get`, Linux 5.0); `None` also of what is no bridge.
fn forwarding_entry(rtnetlink: &Rtnetlink, bridge: u32, mac: LinkAddress) -> io::Result<Option<u32>> {
    let mut question = NeighbourMessage::default();
    question.header.family = AddressFamily::Bridge;
    question.attributes =
        vec![NeighbourAttribute::LinkLayerAddress(mac.to_vec()), NeighbourAttribute::Controller(bridge)];
    Ok(match rtnetlink.neighbour(question)? {
        // An address of this host's own, which mostly is that of a port: what is for it goes no further over the bridge.
        Ok(answer) if answer.header.state == NeighbourState::Permanent => Some(bridge),
        Ok(answer) => Some(answer.header.ifindex),
        Err(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_has_the_address_of_its_machine_with_another_beginning() {
        let machine = [0xfa, 0x16, 0x3e, 1, 2, 3];
        assert!(is_tap_of([0xfe, 0x16, 0x3e, 1, 2, 3], machine));
        assert!(!is_tap_of([0xfe, 0x16, 0x3e, 1, 2, 4], machine));
        assert!(!is_tap_of([0x02, 0x16, 0x3e, 1, 2, 3], machine));
    }
}
