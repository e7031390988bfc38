//! The one place that reserves ring-buffer space, and the one that counts.

pub mod connection;
pub mod packet;
pub mod socket;
mod wake;

use aya_ebpf::{
    macros::map,
    maps::{PerCpuArray, RingBuf, ring_buf::RingBufEntry},
};
use connprobe_common::abi::{HookCounters, hook};

use wake::wakeup_if_asleep;

/// Bytes of the ring; user space may set another size before loading. 1 MiB holds 6,000 records: a second of the worst storm
/// measured, while user space reads every few hundredths of a second.
const RING_BYTES: u32 = 1 << 20;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

#[map]
static COUNTERS: PerCpuArray<HookCounters> = PerCpuArray::with_max_entries(hook::COUNT as u32, 0);

/// What this CPU counts of a hook.
#[inline(always)]
fn counters(hook: u16) -> Option<&'static mut HookCounters> {
    // SAFETY: a per-CPU value belongs to this CPU while the program runs.
    COUNTERS.get_ptr_mut(u32::from(hook)).map(|counters| unsafe { &mut *counters })
}

/// Counts an event, for which there was room or not.
#[inline(always)]
fn count(counters: &mut HookCounters, is_written: bool) {
    counters.seen += 1;
    if is_written {
        counters.emitted += 1;
    } else {
        counters.lost += 1;
    }
}

/// Room for a record on the ring. Not one function that is handed how to fill it: such a closure the compiler may leave a function of its
/// own, one more frame in the stack that is told of a dropped packet.
struct Room<T: 'static>(RingBufEntry<T>);

impl<T: Copy> Room<T> {
    /// `None` when the ring is full.
    #[inline(always)]
    fn reserve() -> Option<Self> {
        EVENTS.reserve::<T>(0).map(Self)
    }

    /// The record, zeroed.
    #[inline(always)]
    fn record(&mut self) -> &mut T {
        zeroed(self.0.as_mut_ptr())
    }

    #[inline(always)]
    fn submit(self) {
        self.0.submit(wakeup_if_asleep::<T>(&EVENTS));
    }
}

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
