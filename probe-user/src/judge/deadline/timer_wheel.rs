use std::time::Duration;

use crate::model::Ticks;

/// The kernel's timer wheel, which fires late but never early: the longer a wait, the coarser the steps it is rounded up to.
pub(super) struct TimerWheel {
    /// The tick at which the timer is armed; `None` where it is not known, and nothing is rounded.
    pub(super) ticks: Option<Ticks>,
}

impl TimerWheel {
    /// `LVL_SIZE`, `LVL_CLK_SHIFT` and `LVL_DEPTH` of `kernel/time/timer.c` (since 4.8).
    const LEVEL_SIZE: u64 = 64;
    const LEVEL_SHIFT: u32 = 3;
    const LEVELS: u32 = 9;

    /// How long a timer armed now for `wait` really waits; the wheel then stands at that tick (`calc_wheel_index()`).
    pub(super) fn wait(&mut self, wait: Duration) -> Duration {
        self.expire(wait, wait)
    }

    /// How long a timer really waits that was armed for `armed_for` and is due in `due_in`.
    pub(super) fn armed(&mut self, due_in: Duration, armed_for: Duration) -> Duration {
        self.expire(due_in, armed_for)
    }

    fn expire(&mut self, due_in: Duration, armed_for: Duration) -> Duration {
        let Some(Ticks { jiffies, hz }) = &mut self.ticks else { return due_in };
        let per_second = u64::from((*hz).max(1));
        let to_jiffies = |duration: Duration| {
            let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            nanoseconds.div_ceil(1_000_000_000 / per_second.min(1_000_000_000))
        };
        let delta = to_jiffies(armed_for);
        // The first on which it is less than 63 of its steps: each level's are eight times the one's before.
        let bits = u64::BITS - (delta / (Self::LEVEL_SIZE - 1)).leading_zeros();
        let level = bits.div_ceil(Self::LEVEL_SHIFT).min(Self::LEVELS - 1);
        let shift = level * Self::LEVEL_SHIFT;
        let expires = ((jiffies.saturating_add(to_jiffies(due_in)) >> shift) + 1) << shift;
        let waited = expires.saturating_sub(*jiffies);
        *jiffies = expires;
        Duration::from_nanos(waited.saturating_mul(1_000_000_000 / per_second.min(1_000_000_000)))
    }
}
