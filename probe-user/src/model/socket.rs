use std::time::Duration;

use super::{SocketCookie, TcpState};

/// What the kernel held in one TCP socket at the moment of an event. `None` always means *unavailable* (this kernel or this
/// hook cannot say), never zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketView {
    /// The state at the time of the event.
    pub state: Option<TcpState>,
    /// The kernel's tick count at the time of the event, from which it computes when its timers fire.
    pub ticks: Option<Ticks>,
    /// The socket's cookie.
    pub cookie: Option<SocketCookie>,
    /// SND.UNA: the oldest unacknowledged sequence number (RFC 9293 section 3.3.1).
    pub snd_una: Option<u32>,
    /// SND.NXT: the next sequence number to send.
    pub snd_nxt: Option<u32>,
    /// One past the last byte the application has written, counted in sequence numbers (`tcp_sock.write_seq`).
    pub write_seq: Option<u32>,
    /// The window the peer last announced, in bytes (`tcp_sock.snd_wnd`).
    pub snd_wnd_bytes: Option<u32>,
    /// Segments in flight (`tcp_sock.packets_out`).
    pub packets_out: Option<u32>,
    /// Segments ever retransmitted (`tcp_sock.total_retrans`).
    pub total_retransmits: Option<u32>,
    /// Retransmission timeouts since the peer last acknowledged new data (`icsk_retransmits`). Counts also when an ICMP
    /// message has reverted the backoff.
    pub retransmits: Option<u8>,
    /// How often the timer has been doubled (`icsk_backoff`).
    pub backoff: Option<u8>,
    /// Unanswered zero-window or keepalive probes (`icsk_probes_out`).
    pub probes_out: Option<u8>,
    /// The retransmission timeout in force (`icsk_rto`), before any doubling the event causes.
    pub rto: Option<Duration>,
    /// The longest retransmission timeout (`icsk_rto_max`, from Linux 6.15; 120 s before).
    pub rto_max: Option<Duration>,
    /// Time since the first retransmission of the oldest unacknowledged segment (`tcp_sock.retrans_stamp`); `None` also
    /// when none has been sent yet.
    pub retransmitting_for: Option<Duration>,
    /// Time since the peer's last acceptable ACK (`tcp_sock.rcv_tstamp`).
    pub last_ack_ago: Option<Duration>,
    /// `TCP_USER_TIMEOUT` (RFC 5482); `Some(ZERO)` means not set.
    pub user_timeout: Option<Duration>,
    /// `SO_KEEPALIVE` and its settings.
    pub keepalive: Option<Keepalive>,
    /// Whether the application has already closed its descriptor (`SOCK_DEAD`).
    pub orphaned: Option<bool>,
    /// `net.ipv4.tcp_retries2` of the socket's namespace.
    pub tcp_retries2: Option<u8>,
    /// `net.ipv4.tcp_orphan_retries` of the socket's namespace; 0 stands for the kernel's default of 8.
    pub tcp_orphan_retries: Option<u8>,
    /// Index of the interface the last segment came in by (`sk_rx_dst_ifindex`); `Some(0)` means none yet.
    pub ingress_ifindex: Option<u32>,
    /// Index of the interface segments leave by (`sk_dst_cache->dev`).
    pub egress_ifindex: Option<u32>,
    /// The socket's pending error as a positive `errno` (`sk_err`); `Some(0)` means none.
    pub error: Option<i32>,
}

impl SocketView {
    /// Sequence space sent and not acknowledged: bytes, and one for a SYN or FIN in flight.
    pub fn unacknowledged(&self) -> Option<u32> {
        Some(self.snd_nxt?.wrapping_sub(self.snd_una?))
    }

    /// Bytes of data sent and not acknowledged, without the FIN's sequence number.
    pub fn unacknowledged_data(&self) -> Option<u32> {
        let fin = u32::from(self.state?.awaits_fin_ack());
        Some(self.unacknowledged()?.saturating_sub(fin))
    }

    /// Bytes written by the application that were never sent.
    pub fn unsent(&self) -> Option<u32> {
        Some(self.write_seq?.wrapping_sub(self.snd_nxt?))
    }
}

/// A moment as the kernel's timers count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    /// Ticks since some moment around boot (`jiffies_64`).
    pub jiffies: u64,
    /// Ticks a second (`CONFIG_HZ`), not 0.
    pub hz: u32,
}

/// A socket's keepalive settings (`SO_KEEPALIVE`, `TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Whether `SO_KEEPALIVE` is set.
    pub enabled: bool,
    /// Idle time before the first probe; `None` means the namespace's default applies.
    pub idle: Option<Duration>,
    /// Time between probes; `None` means the namespace's default applies.
    pub interval: Option<Duration>,
    /// Unanswered probes before the kernel gives up; `None` means the namespace's default applies.
    pub probes: Option<u8>,
}
