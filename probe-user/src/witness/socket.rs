//! One socket by its tuple, through `NETLINK_SOCK_DIAG` in its namespace (an exact look-up, not a dump).

use std::{io, sync::OnceLock};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, Timer, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::errno::Errno;

use super::netns::{Namespaces, NetnsError};
use crate::model::{ConnectionKey, SocketCookie, SocketLookup, SocketStatus, SocketTimer, TcpState};

/// Looks up the socket with this tuple and, where known, this cookie.
pub(super) fn look_up(namespaces: &mut Namespaces, key: &ConnectionKey, cookie: Option<SocketCookie>) -> SocketLookup {
    let lookup = match namespaces.get(key.netns) {
        Ok(netns) => match netns.run(|| query(key, cookie)) {
            Ok(lookup) => lookup,
            Err(error) => SocketLookup::Unknown(format!("network namespace {} cannot be entered: {error}", key.netns)),
        },
        Err(NetnsError::NoSuchInode(_)) => SocketLookup::Gone,
        Err(error) => SocketLookup::Unknown(error.to_string()),
    };
    if lookup == SocketLookup::Gone {
        namespaces.release(key.netns);
    }
    lookup
}

/// The same in the namespace this thread is in.
fn query(key: &ConnectionKey, cookie: Option<SocketCookie>) -> SocketLookup {
    match exchange(request(key, cookie), NLM_F_REQUEST) {
        Ok(NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response))) => lookup(&response),
        Ok(_) => SocketLookup::Unknown("NETLINK_SOCK_DIAG: an answer of another kind".to_owned()),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            // No such socket, or one with another cookie (`sock_diag_check_cookie`).
            Some(Errno::ENOENT | Errno::ESTALE) if can_answer() => SocketLookup::Gone,
            Some(Errno::ENOENT) => {
                SocketLookup::Unknown("this kernel cannot look up TCP sockets (it lacks tcp_diag)".to_owned())
            }
            Some(_) | None => SocketLookup::Unknown(format!("NETLINK_SOCK_DIAG: {error}")),
        },
    }
}

/// Without `tcp_diag` the kernel gives the same error as for a socket that is not there (`inet_diag_lock_handler`). Asking for
/// all listeners, which are few, tells the two apart; it is done once.
fn can_answer() -> bool {
    static CAN_ANSWER: OnceLock<bool> = OnceLock::new();
    *CAN_ANSWER.get_or_init(|| {
        let request = InetRequest {
            family: AF_INET,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::LISTEN,
            socket_id: SocketId::new_v4(),
        };
        exchange(request, NLM_F_REQUEST | NLM_F_DUMP).is_ok()
    })
}

fn request(key: &ConnectionKey, cookie: Option<SocketCookie>) -> InetRequest {
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
            interface_id: 0,
            // All ones means any (`INET_DIAG_NOCOOKIE`). Two 32-bit halves, the low one first (`sock_diag_save_cookie`).
            cookie: cookie.map_or([0xff; 8], |cookie| cookie.0.to_le_bytes()),
        },
    }
}

/// Sends the request and takes the first message of the answer, which the kernel has queued by the time sending returns.
fn exchange(request: InetRequest, flags: u16) -> io::Result<NetlinkPayload<SockDiagMessage>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    match NetlinkMessage::<SockDiagMessage>::deserialize(&bytes).map_err(io::Error::other)?.payload {
        NetlinkPayload::Error(error) => Err(error.to_io()),
        payload => Ok(payload),
    }
}

fn lookup(response: &InetResponse) -> SocketLookup {
    let state = match TcpState::from_kernel(response.header.state) {
        // Neither has a full socket: what the case was about is over, or has not begun.
        Some(TcpState::TimeWait | TcpState::NewSynReceived | TcpState::Close) => return SocketLookup::Gone,
        Some(state) => state,
        None => return SocketLookup::Unknown(format!("the unknown TCP state {}", response.header.state)),
    };
    let Some(info) = response.nlas.iter().find_map(|attribute| match attribute {
        Nla::TcpInfo(info) => Some(info),
        _ => None,
    }) else {
        return SocketLookup::Unknown("the kernel gave no tcp_info".to_owned());
    };
    let timer = response.header.timer.as_ref().and_then(|timer| match timer {
        Timer::Retransmit(expires, _) => Some((SocketTimer::Retransmission, *expires)),
        Timer::KeepAlive(expires) => Some((SocketTimer::Keepalive, *expires)),
        Timer::Probe(expires) => Some((SocketTimer::Persist, *expires)),
        Timer::TimeWait => None,
    });
    SocketLookup::Found(SocketStatus { state, inode: response.header.inode, retransmits: info.retransmits, timer })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::witness::{netns, process};

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

    #[test]
    fn an_established_socket_is_found_with_its_inode_and_its_inode_with_this_process() {
        let (client, _server) = pair("127.0.0.1");
        let SocketLookup::Found(status) = query(&key(&client), None) else { panic!() };
        assert_eq!((status.state, status.retransmits, status.timer), (TcpState::Established, 0, None));
        let owner = process::owner_of_socket(status.inode).unwrap().unwrap();
        assert_eq!(owner.pid, std::process::id());
    }

    #[test]
    fn the_kernel_of_this_machine_can_answer() {
        assert!(can_answer());
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
        assert_eq!(query(&key, None), SocketLookup::Gone);
    }
}
