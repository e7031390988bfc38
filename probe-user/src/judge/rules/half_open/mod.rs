//! `half_open`: this host holds a connection open of which the peer, or something between, seems to have no state (RFC 9293
//! section 3.5.1).
//!
//! Required, one of:
//! - a reset that answers data or a probe after a silence, or a SYN for the connection that is there ([`reset`]);
//! - what waits for an answer, and this host's own connection tracking that does not know the connection
//!   ([`conntrack_expired`]);
//! - data in retransmission for which an ICMP error has come back, or whose next hop does not answer ([`unreachable`]);
//! - probes that a living peer answers at once whatever its application does, without an answer ([`unanswered`]).
//!
//! Not this verdict: a reset amid traffic (an application that closes with unread data), probes that are answered, unacknowledged
//! data (keepalive waits for it; `retransmit_stalled`), and data that cannot leave this host for other reasons.

mod conntrack_expired;
mod reset;
mod unanswered;
mod unreachable;

use crate::judge::{History, Ruling};

/// Judges what has been seen of the socket, the most telling evidence first.
pub(in crate::judge) fn assess(history: &History<'_>) -> Option<Ruling> {
    reset::assess(history)
        .or_else(|| conntrack_expired::assess(history))
        .or_else(|| unreachable::assess(history))
        .or_else(|| unanswered::assess(history))
}
