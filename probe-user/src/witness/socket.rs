//! One socket by its tuple, through `NETLINK_SOCK_DIAG` in its namespace (exact look-ups, not a dump).
//!
//! "No such socket" ends a case, so three things that look like it are told apart. A look-up without an interface misses sockets
//! bound to one (`SO_BINDTODEVICE`, VRFs, link-local IPv6): they are asked for by each interface (`inet_match`,
//! `include/net/inet_hashtables.h`). A look-up that finds no connection goes on to listeners and answers with one (`inet_lookup`). And
//! a kernel without `tcp_diag` answers ENOENT to everything.

use std::{io, ops::ControlFlow, time::Duration};

use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, Timer, nlas::Nla},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::{errno::Errno, net::if_::if_nameindex};

use super::{
    netlink::{Netlink, unexpected},
    netns::{Namespaces, NetnsError},
};
use crate::model::{ConnectionKey, SocketCookie, SocketLookup, SocketStatus, SocketTimer, TcpState};

/// Looks up the sockets with these tuples and, where known, these cookies, all of one namespace.
pub(super) fn look_up_all(
    namespaces: &mut Namespaces,
    netns: u32,
    asked: &[(ConnectionKey, Option<SocketCookie>)],
) -> Vec<SocketLookup> {
    let all = |lookup: SocketLookup| vec![lookup; asked.len()];
    if netns == 0 {
        return query_all(asked)
            .into_iter()
            .zip(asked)
            .map(|(lookup, (_, cookie))| found_here(lookup, *cookie))
            .collect();
    }
    match namespaces.open(netns) {
        Ok(netns) => netns.run(|| query_all(asked)).unwrap_or_else(|error| {
            all(SocketLookup::Unknown(format!("network namespace {} cannot be entered: {error}", netns.inode)))
        }),
        // Orphaned sockets hold their namespace until TCP gives them up (`sk_net_refcnt`, `__sk_destruct` in `net/core/sock.c`), as when a
        // container is killed: that it cannot be reached says nothing of them.
        Err(NetnsError::NoSuchInode(inode)) => {
            let why = "has neither a process nor a name, as after the end of a container";
            all(SocketLookup::Unknown(format!("network namespace {inode} {why}")))
        }
        Err(error) => all(SocketLookup::Unknown(error.to_string())),
    }
}

/// Of a connection whose namespace is not known. A cookie is never given twice, in no namespace: with one, a socket found in
/// this program's namespace is the right one.
fn found_here(lookup: SocketLookup, cookie: Option<SocketCookie>) -> SocketLookup {
    if cookie.is_some() && matches!(lookup, SocketLookup::Found(_)) {
        lookup
    } else {
        SocketLookup::Unknown("its network namespace is not known".to_owned())
    }
}

/// Looks up in the namespace this thread is in.
fn query_all(asked: &[(ConnectionKey, Option<SocketCookie>)]) -> Vec<SocketLookup> {
    let failed = |error: &io::Error| SocketLookup::Unknown(format!("NETLINK_SOCK_DIAG: {error}"));
    match Diag::open() {
        Ok(diag) => asked
            .iter()
            .map(|(key, cookie)| diag.look_up(key, *cookie).unwrap_or_else(|error| failed(&error)))
            .collect(),
        Err(error) => vec![failed(&error); asked.len()],
    }
}

/// A `NETLINK_SOCK_DIAG` socket of one namespace.
pub(super) struct Diag(Netlink);

impl Diag {
    /// Opens one in the namespace this thread is in.
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_SOCK_DIAG).map(Self)
    }

    fn look_up(&self, key: &ConnectionKey, cookie: Option<SocketCookie>) -> io::Result<SocketLookup> {
        match self.find(key, cookie)? {
            Some(response) => Ok(lookup(&response)),
            None if self.knows_tcp()? => Ok(SocketLookup::Gone),
            None => Ok(SocketLookup::Unknown("this kernel cannot look up TCP sockets (it lacks tcp_diag)".to_owned())),
        }
    }

    /// The same of a socket that is bound to no interface, without a look at each: for where one is unlikely to be at all.
    pub(super) fn look_up_unbound(&self, key: &ConnectionKey) -> io::Result<Option<SocketLookup>> {
        Ok(self.find_on(key, None, 0)?.as_ref().map(lookup))
    }

    /// The connection's socket, bound to an interface or not. `None`: there is none, or the kernel has no `tcp_diag`.
    pub(super) fn find(&self, key: &ConnectionKey, cookie: Option<SocketCookie>) -> io::Result<Option<InetResponse>> {
        if let Some(response) = self.find_on(key, cookie, 0)? {
            return Ok(Some(response));
        }
        // A look-up takes microseconds, and this happens once for a connection that has ended.
        for interface in &if_nameindex()? {
            if let Some(response) = self.find_on(key, cookie, interface.index())? {
                return Ok(Some(response));
            }
        }
        Ok(None)
    }

    /// The same among the sockets that are bound to no interface or to this one.
    fn find_on(
        &self,
        key: &ConnectionKey,
        cookie: Option<SocketCookie>,
        interface: u32,
    ) -> io::Result<Option<InetResponse>> {
        match self.0.ask(SockDiagMessage::InetRequest(request(key, cookie, interface)))? {
            Ok(SockDiagMessage::InetResponse(response)) => Ok(is_of(key, &response).then_some(*response)),
            Ok(_) => Err(unexpected()),
            Err(errno) => match Errno::from_raw(errno) {
                // ENOENT: no such socket, or one with another cookie (`inet_diag_find_one_icsk`).
                Errno::ENOENT | Errno::ESTALE => Ok(None),
                _ => Err(io::Error::from_raw_os_error(errno)),
            },
        }
    }

    /// Whether `tcp_diag` is there: without it, every look-up answers ENOENT (`inet_diag_lock_handler`). A dump of the sockets in
    /// none of the states visits none, and ends with that error or without.
    fn knows_tcp(&self) -> io::Result<bool> {
        self.can_dump(IPPROTO_TCP)
    }

    fn can_dump(&self, protocol: u8) -> io::Result<bool> {
        let nothing = InetRequest {
            family: AF_INET,
            protocol,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::empty(),
            socket_id: SocketId::new_v4(),
        };
        match self.0.dump(SockDiagMessage::InetRequest(nothing), |_| ControlFlow::Continue(())) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn request(key: &ConnectionKey, cookie: Option<SocketCookie>, interface: u32) -> InetRequest {
    InetRequest {
        family: if key.local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO,
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: key.local.port(),
            destination_port: key.remote.port(),
            source_address: key.local.ip(),
            destination_address: key.remote.ip(),
            interface_id: interface,
            // All ones means any (`INET_DIAG_NOCOOKIE`).
            cookie: cookie.map_or([0xff; 8], cookie_bytes),
        },
    }
}

/// Two 32-bit halves in host byte order, the low one first (`sock_diag_save_cookie`).
fn cookie_bytes(SocketCookie(cookie): SocketCookie) -> [u8; 8] {
    let halves = if cfg!(target_endian = "big") { cookie.rotate_left(32) } else { cookie };
    halves.to_ne_bytes()
}

/// Whether the answer is about this connection, and not about a listener on its port, which has no remote port.
fn is_of(key: &ConnectionKey, response: &InetResponse) -> bool {
    let id = &response.header.socket_id;
    (id.source_port, id.destination_port) == (key.local.port(), key.remote.port())
        && id.source_address.to_canonical() == key.local.ip()
        && id.destination_address.to_canonical() == key.remote.ip()
}

fn lookup(response: &InetResponse) -> SocketLookup {
    let timer = match response.header.timer.as_ref() {
        // What is left of a socket in TIME-WAIT, and of a closed one in FIN-WAIT-2 (`inet_twsk_diag_fill`).
        Some(Timer::TimeWait) => return SocketLookup::Gone,
        Some(Timer::Retransmit(expires, _)) => Some((SocketTimer::Retransmission, *expires)),
        Some(Timer::KeepAlive(expires)) => Some((SocketTimer::Keepalive, *expires)),
        Some(Timer::Probe(expires)) => Some((SocketTimer::Persist, *expires)),
        None => None,
    };
    let state = match TcpState::from_kernel(response.header.state) {
        Some(TcpState::TimeWait | TcpState::Close) => return SocketLookup::Gone,
        Some(state) => state,
        None => return SocketLookup::Unknown(format!("the unknown TCP state {}", response.header.state)),
    };
    let info = response.nlas.iter().find_map(|attribute| match attribute {
        Nla::TcpInfo(info) => Some(info),
        _ => None,
    });
    match (info, state) {
        (Some(info), _) => SocketLookup::Found(SocketStatus {
            state,
            inode: response.header.inode,
            retransmits: info.retransmits,
            probes: info.probes,
            heard_ago: Duration::from_millis(info.last_ack_recv.min(info.last_data_recv).into()),
            data_ago: Some(Duration::from_millis(info.last_data_recv.into())),
            timer,
        }),
        // A request socket shows as SYN-RECEIVED, without counters (`inet_req_diag_fill`).
        (None, TcpState::SynReceived) => SocketLookup::Found(SocketStatus {
            state: TcpState::NewSynReceived,
            inode: 0,
            retransmits: match response.header.timer {
                Some(Timer::Retransmit(_, repeats)) => repeats,
                Some(Timer::KeepAlive(_) | Timer::Probe(_) | Timer::TimeWait) | None => 0,
            },
            probes: 0,
            heard_ago: Duration::ZERO,
            data_ago: None,
            timer,
        }),
        (None, _) => SocketLookup::Unknown("the kernel gave no tcp_info".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        net::{TcpListener, TcpStream},
        thread,
        time::Instant,
    };

    use super::*;
    use crate::witness::{netns, process};

    fn query(key: &ConnectionKey, cookie: Option<SocketCookie>) -> SocketLookup {
        query_all(&[(*key, cookie)]).remove(0)
    }

    fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, server)
    }

    fn canonical(address: std::net::SocketAddr) -> std::net::SocketAddr {
        std::net::SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    fn key(stream: &TcpStream) -> ConnectionKey {
        ConnectionKey {
            netns: netns::resolve("/proc/self/ns/net").unwrap().inode,
            local: canonical(stream.local_addr().unwrap()),
            remote: canonical(stream.peer_addr().unwrap()),
        }
    }

    /// The acknowledgment of a FIN may be delayed (RFC 9293 section 3.8.6.3).
    fn assert_soon_gone(key: &ConnectionKey) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match query(key, None) {
                SocketLookup::Gone => return,
                lookup => assert!(Instant::now() < deadline, "{lookup:?}"),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn an_established_socket_is_found_with_its_inode_and_its_inode_with_this_process() {
        let (client, _server) = pair("127.0.0.1");
        let SocketLookup::Found(status) = query(&key(&client), None) else { panic!() };
        assert_eq!((status.state, status.retransmits, status.timer), (TcpState::Established, 0, None));
        let owners = process::owners_of_sockets(&HashSet::from([u64::from(status.inode)]));
        let owner = owners.of(u64::from(status.inode)).unwrap().unwrap();
        assert_eq!(owner.pid, std::process::id());
    }

    #[test]
    fn ipv6_and_ipv4_on_an_ipv6_socket_are_found_too() {
        if let Ok(listener) = TcpListener::bind(("::", 0)) {
            let port = listener.local_addr().unwrap().port();
            for address in ["::1", "127.0.0.1"] {
                let client = TcpStream::connect((address, port)).unwrap();
                let (server, _) = listener.accept().unwrap();
                for end in [&client, &server] {
                    assert!(matches!(query(&key(end), None), SocketLookup::Found(_)), "{address}");
                }
            }
        }
    }

    #[test]
    fn no_socket_or_one_with_another_cookie_is_gone() {
        let (client, server) = pair("127.0.0.1");
        assert_eq!(query(&key(&client), Some(SocketCookie(u64::MAX - 1))), SocketLookup::Gone);
        let key = key(&client);
        drop(server);
        drop(client);
        assert_soon_gone(&key);
    }

    #[test]
    fn a_listener_is_not_taken_for_the_connection_it_once_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let key = ConnectionKey {
            netns: netns::resolve("/proc/self/ns/net").unwrap().inode,
            local: listener.local_addr().unwrap(),
            remote: "127.0.0.2:9".parse().unwrap(),
        };
        assert_eq!(query(&key, None), SocketLookup::Gone);
    }

    #[test]
    fn a_closed_socket_whose_fin_was_acknowledged_is_gone() {
        let (client, _server) = pair("127.0.0.1");
        let key = key(&client);
        drop(client);
        assert_soon_gone(&key);
    }

    #[test]
    fn a_connection_of_an_unknown_namespace_is_found_by_its_cookie_or_not_known() {
        let (client, _server) = pair("127.0.0.1");
        let here = ConnectionKey { netns: 0, ..key(&client) };
        let response = Diag::open().unwrap().find(&here, None).unwrap().unwrap();
        let halves = u64::from_ne_bytes(response.header.socket_id.cookie);
        let cookie = SocketCookie(if cfg!(target_endian = "big") { halves.rotate_left(32) } else { halves });
        let another = SocketCookie(cookie.0 ^ 1 << 40);
        let asked = [(here, Some(cookie)), (here, None), (here, Some(another))];
        let lookups = look_up_all(&mut Namespaces::default(), 0, &asked);
        assert!(
            matches!(&lookups[..], [SocketLookup::Found(_), SocketLookup::Unknown(_), SocketLookup::Unknown(_)]),
            "{lookups:?}"
        );
    }

    #[test]
    fn a_missing_handler_is_not_taken_for_a_missing_socket() {
        /// `IPPROTO_IGMP`, which has no sockets to look up.
        const IGMP: u8 = 2;
        let diag = Diag::open().unwrap();
        assert!(diag.knows_tcp().unwrap());
        assert!(!diag.can_dump(IGMP).unwrap());
    }
}
