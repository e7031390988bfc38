//! The kernel programs of connprobe: read, filter, fill, emit.
//!
//! Every program decides first, from as little as it can, whether what it saw is ordinary, and returns. Only what does not
//! happen on a healthy connection goes on to [`emit`], the one place that writes to the rings.
//!
//! No program changes anything it observes, and none depends on the layout of one kernel: offsets come from the running
//! kernel's BTF through [`globals`].

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod clock;
mod emit;
mod filter;
mod globals;
mod hooks;
mod iter;
mod limit;
mod lives;
mod memory;
mod packet;
mod socket;

/// The helpers used here are GPL-only (`bpf_probe_read_kernel`), so this object declares a compatible licence; see
/// LICENSE-GPL. User space is licensed apart from it.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: no program can panic: nothing here indexes, divides or unwraps. Were one to, the verifier would refuse it.
    unsafe { core::hint::unreachable_unchecked() }
}
