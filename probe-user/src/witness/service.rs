//! Who listens on a connection's local port, and which established connections that port has with the same peer, through a dump of
//! `NETLINK_SOCK_DIAG` limited to those states. One dump of a namespace serves all that ask.

use std::{collections::HashMap, io, net::IpAddr};

use netlink_packet_sock_diag::inet::StateFlags;

use super::{netns::Namespaces, sockets};
use crate::model::{ConnectionKey, ServiceStatus, TcpState};

/// Looks up the services of these connections, all of one namespace.
pub(super) fn look_up_all(
    namespaces: &mut Namespaces,
    netns: u32,
    asked: &[ConnectionKey],
) -> Vec<Result<ServiceStatus, String>> {
    namespaces.ask_about(netns, "NETLINK_SOCK_DIAG", asked, |asked| {
        let services = Services::of(asked)?;
        Ok(asked.iter().map(move |key| Ok(services.status(key))))
    })
}

/// What one dump has shown of the ports that were asked for.
struct Services {
    /// By port and address; the unspecified address listens on all.
    listeners: HashMap<(u16, IpAddr), u32>,
    /// By local port and peer.
    established: HashMap<(u16, IpAddr), usize>,
}

impl Services {
    /// Of the namespace this thread is in.
    fn of(asked: &[ConnectionKey]) -> io::Result<Self> {
        let mut services = Self {
            listeners: HashMap::new(),
            established: asked.iter().map(|key| ((key.local.port(), key.remote.ip()), 0)).collect(),
        };
        sockets::dump(&(StateFlags::LISTEN | StateFlags::ESTABLISHED), |response| {
            let id = &response.header.socket_id;
            if TcpState::from_kernel(response.header.state) == Some(TcpState::Listen) {
                let place = (id.source_port, id.source_address.to_canonical());
                services.listeners.insert(place, response.header.inode);
            } else if let Some(count) =
                services.established.get_mut(&(id.source_port, id.destination_address.to_canonical()))
            {
                *count += 1;
            }
        })?;
        Ok(services)
    }

    fn status(&self, key: &ConnectionKey) -> ServiceStatus {
        let port = key.local.port();
        let listener = |address: IpAddr| self.listeners.get(&(port, address)).copied();
        ServiceStatus {
            listener_inode: listener(key.local.ip())
                .or_else(|| listener(std::net::Ipv4Addr::UNSPECIFIED.into()))
                .or_else(|| listener(std::net::Ipv6Addr::UNSPECIFIED.into())),
            connections_with_peer: self.established.get(&(port, key.remote.ip())).copied().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::witness::netns;

    #[test]
    fn a_listener_is_found_and_its_connections_with_a_peer_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let _client = TcpStream::connect(local).unwrap();
        let netns = netns::resolve("/proc/self/ns/net").unwrap().inode;
        let key = |remote: &str| ConnectionKey { netns, local, remote: remote.parse().unwrap() };
        let asked = [key("127.0.0.1:9"), key("127.0.0.2:9")];
        let found = look_up_all(&mut Namespaces::default(), netns, &asked);
        let counts: Vec<_> = found.iter().map(|service| service.as_ref().unwrap().connections_with_peer).collect();
        assert_eq!(counts, [1, 0]);
        assert!(found.iter().all(|service| service.as_ref().unwrap().listener_inode.is_some()));
        drop(listener);
        let found = look_up_all(&mut Namespaces::default(), netns, &asked);
        assert_eq!(found[0].as_ref().unwrap().listener_inode, None);
    }
}
