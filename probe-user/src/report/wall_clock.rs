use jiff::Timestamp;

use crate::model::MonoTime;

/// Turns kernel times into wall-clock times by one offset, measured once: the order of events is the kernel's, also when the
/// wall clock is set meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// Nanoseconds from the zero of the kernel's monotonic clock back to 1970 (UTC).
    offset_ns: i128,
}

impl WallClock {
    /// A clock for which `mono` and `wall` are the same moment.
    pub fn aligned(mono: MonoTime, wall: Timestamp) -> Self {
        Self { offset_ns: wall.as_nanosecond() - i128::from(mono.as_ns()) }
    }

    /// The wall-clock time of a kernel time; the latest that can be written when it lies beyond.
    pub fn at(&self, mono: MonoTime) -> Timestamp {
        Timestamp::from_nanosecond(self.offset_ns + i128::from(mono.as_ns())).unwrap_or(Timestamp::MAX)
    }

    /// As in records: RFC 3339, UTC, nanoseconds.
    pub fn rfc3339(&self, mono: MonoTime) -> String {
        format!("{:.9}", self.at(mono))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_nine_digits() {
        let clock = WallClock::aligned(MonoTime::from_ns(1_000), "2026-11-20T21:24:01.000001Z".parse().unwrap());
        assert_eq!(clock.rfc3339(MonoTime::from_ns(1_001)), "2026-11-20T21:24:01.000001001Z");
        assert_eq!(clock.rfc3339(MonoTime::from_ns(1_000_001_000)), "2026-11-20T21:24:02.000001000Z");
        assert_eq!(clock.at(MonoTime::from_ns(u64::MAX)).to_string().get(..4), Some("2611"));
    }
}
