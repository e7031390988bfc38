//! The one place that reserves ring-buffer space, and the one that counts.

pub mod connection;
pub mod packet;
pub mod socket;
mod wake;

use aya_ebpf::{
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use connprobe_common::abi::{HookCounters, hook};

/// Bytes of the ring; user space may set another size before loading. 1 MiB holds 6,000 records: a second of the worst storm
/// measured, while user space reads every few hundredths of a second.
const RING_BYTES: u32 = 1 << 20;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

#[map]
static COUNTERS: PerCpuArray<HookCounters> = PerCpuArray::with_max_entries(hook::COUNT as u32, 0);

/// Zeroes a record, word by word: the compiler's `memset` would be a call that loops over bytes.
#[inline(always)]
pub fn zeroed<'a, T: Copy>(record: *mut T) -> &'a mut T {
    const { assert!(size_of::<T>().is_multiple_of(size_of::<u64>())) };
    for word in 0..size_of::<T>() / size_of::<u64>() {
        // SAFETY: every caller passes a reservation or a map value as large as the record, aligned to 8 bytes, and its own. Volatile, so that
        // the loop is not turned back into a `memset`.
        unsafe { record.cast::<u64>().add(word).write_volatile(0) };
    }
    // SAFETY: as above, and zero bytes are a valid record: records are integers and arrays of them.
    unsafe { &mut *record }
}
