//! When the kernel will give up, computed from the socket itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Sight;
use crate::model::{MonoTime, RTO_MIN, SocketTimer, SocketView, Ticks};

/// Which kernel timer ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KernelTimer {
    /// The retransmission timer (`tcp_retransmit_timer`).
    Retransmission,
    /// The persist timer (`tcp_probe_timer`).
    Probe0,
    /// The keepalive timer (`tcp_keepalive_timer`).
    Keepalive,
}

impl KernelTimer {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retransmission => "retransmission",
            Self::Probe0 => "probe0",
            Self::Keepalive => "keepalive",
        }
    }
}

/// Which setting decides how long the kernel waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeadlineSource {
    /// `net.ipv4.tcp_retries2` of the socket's namespace.
    TcpRetries2 {
        /// Its value.
        retries: u8,
    },
    /// `net.ipv4.tcp_orphan_retries` of the socket's namespace: the application has closed the socket already.
    TcpOrphanRetries {
        /// The number that counts at the end: where the setting is 0, 8 as long as the RTO is below its maximum, and then 0.
        retries: u8,
    },
    /// The socket's `TCP_USER_TIMEOUT`.
    TcpUserTimeout {
        /// Its value.
        timeout: Duration,
    },
    /// The socket's number of keepalive probes, or the namespace's (`net.ipv4.tcp_keepalive_probes`).
    KeepaliveProbes {
        /// That number.
        probes: u8,
    },
}

impl DeadlineSource {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcpRetries2 { .. } => "tcp_retries2",
            Self::TcpOrphanRetries { .. } => "tcp_orphan_retries",
            Self::TcpUserTimeout { .. } => "tcp_user_timeout",
            Self::KeepaliveProbes { .. } => "keepalive_probes",
        }
    }
}

/// When the kernel gives a connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// The moment the timer fires and finds the time used up.
    pub at: MonoTime,
    /// The timer.
    pub timer: KernelTimer,
    /// What sets the time.
    pub set_by: DeadlineSource,
}

/// What `tcp_orphan_retries()` makes of a setting of 0 while the RTO is below its maximum.
const DEFAULT_ORPHAN_RETRIES: u8 = 8;
/// More timer steps than any setting allows (255 retries): only a bound on the loop.
const MOST_STEPS: u32 = 512;

/// The deadline of a connection whose data is unacknowledged.
///
/// `tcp_write_timeout()` (`net/ipv4/tcp_timer.c`) is asked at every firing, and gives up at the first one at which the time
/// since the first retransmission has reached the limit of `retransmits_timed_out()`: `TCP_USER_TIMEOUT` when it is set,
/// else the time a connection with an RTO of 200 ms would need for `tcp_retries2` doublings (`tcp_model_timeout()`). Between
/// firings the timer doubles up to its maximum, and `tcp_clamp_rto_to_user_timeout()` (from 4.19) shortens the last wait to
/// a user timeout. Each wait is as long as the timer wheel makes it. `None` when the kernel does not tell what is needed.
///
/// When each retransmission `is_refused` by an ICMP error, that takes its doubling away again (`tcp_ld_RTO_revert()`, RFC 6069): the
/// waits stay as they are. Routers limit such errors, so this is true to one wait.
pub(super) fn of_retransmission(sight: &Sight<'_>, is_refused: bool) -> Option<Deadline> {
    let socket = sight.socket;
    let rto_max = socket.longest_rto();
    let mut rto = socket.rto.filter(|rto| !rto.is_zero())?;
    // The first retransmission is the one that fires now when none was stamped before.
    let first = sight.at.before(socket.retransmitting_for.unwrap_or(Duration::ZERO));
    let mut wheel = TimerWheel { ticks: socket.ticks };
    let mut firing = sight.at;
    if !sight.timer_fired {
        firing = firing + wheel.armed(pending(socket, SocketTimer::Retransmission)?, rto);
    }
    let patience = |rto_below_max| {
        let set_by = source(socket, rto_below_max)?;
        let limit = match set_by {
            DeadlineSource::TcpUserTimeout { timeout } => timeout,
            DeadlineSource::TcpRetries2 { retries } | DeadlineSource::TcpOrphanRetries { retries } => {
                model_timeout(retries, rto_max)
            }
            DeadlineSource::KeepaliveProbes { .. } => return None,
        };
        Some((set_by, limit))
    };
    let [below_max, at_max] = [patience(true)?, patience(false)?];
    for step in 0..MOST_STEPS {
        let (set_by, limit) = if rto < rto_max { below_max } else { at_max };
        // The firing that was seen has not given up.
        if firing.since(first) >= limit && !(sight.timer_fired && step == 0) {
            return Some(Deadline { at: firing, timer: KernelTimer::Retransmission, set_by });
        }
        if !is_refused {
            rto = rto.saturating_mul(2).min(rto_max);
        }
        let wait = match set_by {
            DeadlineSource::TcpUserTimeout { timeout } => rto.min(timeout.saturating_sub(firing.since(first))),
            DeadlineSource::TcpRetries2 { .. }
            | DeadlineSource::TcpOrphanRetries { .. }
            | DeadlineSource::KeepaliveProbes { .. } => rto,
        };
        firing = firing + wheel.wait(wait);
    }
    None
}

/// The deadline of a connection whose data cannot be sent and whose persist timer runs.
///
/// `tcp_probe_timer()` gives up at the first firing that finds `tcp_retries2` (or `tcp_orphan_retries`) probes unanswered, or
/// `TCP_USER_TIMEOUT` over since the first probe. `tcp_send_probe0()` doubles the wait. A peer that answers sets the count
/// back: then only a user timeout ends the wait, and without one nothing does; but of an orphan the wait ends as soon as the RTO with
/// its doublings has reached its maximum, if it has been doubled `tcp_orphan_retries` times by then.
pub(super) fn of_probes(sight: &Sight<'_>, answered: bool) -> Option<Deadline> {
    let socket = sight.socket;
    let rto_max = socket.longest_rto();
    let base = socket.rto?.max(RTO_MIN);
    let user_timeout = Some(socket.user_timeout?).filter(|timeout| !timeout.is_zero());
    if answered && user_timeout.is_none() && !socket.orphaned? {
        return None;
    }
    let counted = SocketView { user_timeout: Some(Duration::ZERO), ..socket.clone() };
    let (mut probes, mut backoff) = (socket.probes_out?, u32::from(socket.backoff?));
    let most_doublings = doublings_below(rto_max) + 1;
    let wait_at = |backoff: u32| base.saturating_mul(1 << backoff.min(most_doublings).min(30)).min(rto_max);
    let mut wheel = TimerWheel { ticks: socket.ticks };
    let mut firing = sight.at + wheel.armed(pending(socket, SocketTimer::Persist)?, wait_at(backoff));
    let first = socket.probing_for.map_or(firing, |since| sight.at.before(since));
    let deadline = |at, set_by| Some(Deadline { at, timer: KernelTimer::Probe0, set_by });
    for _ in 0..MOST_STEPS {
        if let Some(timeout) = user_timeout.filter(|timeout| firing.since(first) >= *timeout) {
            return deadline(firing, DeadlineSource::TcpUserTimeout { timeout });
        }
        // `inet_csk_rto_backoff` (`include/net/inet_connection_sock.h`).
        let is_alive = socket.rto?.saturating_mul(1 << backoff.min(30)) < rto_max;
        let set_by = source(&counted, is_alive)?;
        let is_over = match set_by {
            DeadlineSource::TcpRetries2 { retries } => !answered && probes >= retries,
            DeadlineSource::TcpOrphanRetries { retries } => {
                (!answered && probes >= retries) || (!is_alive && backoff >= u32::from(retries))
            }
            DeadlineSource::TcpUserTimeout { .. } | DeadlineSource::KeepaliveProbes { .. } => return None,
        };
        if is_over {
            return deadline(firing, set_by);
        }
        probes = probes.saturating_add(1);
        backoff = (backoff + 1).min(u32::from(socket.tcp_retries2?).max(backoff));
        let left = user_timeout.map_or(Duration::MAX, |timeout| timeout.saturating_sub(firing.since(first)));
        firing = firing + wheel.wait(wait_at(backoff).min(left.max(Duration::from_millis(1))));
    }
    None
}

/// The deadline of an idle connection whose keepalive probes are not answered.
///
/// `tcp_keepalive_timer()` gives up at the first firing that finds as many probes unanswered as the socket allows; with
/// `TCP_USER_TIMEOUT` set, at the first one at which that time is over since anything came in, instead.
pub(super) fn of_keepalive(sight: &Sight<'_>) -> Option<Deadline> {
    let socket = sight.socket;
    let keepalive = socket.keepalive.filter(|keepalive| keepalive.enabled)?;
    let (interval, allowed) = (keepalive.interval?, keepalive.probes?);
    let user_timeout = socket.user_timeout?;
    let heard = sight.at.before(socket.last_data_ago?.min(socket.last_ack_ago?));
    let mut wheel = TimerWheel { ticks: socket.ticks };
    let mut firing = sight.at + wheel.armed(socket.keepalive_due_in?, interval);
    let mut probes = socket.probes_out?;
    let deadline = |at, set_by| Some(Deadline { at, timer: KernelTimer::Keepalive, set_by });
    for _ in 0..MOST_STEPS {
        if user_timeout.is_zero() {
            if probes >= allowed {
                return deadline(firing, DeadlineSource::KeepaliveProbes { probes: allowed });
            }
        } else if probes > 0 && firing.since(heard) >= user_timeout {
            return deadline(firing, DeadlineSource::TcpUserTimeout { timeout: user_timeout });
        }
        probes = probes.saturating_add(1);
        firing = firing + wheel.wait(interval);
    }
    None
}

/// In how long this timer fires; `None` when another one, or none, is pending.
fn pending(socket: &SocketView, kind: SocketTimer) -> Option<Duration> {
    socket.timer.filter(|timer| timer.kind == kind).map(|timer| timer.due_in)
}

/// What ends the wait at a firing: `tcp_write_timeout()` and `tcp_probe_timer()` ask anew at each, and have less patience with an orphan
/// (`tcp_orphan_retries()`) when its RTO is no longer below the maximum.
fn source(socket: &SocketView, rto_below_max: bool) -> Option<DeadlineSource> {
    let user_timeout = socket.user_timeout?;
    if !user_timeout.is_zero() {
        return Some(DeadlineSource::TcpUserTimeout { timeout: user_timeout });
    }
    if socket.orphaned? {
        let is_refused = socket.soft_error.is_some_and(|error| error != 0);
        let retries = match socket.tcp_orphan_retries? {
            _ if is_refused && !rto_below_max => 0,
            0 if rto_below_max => DEFAULT_ORPHAN_RETRIES,
            retries => retries,
        };
        return Some(DeadlineSource::TcpOrphanRetries { retries });
    }
    Some(DeadlineSource::TcpRetries2 { retries: socket.tcp_retries2? })
}

/// How often [`RTO_MIN`] can be doubled without exceeding `rto_max`.
fn doublings_below(rto_max: Duration) -> u32 {
    // In 64 bits: a division of 128 costs more than all else here.
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    (ms(rto_max) / ms(RTO_MIN)).max(1).ilog2()
}

/// `tcp_model_timeout()`: the sum of the waits of `retries` + 1 firings that start at [`RTO_MIN`], whatever the connection's own RTO is,
/// and double to `rto_max`.
fn model_timeout(retries: u8, rto_max: Duration) -> Duration {
    let doublings = doublings_below(rto_max).min(30);
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
        self.expire(wait, wait)
    }

    /// How long a timer really waits that was armed for `armed_for` and is due in `due_in`.
    fn armed(&mut self, due_in: Duration, armed_for: Duration) -> Duration {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Keepalive, PendingTimer, RTO_MAX};

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

    fn fired_at(at: MonoTime, socket: &SocketView) -> Sight<'_> {
        Sight { at, socket, timer_fired: true }
    }

    fn in_ms(socket: &SocketView) -> u128 {
        let fired = MonoTime::from_ns(5_000_000_000_000);
        of_retransmission(&fired_at(fired, socket), false).unwrap().at.since(fired).as_millis()
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
        let deadline = of_retransmission(&fired_at(MonoTime::default(), &socket), false).unwrap();
        assert_eq!(deadline.set_by, DeadlineSource::TcpOrphanRetries { retries: 8 });
    }

    #[test]
    fn an_orphan_ends_when_its_rto_has_reached_the_maximum() {
        let mut socket = socket(400, 0);
        (socket.orphaned, socket.rto_max) = (Some(true), Some(Duration::from_secs(1)));
        // The next firing comes with an RTO of 0.8 s, the one after it with one of 1 s.
        let deadline = of_retransmission(&Sight { timer_fired: true, ..seen(&socket) }, false).unwrap();
        assert_eq!((after_ms(deadline), deadline.set_by), (1_800, DeadlineSource::TcpOrphanRetries { retries: 0 }));
        socket.tcp_orphan_retries = Some(3);
        let set = of_retransmission(&Sight { timer_fired: true, ..seen(&socket) }, false).unwrap();
        // 200 + 400 + 800 ms, and 1 s that no doubling makes longer.
        assert_eq!((after_ms(set), set.set_by), (2_800, DeadlineSource::TcpOrphanRetries { retries: 3 }));
        socket.soft_error = Some(113);
        assert_eq!(after_ms(of_retransmission(&Sight { timer_fired: true, ..seen(&socket) }, false).unwrap()), 1_800);
    }

    #[test]
    fn an_orphan_does_not_wait_for_a_shut_window_for_ever_though_its_probes_are_answered() {
        let orphan = SocketView { orphaned: Some(true), ..probing(0, 5, 400) };
        let deadline = of_probes(&seen(&orphan), true).unwrap();
        // Waits of 12.8, 25.6, 51.2 and 102.4 s, and the first that the maximum cuts short.
        assert_eq!((after_ms(deadline), deadline.set_by.name()), (400 + 192_000 + 120_000, "tcp_orphan_retries"));
    }

    #[test]
    fn what_the_kernel_does_not_tell_gives_no_deadline() {
        assert_eq!(of_retransmission(&fired_at(MonoTime::default(), &SocketView::default()), false), None);
        let mut socket = socket(200, 0);
        socket.tcp_retries2 = None;
        assert_eq!(of_retransmission(&fired_at(MonoTime::default(), &socket), false), None);
    }

    fn probing(probes_out: u8, backoff: u8, due_ms: u64) -> SocketView {
        SocketView {
            probes_out: Some(probes_out),
            backoff: Some(backoff),
            probing_for: Some(Duration::from_millis(600)),
            timer: Some(PendingTimer { kind: SocketTimer::Persist, due_in: Duration::from_millis(due_ms) }),
            ..socket(200, 0)
        }
    }

    fn seen(socket: &SocketView) -> Sight<'_> {
        Sight { at: MonoTime::from_ns(5_000_000_000_000), socket, timer_fired: false }
    }

    fn after_ms(deadline: Deadline) -> u128 {
        deadline.at.since(MonoTime::from_ns(5_000_000_000_000)).as_millis()
    }

    #[test]
    fn a_retransmission_timer_seen_in_between_fires_first() {
        let timer = Some(PendingTimer { kind: SocketTimer::Retransmission, due_in: Duration::from_millis(100) });
        let view = SocketView { timer, user_timeout: Some(Duration::from_secs(1)), ..socket(400, 300) };
        // Fires 400 ms after the first retransmission, then at the user timeout.
        let deadline = of_retransmission(&seen(&view), false).unwrap();
        assert_eq!((after_ms(deadline), deadline.set_by.name()), (700, "tcp_user_timeout"));
        assert_eq!(of_retransmission(&seen(&socket(400, 300)), false), None);
    }

    #[test]
    fn unanswered_probes_end_with_the_count_of_tcp_retries2() {
        let view = SocketView { tcp_retries2: Some(3), ..probing(1, 1, 400) };
        // Probes 2 and 3 after 400 and 1,200 ms; the firing 1.6 s later gives up.
        let deadline = of_probes(&seen(&view), false).unwrap();
        assert_eq!(
            (after_ms(deadline), deadline.timer, deadline.set_by.name()),
            (2_800, KernelTimer::Probe0, "tcp_retries2")
        );
    }

    #[test]
    fn answered_probes_end_by_a_user_timeout_or_never() {
        assert_eq!(of_probes(&seen(&probing(0, 5, 400)), true), None);
        let view = SocketView { user_timeout: Some(Duration::from_secs(3)), ..probing(0, 5, 400) };
        let deadline = of_probes(&seen(&view), true).unwrap();
        assert_eq!((after_ms(deadline), deadline.set_by.name()), (2_400, "tcp_user_timeout"));
    }

    #[test]
    fn keepalive_ends_with_its_count_of_probes_or_by_a_user_timeout() {
        let keepalive = Some(Keepalive {
            enabled: true,
            idle: Some(Duration::from_secs(60)),
            interval: Some(Duration::from_secs(10)),
            probes: Some(3),
        });
        let view = SocketView {
            keepalive,
            keepalive_due_in: Some(Duration::from_secs(4)),
            probes_out: Some(1),
            last_ack_ago: Some(Duration::from_secs(66)),
            last_data_ago: Some(Duration::from_secs(80)),
            ..socket(200, 0)
        };
        let deadline = of_keepalive(&seen(&view)).unwrap();
        assert_eq!((after_ms(deadline), deadline.set_by), (24_000, DeadlineSource::KeepaliveProbes { probes: 3 }));
        let view = SocketView { user_timeout: Some(Duration::from_secs(75)), ..view };
        let deadline = of_keepalive(&seen(&view)).unwrap();
        assert_eq!((after_ms(deadline), deadline.set_by.name()), (14_000, "tcp_user_timeout"));
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
            if let Some(deadline) = of_retransmission(&fired_at(fired, &view), false) {
                proptest::prop_assert!(deadline.at >= fired);
            }
        }
    }
}
