//! Records of connections that are over.

use std::time::Duration;

use connprobe_common::{
    abi::{ABI_VERSION, hook},
    connection::{self, ConnectionRecord},
};
use zerocopy::FromBytes as _;

use super::{DecodeError, Units, endpoint, tcp_state};
use crate::model::{
    Amounts, ClosedConnection, ConnectionKey, Halves, MonoTime, OwnerCall, Role, SeenProcess, SocketCookie,
};

/// Decodes one record of the ring of its own.
///
/// # Errors
///
/// When the record is not exactly what this version's programs write.
pub fn decode_closed(bytes: &[u8], units: Units) -> Result<ClosedConnection, DecodeError> {
    let record = ConnectionRecord::read_from_bytes(bytes)
        .map_err(|_| DecodeError::Length { actual: bytes.len(), expected: size_of::<ConnectionRecord>() })?;
    match (record.abi_version, record.hook) {
        (ABI_VERSION, hook::LIFECYCLE) => {}
        (ABI_VERSION, other) => return Err(DecodeError::Hook(other)),
        (version, _) => return Err(DecodeError::Version(version)),
    }
    let has = |bit: u32| record.available & bit != 0;
    let seen = |ns: u64| (ns != 0).then(|| MonoTime::from_ns(ns));
    Ok(ClosedConnection {
        at: MonoTime::from_ns(record.ktime_ns),
        key: ConnectionKey {
            netns: record.netns,
            local: endpoint(record.local_address, record.local_port),
            remote: endpoint(record.remote_address, record.remote_port),
        },
        cookie: (record.cookie != 0).then_some(SocketCookie(record.cookie)),
        opened: seen(record.opened_ns),
        established: seen(record.established_ns),
        role: role(record.role)?,
        last_state: tcp_state(record.old_state)?,
        error: has(connection::HAS_ERROR).then_some(record.error),
        halves: halves(&record, units),
        amounts: amounts(&record),
        process: process(&record)?,
        uid: has(connection::HAS_UID).then_some(record.uid),
        cgroup_id: (has(connection::HAS_CGROUP) && record.cgroup_id != 0).then_some(record.cgroup_id),
    })
}

fn halves(record: &ConnectionRecord, units: Units) -> Halves {
    let has = |bit: u32| record.available & bit != 0;
    let flag = |bit: Option<u32>| {
        let mask = 1u32.checked_shl(bit?)?;
        has(connection::HAS_SK_FLAGS).then_some(record.sk_flags & mask != 0)
    };
    Halves {
        fin_received: flag(units.sock_done_bit),
        all_acked: has(connection::HAS_UNACKED).then_some(record.unacked == 0),
        orphaned: flag(units.sock_dead_bit),
        read_shut: has(connection::HAS_SHUTDOWN).then_some(record.shutdown & connection::RCV_SHUTDOWN != 0),
        reset_wanted: has(connection::HAS_LINGER2).then_some(record.linger2_jiffies < 0),
        data_segments_received: has(connection::HAS_DATA_SEGS_IN).then_some(record.data_segs_in),
    }
}

fn amounts(record: &ConnectionRecord) -> Amounts {
    let has = |bit: u32| record.available & bit != 0;
    let has_rtt = has(connection::HAS_SRTT) && record.srtt_eighth_us != 0;
    // 0 and the largest number both stand for none (`tcp_init_sock` and `tcp_update_rtt_min`).
    let has_min_rtt = has(connection::HAS_RTT_MIN) && record.rtt_min_us != 0 && record.rtt_min_us != u32::MAX;
    Amounts {
        bytes_sent: has(connection::HAS_BYTES_SENT).then_some(record.bytes_sent),
        bytes_retransmitted: has(connection::HAS_BYTES_RETRANS).then_some(record.bytes_retrans),
        bytes_acked: has(connection::HAS_BYTES_ACKED).then_some(record.bytes_acked),
        bytes_received: has(connection::HAS_BYTES_RECEIVED).then_some(record.bytes_received),
        segments_sent: has(connection::HAS_SEGS_OUT).then_some(record.segs_out),
        segments_received: has(connection::HAS_SEGS_IN).then_some(record.segs_in),
        segments_retransmitted: has(connection::HAS_TOTAL_RETRANS).then_some(record.total_retrans),
        rtt: has_rtt.then(|| Duration::from_micros(u64::from(record.srtt_eighth_us / 8))),
        min_rtt: has_min_rtt.then(|| Duration::from_micros(u64::from(record.rtt_min_us))),
    }
}

const fn role(number: u8) -> Result<Option<Role>, DecodeError> {
    match number {
        connection::ROLE_UNKNOWN => Ok(None),
        connection::ROLE_ACTIVE => Ok(Some(Role::ActiveOpen)),
        connection::ROLE_PASSIVE => Ok(Some(Role::PassiveOpen)),
        other => Err(DecodeError::Role(other)),
    }
}

fn process(record: &ConnectionRecord) -> Result<Option<SeenProcess>, DecodeError> {
    let by = match record.owner_from {
        connection::OWNER_UNKNOWN => return Ok(None),
        connection::OWNER_CONNECTED => OwnerCall::Connect,
        connection::OWNER_CLOSED => OwnerCall::Close,
        other => return Err(DecodeError::Owner(other)),
    };
    /// Threads of the kernel that close and connect for others: MPTCP's and SMC's workers, and what runs in softirq.
    const KERNEL_THREADS: [&[u8]; 2] = [b"kworker/", b"ksoftirqd/"];
    if KERNEL_THREADS.iter().any(|name| record.comm.starts_with(name)) {
        return Ok(None);
    }
    let name: Vec<u8> = record.comm.iter().copied().take_while(|byte| *byte != 0).collect();
    Ok(Some(SeenProcess { pid: record.pid, comm: String::from_utf8_lossy(&name).into_owned(), by }))
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros as _, IntoBytes as _};

    use super::*;

    const UNITS: Units = Units { hz: 250, sock_dead_bit: Some(0), sock_done_bit: Some(1), sock_keepopen_bit: Some(9) };

    fn record() -> ConnectionRecord {
        let mut record = ConnectionRecord::new_zeroed();
        record.abi_version = ABI_VERSION;
        record.hook = hook::LIFECYCLE;
        record.old_state = 9;
        record
    }

    #[test]
    fn what_was_not_read_is_not_zero() {
        let closed = decode_closed(record().as_bytes(), UNITS).unwrap();
        assert_eq!((closed.amounts, closed.halves), (Amounts::default(), Halves::default()));
        assert_eq!((closed.opened, closed.role, closed.error, closed.uid), (None, None, None, None));
        let all = ConnectionRecord { available: u32::MAX, srtt_eighth_us: 800, rtt_min_us: u32::MAX, ..record() };
        let closed = decode_closed(all.as_bytes(), UNITS).unwrap();
        assert_eq!(closed.amounts.bytes_sent, Some(0));
        assert_eq!((closed.amounts.rtt, closed.amounts.min_rtt), (Some(Duration::from_micros(100)), None));
    }

    #[test]
    fn the_flags_of_a_socket_tell_what_became_of_its_halves() {
        let record =
            ConnectionRecord { available: u32::MAX, sk_flags: 0b10, linger2_jiffies: -1, unacked: 1, ..record() };
        let halves = decode_closed(record.as_bytes(), UNITS).unwrap().halves;
        assert_eq!((halves.fin_received, halves.orphaned, halves.read_shut), (Some(true), Some(false), Some(false)));
        assert_eq!((halves.reset_wanted, halves.all_acked), (Some(true), Some(false)));
        let halves = decode_closed(record.as_bytes(), Units::default()).unwrap().halves;
        assert_eq!((halves.fin_received, halves.orphaned), (None, None), "this kernel's bits are not known");
    }

    #[test]
    fn every_other_input_is_an_error() {
        let refused = |record: ConnectionRecord| decode_closed(record.as_bytes(), UNITS).unwrap_err();
        assert_eq!(refused(ConnectionRecord { role: 3, ..record() }), DecodeError::Role(3));
        assert_eq!(refused(ConnectionRecord { owner_from: 9, ..record() }), DecodeError::Owner(9));
        assert_eq!(refused(ConnectionRecord { old_state: 99, ..record() }), DecodeError::State(99));
        assert_eq!(refused(ConnectionRecord { hook: 1, ..record() }), DecodeError::Hook(1));
        assert_eq!(refused(ConnectionRecord { abi_version: 0, ..record() }), DecodeError::Version(0));
        assert!(matches!(decode_closed(&[0; 191], UNITS), Err(DecodeError::Length { actual: 191, .. })));
    }

    #[test]
    fn a_command_name_ends_at_its_zero_byte() {
        let mut named = ConnectionRecord { owner_from: connection::OWNER_CONNECTED, pid: 7, ..record() };
        named.comm[..4].copy_from_slice(b"curl");
        let process = decode_closed(named.as_bytes(), UNITS).unwrap().process.unwrap();
        assert_eq!((process.pid, process.comm.as_str(), process.by), (7, "curl", OwnerCall::Connect));
    }
}
