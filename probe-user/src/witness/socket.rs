//! One socket by its tuple, through `NETLINK_SOCK_DIAG` in its namespace (an exact look-up, not a dump).

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
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
    match exchange(request(key, cookie)) {
        Ok(Some(response)) => lookup(&response),
        Ok(None) => SocketLookup::Gone,
        Err(error) => SocketLookup::Unknown(format!("NETLINK_SOCK_DIAG: {error}")),
    }
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

/// Sends the request and takes the answer, which the kernel has queued by the time sending returns. `None`: no such socket.
fn exchange(request: InetRequest) -> io::Result<Option<InetResponse>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    let message = NetlinkMessage::<SockDiagMessage>::deserialize(&bytes).map_err(io::Error::other)?;
    match message.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => Ok(Some(*response)),
        NetlinkPayload::Error(error) => {
            let error = error.to_io();
            match error.raw_os_error().map(Errno::from_raw) {
                // ENOENT: no such socket. ESTALE: one with another cookie (`sock_diag_check_cookie`).
                Some(Errno::ENOENT | Errno::ESTALE) => Ok(None),
                Some(_) | None => Err(error),
            }
        }
        NetlinkPayload::InnerMessage(_)
        | NetlinkPayload::Done(_)
        | NetlinkPayload::Noop
        | NetlinkPayload::Overrun(_) => Err(io::Error::other("an answer of another kind")),
        _ => Err(io::Error::other("an answer of an unknown kind")),
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
