//! The programs, a file per family of hooks.
//!
//! Each hook stands twice: as a BTF tracepoint (`tp_btf`), which gets the arguments themselves and may ask for the socket's
//! cookie, and as a classic tracepoint for kernels or policies that refuse it, which gets a record whose layout user space
//! reads from tracefs.

mod sock;
mod tcp;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::bpf_get_socket_cookie,
    programs::{BtfTracePointContext, TracePointContext},
};

use crate::{globals, socket::Address};

/// The socket that is argument `index` of a BTF tracepoint; `None` when it is a null pointer.
#[inline(always)]
fn socket_argument(ctx: &BtfTracePointContext, index: usize) -> Option<(Address, *mut core::ffi::c_void)> {
    let sk: *mut core::ffi::c_void = ctx.arg(index);
    if sk.is_null() { None } else { Some((Address(sk as u64), sk)) }
}

/// The socket's cookie, given by the kernel at the first call.
#[inline(always)]
fn cookie(sk: *mut core::ffi::c_void) -> u64 {
    // SAFETY: `sk` is the tracepoint's own trusted argument, checked for null by `socket_argument`.
    unsafe { bpf_get_socket_cookie(sk.cast()) }
}

/// A classic tracepoint cannot ask for a cookie: 0 stands for none.
#[inline(always)]
fn no_cookie() -> u64 {
    0
}

/// Reads a `T` at an offset of a classic tracepoint's record; `None` when the offset is 0, where no field of ours lies.
#[inline(always)]
fn classic_field<T: Copy>(ctx: &TracePointContext, offset: *const u32) -> Option<T> {
    // SAFETY: every caller passes a pointer into the settings.
    let offset = unsafe { globals::read(offset) };
    if offset == 0 {
        return None;
    }
    let at = (ctx.as_ptr() as u64).wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: the helper checks the address itself and fails instead of faulting.
    unsafe { aya_ebpf::helpers::bpf_probe_read_kernel(at) }.ok()
}

/// The socket named in the record of the classic tracepoint with number `hook`.
#[inline(always)]
fn classic_socket(ctx: &TracePointContext, hook: u16) -> Option<Address> {
    // SAFETY: `hook` is one of `abi::hook`, below the array's length.
    let offset = unsafe { (&raw const (*globals::settings()).classic_skaddr_offset as *const u32).add(hook as usize) };
    classic_field::<u64>(ctx, offset).filter(|sk| *sk != 0).map(Address)
}
