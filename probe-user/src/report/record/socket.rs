use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::model::{Keepalive, SocketView};

/// The socket's numbers.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SocketBody {
    /// Oldest unacknowledged sequence number.
    pub snd_una: Option<u32>,
    /// Next sequence number to send.
    pub snd_nxt: Option<u32>,
    /// Bytes sent and not acknowledged.
    pub unacknowledged_bytes: Option<u32>,
    /// Bytes written and never sent.
    pub unsent_bytes: Option<u32>,
    /// The peer's window.
    pub send_window_bytes: Option<u32>,
    /// Segments in flight.
    pub packets_out: Option<u32>,
    /// Segments ever retransmitted.
    pub total_retransmits: Option<u32>,
    /// Retransmission timeouts in a row.
    pub retransmits: Option<u8>,
    /// Timer doublings.
    pub backoff: Option<u8>,
    /// Unanswered probes.
    pub probes_out: Option<u8>,
    /// Retransmission timeout.
    pub rto_us: Option<u64>,
    /// Since the peer's last ACK.
    pub last_ack_ago_us: Option<u64>,
    /// Since the first retransmission of the oldest segment.
    pub retransmitting_for_us: Option<u64>,
    /// `TCP_USER_TIMEOUT`; 0 when not set.
    pub user_timeout_ms: Option<u64>,
    /// Keepalive settings.
    pub keepalive: Option<KeepaliveBody>,
    /// Whether the application has closed its descriptor.
    pub orphaned: Option<bool>,
    /// Interface index of the last segment received.
    pub ingress_ifindex: Option<u32>,
    /// Interface index segments leave by.
    pub egress_ifindex: Option<u32>,
}

/// Keepalive settings in force, the socket's own or the namespace's.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct KeepaliveBody {
    /// `SO_KEEPALIVE`.
    pub enabled: bool,
    /// `TCP_KEEPIDLE`.
    pub idle_ms: Option<u64>,
    /// `TCP_KEEPINTVL`.
    pub interval_ms: Option<u64>,
    /// `TCP_KEEPCNT`.
    pub probes: Option<u8>,
}

impl SocketBody {
    pub(super) fn new(socket: &SocketView) -> Self {
        Self {
            snd_una: socket.snd_una.filter(|_| !socket.sequence_is_relative),
            snd_nxt: socket.snd_nxt.filter(|_| !socket.sequence_is_relative),
            unacknowledged_bytes: socket.unacknowledged_data(),
            unsent_bytes: socket.unsent(),
            send_window_bytes: socket.snd_wnd_bytes,
            packets_out: socket.packets_out,
            total_retransmits: socket.total_retransmits,
            retransmits: socket.retransmits,
            backoff: socket.backoff,
            probes_out: socket.probes_out,
            rto_us: socket.rto.map(microseconds),
            last_ack_ago_us: socket.last_ack_ago.map(microseconds),
            retransmitting_for_us: socket.retransmitting_for.map(microseconds),
            user_timeout_ms: socket.user_timeout.map(milliseconds),
            keepalive: socket.keepalive.map(keepalive_body),
            orphaned: socket.orphaned,
            ingress_ifindex: socket.ingress_ifindex,
            egress_ifindex: socket.egress_ifindex,
        }
    }
}

fn keepalive_body(keepalive: Keepalive) -> KeepaliveBody {
    KeepaliveBody {
        enabled: keepalive.enabled,
        idle_ms: keepalive.idle.map(milliseconds),
        interval_ms: keepalive.interval.map(milliseconds),
        probes: keepalive.probes,
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
