//! Records of connections that are over: on a ring of their own, so that a host that closes thousands a second loses nothing suspicious.

use aya_ebpf::{
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use connprobe_common::{
    abi::{ABI_VERSION, HookCounters, hook},
    connection::{self, ConnectionRecord},
    fields::Field,
};

use super::{wake::wakeup, zeroed};
use crate::{
    filter,
    socket::{self, Address},
};

/// Bytes of the ring; one page unless user space sets another size before loading, for it is used only when asked for.
const RING_BYTES: u32 = 4_096;

#[map]
static CONNECTIONS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

#[map]
static CONNECTION_COUNTERS: PerCpuArray<HookCounters> = PerCpuArray::with_max_entries(1, 0);

/// What was seen of a connection before its end. Zeros where nothing was.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Life {
    pub opened_ns: u64,
    pub established_ns: u64,
    pub pid: u32,
    pub role: u8,
    pub owner_from: u8,
    pub padding: [u8; 2],
    pub comm: [u8; 16],
}

impl Life {
    /// Of a connection of which nothing was seen.
    pub const UNSEEN: Self = Self {
        opened_ns: 0,
        established_ns: 0,
        pid: 0,
        role: connection::ROLE_UNKNOWN,
        owner_from: connection::OWNER_UNKNOWN,
        padding: [0; 2],
        comm: [0; 16],
    };
}

/// Filters, counts, fills and submits.
#[inline(always)]
pub fn connection_event(sk: Address, old_state: u8, life: &Life, now_ns: u64) {
    let Some(tuple) = socket::tuple(sk) else { return };
    if !filter::passes(&tuple) {
        return;
    }
    let Some(counters) = CONNECTION_COUNTERS.get_ptr_mut(0) else { return };
    // SAFETY: a per-CPU value belongs to this CPU while the program runs.
    let counters = unsafe { &mut *counters };
    counters.seen += 1;
    let Some(mut entry) = CONNECTIONS.reserve::<ConnectionRecord>(0) else {
        counters.lost += 1;
        return;
    };
    counters.emitted += 1;
    let record = zeroed(entry.as_mut_ptr());
    record.abi_version = ABI_VERSION;
    record.hook = hook::LIFECYCLE;
    record.size = size_of::<ConnectionRecord>() as u32;
    record.ktime_ns = now_ns;
    record.opened_ns = life.opened_ns;
    record.established_ns = life.established_ns;
    record.pid = life.pid;
    record.role = life.role;
    record.owner_from = life.owner_from;
    record.comm = life.comm;
    record.old_state = old_state;
    record.netns = tuple.netns;
    record.local_port = tuple.local_port;
    record.remote_port = tuple.remote_port;
    record.local_address = tuple.local_address;
    record.remote_address = tuple.remote_address;
    record.cookie = sk.read(Field::SkCookie).unwrap_or(0);
    fill_amounts(record, sk);
    entry.submit(wakeup::<ConnectionRecord>(&CONNECTIONS));
}

/// Reads `$field` into the record and marks it available.
macro_rules! fill {
    ($record:ident, $from:expr, $($field:ident => $target:ident, $bit:ident);+ $(;)?) => {
        $(if let Some(value) = $from.read(Field::$field) {
            $record.$target = value;
            $record.available |= connection::$bit;
        })+
    };
}

/// What the socket has counted itself.
#[inline(always)]
fn fill_amounts(record: &mut ConnectionRecord, sk: Address) {
    fill!(
        record, sk,
        TpBytesSent => bytes_sent, HAS_BYTES_SENT;
        TpBytesRetrans => bytes_retrans, HAS_BYTES_RETRANS;
        TpBytesAcked => bytes_acked, HAS_BYTES_ACKED;
        TpBytesReceived => bytes_received, HAS_BYTES_RECEIVED;
        TpSegsOut => segs_out, HAS_SEGS_OUT;
        TpSegsIn => segs_in, HAS_SEGS_IN;
        TpTotalRetrans => total_retrans, HAS_TOTAL_RETRANS;
        TpSrttUs => srtt_eighth_us, HAS_SRTT;
        SkErr => error, HAS_ERROR;
        SkUid => uid, HAS_UID;
        SkShutdown => shutdown, HAS_SHUTDOWN;
        TpLinger2 => linger2_jiffies, HAS_LINGER2;
        TpDataSegsIn => data_segs_in, HAS_DATA_SEGS_IN;
    );
    if let Some(flags) = sk.read::<u64>(Field::SkFlags) {
        record.sk_flags = flags as u32;
        record.available |= connection::HAS_SK_FLAGS;
    }
    if let Some(write_seq) = sk.read::<u32>(Field::TpWriteSeq)
        && let Some(snd_una) = sk.read::<u32>(Field::TpSndUna)
    {
        record.unacked = write_seq.wrapping_sub(snd_una);
        record.available |= connection::HAS_UNACKED;
    }
    // `struct minmax_sample`: when, and what (`include/linux/win_minmax.h`).
    if let Some([_, rtt_min_us]) = sk.read::<[u32; 2]>(Field::TpRttMin) {
        record.rtt_min_us = rtt_min_us;
        record.available |= connection::HAS_RTT_MIN;
    }
    if let Some(node) = sk.follow(Field::SkCgroup).and_then(|cgroup| cgroup.follow(Field::CgroupKn)) {
        fill!(record, node, KnId => cgroup_id, HAS_CGROUP);
    }
}
