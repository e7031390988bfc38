//! The one clock: everything else takes times as arguments.

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

use crate::{model::MonoTime, report::WallClock};

/// Now, by the clock the kernel programs stamp their events with.
pub fn now() -> MonoTime {
    // CLOCK_MONOTONIC always exists on Linux and the pointer is valid, so clock_gettime(2) cannot fail.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
    MonoTime::from_ns(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

/// Aligns the kernel's clock with the wall clock, as they are now.
pub fn wall_clock() -> WallClock {
    WallClock::aligned(now(), Timestamp::now())
}
