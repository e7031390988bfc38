use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::flow::FlowView;
use crate::{
    judge::{
        Evidence, EvidenceKind, Forwarded, MissingEvidence, Remedy, Ruling, Waiting, forwarded_remedies, remedies,
    },
    model::{
        CommunityId, ConnectionKey, Knowledge, MonoTime, OwnerKnowledge, PathStatus, SocketCookie, SocketView, Vantage,
    },
};

/// A deadline that moves by less than this is the same deadline: timers are as coarse as the kernel's wheel.
const SAME_DEADLINE: Duration = Duration::from_secs(1);

/// What names a finding: stable over its whole life, unique on one boot of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FindingId {
    /// The connection; of one that is only forwarded, `local` is who began it.
    pub key: ConnectionKey,
    /// The socket, where known.
    pub cookie: Option<SocketCookie>,
    /// When the finding was opened.
    pub opened_at: MonoTime,
    /// Which case of its tracker it belongs to, counted from 0.
    pub case: u64,
}

/// Where a finding is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FindingState {
    /// New.
    Opened,
    /// Something a reader acts on has changed: cause, confidence, owner or deadline.
    Updated,
    /// Over.
    Closed(Outcome),
}

/// How a finding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// The peer acknowledges data again.
    Recovered,
    /// The connection was closed on this host: by its application, or by an operator (`ss -tK`).
    ClosedNormally,
    /// A RST ended the connection.
    Reset,
    /// The kernel gave up.
    TimedOut,
    /// The tracker had no room left for it; it may go on.
    Evicted,
    /// The socket is gone, and how it ended was not seen.
    Unobserved,
}

impl Outcome {
    /// How a socket ended that has gone to CLOSE, by what was seen of it.
    pub(super) fn of_closed(seen: &[Evidence]) -> Self {
        let error = |evidence: &Evidence| {
            if matches!(evidence.kind, EvidenceKind::ResetReceived(_)) {
                return Some(Errno::ECONNRESET);
            }
            evidence.kind.error()
        };
        match seen.iter().rev().find_map(error) {
            Some(Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNREFUSED) => Self::Reset,
            // Somebody on this host has ended it (`SOCK_DESTROY`: `tcp_abort`, `net/ipv4/tcp.c`); the RST is this host's own.
            Some(Errno::ECONNABORTED) => Self::ClosedNormally,
            Some(_) => Self::TimedOut,
            None if seen.iter().any(|evidence| is_reset(&evidence.kind)) => Self::Reset,
            None => Self::ClosedNormally,
        }
    }

    /// Every outcome.
    pub const ALL: [Self; 6] =
        [Self::Recovered, Self::ClosedNormally, Self::Reset, Self::TimedOut, Self::Evicted, Self::Unobserved];

    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::ClosedNormally => "closed_normally",
            Self::Reset => "reset",
            Self::TimedOut => "timed_out",
            Self::Evicted => "evicted",
            Self::Unobserved => "unobserved",
        }
    }

    /// Whether the connection turned out well, so that nobody has to act on the finding any more.
    pub const fn is_resolved(self) -> bool {
        match self {
            Self::Recovered | Self::ClosedNormally => true,
            Self::Reset | Self::TimedOut | Self::Evicted | Self::Unobserved => false,
        }
    }
}

/// One change in the life of one verdict on one connection, whole: a reader needs no earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which finding.
    pub id: FindingId,
    /// What this change is.
    pub state: FindingState,
    /// When it changed.
    pub at: MonoTime,
    /// What is known of a connection that this host only forwards; `None` where it holds the socket.
    pub flow: Option<Box<FlowView>>,
    /// The latest view of the socket.
    pub socket: SocketView,
    /// The way to the peer, as last looked up.
    pub path: Knowledge<PathStatus>,
    /// What is wrong, as last judged.
    pub ruling: Ruling,
    /// Who holds the socket.
    pub owner: OwnerKnowledge,
    /// What was seen, in time order.
    pub evidence: Vec<Evidence>,
    /// How many pieces of evidence between the first and the latest are left out.
    pub evidence_left_out: u64,
}

impl Finding {
    /// From where it is seen.
    pub const fn vantage(&self) -> Vantage {
        if self.flow.is_some() { Vantage::Forwarder } else { Vantage::Endpoint }
    }

    /// The connection's two ends.
    pub fn ends(&self) -> String {
        self.flow.as_ref().map_or_else(|| self.id.key.to_string(), |flow| flow.key.to_string())
    }

    /// The connection's Community ID: what is seen of it from several places has the same.
    pub fn community_id(&self) -> CommunityId {
        self.flow.as_ref().map_or_else(|| self.id.key.community_id(), |flow| flow.key.community_id())
    }

    /// Whether nobody can do anything about it any more.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, FindingState::Closed(_))
    }

    /// What to do about it, the most useful first.
    pub fn remedies(&self) -> Vec<Remedy> {
        match &self.flow {
            None => {
                let (owner, mark) = (self.owner.process(), self.mark());
                remedies(&self.id.key, &self.ruling, owner, mark, self.is_over(), &self.evidence)
            }
            Some(flow) => {
                let owner = flow.receiver_owner.process();
                let waiting = flow.ends.receiver.as_ref().map(|end| Waiting { netns: end.netns, owner });
                let netns = flow.key.netns;
                let forwarded = Forwarded { netns, packet: flow.packet, receiver: flow.receiver_socket(), waiting };
                forwarded_remedies(&forwarded, &self.ruling, self.is_over(), &self.evidence)
            }
        }
    }

    /// `SO_MARK` of the socket, where it is known.
    pub const fn mark(&self) -> Option<u32> {
        match &self.path {
            Knowledge::Known(path) => path.socket.mark,
            Knowledge::NotAsked | Knowledge::Unavailable(_) => None,
        }
    }
}

fn is_reset(kind: &EvidenceKind) -> bool {
    matches!(kind, EvidenceKind::ResetReceived(_) | EvidenceKind::ResetSent)
}

/// Whether two rulings differ in something a reader acts on.
pub(super) fn differs(before: &Ruling, now: &Ruling) -> bool {
    let deadline_moved = match (before.deadline, now.deadline) {
        (Some(before), Some(now)) => {
            before.set_by != now.set_by
                || before.timer != now.timer
                || before.at.since(now.at).max(now.at.since(before.at)) >= SAME_DEADLINE
        }
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    };
    let missing = |ruling: &Ruling| ruling.missing.iter().map(MissingEvidence::name).collect::<Vec<_>>();
    deadline_moved
        || missing(before) != missing(now)
        || before.verdict != now.verdict
        || before.cause != now.cause
        || before.confidence != now.confidence
}
