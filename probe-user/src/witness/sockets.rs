//! All sockets of a namespace that wait for an overdue answer, through `NETLINK_SOCK_DIAG`: what the scan by a BPF iterator finds,
//! where there is none, and without privileges.
//!
//! Not told that way: `TCP_USER_TIMEOUT`, the settings of keepalive, remembered ICMP errors, interfaces, and sequence numbers as
//! such, only how far apart they are.

use std::{io, ops::ControlFlow, time::Duration};

use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{
        ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, Timer,
        nlas::{Nla, TcpInfo},
    },
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::errno::Errno;

use super::netlink::Netlink;
use crate::model::{
    ConnectionEvent, ConnectionKey, EventKind, Keepalive, MonoTime, PendingTimer, SocketCookie, SocketTimer,
    SocketView, TcpState,
};

/// The sockets that wait in the namespace this thread is in, which has the inode number `netns`, as of `now`.
///
/// # Errors
///
/// When the kernel refuses the dump.
pub fn waiting(netns: u32, now: impl Fn() -> MonoTime) -> io::Result<Vec<ConnectionEvent>> {
    let states = StateFlags::ESTABLISHED
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::LAST_ACK
        | StateFlags::CLOSING;
    let mut found = Vec::new();
    dump(&states, |response| found.extend(waiting_event(netns, response, now())))?;
    Ok(found)
}

/// Every TCP socket in one of these states in the namespace this thread is in.
pub(super) fn dump(states: &StateFlags, mut each: impl FnMut(&InetResponse)) -> io::Result<()> {
    for (family, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let states = states.clone();
        let request =
            InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::INFO, states, socket_id: id };
        let dumped = Netlink::open(NETLINK_SOCK_DIAG)?.dump(SockDiagMessage::InetRequest(request), |message| {
            if let SockDiagMessage::InetResponse(response) = message {
                each(&response);
            }
            ControlFlow::Continue(())
        });
        match dumped {
            // A kernel without IPv6.
            Err(error) if family == AF_INET6 && error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            other => other?,
        }
    }
    Ok(())
}

/// The event of a socket that waits: the same choice as the kernel's iterator makes (`probe-ebpf/src/iter/waiting.rs`).
fn waiting_event(netns: u32, response: &InetResponse, at: MonoTime) -> Option<ConnectionEvent> {
    let info = tcp_info(response)?;
    let waits = info.retransmits > 0 || info.probes > 0 || info.backoff > 0;
    waits.then(|| event(netns, response, at)).flatten()
}

fn tcp_info(response: &InetResponse) -> Option<&TcpInfo> {
    response.nlas.iter().find_map(|attribute| match attribute {
        Nla::TcpInfo(info) => Some(info),
        _ => None,
    })
}

/// What sock_diag tells of a socket.
pub(super) fn event(netns: u32, response: &InetResponse, at: MonoTime) -> Option<ConnectionEvent> {
    let info = tcp_info(response)?;
    let id = &response.header.socket_id;
    let key = ConnectionKey {
        netns,
        local: (id.source_address.to_canonical(), id.source_port).into(),
        remote: (id.destination_address.to_canonical(), id.destination_port).into(),
    };
    Some(ConnectionEvent { at, key, socket: view(response, info)?, kind: EventKind::Scanned })
}

fn view(response: &InetResponse, info: &TcpInfo) -> Option<SocketView> {
    let header = &response.header;
    let state = TcpState::from_kernel(header.state)?;
    // `idiag_wqueue` of a full socket is `write_seq - snd_una` (`tcp_diag_get_info`, `net/ipv4/tcp_diag.c`).
    let unacknowledged = header.send_queue.saturating_sub(info.notsent_bytes);
    let rto = Duration::from_micros(info.rto.into());
    let timer = header.timer.as_ref().and_then(|timer| match timer {
        Timer::Retransmit(due_in, _) => Some(PendingTimer { kind: SocketTimer::Retransmission, due_in: *due_in }),
        Timer::Probe(due_in) => Some(PendingTimer { kind: SocketTimer::Persist, due_in: *due_in }),
        Timer::KeepAlive(_) | Timer::TimeWait => None,
    });
    let keepalive_due_in = match header.timer {
        Some(Timer::KeepAlive(due_in)) => Some(due_in),
        Some(Timer::Retransmit(..) | Timer::Probe(_) | Timer::TimeWait) | None => None,
    };
    #[expect(clippy::cast_possible_truncation, reason = "sequence numbers count modulo 2^32")]
    let snd_una = info.bytes_acked as u32;
    Some(SocketView {
        state: Some(state),
        cookie: Some(cookie(header.socket_id.cookie)),
        sequence_is_relative: true,
        snd_una: Some(snd_una),
        snd_nxt: Some(snd_una.wrapping_add(unacknowledged)),
        write_seq: Some(snd_una.wrapping_add(header.send_queue)),
        snd_wnd_bytes: Some(info.snd_wnd),
        packets_out: Some(info.unacked),
        total_retransmits: Some(info.total_retrans),
        retransmits: Some(info.retransmits),
        backoff: Some(info.backoff),
        probes_out: Some(info.probes),
        rto: Some(rto),
        retransmitting_for: timer
            .filter(|timer| timer.kind == SocketTimer::Retransmission)
            .filter(|_| info.retransmits > 0)
            .map(|timer| retransmitting_for(rto, info.backoff, timer.due_in)),
        last_ack_ago: Some(Duration::from_millis(info.last_ack_recv.into())),
        last_data_ago: Some(Duration::from_millis(info.last_data_recv.into())),
        timer,
        keepalive: keepalive_on(state, header.timer.as_ref()).map(|enabled| Keepalive {
            enabled,
            idle: None,
            interval: None,
            probes: None,
        }),
        keepalive_due_in,
        inode: Some(header.inode.into()),
        ..SocketView::default()
    })
}

/// Whether keepalive is on, where the timer that is told says so: one timer only is told, keepalive's after the others
/// (`inet_sk_diag_fill`, `net/ipv4/inet_diag.c`), and it always runs where keepalive is on (`tcp_set_keepalive`). In FIN-WAIT-2
/// the same timer ends the connection.
const fn keepalive_on(state: TcpState, timer: Option<&Timer>) -> Option<bool> {
    match (state, timer) {
        (TcpState::FinWait2, _) | (_, Some(Timer::Retransmit(..) | Timer::Probe(_) | Timer::TimeWait)) => None,
        (_, Some(Timer::KeepAlive(_))) => Some(true),
        (_, None) => Some(false),
    }
}

/// Since the first retransmission, as long as every timeout has doubled the RTO: the waits since, of which the last is not over.
fn retransmitting_for(rto: Duration, backoff: u8, due_in: Duration) -> Duration {
    let doubled = 1u32 << u32::from(backoff).min(31);
    (rto / doubled).saturating_mul(doubled.saturating_sub(2)) + rto.saturating_sub(due_in)
}

/// Two 32-bit halves in host byte order, the low one first (`sock_diag_save_cookie`).
fn cookie(bytes: [u8; 8]) -> SocketCookie {
    let halves = u64::from_ne_bytes(bytes);
    SocketCookie(if cfg!(target_endian = "big") { halves.rotate_left(32) } else { halves })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_healthy_connection_is_not_among_those_that_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _server = listener.accept().unwrap();
        let local = client.local_addr().unwrap();
        let waiting = waiting(1, MonoTime::default).unwrap();
        assert!(waiting.iter().all(|event| event.key.local != local && event.key.remote != local));
    }

    #[test]
    fn the_time_since_the_first_retransmission_follows_from_the_doublings() {
        // Timeouts at 0.2, 0.6 and 1.4 s; half a second into the wait of 1.6 s.
        let ago = retransmitting_for(Duration::from_millis(1_600), 3, Duration::from_millis(1_100));
        assert_eq!(ago, Duration::from_millis(1_700));
    }
}
