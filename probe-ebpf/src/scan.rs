//! The scan: every TCP socket of one network namespace passes by, and those that wait for something are written out.
//!
//! Kernel iterator `iter/tcp` (`bpf_iter_tcp`, `net/ipv4/tcp_ipv4.c`), since 5.9: runs when user space reads, sees the
//! namespace of who opened it, with the socket locked. Ordinary: everything without an unanswered timer. Blind spot: a
//! socket that changes its hash bucket while the scan goes on. Cost of an ordinary one: a helper and three loads, about 10 ns; the
//! kernel's own walk costs ten times as much.

use aya_ebpf::{
    helpers::generated::{bpf_get_socket_cookie, bpf_seq_write, bpf_skc_to_tcp_sock},
    macros::map,
    maps::PerCpuArray,
};
use connprobe_common::{
    abi::{ABI_VERSION, NO_RESULT, SocketRecord, hook},
    fields::{Field, UNAVAILABLE, offset_bytes},
};

use crate::{
    clock,
    emit::zeroed,
    filter, globals,
    limit::{self, PerCpu},
    memory::Memory,
    socket::{self, Address, state},
};

/// Where a record is put together: the stack is too small for it. One reader scans at a time.
#[map]
static SCAN_RECORD: PerCpuArray<SocketRecord> = PerCpuArray::with_max_entries(1, 0);

/// `struct bpf_iter__tcp` (`net/ipv4/tcp_ipv4.c`): pointers, each in 8 bytes.
#[repr(C)]
pub(crate) struct Context {
    pub(crate) meta: *const Meta,
    pub(crate) sk_common: *mut core::ffi::c_void,
}

/// The beginning of `struct bpf_iter_meta` (`include/linux/bpf.h`).
#[repr(C)]
pub(crate) struct Meta {
    pub(crate) seq: *mut core::ffi::c_void,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
fn tcp_sockets(ctx: *const Context) -> i32 {
    // SAFETY: the kernel passes a valid context; the verifier checks both loads.
    let (meta, sk_common) = unsafe { ((*ctx).meta, (*ctx).sk_common) };
    if sk_common.is_null() {
        // The end of the scan.
        return 0;
    }
    let sk = Address(sk_common as u64);
    // SAFETY: `sk_common` is the kernel's own pointer, checked for null.
    let full = unsafe { bpf_skc_to_tcp_sock(sk_common) };
    // Of a hundred thousand sockets nearly all end here: nothing comes before that is not needed.
    if !full.is_null() && !has_unanswered_timer(full.cast()) {
        return 0;
    }
    let Some(state) = sk.state() else { return 0 };
    let is_suspicious = if full.is_null() { is_overdue_request(sk, state) } else { state::is_synchronized(state) };
    if !is_suspicious {
        return 0;
    }
    let Some(record) = SCAN_RECORD.get_ptr_mut(0) else { return 0 };
    let cookie = || {
        // A request's would name no socket that anybody can look up.
        if state == state::NEW_SYN_RECV {
            return 0;
        }
        // SAFETY: `sk_common` is the kernel's own pointer, checked for null.
        unsafe { bpf_get_socket_cookie(sk_common) }
    };
    if let Some(record) = fill(record, sk, state, cookie) {
        // From now on its end is told by the hooks.
        if state != state::NEW_SYN_RECV {
            limit::watch(sk, record.ktime_ns);
        }
        let record: *mut SocketRecord = record;
        // SAFETY: `meta` is the kernel's own and its first member the file that is read; the record is as large as said. When it
        // does not fit any more, the kernel shows the socket again to the next read.
        unsafe { bpf_seq_write((*meta).seq.cast(), record.cast(), size_of::<SocketRecord>() as u32) };
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

/// Fills the record; `None` when the operator has not asked about this connection, or of requests too many are told already.
#[inline(always)]
pub(crate) fn fill<'a>(
    record: *mut SocketRecord,
    sk: Address,
    state: u8,
    cookie: impl FnOnce() -> u64,
) -> Option<&'a mut SocketRecord> {
    let tuple = socket::tuple(sk)?;
    if !filter::passes(&tuple) {
        return None;
    }
    let now_ns = clock::now_ns();
    // A SYN flood would fill the tracker.
    if state == state::NEW_SYN_RECV && !limit::take(PerCpu::ScannedRequests, now_ns) {
        return None;
    }
    let record = zeroed(record);
    record.abi_version = ABI_VERSION;
    record.hook = hook::SCAN;
    record.size = size_of::<SocketRecord>() as u32;
    record.ktime_ns = now_ns;
    record.old_state = state;
    record.new_state = state;
    record.result = NO_RESULT;
    tuple.write(record);
    record.cookie = socket::cookie(sk, cookie);
    socket::fill_common(record, sk);
    if state == state::NEW_SYN_RECV {
        limit::suspect(&tuple, now_ns, limit::Stage::Embryonic);
        socket::fill_request(record, sk);
    } else {
        socket::fill_full(record, sk);
    }
    Some(record)
}
