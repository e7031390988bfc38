//! The programs, a file per family of hooks.
//!
//! Each hook stands several times, once for every mechanism that may serve it: as a BTF tracepoint (`tp_btf`) or at the
//! entry or the return of a function by trampoline (`fentry`, `fexit`), which get the arguments themselves and may ask for
//! the socket's cookie; as a classic tracepoint, which gets a record whose layout user space reads from tracefs; and as a
//! kprobe, which gets the registers the function was called with. A program is named by what it is attached to and how;
//! the BTF tracepoint by the hook alone.

mod conntrack;
mod lifecycle;
mod probe;
mod skb;
mod sock;
mod tcp;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::bpf_get_socket_cookie,
    macros::map,
    maps::LruHashMap,
    programs::{ProbeContext, RetProbeContext, TracePointContext},
};

use crate::{
    globals::{self, settings},
    memory::load,
    socket::Address,
};

/// A socket that is an argument of a BTF tracepoint or of a function; `None` when it is a null pointer.
#[inline(always)]
fn socket_argument(sk: *mut core::ffi::c_void) -> Option<(Address, *mut core::ffi::c_void)> {
    if sk.is_null() { None } else { Some((Address(sk as u64), sk)) }
}

/// The socket's cookie, given by the kernel at the first call.
#[inline(always)]
fn cookie(sk: *mut core::ffi::c_void) -> u64 {
    // SAFETY: `sk` is the tracepoint's or function's own argument, checked for null by `socket_argument`.
    unsafe { bpf_get_socket_cookie(sk.cast()) }
}

/// Classic tracepoints and kprobes cannot ask for a cookie: 0 stands for none.
#[inline(always)]
fn no_cookie() -> u64 {
    0
}

/// Reads a `T` at an offset of a classic tracepoint's record; `None` when the offset is 0, where no field of ours lies.
#[inline(always)]
fn classic_field<T: Copy>(ctx: &TracePointContext, offset: *const u32) -> Option<T> {
    // SAFETY: every caller passes a pointer into the settings.
    let offset = unsafe { globals::read(offset) };
    if offset == 0 { None } else { context_field(ctx, offset) }
}

/// Reads a `T` at an offset of what the program was given.
#[inline(always)]
fn context_field<T: Copy>(ctx: &impl EbpfContext, offset: u32) -> Option<T> {
    load((ctx.as_ptr() as u64).wrapping_add(u64::from(offset)))
}

/// The socket named in the record of the classic tracepoint with number `hook`.
#[inline(always)]
fn classic_socket(ctx: &TracePointContext, hook: u16) -> Option<Address> {
    // SAFETY: `hook` is one of `abi::hook`, below the array's length.
    let offset = unsafe { (&raw const (*globals::settings()).classic_skaddr_offset as *const u32).add(hook as usize) };
    classic_field::<u64>(ctx, offset).filter(|sk| *sk != 0).map(Address)
}

/// Argument `index` of the function a kprobe stands at, out of the registers (`struct pt_regs`).
#[inline(always)]
fn kprobe_argument(ctx: &impl EbpfContext, index: usize) -> Option<u64> {
    // SAFETY: every caller's `index` is below the array's length, so this points into the settings.
    let offset = unsafe { (&raw const (*settings()).registers.arguments as *const u32).add(index) };
    // SAFETY: as above.
    context_field(ctx, unsafe { globals::read(offset) })
}

/// The socket that is argument `index` of the function a kprobe stands at; `None` when it is a null pointer.
#[inline(always)]
fn kprobe_socket(ctx: &ProbeContext, index: usize) -> Option<Address> {
    kprobe_argument(ctx, index).filter(|sk| *sk != 0).map(Address)
}

/// Functions entered and not yet left whose return matters. There are as many as there are processors and nested
/// interrupts; one whose return is missed (the kernel's limit on kretprobes) is overwritten or forgotten.
const MAX_CALLS: u32 = 1024;

/// The socket a function was called with, by the stack pointer its return will have: unique among the calls under way.
#[map]
static CALLS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(MAX_CALLS, 0);

/// At the entry: remembers the socket until [`left`].
#[inline(always)]
fn entered(ctx: &ProbeContext, sk: Address) {
    // SAFETY: both point into the settings.
    let (offset, return_address_bytes) = unsafe {
        (
            globals::read(&raw const (*settings()).registers.stack_pointer),
            globals::read(&raw const (*settings()).registers.return_address_bytes),
        )
    };
    if let Some(stack_pointer) = context_field::<u64>(ctx, offset) {
        let _ = CALLS.insert(&stack_pointer.wrapping_add(u64::from(return_address_bytes)), &sk.0, 0);
    }
}

/// At the return: the socket remembered at the entry, and what the function returns.
#[inline(always)]
fn left(ctx: &RetProbeContext) -> Option<(Address, i32)> {
    // SAFETY: both point into the settings.
    let (offset, result_offset) = unsafe {
        (
            globals::read(&raw const (*settings()).registers.stack_pointer),
            globals::read(&raw const (*settings()).registers.result),
        )
    };
    let stack_pointer: u64 = context_field(ctx, offset)?;
    // SAFETY: copied out at once.
    let sk = unsafe { CALLS.get(&stack_pointer) }.copied()?;
    let _ = CALLS.remove(&stack_pointer);
    Some((Address(sk), context_field::<u64>(ctx, result_offset)? as i32))
}
