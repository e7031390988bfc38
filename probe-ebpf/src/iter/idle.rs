//! The look for idle connections: those on which nothing has come or gone for some time, and nothing waits, are written out.
//!
//! Loaded only when the operator asks for risks, and run once. Whether keepalive is on, and soon enough, user space decides: this program
//! only leaves out what is busy. "Nothing has come or gone" is told by `tp->tcp_mstamp`, which the kernel sets for every segment of an
//! established connection, also for the peer's keepalive probes (`tcp_mstamp_refresh` in `tcp_rcv_established` and before sending): those
//! never reach `tp->rcv_tstamp`, being outside of the window. The keepalive timer sets it, too, when it fires early
//! (`tcp_keepalive_timer`): then a connection is taken for less idle than it is. Cost: a record for each idle connection.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use connprobe_common::{abi::SocketRecord, fields::Field};

use super::{Context, Shown, fill};
use crate::{
    clock,
    memory::Memory,
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
    let Some(shown) = Shown::of(ctx) else { return 0 };
    let sk = shown.address();
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
    if let Some(record) = fill(record, shown, state) {
        if ago_ms != UNKNOWN_AGO {
            record.segment_ago_ms = ago_ms;
            record.available |= Field::TpTcpMstamp.bit();
        }
        shown.write(record);
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
