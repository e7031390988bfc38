use std::fmt;

use serde::{Deserialize, Serialize};

use super::Deadline;
use crate::model::MonoTime;

/// What is wrong with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// The peer has no state for a connection that this host holds open (RFC 9293 section 3.5.1).
    HalfOpen,
    /// The peer keeps its window shut and answers the probes: its application does not read. No fault of the network.
    ZeroWindowStalled,
    /// Unacknowledged or unsendable data makes no progress though the peer's window is open.
    RetransmitStalled,
    /// A FIN, or a RST, was sent and thrown away, and nobody was told.
    SilentlyDroppedFin,
    /// The two ends disagree about the handshake, or its packets took different paths with a consequence.
    AsymmetricHandshake,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 5] = [
        Self::HalfOpen,
        Self::AsymmetricHandshake,
        Self::RetransmitStalled,
        Self::SilentlyDroppedFin,
        Self::ZeroWindowStalled,
    ];

    /// The name in records, on the command line and in the handbook.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half_open",
            Self::ZeroWindowStalled => "zero_window_stalled",
            Self::RetransmitStalled => "retransmit_stalled",
            Self::SilentlyDroppedFin => "silently_dropped_fin",
            Self::AsymmetricHandshake => "asymmetric_handshake",
        }
    }
}

/// Why it is wrong, as far as this host can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// Retransmissions leave this host and nothing at all comes back from the peer.
    PeerSilent,
    /// The local address is no longer on this host: nothing can be sent from it.
    SourceAddressLost,
    /// Segments do not leave this host: sending them fails.
    LocalSendFailure,
    /// The peer answered data or a probe with a reset after a silence: it no longer knew the connection.
    PeerReset,
    /// The peer wants a new connection on this tuple: it no longer knows the old one.
    PeerRestarted,
    /// Something on the way says that the peer cannot be reached (ICMP, or no answer to ARP or neighbour discovery).
    PeerUnreachable,
    /// This host's own connection tracking has forgotten the connection, and its firewall drops what that does not know.
    ConntrackExpired,
    /// Keepalive probes are not answered.
    KeepaliveUnanswered,
    /// Probes of a shut window are no longer answered.
    WindowProbesUnanswered,
    /// The peer's application does not read, so that its window stays shut.
    PeerWindowShut,
    /// Connection tracking held the segment for invalid because of its checksum, and the firewall dropped it for that.
    ConntrackBadChecksum,
    /// Connection tracking held the segment for invalid for another reason, and the firewall dropped it for that.
    ConntrackInvalid,
    /// A packet filter of this host dropped the segment.
    FirewallDrop,
    /// This host's IP or TCP dropped the segment.
    StackDrop,
    /// This host's own FIN is not acknowledged.
    UnacknowledgedFin,
    /// The ACK that completes the handshake does not reach the server: the client is established, the server is not.
    FinalAckLost,
    /// The SYN-ACK does not reach the client.
    SynackLost,
    /// Segments come in by another interface than they leave by, and something on one of the ways sees only half of the connection.
    PathMismatch,
    /// This host drops what comes in by another interface than the answer would take.
    ReversePathFiltered,
    /// A firewall has seen the handshake from one side only, and has forgotten the connection soon after.
    EmbryonicExpired,
}

impl Cause {
    /// Every cause, those of one verdict together.
    pub const ALL: [Self; 20] = [
        Self::PeerReset,
        Self::PeerRestarted,
        Self::PeerUnreachable,
        Self::ConntrackExpired,
        Self::KeepaliveUnanswered,
        Self::WindowProbesUnanswered,
        Self::FinalAckLost,
        Self::SynackLost,
        Self::PathMismatch,
        Self::ReversePathFiltered,
        Self::EmbryonicExpired,
        Self::PeerSilent,
        Self::SourceAddressLost,
        Self::LocalSendFailure,
        Self::ConntrackBadChecksum,
        Self::ConntrackInvalid,
        Self::FirewallDrop,
        Self::StackDrop,
        Self::UnacknowledgedFin,
        Self::PeerWindowShut,
    ];

    /// The verdict that it is a cause of.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::PeerReset
            | Self::PeerRestarted
            | Self::PeerUnreachable
            | Self::ConntrackExpired
            | Self::KeepaliveUnanswered
            | Self::WindowProbesUnanswered => Verdict::HalfOpen,
            Self::PeerSilent | Self::SourceAddressLost | Self::LocalSendFailure => Verdict::RetransmitStalled,
            Self::ConntrackBadChecksum
            | Self::ConntrackInvalid
            | Self::FirewallDrop
            | Self::StackDrop
            | Self::UnacknowledgedFin => Verdict::SilentlyDroppedFin,
            Self::FinalAckLost
            | Self::SynackLost
            | Self::PathMismatch
            | Self::ReversePathFiltered
            | Self::EmbryonicExpired => Verdict::AsymmetricHandshake,
            Self::PeerWindowShut => Verdict::ZeroWindowStalled,
        }
    }

    /// The name in records, on the command line and in the handbook.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PeerSilent => "peer_silent",
            Self::SourceAddressLost => "source_address_lost",
            Self::LocalSendFailure => "local_send_failure",
            Self::PeerReset => "peer_reset",
            Self::PeerRestarted => "peer_restarted",
            Self::PeerUnreachable => "peer_unreachable",
            Self::ConntrackExpired => "conntrack_expired",
            Self::KeepaliveUnanswered => "keepalive_unanswered",
            Self::WindowProbesUnanswered => "window_probes_unanswered",
            Self::ConntrackBadChecksum => "conntrack_bad_checksum",
            Self::ConntrackInvalid => "conntrack_invalid",
            Self::FirewallDrop => "firewall_drop",
            Self::StackDrop => "stack_drop",
            Self::UnacknowledgedFin => "unacknowledged_fin",
            Self::FinalAckLost => "final_ack_lost",
            Self::SynackLost => "synack_lost",
            Self::PathMismatch => "path_mismatch",
            Self::ReversePathFiltered => "reverse_path_filtered",
            Self::EmbryonicExpired => "embryonic_expired",
            Self::PeerWindowShut => "peer_window_shut",
        }
    }
}

/// How sure a ruling is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Confidence {
    /// It fits the evidence, and another explanation is still open; the missing evidence says what would settle it.
    Suspected,
    /// The evidence admits no other explanation.
    Confirmed,
}

impl Confidence {
    /// The name in records and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Suspected => "suspected",
            Self::Confirmed => "confirmed",
        }
    }
}

/// What was not seen and would settle the question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MissingEvidence {
    /// More timeouts in a row, which ordinary packet loss does not make.
    MoreTimeouts {
        /// How many more.
        count: u8,
    },
    /// More probes in a row without an answer.
    MoreProbes {
        /// How many more.
        count: u8,
    },
    /// A longer time with a shut window, which a reader that is only slow does not make.
    MoreTime,
    /// Address and route are there, and yet sending fails: something on this host drops what it sends.
    WhySendingFails,
    /// What this host's firewall does with packets of a connection that connection tracking does not know.
    WhatFirewallDrops,
    /// Whether connection tracking forgot the connection before it began to wait or because of it.
    WhenForgotten,
    /// Whether connection tracking knows the connection: it was asked and has not answered yet.
    ConntrackAnswer,
    /// Whether an ICMP error has come back.
    IcmpErrors,
    /// Another copy of a dropped FIN, dropped alike: the sender may send it again.
    AnotherCopy,
    /// Whether connection tracking knew the dropped segment's connection.
    Tracking,
    /// Why connection tracking held the segment for invalid.
    WhyInvalid,
    /// Who dropped what connection tracking held for invalid.
    WhoDropped,
    /// Which rule dropped it.
    DropRule {
        /// Why that is not known.
        why: String,
    },
    /// Whether the receiver of what was dropped still holds the connection open.
    Receiver,
    /// The reset by which the peer answers the challenge ACK.
    ResetAfterSyn,
    /// Another SYN-ACK for the established connection: one alone may be late.
    AnotherSynAck,
    /// Whether the peer has got the ACK, and has no room for the connection.
    PeersBacklog,
    /// What the peer knows of the connection, or which segments it gets.
    PeersEnd,
    /// Whether something on one of the two ways drops what it has seen only one direction of.
    WhatOneSideDrops,
    /// Events were lost: an acknowledgment or an error may have gone unseen.
    LostEvents {
        /// How many.
        count: u64,
    },
    /// This kernel does not tell when the peer was last heard of, by an ACK or by data.
    LastAckTime,
    /// Whether the local address is still on this host, and whether there is a route.
    LocalAddressAndRoute,
    /// Whether the socket has `IP_TRANSPARENT`, and so needs no address of this host.
    TransparentSocket,
    /// The socket could not be looked up, so that a recovery would go unseen.
    Socket {
        /// Why.
        why: String,
    },
}

impl MissingEvidence {
    /// The name in records.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::MoreTimeouts { .. } => "more_timeouts",
            Self::MoreProbes { .. } => "more_probes",
            Self::MoreTime => "more_time",
            Self::WhySendingFails => "why_sending_fails",
            Self::WhatFirewallDrops => "what_firewall_drops",
            Self::WhenForgotten => "when_forgotten",
            Self::ConntrackAnswer => "conntrack_answer",
            Self::IcmpErrors => "icmp_errors",
            Self::AnotherCopy => "another_copy",
            Self::Tracking => "tracking",
            Self::WhyInvalid => "why_invalid",
            Self::WhoDropped => "who_dropped",
            Self::DropRule { .. } => "drop_rule",
            Self::Receiver => "receiver",
            Self::ResetAfterSyn => "reset_after_syn",
            Self::AnotherSynAck => "another_syn_ack",
            Self::PeersBacklog => "peers_backlog",
            Self::PeersEnd => "peers_end",
            Self::WhatOneSideDrops => "what_one_side_drops",
            Self::LostEvents { .. } => "lost_events",
            Self::LastAckTime => "last_ack_time",
            Self::LocalAddressAndRoute => "local_address_and_route",
            Self::TransparentSocket => "transparent_socket",
            Self::Socket { .. } => "socket",
        }
    }
}

impl fmt::Display for MissingEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MoreTimeouts { count: 1 } => {
                f.write_str("one more unanswered retransmission would rule out ordinary packet loss")
            }
            Self::MoreTimeouts { count } => {
                write!(f, "{count} more unanswered retransmissions would rule out ordinary packet loss")
            }
            Self::MoreProbes { count: 1 } => f.write_str("one more unanswered probe would rule out ordinary packet loss"),
            Self::MoreProbes { count } => {
                write!(f, "{count} more unanswered probes would rule out ordinary packet loss")
            }
            Self::MoreTime => f.write_str("a reader that is only slow opens its window within half a minute"),
            Self::WhySendingFails => f.write_str(
                "address and route are there; a firewall rule or a queue of this host that drops the segments was not looked for",
            ),
            Self::WhatFirewallDrops => f.write_str(
                "segments leave this host; whether its firewall drops the answers, because connection tracking does not know the \
                 connection, was not seen",
            ),
            Self::WhenForgotten => f.write_str(
                "the connection had waited longer than connection tracking remembers such a one; it may have been forgotten \
                 because of that",
            ),
            Self::ConntrackAnswer => f.write_str(
                "connection tracking has not answered yet whether it knows the connection; one that it has forgotten looks alike",
            ),
            Self::IcmpErrors => f.write_str(
                "whether an ICMP error has come back is not told here: the peer may be unreachable rather than silent",
            ),
            Self::AnotherCopy => f.write_str(
                "its sender sends it again, each time after a longer wait: a copy that gets through would end this, copies that are dropped \
                 alike would prove it",
            ),
            Self::Tracking => f.write_str(
                "whether connection tracking held the segment for invalid, or a rule drops it for another reason, is not known",
            ),
            Self::WhyInvalid => f.write_str(
                "why connection tracking held it for invalid is not told here; its log would say (net.netfilter.nf_conntrack_log_invalid = 6)",
            ),
            Self::WhoDropped => f.write_str(
                "who dropped it was not seen: no rule of this host's packet filter, or one whose drop could not be told; before Linux \
                 6.6 Open vSwitch drops without a word",
            ),
            Self::DropRule { why } => write!(f, "which rule drops it could not be found out: {why}"),
            Self::Receiver => f.write_str(
                "whether its receiver still holds the connection open is not known: its socket was not found on this host, and \
                 nothing else shows that it lives",
            ),
            Self::ResetAfterSyn => f.write_str(
                "only the reset by which the peer answers the challenge ACK would prove it; SYNs alone may be forged, or late",
            ),
            Self::AnotherSynAck => {
                f.write_str("one more SYN-ACK from the peer would prove that it still waits for the final ACK")
            }
            Self::PeersBacklog => f.write_str(
                "whether the peer has got the ACK and only has no room left in its backlog (TcpExtListenOverflows there) is not seen from \
                 here",
            ),
            Self::PeersEnd => f.write_str(
                "where on the way the segment is lost, and whether it was sent, only the peer's end or a capture there can tell",
            ),
            Self::WhatOneSideDrops => f.write_str(
                "whether a firewall on one of the two ways drops what it has seen only one direction of is not told here; the peer \
                 may as well be down",
            ),
            Self::LostEvents { count: 1 } => {
                f.write_str("an event was lost while watching; it may have been about this connection")
            }
            Self::LostEvents { count } => {
                write!(f, "{count} events were lost while watching; one of them may have been about this connection")
            }
            Self::LastAckTime => f.write_str("this kernel does not tell when the peer was last heard of"),
            Self::LocalAddressAndRoute => f.write_str(
                "whether the local address is still on this host and a route to the peer exists is not known",
            ),
            Self::TransparentSocket => f.write_str(
                "whether the socket may send from an address that is not this host's (IP_TRANSPARENT) is not known",
            ),
            Self::Socket { why } => write!(f, "the socket could not be looked up ({why}); a recovery would go unseen"),
        }
    }
}

/// What a rule says of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruling {
    /// What is wrong.
    pub verdict: Verdict,
    /// Why.
    pub cause: Cause,
    /// How sure.
    pub confidence: Confidence,
    /// Since when, as well as this host can tell.
    pub since: MonoTime,
    /// When the kernel will give up; `None` when it cannot be computed.
    pub deadline: Option<Deadline>,
    /// What would make it surer, in order.
    pub missing: Vec<MissingEvidence>,
}

impl Ruling {
    /// Of the verdict that `cause` is one of, and as sure as what is missing leaves it. It has no deadline.
    pub(super) fn new(cause: Cause, since: MonoTime, missing: Vec<MissingEvidence>) -> Self {
        let confidence = if missing.is_empty() { Confidence::Confirmed } else { Confidence::Suspected };
        Self { verdict: cause.verdict(), cause, confidence, since, deadline: None, missing }
    }
}
