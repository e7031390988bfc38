//! The one clock: everything else takes times as arguments.

use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

use crate::{model::MonoTime, recording::SameMoment, report::WallClock};

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
    let moment = same_moment();
    WallClock::aligned(moment.mono, moment.wall())
}

/// The same moment by both clocks, however long reading them took.
pub fn same_moment() -> SameMoment {
    let (mono, wall, _) = read_both();
    SameMoment::new(mono, wall)
}

/// The same moment by the kernel's clock and by the wall clock; `None` when this thread was held up between the readings.
pub fn both() -> Option<SameMoment> {
    const LONGEST_READING: Duration = Duration::from_millis(1);
    let (mono, wall, took) = read_both();
    (took <= LONGEST_READING).then(|| SameMoment::new(mono, wall))
}

/// Reads the wall clock between two readings of the kernel's, and how far these are apart.
fn read_both() -> (MonoTime, Timestamp, Duration) {
    let (before, wall, after) = (now(), Timestamp::now(), now());
    let took = after.since(before);
    (before + took / 2, wall, took)
}
