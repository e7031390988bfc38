use std::fmt;

use super::Deadline;
use crate::model::MonoTime;

/// What is wrong with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Unacknowledged or unsendable data makes no progress though the peer's window is open.
    RetransmitStalled,
}

impl Verdict {
    /// The name in records, on the command line and in the handbook.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RetransmitStalled => "retransmit_stalled",
        }
    }
}

/// Why it is wrong, as far as this host can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Retransmissions leave this host and nothing at all comes back from the peer.
    PeerSilent,
    /// Retransmissions do not leave this host: sending them fails.
    LocalSendFailure,
}

impl Cause {
    /// The name in records, on the command line and in the handbook.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PeerSilent => "peer_silent",
            Self::LocalSendFailure => "local_send_failure",
        }
    }
}

/// How sure a ruling is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MissingEvidence {
    /// More timeouts in a row, which ordinary packet loss does not make.
    MoreTimeouts {
        /// How many more.
        count: u8,
    },
    /// Events were lost: an acknowledgment or an error may have gone unseen.
    LostEvents {
        /// How many.
        count: u64,
    },
    /// This kernel does not tell when the peer last acknowledged anything.
    LastAckTime,
    /// Whether the local address is still on this host, and whether there is a route.
    LocalAddressAndRoute,
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
            Self::LostEvents { .. } => "lost_events",
            Self::LastAckTime => "last_ack_time",
            Self::LocalAddressAndRoute => "local_address_and_route",
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
            Self::LostEvents { count } => {
                write!(f, "{count} events were lost while watching; one of them may have been about this connection")
            }
            Self::LastAckTime => f.write_str("this kernel does not tell when the peer last acknowledged anything"),
            Self::LocalAddressAndRoute => f.write_str(
                "whether the local address is still on this host and a route to the peer exists was not asked",
            ),
            Self::Socket { why } => write!(f, "the socket could not be looked up ({why}); a recovery would go unseen"),
        }
    }
}

/// What a rule says of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
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
