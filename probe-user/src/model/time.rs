use std::{fmt, ops::Add, time::Duration};

use serde::{Deserialize, Serialize};

/// A moment on the kernel's `CLOCK_MONOTONIC`, in nanoseconds since boot without suspend.
///
/// This is the clock of `bpf_ktime_get_ns()`, of `tcp_sock.retrans_stamp` and of every timer of the tracker. Wall-clock
/// times appear only in `report`, converted by the offsets that `app::clock` finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MonoTime(u64);

impl MonoTime {
    /// A moment `ns` nanoseconds after the clock's zero.
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the clock's zero.
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `by` before `self`; the clock's zero when there is none.
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(saturating_ns(by)))
    }
}

impl Add<Duration> for MonoTime {
    type Output = Self;

    /// The moment `by` after `self`, saturating at the end of the clock (584 years).
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(saturating_ns(by)))
    }
}

impl fmt::Display for MonoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

fn saturating_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_never_go_below_zero() {
        let (early, late) = (MonoTime::from_ns(5), MonoTime::from_ns(9));
        assert_eq!(late.since(early), Duration::from_nanos(4));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.before(Duration::from_secs(1)), MonoTime::from_ns(0));
    }

    #[test]
    fn sums_saturate_instead_of_wrapping() {
        assert_eq!(MonoTime::from_ns(u64::MAX) + Duration::MAX, MonoTime::from_ns(u64::MAX));
    }
}
