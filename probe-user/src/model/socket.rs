use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{RTO_MAX, RTO_MIN, SocketCookie, TcpState};

/// What the kernel held in one TCP socket at the moment of an event. `None` always means *unavailable* (this kernel or this
/// hook cannot say), never zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketView {
    /// The state at the time of the event.
    pub state: Option<TcpState>,
    /// The kernel's tick count at the time of the event, from which it computes when its timers fire.
    pub ticks: Option<Ticks>,
    /// The socket's cookie.
    pub cookie: Option<SocketCookie>,
    /// Whether the three sequence numbers count from an unknown start, so that only their differences mean something.
    pub sequence_is_relative: bool,
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
    /// The timer that waits for the peer's answer, and in how long it fires (`icsk_pending`, `icsk_retransmit_timer`).
    pub timer: Option<PendingTimer>,
    /// Time since the first of the probes (`icsk_probes_tstamp`): of a window that is shut since, or of data that cannot be
    /// sent since; `None` also when none has been sent.
    pub probing_for: Option<Duration>,
    /// Time since data last came in (`icsk_ack.lrcvtime`).
    pub last_data_ago: Option<Duration>,
    /// Time since a segment last came in or left, also one that is acceptable to no window, as a keepalive probe of the peer
    /// (`tcp_sock.tcp_mstamp`). Only the look for idle connections tells.
    pub segment_ago: Option<Duration>,
    /// In how long the keepalive timer fires (`sk_timer`); means something only while keepalive is on.
    pub keepalive_due_in: Option<Duration>,
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
    /// An ICMP error that the kernel remembers and does not report yet, as a positive `errno` (`sk_err_soft`, RFC 1122 section
    /// 4.2.3.9); `Some(0)` means none.
    pub soft_error: Option<i32>,
    /// The inode number of the socket's file, by which its owner is found; `Some(0)` means that no process holds it.
    pub inode: Option<u64>,
    /// The socket's pending error as a positive `errno` (`sk_err`); `Some(0)` means none.
    pub error: Option<i32>,
}

impl SocketView {
    /// Sequence space sent and not acknowledged: bytes, and one for a SYN or FIN in flight.
    pub fn unacknowledged(&self) -> Option<u32> {
        Some(self.snd_nxt?.wrapping_sub(self.snd_una?))
    }

    /// The error the application gets when the kernel gives up: the remembered one, else ETIMEDOUT (`tcp_write_err`,
    /// `net/ipv4/tcp_timer.c`). `None` where the remembered one is not told. A later ICMP message may still change it.
    pub fn error_when_given_up(&self) -> Option<Errno> {
        self.soft_error.map(|error| if error == 0 { Errno::ETIMEDOUT } else { Errno::from_raw(error) })
    }

    /// Bytes of data sent and not acknowledged, without the FIN's sequence number.
    pub fn unacknowledged_data(&self) -> Option<u32> {
        let fin = u32::from(self.state?.awaits_fin_ack());
        Some(self.unacknowledged()?.saturating_sub(fin))
    }

    /// Whether nothing but this host's own FIN waits, sent or not.
    pub fn only_fin_waits(&self) -> bool {
        let waits = |una: u32, write_seq: u32| write_seq.wrapping_sub(una) == 1;
        self.state.is_some_and(TcpState::awaits_fin_ack)
            && matches!((self.snd_una, self.write_seq), (Some(una), Some(write_seq)) if waits(una, write_seq))
    }

    /// Whether data was sent that is not acknowledged, though the peer's window is open.
    pub fn has_stalled_data(&self) -> bool {
        self.state.is_some_and(TcpState::is_synchronized)
            && self.unacknowledged_data().is_some_and(|bytes| bytes > 0)
            && self.snd_wnd_bytes.is_some_and(|bytes| bytes > 0)
    }

    /// Whether data waits that the peer's window has room for, none is in flight, and the kernel can only probe: sending fails
    /// on this host.
    pub fn cannot_send(&self) -> bool {
        // A window smaller than a segment may be waited with (RFC 9293 section 3.8.6.2.1).
        const LARGEST_SEGMENT_BYTES: u32 = 65_495;
        self.is_probing()
            && match (self.snd_wnd_bytes, self.unsent()) {
                (Some(window), Some(unsent)) => unsent > 0 && window >= unsent.min(LARGEST_SEGMENT_BYTES),
                (_, _) => false,
            }
    }

    /// Whether data waits, none is in flight, and the peer has shut its window.
    pub fn window_is_shut(&self) -> bool {
        self.is_probing() && self.snd_wnd_bytes == Some(0) && self.unsent().is_some_and(|bytes| bytes > 0)
    }

    /// Time since the peer was last heard of, by an ACK or by data. Data that acknowledges nothing new counts as no ACK
    /// (`tcp_rcv_established`, `net/ipv4/tcp_input.c`, then does not call `tcp_ack`).
    pub fn heard_ago(&self) -> Option<Duration> {
        Some(self.last_ack_ago?.min(self.last_data_ago?))
    }

    /// Probes whose answer is overdue: without the latest while its answer may be on its way, and without those that were sent
    /// before the peer was last heard of.
    pub fn unanswered_probes(&self) -> Option<u8> {
        let under_way = u8::from(!self.latest_probe_is_overdue());
        let since_heard = self.keepalive_probes_since_heard().unwrap_or(u8::MAX);
        Some(self.probes_out?.saturating_sub(under_way).min(since_heard))
    }

    /// Whether the latest probe was sent longer ago than an answer takes. The wait for the next one began when it was sent.
    fn latest_probe_is_overdue(&self) -> bool {
        let (wait, due_in) = match self.timer {
            Some(timer) => (self.persist_wait(), Some(timer.due_in)),
            None => (self.keepalive.and_then(|keepalive| keepalive.interval), self.keepalive_due_in),
        };
        match (wait, due_in, self.rto) {
            (Some(wait), Some(due_in), Some(rto)) => wait.saturating_sub(due_in) >= rto.max(RTO_MIN),
            (_, _, _) => false,
        }
    }

    /// The longest that its RTO becomes, however often it is doubled.
    pub fn longest_rto(&self) -> Duration {
        self.rto_max.filter(|max| !max.is_zero()).unwrap_or(RTO_MAX)
    }

    /// For how long the persist timer was set (`tcp_probe0_when`, `include/net/tcp.h`); not known with a `TCP_USER_TIMEOUT`, which
    /// may have shortened it (`tcp_clamp_probe0_to_user_timeout`).
    fn persist_wait(&self) -> Option<Duration> {
        if self.user_timeout? != Duration::ZERO {
            return None;
        }
        let doubled = 1u32 << u32::from(self.backoff?).min(30);
        let wait = self.rto?.max(RTO_MIN).saturating_mul(doubled);
        Some(wait.min(self.longest_rto()))
    }

    /// How many keepalive probes there can have been since the peer was last heard of: the kernel's count goes on over data that
    /// counts as no ACK.
    fn keepalive_probes_since_heard(&self) -> Option<u8> {
        let (keepalive, heard_ago) = (self.keepalive?, self.heard_ago()?);
        let (idle, interval) = (keepalive.idle?, keepalive.interval?.max(Duration::from_secs(1)));
        if self.timer.is_some() {
            return None;
        }
        let probing_for = heard_ago.checked_sub(idle).map(|probing_for| probing_for.as_nanos() / interval.as_nanos());
        Some(probing_for.map_or(0, |intervals| u8::try_from(intervals).unwrap_or(u8::MAX).saturating_add(1)))
    }

    /// Whether the persist timer runs (RFC 9293 section 3.8.6.1).
    fn is_probing(&self) -> bool {
        self.timer.is_some_and(|timer| timer.kind == SocketTimer::Persist) && self.packets_out == Some(0)
    }

    /// For how long nothing has come in and nothing has left. Without `segment_ago`, keepalive probes of the peer go unseen:
    /// the kernel drops them before it looks at the time. What left was acknowledged, so that an ACK came in after it.
    pub fn idle_for(&self) -> Option<Duration> {
        if let Some(ago) = self.segment_ago {
            return Some(ago);
        }
        Some(self.last_ack_ago?.min(self.last_data_ago?))
    }

    /// Bytes written by the application that were never sent.
    pub fn unsent(&self) -> Option<u32> {
        Some(self.write_seq?.wrapping_sub(self.snd_nxt?))
    }
}

/// A full socket as `NETLINK_SOCK_DIAG` shows it (`inet_sk_diag_fill`, `net/ipv4/inet_diag.c`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStatus {
    /// State.
    pub state: TcpState,
    /// `sockfs` inode number; 0 when no process holds the socket.
    pub inode: u32,
    /// Retransmission timeouts since the peer last acknowledged new data (`tcpi_retransmits`).
    pub retransmits: u8,
    /// Zero-window or keepalive probes without an answer (`tcpi_probes`).
    pub probes: u8,
    /// Time since the peer was last heard of, by an ACK or by data (`tcpi_last_ack_recv`, `tcpi_last_data_recv`).
    pub heard_ago: Duration,
    /// Time since data last came in (`tcpi_last_data_recv`); `None` in what an earlier version has recorded.
    #[serde(default)]
    pub data_ago: Option<Duration>,
    /// Which timer is pending (`idiag_timer`), and in how long it fires.
    pub timer: Option<(SocketTimer, Duration)>,
}

impl SocketStatus {
    /// Whether the peer has answered everything: no timeout and no probe without an answer, and no probing.
    pub fn is_at_rest(&self) -> bool {
        let probing = matches!(self.timer, Some((SocketTimer::Persist, _)));
        self.retransmits == 0 && self.probes == 0 && !probing
    }
}

/// A timer of a socket that is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingTimer {
    /// Which.
    pub kind: SocketTimer,
    /// In how long it fires; zero when it is due.
    pub due_in: Duration,
}

/// A pending socket timer as `ss` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketTimer {
    /// Retransmission, loss probe or reordering timer (`on`).
    Retransmission,
    /// Keepalive timer (`keepalive`).
    Keepalive,
    /// Zero-window probe timer (`persist`).
    Persist,
}

/// A moment as the kernel's timers count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticks {
    /// Ticks since some moment around boot (`jiffies_64`).
    pub jiffies: u64,
    /// Ticks a second (`CONFIG_HZ`), not 0.
    pub hz: u32,
}

/// A socket's keepalive settings (`SO_KEEPALIVE`, `TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keepalive {
    /// Whether `SO_KEEPALIVE` is set.
    pub enabled: bool,
    /// Idle time before the first probe, the socket's own or the namespace's.
    pub idle: Option<Duration>,
    /// Time between probes, the socket's own or the namespace's.
    pub interval: Option<Duration>,
    /// Unanswered probes before the kernel gives up, the socket's own or the namespace's.
    pub probes: Option<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Keepalive after ten seconds and then every three; the latest of these probes was sent so long ago.
    fn kept_alive(probes: u8, latest_ago: Duration) -> SocketView {
        SocketView {
            probes_out: Some(probes),
            rto: Some(Duration::from_millis(250)),
            last_ack_ago: Some(SECOND * 1_000),
            last_data_ago: Some(SECOND * 1_000),
            keepalive: Some(Keepalive {
                enabled: true,
                idle: Some(SECOND * 10),
                interval: Some(SECOND * 3),
                probes: Some(9),
            }),
            keepalive_due_in: Some(SECOND * 3 - latest_ago),
            ..SocketView::default()
        }
    }

    #[test]
    fn a_probe_that_was_just_sent_is_not_unanswered() {
        assert_eq!(kept_alive(0, SECOND).unanswered_probes(), Some(0));
        assert_eq!(kept_alive(1, Duration::ZERO).unanswered_probes(), Some(0));
        assert_eq!(kept_alive(2, Duration::from_millis(249)).unanswered_probes(), Some(1));
        assert_eq!(kept_alive(2, Duration::from_millis(250)).unanswered_probes(), Some(2));
        // Without the settings nobody knows when it was sent.
        assert_eq!(SocketView { keepalive: None, ..kept_alive(2, SECOND) }.unanswered_probes(), Some(1));
    }

    #[test]
    fn the_same_of_a_window_that_is_shut() {
        let shut = |due_in| SocketView {
            backoff: Some(3),
            user_timeout: Some(Duration::ZERO),
            timer: Some(PendingTimer { kind: SocketTimer::Persist, due_in }),
            ..kept_alive(3, SECOND)
        };
        // The timer was set for two seconds.
        assert_eq!(shut(SECOND * 2).unanswered_probes(), Some(2));
        assert_eq!(shut(SECOND).unanswered_probes(), Some(3));
        let shortened = SocketView { user_timeout: Some(SECOND), ..shut(SECOND) };
        assert_eq!(shortened.unanswered_probes(), Some(2));
    }

    #[test]
    fn probes_from_before_the_peer_was_heard_of_are_not_unanswered() {
        let heard = |ago| SocketView { last_data_ago: Some(SECOND * ago), ..kept_alive(5, SECOND) };
        assert_eq!(heard(1).unanswered_probes(), Some(0));
        assert_eq!(heard(9).unanswered_probes(), Some(0));
        assert_eq!(heard(12).unanswered_probes(), Some(1));
        assert_eq!(heard(14).unanswered_probes(), Some(2));
        assert_eq!(heard(1_000).unanswered_probes(), Some(5));
    }
}
