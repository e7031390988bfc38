//! Records of connections that are over: on a ring of their own, so that a host that closes thousands a second loses nothing suspicious.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use connprobe_common::{
    abi::{ABI_VERSION, HookCounters, hook},
    connection::{self, ConnectionRecord},
    fields::Field,
};

use super::wake::wakeup_from_half_on;
use crate::{
    filter,
    lives::Life,
    memory::Memory,
    socket::{self, Tuple},
};

/// Bytes of the ring; one page unless user space sets another size before loading, for it is used only when asked for.
const RING_BYTES: u32 = 4_096;

#[map]
static CONNECTIONS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

#[map]
static CONNECTION_COUNTERS: PerCpuArray<HookCounters> = PerCpuArray::with_max_entries(1, 0);

/// Filters, counts, fills and submits.
#[inline(always)]
pub fn connection_event<M: Memory>(sk: M, old_state: u8, life: &Life, now_ns: u64) {
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
    // To look how full the ring is takes as long as a fifth of all this, and it is large.
    let wakeup = if counters.emitted.is_multiple_of(LOOKS_EVERY) {
        wakeup_from_half_on(&CONNECTIONS)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    };
    // SAFETY: the reservation is as large as the record, aligned, and ours.
    fill(unsafe { &mut *entry.as_mut_ptr() }, Head { tuple, old_state, now_ns }, life, sk);
    entry.submit(wakeup);
}

/// How many records of a CPU go by before it looks whether user space is to be woken.
const LOOKS_EVERY: u64 = 32;

/// What is known of a connection before its socket is looked at.
struct Head {
    tuple: Tuple,
    old_state: u8,
    now_ns: u64,
}

/// Writes each field of the record, which holds what lay on the ring: one that this kernel has not is 0, and unavailable.
#[inline(always)]
fn fill<M: Memory>(record: &mut ConnectionRecord, head: Head, life: &Life, sk: M) {
    let mut available = 0;
    /// Reads `$field` and marks it available.
    macro_rules! read {
        ($from:expr, $field:ident, $bit:ident) => {
            match $from.read(Field::$field) {
                Some(value) => {
                    available |= connection::$bit;
                    value
                }
                None => 0,
            }
        };
    }
    record.abi_version = ABI_VERSION;
    record.hook = hook::LIFECYCLE;
    record.size = size_of::<ConnectionRecord>() as u32;
    record.ktime_ns = head.now_ns;
    record.opened_ns = life.opened_ns;
    record.established_ns = life.established_ns;
    record.pid = life.pid;
    record.role = life.role;
    record.owner_from = life.owner_from;
    record.comm = life.comm;
    record.old_state = head.old_state;
    record.netns = head.tuple.netns;
    record.local_port = head.tuple.local_port;
    record.remote_port = head.tuple.remote_port;
    record.local_address = head.tuple.local_address;
    record.remote_address = head.tuple.remote_address;
    record.cookie = sk.read(Field::SkCookie).unwrap_or(0);
    record.bytes_sent = read!(sk, TpBytesSent, HAS_BYTES_SENT);
    record.bytes_retrans = read!(sk, TpBytesRetrans, HAS_BYTES_RETRANS);
    record.bytes_acked = read!(sk, TpBytesAcked, HAS_BYTES_ACKED);
    record.bytes_received = read!(sk, TpBytesReceived, HAS_BYTES_RECEIVED);
    record.segs_out = read!(sk, TpSegsOut, HAS_SEGS_OUT);
    record.segs_in = read!(sk, TpSegsIn, HAS_SEGS_IN);
    record.data_segs_in = read!(sk, TpDataSegsIn, HAS_DATA_SEGS_IN);
    record.total_retrans = read!(sk, TpTotalRetrans, HAS_TOTAL_RETRANS);
    record.srtt_eighth_us = read!(sk, TpSrttUs, HAS_SRTT);
    record.linger2_jiffies = read!(sk, TpLinger2, HAS_LINGER2);
    record.error = read!(sk, SkErr, HAS_ERROR);
    record.uid = read!(sk, SkUid, HAS_UID);
    record.shutdown = read!(sk, SkShutdown, HAS_SHUTDOWN);
    let sk_flags: u64 = read!(sk, SkFlags, HAS_SK_FLAGS);
    record.sk_flags = sk_flags as u32;
    let (write_seq, snd_una) = (sk.read::<u32>(Field::TpWriteSeq), sk.read::<u32>(Field::TpSndUna));
    record.unacked = 0;
    if let (Some(write_seq), Some(snd_una)) = (write_seq, snd_una) {
        record.unacked = write_seq.wrapping_sub(snd_una);
        available |= connection::HAS_UNACKED;
    }
    // `struct minmax_sample`: when, and what (`include/linux/win_minmax.h`).
    record.rtt_min_us = 0;
    if let Some(rtt_min_us) = sk.read_second(Field::TpRttMin) {
        record.rtt_min_us = rtt_min_us;
        available |= connection::HAS_RTT_MIN;
    }
    record.cgroup_id = 0;
    if let Some(node) = sk.follow(Field::SkCgroup).and_then(|cgroup| cgroup.follow(Field::CgroupKn)) {
        record.cgroup_id = read!(node, KnId, HAS_CGROUP);
    }
    record.available = available;
}
