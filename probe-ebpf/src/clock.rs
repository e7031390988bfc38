//! The clock of everything that is told.

use aya_ebpf::helpers::bpf_ktime_get_ns;

/// Now: nanoseconds since boot, but for the time that the host was suspended.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes nothing and only reads a clock.
    unsafe { bpf_ktime_get_ns() }
}
