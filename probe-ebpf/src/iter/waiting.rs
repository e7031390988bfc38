//! The scan: every TCP socket of one network namespace passes by, and those that wait for something are written out.
//!
//! Ordinary: everything without an unanswered timer. Cost of an ordinary one: a helper and three loads, about 10 ns.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use connprobe_common::{
    abi::SocketRecord,
    fields::{Field, UNAVAILABLE, offset_bytes},
};

use super::{Context, Shown, fill};
use crate::{
    globals, limit,
    memory::Memory,
    socket::{Address, state},
};

/// Where a record is put together: the stack is too small for it. One reader scans at a time.
#[map]
static SCAN_RECORD: PerCpuArray<SocketRecord> = PerCpuArray::with_max_entries(1, 0);

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
fn tcp_sockets(ctx: *const Context) -> i32 {
    let Some(shown) = Shown::of(ctx) else { return 0 };
    let full = shown.tcp_sock();
    // Of a hundred thousand sockets nearly all end here: nothing comes before that is not needed.
    if !full.is_null() && !has_unanswered_timer(full) {
        return 0;
    }
    let sk = shown.address();
    let Some(state) = sk.state() else { return 0 };
    let is_suspicious = if full.is_null() { is_overdue_request(sk, state) } else { state::is_synchronized(state) };
    if !is_suspicious {
        return 0;
    }
    let Some(record) = SCAN_RECORD.get_ptr_mut(0) else { return 0 };
    if let Some(record) = fill(record, shown, state) {
        // From now on its end is told by the hooks.
        if state != state::NEW_SYN_RECV {
            limit::watch(sk, record.ktime_ns);
        }
        shown.write(record);
    }
    0
}

/// Timer firings of a request socket from which on the scan tells of it.
const TOLD_FROM_TIMEOUTS: u8 = 2;

/// Whether it is a request that is due for its answer. Everything else that is no full socket is over.
#[inline(always)]
fn is_overdue_request(sk: Address, state: u8) -> bool {
    state == state::NEW_SYN_RECV
        && sk.read_bits(Field::ReqNumTimeout).unwrap_or(0) >= TOLD_FROM_TIMEOUTS
        && sk.read_bits(Field::ReqAcked) == Some(0)
}

/// Whether a connection waits for an answer that is overdue. Without that it is idle, busy or over.
#[inline(always)]
fn has_unanswered_timer(tcp_sock: *const u8) -> bool {
    byte(tcp_sock, Field::IcskRetransmits) != 0
        || byte(tcp_sock, Field::IcskProbesOut) != 0
        || byte(tcp_sock, Field::IcskBackoff) != 0
}

/// Loads a field of one byte without a helper; 0 when this kernel has none such.
#[inline(always)]
fn byte(tcp_sock: *const u8, field: Field) -> u8 {
    let location = globals::location(field);
    if location == UNAVAILABLE {
        return 0;
    }
    // SAFETY: it is a `struct tcp_sock` to the verifier, which compares the offset, a constant to it, with the structure's fields.
    unsafe { tcp_sock.add(offset_bytes(location) as usize).read_volatile() }
}
