use serde::{Deserialize, Serialize};

use super::{ConnectionKey, DroppedSegment, InvalidSegment, MonoTime, SocketView, TcpState};

/// What the tracker is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "losses are rare, and boxing would cost every event an allocation")]
pub enum Event {
    /// Something suspicious happened on a connection.
    Connection(ConnectionEvent),
    /// Events were lost on their way: from here on, what was not seen may still have happened.
    Lost {
        /// When the loss was noticed.
        at: MonoTime,
        /// Where.
        place: LossPlace,
        /// How many events.
        count: u64,
    },
}

/// Something that does not happen on a healthy connection, as the kernel programs saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionEvent {
    /// When it happened, by the kernel's clock.
    pub at: MonoTime,
    /// On which connection.
    pub key: ConnectionKey,
    /// The socket at that moment.
    pub socket: SocketView,
    /// What happened.
    pub kind: EventKind,
}

/// What happened on a connection. Matched exhaustively everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// The retransmission timer fired and the oldest segment was sent again, or an attempt was made
    /// (`tcp:tcp_retransmit_skb` with `icsk_retransmits` above 0: neither fast retransmit nor tail loss probe).
    RetransmissionTimeout {
        /// What sending returned, a negative `errno`, or at least 0. Before Linux 6.17 the tracepoints tell of successes only; the
        /// return of the function tells of failures, too.
        send_result: Option<i32>,
    },
    /// A SYN-ACK was sent again (`tcp:tcp_retransmit_synack`), and the final ACK has not come. Of a request socket the view has in
    /// `retransmits` how often its timer had fired before, in `total_retransmits` how often its SYN-ACK had been sent again.
    SynAckRetransmission,
    /// A connection under suspicion changed its state (`sock:inet_sock_set_state`).
    StateChange {
        /// State before.
        from: TcpState,
        /// State after.
        to: TcpState,
    },
    /// An established connection received a RST that was accepted (`tcp:tcp_receive_reset`).
    ResetReceived,
    /// This host sent a RST on an established connection (`tcp:tcp_send_reset`).
    ResetSent,
    /// The scan over all sockets came by and found it waiting for an answer that is overdue.
    Scanned,
    /// A keepalive probe, or a probe of a window, was sent, and the one before was not answered, or sending failed
    /// (`tcp_write_wakeup`, `tcp_send_probe0`).
    ProbeSent {
        /// What sending returned, a negative `errno`, or at least 0; `None` where that was not seen.
        send_result: Option<i32>,
    },
    /// A SYN came in for a synchronized connection: the kernel drops it and answers with a challenge ACK (`skb:kfree_skb` with reason
    /// `TCP_INVALID_SYN`; RFC 5961 section 4).
    SynReceived,
    /// A SYN-ACK came in for a synchronized connection, and the kernel did as with a SYN: the peer sends it again because it has not got
    /// the final ACK (RFC 9293 section 3.5).
    SynAckReceived,
    /// A segment was thrown away (`skb:kfree_skb`).
    SegmentDropped(Box<DroppedSegment>),
    /// Connection tracking holds a FIN or a RST for invalid (`nf_l4proto_log_invalid`, `nf_ct_l4proto_log_invalid`).
    SegmentInvalid(Box<InvalidSegment>),
    /// The kernel reported an error to the application (`sock:inet_sk_error_report`); the error is in the socket view.
    SocketError,
}

/// A place in the kernel that raises events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the kernel's tracepoints and functions")]
pub enum Hook {
    InetSockSetState,
    TcpRetransmitSkb,
    TcpRetransmitSynack,
    TcpReceiveReset,
    TcpSendReset,
    InetSkErrorReport,
    KfreeSkb,
    TcpWriteWakeup,
    NfCtLogInvalid,
}

impl Hook {
    /// All hooks, in the order of the kernel's counters.
    pub const ALL: [Self; 9] = [
        Self::InetSockSetState,
        Self::TcpRetransmitSkb,
        Self::TcpRetransmitSynack,
        Self::TcpReceiveReset,
        Self::TcpSendReset,
        Self::InetSkErrorReport,
        Self::KfreeSkb,
        Self::TcpWriteWakeup,
        Self::NfCtLogInvalid,
    ];

    /// The tracepoint's name, or the function's where there is no tracepoint.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InetSockSetState => "inet_sock_set_state",
            Self::TcpRetransmitSkb => "tcp_retransmit_skb",
            Self::TcpRetransmitSynack => "tcp_retransmit_synack",
            Self::TcpReceiveReset => "tcp_receive_reset",
            Self::TcpSendReset => "tcp_send_reset",
            Self::InetSkErrorReport => "inet_sk_error_report",
            Self::KfreeSkb => "kfree_skb",
            Self::TcpWriteWakeup => "tcp_write_wakeup",
            Self::NfCtLogInvalid => "nf_ct_log_invalid",
        }
    }

    /// The tracefs subsystem of the tracepoint.
    pub const fn subsystem(self) -> &'static str {
        match self {
            Self::InetSockSetState | Self::InetSkErrorReport => "sock",
            Self::TcpRetransmitSkb
            | Self::TcpRetransmitSynack
            | Self::TcpReceiveReset
            | Self::TcpSendReset
            | Self::TcpWriteWakeup => "tcp",
            Self::KfreeSkb => "skb",
            Self::NfCtLogInvalid => "netfilter",
        }
    }

    /// Whether the scan finds the same, only a little later: then nothing is lost without it.
    pub const fn is_served_by_scan(self) -> bool {
        matches!(self, Self::TcpWriteWakeup)
    }

    /// Whether without it no verdict is missed, only the reason for one is less sure.
    pub const fn is_served_by_drops(self) -> bool {
        matches!(self, Self::NfCtLogInvalid)
    }
}

/// Where an event can be lost between the kernel and the tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LossPlace {
    /// The ring buffer was full when this hook wanted to write.
    Ring(Hook),
    /// The hook fired while its program was already running on that CPU: the kernel does not run it again (`bpf_prog.active`).
    /// What was missed is most likely ordinary, but nobody has looked.
    Recursion(Hook),
    /// A record came through that could not be decoded.
    Decode,
    /// The ring of connections that are over was full.
    ConnectionRing,
    /// As [`Self::Recursion`], of the program that tells of connections that are over.
    ConnectionRecursion,
}
