//! What is known of idle connections in the namespace this thread is in: the connections themselves through `NETLINK_SOCK_DIAG`, the
//! ports that tell who opened them, and whether connection tracking remembers them.
//!
//! Not told by sock_diag: keepalive probes of the peer, which keep a connection known on the way as well.

use std::{collections::HashSet, fs, io, net::SocketAddr, ops::RangeInclusive, time::Duration};

use netlink_packet_sock_diag::inet::StateFlags;

use super::{conntrack, sockets};
use crate::model::{ConnectionEvent, LocalConntrack, LocalPorts, MonoTime};

/// Ports that outgoing connections get in the namespace of the reading thread.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Every connection that is open at this end, as of `now`, one after the other.
///
/// # Errors
///
/// When the kernel refuses the dump.
pub fn open_connections(
    netns: u32,
    now: impl Fn() -> MonoTime,
    mut each: impl FnMut(ConnectionEvent),
) -> io::Result<()> {
    sockets::dump(&(StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT), |response| {
        if let Some(event) = sockets::event(netns, response, now()) {
            each(event);
        }
    })
}

/// The ports that tell who opened a connection. What cannot be read is not known: then the other ports have to tell.
pub fn local_ports() -> LocalPorts {
    let mut listening = HashSet::new();
    let dumped = sockets::dump(&StateFlags::LISTEN, |response| {
        listening.insert(response.header.socket_id.source_port);
    });
    if let Err(error) = dumped {
        tracing::debug!(%error, "the listening ports cannot be read");
    }
    LocalPorts { listening, ephemeral: ephemeral_ports() }
}

fn ephemeral_ports() -> Option<RangeInclusive<u16>> {
    let text = fs::read_to_string(EPHEMERAL).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
}

/// How long connection tracking remembers an idle connection; `None` where it is not at work.
pub fn conntrack_timeout() -> Option<Duration> {
    conntrack::established_timeout()
}

/// What connection tracking knows of these connections, in one dump an IP version.
///
/// # Errors
///
/// When the kernel refuses the dump, as without `CAP_NET_ADMIN`.
pub fn in_conntrack(timeout: Duration, wanted: &HashSet<(SocketAddr, SocketAddr)>) -> io::Result<LocalConntrack> {
    conntrack::known(timeout, wanted)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::judge::risk::{Idle, Probing, ServiceDirection, service};

    #[test]
    fn an_idle_connection_is_seen_from_both_ends_with_its_service_and_its_keepalive() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        nix::sys::socket::setsockopt(&server, nix::sys::socket::sockopt::KeepAlive, &true).unwrap();
        let ports = local_ports();
        for (socket, direction, probes) in
            [(&client, ServiceDirection::Outgoing, false), (&server, ServiceDirection::Accepted, true)]
        {
            let (local, remote) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
            let mut found = None;
            open_connections(1, MonoTime::default, |event| {
                if (event.key.local, event.key.remote) == (local, remote) {
                    found = Idle::of(&event);
                }
            })
            .unwrap();
            let idle = found.unwrap();
            assert!(idle.idle_for < Duration::from_secs(60), "{idle:?}");
            match idle.probing {
                Probing::Off => assert!(!probes),
                // The kernel's default is two hours.
                Probing::AfterAtLeast(time) => assert!(probes && time > Duration::from_secs(1)),
                Probing::After(_) | Probing::Unknown => panic!("{idle:?}"),
            }
            let service = service(&ports, &idle.key);
            assert_eq!((service.port, service.direction), (port, direction));
        }
    }
}
