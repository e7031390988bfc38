use std::collections::VecDeque;

use jiff::Timestamp;

use crate::model::MonoTime;

/// Offsets remembered: as many as a wall clock is set, or a host suspended, while a finding lives.
const MOST_STEPS: usize = 64;
/// By how much the two clocks may go apart unnoticed. It is more than two readings one after the other are apart.
const SAME_OFFSET_NS: u128 = 2_000_000;

/// Turns kernel times into wall-clock times by the offset between the clocks that was found when each moment was present: the order
/// of events is the kernel's, a moment that was told once is told the same ever after, and moments after the wall clock was set, or the
/// host suspended, are told by the new offset. (Corrections of speed act on both clocks alike.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// When it was made.
    began: MonoTime,
    /// Nanoseconds from the zero of the kernel's monotonic clock back to 1970 (UTC), before the first step.
    offset_ns: i128,
    /// From when on which other offset holds, in order.
    steps: VecDeque<(MonoTime, i128)>,
}

impl WallClock {
    /// A clock for which `mono` and `wall` are the same moment.
    pub fn aligned(mono: MonoTime, wall: Timestamp) -> Self {
        Self { began: mono, offset_ns: offset_ns(mono, wall), steps: VecDeque::new() }
    }

    /// The first moment that it was told.
    pub const fn began(&self) -> MonoTime {
        self.began
    }

    /// Takes in that `mono` and `wall` are the same moment, later than any taken in before.
    pub fn follow(&mut self, mono: MonoTime, wall: Timestamp) {
        let offset_ns = offset_ns(mono, wall);
        if offset_ns.abs_diff(self.offset_ns_at(mono)) < SAME_OFFSET_NS {
            return;
        }
        self.steps.push_back((mono, offset_ns));
        if self.steps.len() > MOST_STEPS
            && let Some((_, oldest)) = self.steps.pop_front()
        {
            self.offset_ns = oldest;
        }
    }

    fn offset_ns_at(&self, mono: MonoTime) -> i128 {
        self.steps.iter().rev().find(|(from, _)| *from <= mono).map_or(self.offset_ns, |(_, offset_ns)| *offset_ns)
    }

    /// The wall-clock time of a kernel time; the latest that can be written when it lies beyond.
    pub fn at(&self, mono: MonoTime) -> Timestamp {
        Timestamp::from_nanosecond(self.offset_ns_at(mono) + i128::from(mono.as_ns())).unwrap_or(Timestamp::MAX)
    }

    /// As in records: RFC 3339, UTC, nanoseconds.
    pub fn rfc3339(&self, mono: MonoTime) -> String {
        format!("{:.9}", self.at(mono))
    }
}

fn offset_ns(mono: MonoTime, wall: Timestamp) -> i128 {
    wall.as_nanosecond() - i128::from(mono.as_ns())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> MonoTime {
        MonoTime::from_ns(seconds * 1_000_000_000)
    }

    #[test]
    fn times_follow_the_wall_clock_and_what_was_told_stays() {
        let mut clock = WallClock::aligned(at(0), "2026-11-20T21:00:00Z".parse().unwrap());
        let since = clock.rfc3339(at(100));
        clock.follow(at(101), "2026-11-20T21:01:41.0005Z".parse().unwrap());
        assert_eq!(clock.rfc3339(at(102)), "2026-11-20T21:01:42.000000000Z", "readings are not exact");
        // Suspended for an hour, then set back by a minute.
        clock.follow(at(200), "2026-11-20T22:03:20Z".parse().unwrap());
        clock.follow(at(300), "2026-11-20T22:04:00Z".parse().unwrap());
        assert_eq!(clock.rfc3339(at(100)), since);
        assert_eq!(clock.rfc3339(at(199)), "2026-11-20T21:03:19.000000000Z");
        assert_eq!(clock.rfc3339(at(299)), "2026-11-20T22:04:59.000000000Z");
        assert_eq!(clock.rfc3339(at(300)), "2026-11-20T22:04:00.000000000Z");
        assert_eq!(clock.rfc3339(at(3_900)), "2026-11-20T23:04:00.000000000Z", "a deadline");
    }

    #[test]
    fn however_often_it_is_set_the_clock_does_not_grow() {
        let mut clock = WallClock::aligned(at(0), Timestamp::UNIX_EPOCH);
        for second in 1..1_000 {
            clock.follow(at(second), Timestamp::from_second(2 * i64::try_from(second).unwrap()).unwrap());
        }
        assert_eq!(clock.steps.len(), MOST_STEPS);
        assert_eq!(clock.at(at(999)), Timestamp::from_second(1_998).unwrap());
        assert_eq!(clock.at(at(950)), Timestamp::from_second(1_900).unwrap());
    }

    #[test]
    fn times_are_written_in_utc_with_nine_digits() {
        let clock = WallClock::aligned(MonoTime::from_ns(1_000), "2026-11-20T21:24:01.000001Z".parse().unwrap());
        assert_eq!(clock.rfc3339(MonoTime::from_ns(1_001)), "2026-11-20T21:24:01.000001001Z");
        assert_eq!(clock.rfc3339(MonoTime::from_ns(1_000_001_000)), "2026-11-20T21:24:02.000001000Z");
        assert_eq!(clock.at(MonoTime::from_ns(u64::MAX)).to_string().get(..4), Some("2611"));
    }
}
