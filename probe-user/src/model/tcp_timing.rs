//! The times that Linux's TCP goes by, on every host alike.

use std::time::Duration;

/// `TCP_RTO_MIN` (`include/net/tcp.h`): the shortest RTO, unless a route or a setting says otherwise (`tcp_rto_min()`).
pub const RTO_MIN: Duration = Duration::from_millis(200);
/// `TCP_RTO_MAX`: the longest RTO where the socket has none of its own, `icsk_rto_max` (before Linux 6.15).
pub const RTO_MAX: Duration = Duration::from_secs(120);
/// The kernel's times are as coarse as its tick, at most so coarse (`CONFIG_HZ` of 100).
pub const COARSEST_TICK: Duration = Duration::from_millis(10);
