//! When the kernel will give up, computed from the socket itself.

use std::time::Duration;

use crate::model::{MonoTime, SocketView, Ticks};

/// Which kernel timer ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelTimer {
    /// The retransmission timer (`tcp_retransmit_timer`).
    Retransmission,
}

impl KernelTimer {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retransmission => "retransmission",
        }
    }
}

/// Which setting decides how long the kernel waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadlineSource {
    /// `net.ipv4.tcp_retries2` of the socket's namespace.
    TcpRetries2 {
        /// Its value.
        retries: u8,
    },
    /// `net.ipv4.tcp_orphan_retries` of the socket's namespace: the application has closed the socket already.
    TcpOrphanRetries {
        /// The number that counts (8 where the setting is 0).
        retries: u8,
    },
    /// The socket's `TCP_USER_TIMEOUT`.
    TcpUserTimeout {
        /// Its value.
        timeout: Duration,
    },
}

impl DeadlineSource {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcpRetries2 { .. } => "tcp_retries2",
            Self::TcpOrphanRetries { .. } => "tcp_orphan_retries",
            Self::TcpUserTimeout { .. } => "tcp_user_timeout",
        }
    }
}

/// When the kernel gives a connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The moment the timer fires and finds the time used up.
    pub at: MonoTime,
    /// The timer.
    pub timer: KernelTimer,
    /// What sets the time.
    pub set_by: DeadlineSource,
}

/// `TCP_RTO_MIN` (`include/net/tcp.h`): the base of the kernel's model, whatever the connection's own RTO is.
const RTO_MIN: Duration = Duration::from_millis(200);
/// `TCP_RTO_MAX` where the socket has no `icsk_rto_max` (before Linux 6.15).
const RTO_MAX: Duration = Duration::from_secs(120);
/// What `tcp_orphan_retries()` makes of a setting of 0 while the RTO is below its maximum.
const DEFAULT_ORPHAN_RETRIES: u8 = 8;
/// More timer steps than any setting allows (255 retries): only a bound on the loop.
const MOST_STEPS: u32 = 512;

/// The deadline of a connection whose retransmission timer fired at `fired_at` with the socket as in `socket`.
///
/// `tcp_write_timeout()` (`net/ipv4/tcp_timer.c`) is asked at every firing, and gives up at the first one at which the time
/// since the first retransmission has reached the limit of `retransmits_timed_out()`: `TCP_USER_TIMEOUT` when it is set,
/// else the time a connection with an RTO of 200 ms would need for `tcp_retries2` doublings (`tcp_model_timeout()`). Between
/// firings the timer doubles up to its maximum, and `tcp_clamp_rto_to_user_timeout()` (from 4.19) shortens the last wait to
/// a user timeout. Each wait is as long as the timer wheel makes it. `None` when the kernel does not tell what is needed.
pub(super) fn of_retransmission(fired_at: MonoTime, socket: &SocketView) -> Option<Deadline> {
    let rto_max = socket.rto_max.filter(|max| !max.is_zero()).unwrap_or(RTO_MAX);
    let mut rto = socket.rto.filter(|rto| !rto.is_zero())?;
    let set_by = source(socket, rto < rto_max)?;
    let limit = match set_by {
        DeadlineSource::TcpUserTimeout { timeout } => timeout,
        DeadlineSource::TcpRetries2 { retries } | DeadlineSource::TcpOrphanRetries { retries } => {
            model_timeout(retries, rto_max)
        }
    };
    // The first retransmission is the one that fired now when none was stamped before.
    let first = fired_at.before(socket.retransmitting_for.unwrap_or(Duration::ZERO));
    let mut firing = fired_at;
    let mut wheel = TimerWheel { ticks: socket.ticks };
    for _ in 0..MOST_STEPS {
        rto = rto.saturating_mul(2).min(rto_max);
        let wait = match set_by {
            DeadlineSource::TcpUserTimeout { timeout } => rto.min(timeout.saturating_sub(firing.since(first))),
            DeadlineSource::TcpRetries2 { .. } | DeadlineSource::TcpOrphanRetries { .. } => rto,
        };
        firing = firing + wheel.wait(wait);
        if firing.since(first) >= limit {
            break;
        }
    }
    Some(Deadline { at: firing, timer: KernelTimer::Retransmission, set_by })
}

fn source(socket: &SocketView, rto_below_max: bool) -> Option<DeadlineSource> {
    let user_timeout = socket.user_timeout?;
    if !user_timeout.is_zero() {
        return Some(DeadlineSource::TcpUserTimeout { timeout: user_timeout });
    }
    if socket.orphaned? {
        let retries = match socket.tcp_orphan_retries? {
            0 if rto_below_max => DEFAULT_ORPHAN_RETRIES,
            retries => retries,
        };
        return Some(DeadlineSource::TcpOrphanRetries { retries });
    }
    Some(DeadlineSource::TcpRetries2 { retries: socket.tcp_retries2? })
}

/// `tcp_model_timeout()`: the sum of the waits of `retries` + 1 firings that start at [`RTO_MIN`] and double to `rto_max`.
fn model_timeout(retries: u8, rto_max: Duration) -> Duration {
    let ratio = u64::try_from(rto_max.as_millis() / RTO_MIN.as_millis()).unwrap_or(u64::MAX).max(1);
    let doublings = ratio.ilog2().min(30);
    let retries = u32::from(retries);
    let sum_of_doublings = |count: u32| RTO_MIN.saturating_mul((2u32 << count) - 1);
    if retries <= doublings {
        sum_of_doublings(retries)
    } else {
        sum_of_doublings(doublings).saturating_add(rto_max.saturating_mul(retries - doublings))
    }
}

/// The kernel's timer wheel, which fires late but never early: the longer a wait, the coarser the steps it is rounded up to.
struct TimerWheel {
    /// The tick at which the timer is armed; `None` where it is not known, and nothing is rounded.
    ticks: Option<Ticks>,
}

impl TimerWheel {
    /// `LVL_SIZE`, `LVL_CLK_SHIFT` and `LVL_DEPTH` of `kernel/time/timer.c` (since 4.8).
    const LEVEL_SIZE: u64 = 64;
    const LEVEL_SHIFT: u32 = 3;
    const LEVELS: u32 = 9;

    /// How long a timer armed now for `wait` really waits; the wheel then stands at that tick (`calc_wheel_index()`).
    fn wait(&mut self, wait: Duration) -> Duration {
        let Some(Ticks { jiffies, hz }) = &mut self.ticks else { return wait };
        let per_second = u64::from((*hz).max(1));
        let to_jiffies = |duration: Duration| {
            let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            nanoseconds.div_ceil(1_000_000_000 / per_second.min(1_000_000_000))
        };
        let delta = to_jiffies(wait);
        let level_of = |level: &u32| delta < (Self::LEVEL_SIZE - 1) << (level * Self::LEVEL_SHIFT);
        let level = (0..Self::LEVELS).find(level_of).unwrap_or(Self::LEVELS - 1);
        let shift = level * Self::LEVEL_SHIFT;
        let expires = ((jiffies.saturating_add(delta) >> shift) + 1) << shift;
        let waited = expires.saturating_sub(*jiffies);
        *jiffies = expires;
        Duration::from_nanos(waited.saturating_mul(1_000_000_000 / per_second.min(1_000_000_000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(rto_ms: u64, retransmitting_for_ms: u64) -> SocketView {
        SocketView {
            rto: Some(Duration::from_millis(rto_ms)),
            retransmitting_for: Some(Duration::from_millis(retransmitting_for_ms)),
            user_timeout: Some(Duration::ZERO),
            orphaned: Some(false),
            tcp_retries2: Some(15),
            tcp_orphan_retries: Some(0),
            ..SocketView::default()
        }
    }

    fn in_ms(socket: &SocketView) -> u128 {
        let fired = MonoTime::from_ns(5_000_000_000_000);
        of_retransmission(fired, socket).unwrap().at.since(fired).as_millis()
    }

    /// ip-sysctl.rst: "The default value of 15 yields a hypothetical timeout of 924.6 seconds".
    #[test]
    fn the_model_gives_the_documented_924_6_seconds() {
        assert_eq!(model_timeout(15, RTO_MAX), Duration::from_millis(924_600));
        assert_eq!(model_timeout(8, RTO_MAX), Duration::from_millis(102_200));
        assert_eq!(model_timeout(0, RTO_MAX), Duration::from_millis(200));
    }

    /// Documentation/networking/ip-sysctl.rst, `tcp_rto_max_ms`: a smaller maximum shortens the wait.
    #[test]
    fn a_smaller_maximal_rto_shortens_the_model() {
        assert_eq!(model_timeout(15, Duration::from_secs(10)), Duration::from_millis(12_600 + 10 * 10_000));
    }

    #[test]
    fn the_kernel_gives_up_at_the_first_firing_past_the_limit_not_at_the_limit() {
        // Limit 63 x 200 ms = 12.6 s. From the first retransmission the timer fires after 2, 6, 14, 30, 62 RTOs.
        let mut with_204 = socket(204, 0);
        with_204.tcp_retries2 = Some(5);
        assert_eq!(in_ms(&with_204), 62 * 204);
        let mut with_201 = socket(201, 0);
        with_201.tcp_retries2 = Some(5);
        assert_eq!(in_ms(&with_201), 126 * 201);
    }

    #[test]
    fn each_firing_gives_the_same_deadline_as_the_first() {
        let mut early = socket(220, 0);
        early.tcp_retries2 = Some(6);
        let mut later = socket(880, 6 * 220);
        later.tcp_retries2 = Some(6);
        assert_eq!(in_ms(&early), 6 * 220 + in_ms(&later));
    }

    #[test]
    fn a_user_timeout_ends_the_wait_to_the_millisecond() {
        let mut socket = socket(400, 200);
        socket.user_timeout = Some(Duration::from_secs(3));
        assert_eq!(in_ms(&socket), 2_800);
        socket.retransmitting_for = Some(Duration::from_secs(9));
        assert_eq!(in_ms(&socket), 0);
    }

    /// `kernel/time/timer.c`: at HZ 250, level 1 covers 252 ms to 2 s in steps of 32 ms, level 2 up to 16 s in steps of 256 ms.
    #[test]
    fn the_wheel_rounds_up_more_the_longer_the_wait() {
        let wait = |jiffies, ms| {
            TimerWheel { ticks: Some(Ticks { jiffies, hz: 250 }) }.wait(Duration::from_millis(ms)).as_millis()
        };
        assert_eq!(wait(1_000, 200), 204);
        assert_eq!(wait(1_000, 400), 416);
        assert_eq!(wait(1_024, 6_400), 6_400 + 256);
        assert_eq!(wait(1_025, 6_400), 6_400 + 252);
        assert_eq!(TimerWheel { ticks: None }.wait(Duration::from_millis(7)).as_millis(), 7);
    }

    /// Nominally 62 x 201 ms fall short of 12.6 s; the wheel makes them longer.
    #[test]
    fn the_wheels_lateness_can_bring_the_end_one_timeout_forward() {
        let mut socket = socket(201, 0);
        socket.tcp_retries2 = Some(5);
        socket.ticks = Some(Ticks { jiffies: 1 << 32, hz: 250 });
        assert!((12_600..14_000).contains(&in_ms(&socket)), "{}", in_ms(&socket));
    }

    #[test]
    fn an_orphan_has_its_own_limit() {
        let mut socket = socket(200, 0);
        socket.orphaned = Some(true);
        let deadline = of_retransmission(MonoTime::default(), &socket).unwrap();
        assert_eq!(deadline.set_by, DeadlineSource::TcpOrphanRetries { retries: 8 });
    }

    #[test]
    fn what_the_kernel_does_not_tell_gives_no_deadline() {
        assert_eq!(of_retransmission(MonoTime::default(), &SocketView::default()), None);
        let mut socket = socket(200, 0);
        socket.tcp_retries2 = None;
        assert_eq!(of_retransmission(MonoTime::default(), &socket), None);
    }

    proptest::proptest! {
        #[test]
        fn no_socket_makes_it_panic_or_look_back(
            rto_ms: u64, max_ms in proptest::option::of(proptest::num::u64::ANY), since_ms: u64, user_ms: u32, retries: u8, orphan: bool, jiffies: u64, hz: u32,
        ) {
            let view = SocketView {
                rto: Some(Duration::from_millis(rto_ms)),
                rto_max: max_ms.map(Duration::from_millis),
                retransmitting_for: Some(Duration::from_millis(since_ms)),
                user_timeout: Some(Duration::from_millis(u64::from(user_ms))),
                orphaned: Some(orphan),
                tcp_retries2: Some(retries),
                tcp_orphan_retries: Some(retries),
                ticks: Some(Ticks { jiffies, hz }),
                ..SocketView::default()
            };
            let fired = MonoTime::from_ns(1 << 50);
            if let Some(deadline) = of_retransmission(fired, &view) {
                proptest::prop_assert!(deadline.at >= fired);
            }
        }
    }
}
