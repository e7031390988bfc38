//! Bytes from the ring become [`ConnectionEvent`]s.
//!
//! Every input gives an event or an error that says what is wrong with it; none panics. A record is copied out of the bytes,
//! never read in place, and every number that stands for something is checked to be one of its kind.

#![deny(clippy::disallowed_methods, clippy::wildcard_enum_match_arm)]

mod closed;
mod segment;

pub use closed::decode_closed;

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use connprobe_common::{
    abi::{ABI_VERSION, DropRecord, InvalidRecord, NO_RESULT, SocketRecord, UNKNOWN_STATE, hook},
    fields::Field,
};
use zerocopy::FromBytes as _;

use crate::model::{
    ConnectionEvent, ConnectionKey, EventKind, Keepalive, MonoTime, PendingTimer, SocketCookie, SocketTimer,
    SocketView, TcpState, Ticks,
};

/// Why a record is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It has another length than the ABI says.
    #[error("a record of {actual} bytes, where {expected} are due")]
    Length {
        /// Bytes that came.
        actual: usize,
        /// Bytes the ABI says.
        expected: usize,
    },
    /// It was written by programs of another ABI version.
    #[error("a record of ABI version {0}, where {ABI_VERSION} is due")]
    Version(u16),
    /// It names no hook.
    #[error("a record of the unknown hook {0}")]
    Hook(u16),
    /// It names no TCP state.
    #[error("a record with the unknown TCP state {0}")]
    State(u8),
    /// It names no drop reason.
    #[error("a record of a dropped segment with the unknown reason {0}")]
    DropReason(u32),
    /// It names no role.
    #[error("a record with the unknown role {0}")]
    Role(u8),
    /// It names no call by which an owner is known.
    #[error("a record with the unknown source {0} of its owner")]
    Owner(u8),
    /// It holds no TCP segment.
    #[error("a record of a dropped segment without its headers")]
    Headers,
}

/// What turns the kernel's units into ours on this kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// Jiffies a second (`CONFIG_HZ`).
    pub hz: u32,
    /// Bit number of `SOCK_DEAD` in `sk_flags`, where BTF tells.
    pub sock_dead_bit: Option<u32>,
    /// Bit number of `SOCK_DONE` in `sk_flags`, where BTF tells.
    pub sock_done_bit: Option<u32>,
    /// Bit number of `SOCK_KEEPOPEN` in `sk_flags`, where BTF tells.
    pub sock_keepopen_bit: Option<u32>,
}

impl Units {
    fn jiffies(self, count: u32) -> Duration {
        Duration::from_nanos(u64::from(count) * 1_000_000_000 / u64::from(self.hz.max(1)))
    }
}

/// Decodes one record.
///
/// # Errors
///
/// When the record is not exactly what this version's programs write.
pub fn decode(bytes: &[u8], units: Units) -> Result<ConnectionEvent, DecodeError> {
    if let Ok(record) = DropRecord::read_from_bytes(bytes) {
        return match (record.abi_version, record.hook) {
            (ABI_VERSION, hook::KFREE_SKB) => segment::decode(&record),
            (ABI_VERSION, other) => Err(DecodeError::Hook(other)),
            (version, _) => Err(DecodeError::Version(version)),
        };
    }
    if let Ok(record) = InvalidRecord::read_from_bytes(bytes) {
        return match (record.packet.abi_version, record.packet.hook) {
            (ABI_VERSION, hook::NF_CT_LOG_INVALID) => segment::decode_invalid(&record),
            (ABI_VERSION, other) => Err(DecodeError::Hook(other)),
            (version, _) => Err(DecodeError::Version(version)),
        };
    }
    let record = SocketRecord::read_from_bytes(bytes)
        .map_err(|_| DecodeError::Length { actual: bytes.len(), expected: size_of::<SocketRecord>() })?;
    if record.abi_version != ABI_VERSION {
        return Err(DecodeError::Version(record.abi_version));
    }
    if record.hook == hook::KFREE_SKB && record.new_state == UNKNOWN_STATE {
        return Ok(event(&record, SocketView::default(), syn_or_syn_ack(&record)));
    }
    let from = tcp_state(record.old_state)?;
    let to = tcp_state(record.new_state)?;
    let kind = match record.hook {
        hook::INET_SOCK_SET_STATE => EventKind::StateChange { from, to },
        // Only a tracepoint that comes after success alone tells no result (`__tcp_retransmit_skb`, `net/ipv4/tcp_output.c`, before
        // 6.17).
        hook::TCP_RETRANSMIT_SKB => EventKind::RetransmissionTimeout {
            send_result: Some(if record.result == NO_RESULT { 0 } else { record.result }),
        },
        hook::TCP_RETRANSMIT_SYNACK => EventKind::SynAckRetransmission,
        hook::TCP_RECEIVE_RESET => EventKind::ResetReceived,
        hook::TCP_SEND_RESET => EventKind::ResetSent,
        hook::INET_SK_ERROR_REPORT => EventKind::SocketError,
        hook::KFREE_SKB => syn_or_syn_ack(&record),
        hook::TCP_WRITE_WAKEUP => {
            EventKind::ProbeSent { send_result: (record.result != NO_RESULT).then_some(record.result) }
        }
        hook::SCAN if to == TcpState::NewSynReceived => EventKind::SynAckRetransmission,
        hook::SCAN => EventKind::Scanned,
        other => return Err(DecodeError::Hook(other)),
    };
    let mut socket = socket_view(&record, to, units);
    if let EventKind::ProbeSent { send_result } = kind {
        count_keepalive_probe(&mut socket, send_result);
    }
    if record.hook == hook::SCAN && kind == EventKind::SynAckRetransmission {
        // The scan comes after the latest repeat, the hook before it is counted.
        socket.retransmits = socket.retransmits.map(|count| count.saturating_sub(1));
        socket.total_retransmits = socket.total_retransmits.map(|count| count.saturating_sub(1));
    }
    Ok(event(&record, socket, kind))
}

/// Which of the two came in for a synchronized connection.
const fn syn_or_syn_ack(record: &SocketRecord) -> EventKind {
    /// `ACK` (RFC 9293 section 3.1).
    const ACK: u8 = 16;
    if record.segment_flags & ACK != 0 { EventKind::SynAckReceived } else { EventKind::SynReceived }
}

fn event(record: &SocketRecord, socket: SocketView, kind: EventKind) -> ConnectionEvent {
    ConnectionEvent {
        at: MonoTime::from_ns(record.ktime_ns),
        key: ConnectionKey {
            netns: record.netns,
            local: endpoint(record.local_address, record.local_port),
            remote: endpoint(record.remote_address, record.remote_port),
        },
        socket,
        kind,
    }
}

/// The event of a keepalive probe comes before the kernel has counted it and set its timer again (`tcp_keepalive_timer`,
/// `net/ipv4/tcp_timer.c`); that of a window's probe comes after, with its timer running.
fn count_keepalive_probe(socket: &mut SocketView, send_result: Option<i32>) {
    /// `TCP_RESOURCE_PROBE_INTERVAL`, when this host is short of memory.
    const RESOURCE_PROBE_INTERVAL: Duration = Duration::from_millis(500);
    if socket.timer.is_some() {
        return;
    }
    if send_result.is_some_and(|result| result > 0) {
        socket.keepalive_due_in = Some(RESOURCE_PROBE_INTERVAL);
    } else {
        socket.probes_out = socket.probes_out.map(|count| count.saturating_add(1));
        socket.keepalive_due_in = socket.keepalive.and_then(|keepalive| keepalive.interval);
    }
}

fn tcp_state(number: u8) -> Result<TcpState, DecodeError> {
    TcpState::from_kernel(number).ok_or(DecodeError::State(number))
}

fn endpoint(address: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(address).to_canonical(), port)
}

fn socket_view(record: &SocketRecord, state: TcpState, units: Units) -> SocketView {
    let has = |field: Field| record.available & field.bit() != 0;
    fn of<T>(available: bool, value: T) -> Option<T> {
        available.then_some(value)
    }
    let flag = |bit: Option<u32>| {
        let mask = 1u64.checked_shl(bit?)?;
        has(Field::SkFlags).then_some(record.sk_flags & mask != 0)
    };
    SocketView {
        state: Some(state),
        ticks: (record.jiffies != 0 && units.hz != 0).then_some(Ticks { jiffies: record.jiffies, hz: units.hz }),
        cookie: (record.cookie != 0).then_some(SocketCookie(record.cookie)),
        sequence_is_relative: false,
        snd_una: of(has(Field::TpSndUna), record.snd_una),
        snd_nxt: of(has(Field::TpSndNxt), record.snd_nxt),
        write_seq: of(has(Field::TpWriteSeq), record.write_seq),
        snd_wnd_bytes: of(has(Field::TpSndWnd), record.snd_wnd),
        packets_out: of(has(Field::TpPacketsOut), record.packets_out),
        total_retransmits: of(has(Field::TpTotalRetrans) || has(Field::ReqNumRetrans), record.total_retrans),
        retransmits: of(has(Field::IcskRetransmits) || has(Field::ReqNumTimeout), record.retransmits),
        backoff: of(has(Field::IcskBackoff), record.backoff),
        probes_out: of(has(Field::IcskProbesOut), record.probes_out),
        rto: of(has(Field::IcskRto), units.jiffies(record.rto_jiffies)),
        rto_max: of(has(Field::IcskRtoMax), units.jiffies(record.rto_max_jiffies)),
        retransmitting_for: retransmitting_for(record).filter(|_| has(Field::TpRetransStamp)),
        last_ack_ago: since_jiffies(record, record.rcv_tstamp_jiffies, units).filter(|_| has(Field::TpRcvTstamp)),
        user_timeout: of(has(Field::IcskUserTimeout), Duration::from_millis(u64::from(record.user_timeout_ms))),
        timer: timer(record, units).filter(|_| has(Field::IcskPending) && has(Field::IcskTimeout)),
        probing_for: since_jiffies(record, record.probes_tstamp_jiffies, units)
            .filter(|_| has(Field::IcskProbesTstamp)),
        last_data_ago: since_jiffies(record, record.lrcvtime_jiffies, units).filter(|_| has(Field::IcskAckLrcvtime)),
        segment_ago: of(has(Field::TpTcpMstamp), Duration::from_millis(record.segment_ago_ms.into())),
        keepalive_due_in: of(has(Field::SkTimerExpires), until_jiffies(record, record.sk_timer_expires_jiffies, units)),
        keepalive: keepalive(record, flag(units.sock_keepopen_bit), units),
        orphaned: flag(units.sock_dead_bit),
        tcp_retries2: of(has(Field::NetTcpRetries2), record.tcp_retries2),
        tcp_orphan_retries: of(has(Field::NetTcpOrphanRetries), record.tcp_orphan_retries),
        ingress_ifindex: of(has(Field::SkRxDstIfindex), record.ingress_ifindex),
        egress_ifindex: of(has(Field::DevIfindex), record.egress_ifindex),
        soft_error: of(has(Field::SkErrSoft), record.soft_error),
        inode: of(has(Field::SocketInode), record.inode),
        error: of(has(Field::SkErr), record.error),
    }
}

/// Milliseconds (or microseconds, `tcp_usec_ts`) since `retrans_stamp`, both taken modulo 2^32; `None` when it is 0, which
/// the kernel uses for "not retransmitting".
fn retransmitting_for(record: &SocketRecord) -> Option<Duration> {
    if record.retrans_stamp == 0 {
        return None;
    }
    let unit_ns = if record.usec_ts == 1 { 1_000 } else { 1_000_000 };
    let elapsed = age(low_32_bits(record.ktime_ns / unit_ns), record.retrans_stamp, 1_000_000_000 / unit_ns);
    Some(Duration::from_nanos(u64::from(elapsed) * unit_ns))
}

/// Time since a stamp in jiffies; `None` when it is 0, as it is before it is first set.
fn since_jiffies(record: &SocketRecord, stamp: u32, units: Units) -> Option<Duration> {
    (stamp != 0).then(|| units.jiffies(age(low_32_bits(record.jiffies), stamp, units.hz.into())))
}

/// How old a stamp is, both taken modulo 2^32, at `per_second` units: in jiffies up to 49 days at 1,000 ticks a second, of which the
/// kernel's count begins five minutes below 0 (`INITIAL_JIFFIES`). The clock is read before the stamp, which may be newer by then:
/// ages of the last minute below 2^32 are such, and 0. What is older than 2^32 cannot be told from what is younger.
fn age(now: u32, stamp: u32, per_second: u64) -> u32 {
    const AHEAD_SECONDS: u64 = 60;
    let elapsed = now.wrapping_sub(stamp);
    let ahead = u64::from(stamp.wrapping_sub(now));
    if ahead < per_second.saturating_mul(AHEAD_SECONDS) { 0 } else { elapsed }
}

#[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are what the kernel keeps of both clocks")]
const fn low_32_bits(value: u64) -> u32 {
    value as u32
}

/// `icsk_pending` (`include/net/inet_connection_sock.h`): the numbers have stayed the same since 4.x but for those that no
/// longer exist.
fn timer(record: &SocketRecord, units: Units) -> Option<PendingTimer> {
    const RETRANSMISSION: u8 = 1;
    const PERSIST: u8 = 3;
    const LOSS_PROBE: u8 = 5;
    const REORDERING: u8 = 6;
    let kind = match record.pending {
        RETRANSMISSION | LOSS_PROBE | REORDERING => SocketTimer::Retransmission,
        PERSIST => SocketTimer::Persist,
        _ => return None,
    };
    Some(PendingTimer { kind, due_in: until_jiffies(record, record.retransmit_expires_jiffies, units) })
}

/// Kernel timers hold jiffies as a `long`, which on 64-bit machines is `jiffies_64` itself.
fn until_jiffies(record: &SocketRecord, later: u64, units: Units) -> Duration {
    let left = later.wrapping_sub(record.jiffies);
    // Past already, or not armed for ages.
    let left = if left > u64::MAX / 2 { 0 } else { left };
    Duration::from_nanos(left.saturating_mul(1_000_000_000 / u64::from(units.hz.max(1))))
}

fn keepalive(record: &SocketRecord, enabled: Option<bool>, units: Units) -> Option<Keepalive> {
    let has = |field: Field| record.available & field.bit() != 0;
    if !(has(Field::TpKeepaliveTime) && has(Field::TpKeepaliveIntvl) && has(Field::TpKeepaliveProbes)) {
        return None;
    }
    // 0 stands for the namespace's setting (`keepalive_time_when()` and its siblings, `include/net/tcp.h`).
    let effective = |own: u32, field: Field, default: u32| match own {
        0 => has(field).then(|| units.jiffies(default)),
        own => Some(units.jiffies(own)),
    };
    Some(Keepalive {
        enabled: enabled?,
        idle: effective(record.keepalive_time_jiffies, Field::NetKeepaliveTime, record.net_keepalive_time_jiffies),
        interval: effective(
            record.keepalive_intvl_jiffies,
            Field::NetKeepaliveIntvl,
            record.net_keepalive_intvl_jiffies,
        ),
        probes: match record.keepalive_probes {
            0 => has(Field::NetKeepaliveProbes).then_some(record.net_keepalive_probes),
            own => Some(own),
        },
    })
}

#[cfg(test)]
mod tests;
