//! When the kernel will give up, computed from the socket itself.

#[cfg(test)]
mod tests;
mod timer_wheel;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use timer_wheel::TimerWheel;

use super::Sight;
use crate::model::{MonoTime, RTO_MIN, SocketTimer, SocketView};

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
