//! Whether a record wakes user space.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE},
    macros::map,
    maps::{Array, RingBuf},
};

/// Whether user space sleeps until it is woken: 1, or 0 while it reads by a timer.
#[map]
static READER_SLEEPS: Array<u32> = Array::with_max_entries(1, 0);

/// As [`wakeup`], and also for the first records after a quiet second, when user space has put the timer away.
#[inline(always)]
pub(super) fn wakeup_if_asleep<T>(ring: &RingBuf) -> u64 {
    /// A few CPUs may write their first records at once, of which none alone is the first; more would each cost a wakeup.
    const FIRST_BYTES: u64 = 2_048;
    let sleeps = READER_SLEEPS.get(0).is_some_and(|sleeps| *sleeps != 0);
    if sleeps && ring.query(u64::from(BPF_RB_AVAIL_DATA)) < FIRST_BYTES {
        return flag(true);
    }
    wakeup::<T>(ring)
}

/// A wakeup costs some microseconds, a record some dozen nanoseconds: user space reads by a timer, and is woken only by the
/// record that makes the ring half full.
#[inline(always)]
fn wakeup<T>(ring: &RingBuf) -> u64 {
    // A record takes 8 bytes more on the ring than its own size.
    flag(beyond_half(ring).is_some_and(|beyond| beyond < size_of::<T>() as u64 + 8))
}

/// For a ring that is looked at only now and then: whichever record finds it half full or fuller wakes user space.
#[inline(always)]
pub(super) fn wakeup_from_half_on(ring: &RingBuf) -> u64 {
    flag(beyond_half(ring).is_some())
}

/// By how many bytes what waits exceeds half of the ring; `None` where it does not reach it.
#[inline(always)]
fn beyond_half(ring: &RingBuf) -> Option<u64> {
    let waiting = ring.query(u64::from(BPF_RB_AVAIL_DATA));
    waiting.checked_sub(ring.query(u64::from(BPF_RB_RING_SIZE)) / 2)
}

#[inline(always)]
fn flag(is_woken: bool) -> u64 {
    u64::from(if is_woken { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}
