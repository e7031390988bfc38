//! The iterators: a look at every TCP socket of one network namespace, of which those that matter are written out. One file per program.
//!
//! Kernel iterator `iter/tcp` (`bpf_iter_tcp`, `net/ipv4/tcp_ipv4.c`), since 5.9: runs when user space reads, sees the namespace of who
//! opened it, with the socket locked. Blind spot: a socket that changes its hash bucket while the look goes on. Cost of one that does not
//! matter: the kernel's own walk, some 100 ns, and what its program says.

mod idle;
mod waiting;

use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_seq_write, bpf_skc_to_tcp_sock};
use connprobe_common::abi::{ABI_VERSION, NO_RESULT, SocketRecord, hook};

use crate::{
    clock,
    emit::zeroed,
    filter,
    limit::{self, PerCpu, Stage},
    socket::{self, Address, state},
};

/// `struct bpf_iter__tcp` (`net/ipv4/tcp_ipv4.c`): pointers, each in 8 bytes.
#[repr(C)]
struct Context {
    meta: *const Meta,
    sk_common: *mut core::ffi::c_void,
}

/// The beginning of `struct bpf_iter_meta` (`include/linux/bpf.h`).
#[repr(C)]
struct Meta {
    seq: *mut core::ffi::c_void,
}

/// A socket that the kernel shows.
#[derive(Clone, Copy)]
struct Shown {
    meta: *const Meta,
    /// Not null.
    sk_common: *mut core::ffi::c_void,
}

impl Shown {
    /// `None` at the end.
    #[inline(always)]
    fn of(ctx: *const Context) -> Option<Self> {
        // SAFETY: the kernel passes a valid context; the verifier checks both loads.
        let (meta, sk_common) = unsafe { ((*ctx).meta, (*ctx).sk_common) };
        if sk_common.is_null() { None } else { Some(Self { meta, sk_common }) }
    }

    #[inline(always)]
    fn address(self) -> Address {
        Address(self.sk_common as u64)
    }

    /// Its `struct tcp_sock`; null where it is no full socket.
    #[inline(always)]
    fn tcp_sock(self) -> *const u8 {
        // SAFETY: it is the kernel's own pointer.
        unsafe { bpf_skc_to_tcp_sock(self.sk_common) }.cast_const().cast()
    }

    /// Its cookie, given by the kernel at the first call.
    #[inline(always)]
    fn cookie(self) -> u64 {
        // SAFETY: as above.
        unsafe { bpf_get_socket_cookie(self.sk_common) }
    }

    /// Writes its record out. When it does not fit any more, the kernel shows the socket again to the next read.
    #[inline(always)]
    fn write(self, record: &mut SocketRecord) {
        let record: *mut SocketRecord = record;
        // SAFETY: `meta` is the kernel's own and its first member the file that is read; the record is as large as said.
        unsafe { bpf_seq_write((*self.meta).seq.cast(), record.cast(), size_of::<SocketRecord>() as u32) };
    }
}

/// Fills the record; `None` when the operator has not asked about this connection, or of requests too many are told already.
#[inline(always)]
fn fill<'a>(record: *mut SocketRecord, shown: Shown, state: u8) -> Option<&'a mut SocketRecord> {
    let sk = shown.address();
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
    // A request's would name no socket that anybody can look up.
    record.cookie = socket::cookie(sk, || if state == state::NEW_SYN_RECV { 0 } else { shown.cookie() });
    socket::fill_common(record, sk);
    if state == state::NEW_SYN_RECV {
        limit::suspect(&tuple, now_ns, Stage::Embryonic);
        socket::fill_request(record, sk);
    } else {
        socket::fill_full(record, sk);
    }
    Some(record)
}
