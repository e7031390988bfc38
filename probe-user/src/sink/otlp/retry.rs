//! How long to wait before a batch is sent again.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// After the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// After many: a collector that is back gets what was kept within this time.
const LONGEST: Duration = Duration::from_secs(30);
/// A collector may ask for more, but not for any time: nobody would notice a daemon that waits for a year.
const LONGEST_ASKED_FOR: Duration = Duration::from_secs(600);

/// Doubles with every failure.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure: what the collector asks for, or else twice the last time, of which up to half is left
    /// to chance (`random`), so that the hosts of a fleet do not come back all at once.
    pub(super) fn next(&mut self, asked_for: Option<Duration>, random: u32) -> Duration {
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let part = f64::from(random) / f64::from(u32::MAX);
        match asked_for {
            // Not before, and not all at the same moment.
            Some(time) => time.min(LONGEST_ASKED_FOR) + FIRST.mul_f64(part),
            None => doubled.mul_f64(0.5 + part / 2.0),
        }
    }
}

/// What a `Retry-After` field asks for: seconds, or a date (RFC 9110 section 10.2.3). One that makes no sense asks for nothing.
pub(super) fn retry_after(field: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = field.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until: Timestamp = jiff::fmt::rfc2822::parse(field.trim()).ok()?.timestamp();
    Some(SystemTime::from(until).duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_doubles_up_to_a_limit_and_half_of_it_is_chance() {
        let mut backoff = Backoff::default();
        let whole: Vec<_> = (0..7).map(|_| backoff.next(None, u32::MAX).as_secs()).collect();
        assert_eq!(whole, [1, 2, 4, 8, 16, 30, 30]);
        backoff.reset();
        assert_eq!(backoff.next(None, 0), Duration::from_millis(500));
        for _ in 0..100 {
            backoff.next(None, 0);
        }
        assert_eq!(backoff.next(None, 0), LONGEST / 2);
    }

    #[test]
    fn a_collector_is_given_the_time_that_it_asks_for_but_not_any() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(Some(Duration::from_secs(7)), 0).as_secs(), 7);
        assert_eq!(backoff.next(Some(Duration::MAX), 0), LONGEST_ASKED_FOR);
        let now = SystemTime::from("1994-11-06T08:49:07Z".parse::<Timestamp>().unwrap());
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }
}
