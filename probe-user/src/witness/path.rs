//! The way to a peer, through rtnetlink in the connection's namespace: is the local address still there, which way would a packet
//! take, and does the next hop answer.

use std::{fs, io, net::IpAddr, ops::ControlFlow};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState as Nud},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::{errno::Errno, net::if_::if_indextoname};

use super::{netlink::Netlink, netns::Namespaces};
use crate::model::{ConnectionKey, Interface, NeighbourState, PathStatus, Route};

/// Looks up address and route of this connection, whose last segment came in by the interface with this index.
pub(super) fn look_up(
    namespaces: &mut Namespaces,
    key: &ConnectionKey,
    ingress_ifindex: Option<u32>,
) -> Result<PathStatus, String> {
    if key.netns == 0 {
        return Err("its network namespace is not known".to_owned());
    }
    let netns = namespaces.open(key.netns).map_err(|error| error.to_string())?;
    let found = netns.run(|| query(key, ingress_ifindex)).and_then(|found| found);
    found.map_err(|error| format!("rtnetlink in network namespace {}: {error}", key.netns))
}

/// Looks up in the namespace this thread is in.
fn query(key: &ConnectionKey, ingress_ifindex: Option<u32>) -> io::Result<PathStatus> {
    let rtnetlink = Rtnetlink(Netlink::open(NETLINK_ROUTE)?);
    let ingress = ingress_ifindex.filter(|index| *index > 0).map(interface);
    Ok(PathStatus {
        local_address: rtnetlink.has_address(key.local.ip())?,
        route: rtnetlink.route(key)?,
        reverse_path_filter: ingress.as_ref().filter(|_| key.local.is_ipv4()).and_then(reverse_path_filter),
        ingress,
    })
}

fn interface(index: u32) -> Interface {
    let name = if_indextoname(index).map(|name| name.to_string_lossy().into_owned());
    Interface { index, name: name.unwrap_or_default() }
}

/// `IN_DEV_RPFILTER` (`include/linux/inetdevice.h`): the higher of the two counts.
fn reverse_path_filter(interface: &Interface) -> Option<u8> {
    let of = |name: &str| -> Option<u8> {
        fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok()?.trim().parse().ok()
    };
    Some(of("all")?.max(of(&interface.name)?))
}

/// A `NETLINK_ROUTE` socket of one namespace.
struct Rtnetlink(Netlink);

impl Rtnetlink {
    /// Whether an interface has this address. The whole of 127.0.0.0/8 is local without being listed address by address.
    fn has_address(&self, address: IpAddr) -> io::Result<bool> {
        if address.is_loopback() {
            return Ok(true);
        }
        let mut request = AddressMessage::default();
        request.header.family = family(address);
        let mut found = false;
        self.0.dump(RouteNetlinkMessage::GetAddress(request), |message| {
            if let RouteNetlinkMessage::NewAddress(entry) = message {
                found |= entry.attributes.iter().any(|attribute| is_local(attribute, address));
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Asks which way a packet to the peer would take (`ip route get REMOTE`); what the kernel answers when there is none is its
    /// errno. The local address is left out: whether it is there is asked apart.
    fn route(&self, key: &ConnectionKey) -> io::Result<Result<Route, i32>> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(key.remote.ip());
        let length = if key.remote.is_ipv4() { 32 } else { 128 };
        request.header.destination_prefix_length = length;
        request.attributes.push(RouteAttribute::Destination(route_address(key.remote.ip())));
        match self.0.ask(RouteNetlinkMessage::GetRoute(request))? {
            NetlinkPayload::Error(error) => match error.to_io().raw_os_error() {
                Some(errno) => Ok(Err(errno)),
                None => Err(error.to_io()),
            },
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(answer)) => {
                let (mut egress, mut gateway) = (0, None);
                for attribute in answer.attributes {
                    match attribute {
                        RouteAttribute::Oif(index) => egress = index,
                        RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(address.into()),
                        RouteAttribute::Gateway(RouteAddress::Inet6(address)) => gateway = Some(address.into()),
                        // An IPv4 route over an IPv6 router (RFC 5549).
                        RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(address.into()),
                        _ => {}
                    }
                }
                let neighbour = self.neighbour(egress, gateway.unwrap_or(key.remote.ip()))?;
                Ok(Ok(Route { egress: interface(egress), gateway, neighbour }))
            }
            _ => Err(io::Error::other("an answer of another kind")),
        }
    }

    /// What the neighbour table says of this address (`ip neighbour get ADDRESS dev INTERFACE`); `None` when it is not in it.
    fn neighbour(&self, interface: u32, address: IpAddr) -> io::Result<Option<NeighbourState>> {
        let mut request = NeighbourMessage::default();
        request.header.family = family(address);
        request.header.ifindex = interface;
        request.attributes.push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        }));
        match self.0.ask(RouteNetlinkMessage::GetNeighbour(request))? {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(answer)) => {
                Ok(Some(match answer.header.state {
                    Nud::Failed => NeighbourState::Failed,
                    Nud::Incomplete => NeighbourState::Incomplete,
                    // One without a state has just been made, and nobody has been asked.
                    Nud::None => return Ok(None),
                    _ => NeighbourState::Resolved,
                }))
            }
            // Not in the table; or a device without neighbours, such as loopback (EINVAL), or a kernel before 5.0 (EOPNOTSUPP).
            NetlinkPayload::Error(error) => match error.to_io().raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT | Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(None),
                Some(_) | None => Err(error.to_io()),
            },
            _ => Err(io::Error::other("an answer of another kind")),
        }
    }
}

/// Of a point-to-point link `IFA_LOCAL` is this end and `IFA_ADDRESS` the other; IPv6 has only the latter.
fn is_local(attribute: &AddressAttribute, address: IpAddr) -> bool {
    match attribute {
        AddressAttribute::Local(local) => *local == address,
        AddressAttribute::Address(local) => address.is_ipv6() && *local == address,
        _ => false,
    }
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

const fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_host_is_there_and_one_of_a_documentation_network_is_not() {
        let rtnetlink = Rtnetlink(Netlink::open(NETLINK_ROUTE).unwrap());
        assert!(rtnetlink.has_address("127.0.0.1".parse().unwrap()).unwrap());
        assert!(!rtnetlink.has_address("192.0.2.77".parse().unwrap()).unwrap());
        assert!(!rtnetlink.has_address("2001:db8::77".parse().unwrap()).unwrap());
    }

    #[test]
    fn the_way_to_oneself_is_the_loopback_interface() {
        let key = ConnectionKey { netns: 1, local: ([127, 0, 0, 1], 1).into(), remote: ([127, 0, 0, 1], 2).into() };
        let path = query(&key, Some(1)).unwrap();
        assert!(path.local_address);
        let route = path.route.unwrap();
        assert_eq!((route.egress.name.as_str(), route.gateway), ("lo", None));
        assert_eq!(path.ingress.unwrap().name, "lo");
        assert!(path.reverse_path_filter.is_some());
    }
}
