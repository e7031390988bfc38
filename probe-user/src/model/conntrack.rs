use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What connection tracking (`nf_conntrack`) of a connection's namespace knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConntrackStatus {
    /// It has an entry.
    Tracked(ConntrackEntry, ConntrackSettings),
    /// It has entries of other connections over the same IP version, but none of this one, in no zone.
    Forgotten(ConntrackSettings),
    /// It is not there, or tracks nothing over this IP version: no rule of the namespace asks for it.
    Inactive,
}

/// A connection's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackEntry {
    /// The state of the connection as conntrack sees it pass; `None` where the entry has none.
    pub state: Option<ConntrackState>,
    /// Whether packets of both directions have been seen (`IPS_SEEN_REPLY`); else `conntrack -L` shows `UNREPLIED`.
    pub replied: bool,
    /// Whether it is kept when the table is full (`IPS_ASSURED`).
    pub assured: bool,
    /// In how long it expires, if no packet comes; `None` where the kernel does not say (entries that are offloaded).
    pub expires_in: Option<Duration>,
    /// The zone it is in.
    pub zone: u16,
}

/// What decides how long conntrack remembers and what it does then; `None` where a setting cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackSettings {
    /// `net.netfilter.nf_conntrack_tcp_loose`: whether a connection seen first in its middle is tracked. Else its packets are
    /// invalid.
    pub loose: Option<bool>,
    /// `net.netfilter.nf_conntrack_tcp_timeout_established`: how long an idle connection is remembered.
    pub timeout_established: Option<Duration>,
    /// `net.netfilter.nf_conntrack_tcp_timeout_unacknowledged`: how long one is whose data stays unacknowledged.
    pub timeout_unacknowledged: Option<Duration>,
    /// `net.netfilter.nf_conntrack_tcp_timeout_max_retrans`: how long one is after three retransmissions
    /// (`nf_conntrack_tcp_max_retrans`).
    pub timeout_max_retrans: Option<Duration>,
    /// `net.netfilter.nf_conntrack_checksum`: whether a packet with a wrong checksum is invalid.
    pub checksum: Option<bool>,
    /// `net.netfilter.nf_conntrack_tcp_be_liberal`: whether only RSTs outside the window are invalid.
    pub be_liberal: Option<bool>,
}

impl ConntrackSettings {
    /// How long conntrack remembers a connection that waits for its peer.
    pub fn shortest_timeout_of_stalled(&self) -> Option<Duration> {
        [self.timeout_unacknowledged, self.timeout_max_retrans].into_iter().flatten().min()
    }
}

/// `enum tcp_conntrack` (`include/uapi/linux/netfilter/nf_conntrack_tcp.h`).
///
/// In the order in which a connection goes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are conntrack's states")]
pub enum ConntrackState {
    None,
    SynSent,
    SynRecv,
    Established,
    FinWait,
    CloseWait,
    LastAck,
    TimeWait,
    Close,
    SynSent2,
}

impl ConntrackState {
    /// From the kernel's number; `None` for one that has no name.
    pub const fn from_kernel(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::None,
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            _ => return None,
        })
    }

    /// Whether the handshake has not been seen through.
    pub const fn is_embryonic(self) -> bool {
        matches!(self, Self::SynSent | Self::SynSent2 | Self::SynRecv)
    }

    /// As `conntrack -L` writes it (`tcp_conntrack_names`, `net/netfilter/nf_conntrack_proto_tcp.c`), in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::Established => "established",
            Self::FinWait => "fin_wait",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
            Self::SynSent2 => "syn_sent2",
        }
    }
}
