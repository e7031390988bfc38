//! The way to a peer, through rtnetlink in the connection's namespace: is the local address still there, which way would a packet
//! take, and does the next hop answer. The route is asked for as the kernel asks for the socket's: by addresses, ports, user, mark and
//! the interface it is bound to, as far as `NETLINK_SOCK_DIAG` tells them.

use std::{collections::HashMap, fs, io, net::IpAddr};

use netlink_packet_core::Nla as _;
use netlink_packet_route::{
    address::AddressAttribute,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState as Nud},
    route::{RouteAddress, RouteAttribute, RouteType, RouteVia},
};
use netlink_packet_sock_diag::{
    constants::IPPROTO_TCP,
    inet::{InetResponse, nlas::Nla},
};
use nix::{errno::Errno, net::if_::if_indextoname};

use super::{
    netns::Namespaces,
    rtnetlink::{Rtnetlink, family, from, to},
    socket::Diag,
};
use crate::model::{ConnectionKey, Interface, NeighbourState, PathStatus, Route, SocketRouting};

/// Looks up address and route of these connections of one namespace, whose last segments came in by the interfaces with these
/// indices.
pub(super) fn look_up_all(
    namespaces: &mut Namespaces,
    netns: u32,
    asked: &[(ConnectionKey, Option<u32>)],
) -> Vec<Result<PathStatus, String>> {
    namespaces.ask_about(netns, "rtnetlink", asked, query_all)
}

/// Looks up in the namespace this thread is in.
fn query_all(asked: &[(ConnectionKey, Option<u32>)]) -> io::Result<Vec<io::Result<PathStatus>>> {
    let mut paths = Paths { rtnetlink: Rtnetlink::open()?, diag: Diag::open().ok(), local: HashMap::new() };
    Ok(asked.iter().map(|(key, ingress_ifindex)| paths.path(key, *ingress_ifindex)).collect())
}

/// What the paths of one namespace are looked up by, together.
struct Paths {
    rtnetlink: Rtnetlink,
    diag: Option<Diag>,
    /// Which local addresses are there: many connections share one.
    local: HashMap<IpAddr, bool>,
}

impl Paths {
    fn path(&mut self, key: &ConnectionKey, ingress_ifindex: Option<u32>) -> io::Result<PathStatus> {
        // What it cannot tell counts as not known.
        let socket = self.diag.as_ref().and_then(|diag| diag.find(key, None).ok().flatten());
        let local_address = self.is_local(key.local.ip())?;
        let ingress = ingress_ifindex.filter(|index| *index > 0).map(interface);
        Ok(PathStatus {
            local_address,
            socket: socket.as_ref().map(routing).unwrap_or_default(),
            route: route(&self.rtnetlink, key, socket.as_ref(), local_address)?,
            reverse_path_filter: ingress.as_ref().filter(|_| key.local.is_ipv4()).and_then(reverse_path_filter),
            ingress,
        })
    }

    fn is_local(&mut self, address: IpAddr) -> io::Result<bool> {
        if let Some(known) = self.local.get(&address) {
            return Ok(*known);
        }
        let is_local = is_local(&self.rtnetlink, address)?;
        self.local.insert(address, is_local);
        Ok(is_local)
    }
}

fn routing(socket: &InetResponse) -> SocketRouting {
    SocketRouting {
        mark: socket.nlas.iter().find_map(|attribute| match attribute {
            // Told to those with CAP_NET_ADMIN (`inet_diag_msg_attrs_fill`).
            Nla::Mark(mark) => Some(*mark),
            _ => None,
        }),
        bound_to: Some(socket.header.socket_id.interface_id),
        transparent: socket.nlas.iter().find_map(transparent),
    }
}

/// The flag in `struct inet_diag_sockopt` (`include/uapi/linux/inet_diag.h`), told from Linux 5.10 on.
fn transparent(attribute: &Nla) -> Option<bool> {
    const INET_DIAG_SOCKOPT: u16 = 22;
    /// The sixth bit-field of the first byte: they are counted from the lowest bit, or where the byte order is the other, from the
    /// highest.
    const TRANSPARENT: u8 = if cfg!(target_endian = "big") { 1 << 2 } else { 1 << 5 };
    let Nla::Other(other) = attribute else { return None };
    let mut bytes = vec![0; other.value_len()];
    other.emit_value(&mut bytes);
    (other.kind() == INET_DIAG_SOCKOPT).then_some(())?;
    bytes.first().map(|flags| flags & TRANSPARENT != 0)
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

/// Whether this is an address to send from: an interface has it, or a route says that it is local, as of all of 127.0.0.0/8
/// (`__ip_dev_find`, `net/ipv4/devinet.c`).
fn is_local(rtnetlink: &Rtnetlink, address: IpAddr) -> io::Result<bool> {
    Ok(has_address(rtnetlink, address)? || has_local_route(rtnetlink, address)?)
}

/// Whether packets to this address come to this host without an interface having it (`ip route add local PREFIX dev lo`).
fn has_local_route(rtnetlink: &Rtnetlink, address: IpAddr) -> io::Result<bool> {
    // Refused when there is no route at all.
    Ok(rtnetlink.route(to(address))?.is_ok_and(|route| route.header.kind == RouteType::Local))
}

/// Whether an interface has this address.
fn has_address(rtnetlink: &Rtnetlink, address: IpAddr) -> io::Result<bool> {
    let mut found = false;
    rtnetlink.addresses(family(address), |entry| {
        found |= entry.attributes.iter().any(|attribute| is_own(attribute, address));
    })?;
    Ok(found)
}

/// Of a point-to-point link `IFA_LOCAL` is this end and `IFA_ADDRESS` the other; IPv6 has only the latter.
fn is_own(attribute: &AddressAttribute, address: IpAddr) -> bool {
    match attribute {
        AddressAttribute::Local(local) => *local == address,
        AddressAttribute::Address(local) => address.is_ipv6() && *local == address,
        _ => false,
    }
}

/// Asks which way a packet to the peer would take (`ip route get REMOTE from LOCAL`); what the kernel answers when there is none is its
/// errno. A local address that is not there is left out: whether it is there is asked apart, and the kernel would answer nothing else.
fn route(
    rtnetlink: &Rtnetlink,
    key: &ConnectionKey,
    socket: Option<&InetResponse>,
    local_address: bool,
) -> io::Result<Result<Route, i32>> {
    let mut question = to(key.remote.ip());
    if local_address {
        question = from(key.local.ip(), question);
    }
    question.attributes.extend([
        RouteAttribute::IpProto(IPPROTO_TCP),
        RouteAttribute::Sport(key.local.port()),
        RouteAttribute::Dport(key.remote.port()),
    ]);
    if let Some(socket) = socket {
        let SocketRouting { mark, bound_to, transparent: _ } = routing(socket);
        question.attributes.push(RouteAttribute::Uid(socket.header.uid));
        question.attributes.extend(mark.filter(|mark| *mark != 0).map(RouteAttribute::Mark));
        question.attributes.extend(bound_to.filter(|index| *index != 0).map(RouteAttribute::Oif));
    }
    let answer = match rtnetlink.route(question)? {
        Ok(answer) => answer,
        Err(errno) => return Ok(Err(errno)),
    };
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
    let neighbour = neighbour(rtnetlink, egress, gateway.unwrap_or(key.remote.ip()))?;
    Ok(Ok(Route { egress: interface(egress), gateway, neighbour }))
}

/// What the neighbour table says of this address (`ip neighbour get ADDRESS dev INTERFACE`); `None` when it is not in it.
fn neighbour(rtnetlink: &Rtnetlink, interface: u32, address: IpAddr) -> io::Result<Option<NeighbourState>> {
    let mut question = NeighbourMessage::default();
    question.header.family = family(address);
    question.header.ifindex = interface;
    question.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }));
    match rtnetlink.neighbour(question)? {
        Ok(answer) => Ok(match answer.header.state {
            Nud::Failed => Some(NeighbourState::Failed),
            Nud::Incomplete => Some(NeighbourState::Incomplete),
            // One without a state has just been made, and nobody has been asked.
            Nud::None => None,
            _ => Some(NeighbourState::Resolved),
        }),
        Err(errno) => match Errno::from_raw(errno) {
            // Not in the table; or a device without neighbours, such as loopback (EINVAL), or a kernel before 5.0 (EOPNOTSUPP).
            Errno::ENOENT | Errno::EINVAL | Errno::EOPNOTSUPP => Ok(None),
            _ => Err(io::Error::from_raw_os_error(errno)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(key: &ConnectionKey, ingress_ifindex: Option<u32>) -> io::Result<PathStatus> {
        query_all(&[(*key, ingress_ifindex)])?.remove(0)
    }

    #[test]
    fn an_address_of_this_host_is_there_and_one_of_a_documentation_network_is_not() {
        let rtnetlink = Rtnetlink::open().unwrap();
        assert!(is_local(&rtnetlink, "127.0.0.1".parse().unwrap()).unwrap());
        assert!(!is_local(&rtnetlink, "192.0.2.77".parse().unwrap()).unwrap());
        assert!(!is_local(&rtnetlink, "2001:db8::77".parse().unwrap()).unwrap());
    }

    #[test]
    fn an_address_of_the_loopback_network_is_local_without_being_on_an_interface() {
        let rtnetlink = Rtnetlink::open().unwrap();
        let address = "127.77.0.1".parse().unwrap();
        assert!(!has_address(&rtnetlink, address).unwrap());
        assert!(is_local(&rtnetlink, address).unwrap());
    }

    #[test]
    fn what_decides_on_the_route_is_read_from_the_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let key = ConnectionKey { netns: 1, local: client.local_addr().unwrap(), remote: client.peer_addr().unwrap() };
        let path = query(&key, None).unwrap();
        assert_eq!((path.socket.bound_to, path.socket.transparent), (Some(0), Some(false)));
        // Without CAP_NET_ADMIN the mark is not told.
        assert!(matches!(path.socket.mark, None | Some(0)));
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
