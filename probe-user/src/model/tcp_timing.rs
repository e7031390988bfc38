//! The times that Linux's TCP goes by, on every host alike.

use std::time::Duration;

use super::MonoTime;

/// `TCP_RTO_MIN` (`include/net/tcp.h`): the shortest RTO, unless a route or a setting says otherwise (`tcp_rto_min()`).
pub const RTO_MIN: Duration = Duration::from_millis(200);
/// `TCP_RTO_MAX`: the longest RTO where the socket has none of its own, `icsk_rto_max` (before Linux 6.15).
pub const RTO_MAX: Duration = Duration::from_secs(120);
/// The kernel's times are as coarse as its tick, at most so coarse (`CONFIG_HZ` of 100).
pub const COARSEST_TICK: Duration = Duration::from_millis(10);

/// Whether copies of a segment came at these times as a sender's timer sends them: no closer than the shortest RTO, and then after a wait
/// that is twice as long (RFC 6298 section 5.5), as far as the way lets that be seen. A probe for a lost tail may come first, after as long
/// as the timeout that follows it (RFC 8985 section 7).
pub fn are_timed(copies: &[MonoTime]) -> bool {
    gaps(copies).zip(gaps(copies).skip(1)).any(|(gap, next)| next >= gap * 3 / 2 && next <= gap * 3)
}

/// Whether they may have: also those of a sender that has waited for long before the first is seen, of which two gaps take long to see.
pub fn may_be_timed(copies: &[MonoTime]) -> bool {
    /// The RTO of a sender that knows nothing of the way (RFC 6298 section 2).
    const LONG: Duration = Duration::from_secs(1);
    are_timed(copies) || (1..=2).contains(&gaps(copies).count()) && gaps(copies).all(|gap| gap >= LONG)
}

/// The times between them that are no shorter than a timeout.
fn gaps(copies: &[MonoTime]) -> impl Iterator<Item = Duration> {
    let all = copies.iter().zip(copies.iter().skip(1)).map(|(before, after)| after.since(*before));
    all.filter(|gap| *gap + COARSEST_TICK >= RTO_MIN)
}
