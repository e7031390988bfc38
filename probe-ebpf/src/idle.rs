//! The look for idle connections: those on which nothing has come or gone for some time, and nothing waits, are written out.
//!
//! Kernel iterator `iter/tcp`, as in [`crate::scan`]; loaded only when the operator asks for risks, and run once. Whether keepalive
//! is on, and soon enough, user space decides: this program only leaves out what is busy. "Nothing has come or gone" is told by
//! `tp->tcp_mstamp`, which the kernel sets for every segment of an established connection, also for the peer's keepalive probes
//! (`tcp_mstamp_refresh` in `tcp_rcv_established` and before sending): those never reach `tp->rcv_tstamp`, being outside of the
//! window. The keepalive timer sets it, too, when it fires early (`tcp_keepalive_timer`): then a connection is taken for less
//! idle than it is. Blind spot and cost: as the scan's, and a record for each idle connection.

use aya_ebpf::{
    helpers::generated::{bpf_get_socket_cookie, bpf_seq_write},
    macros::map,
    maps::{Array, PerCpuArray},
};
use connprobe_common::{abi::SocketRecord, fields::Field};

use crate::{
    clock,
    memory::Memory,
    scan::{self, Context},
    socket::{Address, state},
};

/// How long nothing must have come or gone, in milliseconds. Not a read-only global: it is another in each namespace.
#[map]
static IDLE_FOR_MS: Array<u32> = Array::with_max_entries(1, 0);

/// Where a record is put together. Not the scan's own, which may be at work at the same time.
#[map]
static IDLE_RECORD: PerCpuArray<SocketRecord> = PerCpuArray::with_max_entries(1, 0);

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
fn tcp_idle_sockets(ctx: *const Context) -> i32 {
    // SAFETY: the kernel passes a valid context; the verifier checks both loads.
    let (meta, sk_common) = unsafe { ((*ctx).meta, (*ctx).sk_common) };
    if sk_common.is_null() {
        // The end.
        return 0;
    }
    let sk = Address(sk_common as u64);
    let Some(state) = sk.state() else { return 0 };
    if !matches!(state, state::ESTABLISHED | state::CLOSE_WAIT) || has_data_under_way(sk) {
        return 0;
    }
    let Some(wanted_ms) = IDLE_FOR_MS.get(0) else { return 0 };
    let ago_ms = segment_ago_ms(sk);
    // Where the kernel does not tell, user space looks at what else is known.
    if ago_ms < *wanted_ms {
        return 0;
    }
    let Some(record) = IDLE_RECORD.get_ptr_mut(0) else { return 0 };
    // SAFETY: `sk_common` is the kernel's own pointer, checked for null.
    if let Some(record) = scan::fill(record, sk, state, || unsafe { bpf_get_socket_cookie(sk_common) }) {
        if ago_ms != UNKNOWN_AGO {
            record.segment_ago_ms = ago_ms;
            record.available |= Field::TpTcpMstamp.bit();
        }
        let record: *mut SocketRecord = record;
        // SAFETY: `meta` is the kernel's own and its first member the file that is read; the record is as large as said. When it
        // does not fit any more, the kernel shows the socket again to the next read.
        unsafe { bpf_seq_write((*meta).seq.cast(), record.cast(), size_of::<SocketRecord>() as u32) };
    }
    0
}

/// Whether something is unacknowledged or unsent. Then other timers run than keepalive's, and other verdicts hold.
#[inline(always)]
fn has_data_under_way(sk: Address) -> bool {
    let Some(acknowledged) = sk.read::<u32>(Field::TpSndUna) else { return false };
    let Some(written) = sk.read::<u32>(Field::TpWriteSeq) else { return false };
    acknowledged != written
}

/// [`segment_ago_ms`] where this kernel does not tell. Not an `Option`: before 6.3 the verifier refuses that its value is moved
/// around when there is none.
const UNKNOWN_AGO: u32 = u32::MAX;

/// Milliseconds since a segment last came in or left, at most one less than [`UNKNOWN_AGO`].
#[inline(always)]
fn segment_ago_ms(sk: Address) -> u32 {
    let Some(stamp_us) = sk.read::<u64>(Field::TpTcpMstamp) else { return UNKNOWN_AGO };
    // The stamp is of the same clock (`tcp_clock_ns`, `include/net/tcp.h`).
    let now_us = clock::now_ns() / 1_000;
    if now_us <= stamp_us {
        return 0;
    }
    let ago_ms = (now_us - stamp_us) / 1_000;
    if ago_ms < UNKNOWN_AGO as u64 { ago_ms as u32 } else { UNKNOWN_AGO - 1 }
}
