mod handshake;
mod sentences;

use std::{net::SocketAddr, time::Duration};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

pub use handshake::{Step, SynAckRepeat};

use crate::model::{
    ConntrackEntry, ConntrackSettings, DropPlace, DroppedSegment, Interface, InvalidSegment, MonoTime, Route,
    SocketView, TcpState, WaitingEnd,
};

/// One thing that was seen on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// When.
    pub at: MonoTime,
    /// What.
    pub kind: EvidenceKind,
}

/// The socket as it was seen at some moment.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// When.
    pub at: MonoTime,
    /// The socket.
    pub socket: &'a SocketView,
    /// Whether its retransmission timer was just firing: then the RTO is not doubled yet, and no timer is pending.
    pub timer_fired: bool,
}

impl Evidence {
    /// The latest sight of the socket among `evidence`.
    pub fn latest_sight(evidence: &[Self]) -> Option<Sight<'_>> {
        Self::sights_back(evidence).next()
    }

    /// Every sight of the socket among `evidence`, the latest first.
    pub fn sights_back(evidence: &[Self]) -> impl Iterator<Item = Sight<'_>> {
        evidence.iter().rev().filter_map(Self::sight)
    }

    /// The reset that came in, if one has, and when.
    pub fn reset_received(evidence: &[Self]) -> Option<Sight<'_>> {
        evidence.iter().rev().find_map(|evidence| {
            if let EvidenceKind::ResetReceived(socket) = &evidence.kind {
                Some(Sight { at: evidence.at, socket, timer_fired: false })
            } else {
                None
            }
        })
    }

    /// The latest attempt to send something among `evidence`.
    pub fn latest_attempt(evidence: &[Self]) -> Option<&Attempt> {
        evidence.iter().rev().find_map(|evidence| {
            if let EvidenceKind::RetransmissionTimeout(attempt) | EvidenceKind::ProbeSent(attempt) = &evidence.kind {
                Some(attempt)
            } else {
                None
            }
        })
    }

    /// Which FIN or RST was thrown away and has not got through since: the first and the latest, each with its time. Where no drop was
    /// seen, what connection tracking holds for invalid, which may have been dropped.
    pub fn dropped(evidence: &[Self]) -> Option<[(MonoTime, &DroppedSegment); 2]> {
        let since = Self::since_got_through(evidence);
        let ends = |dropped: fn(&Self) -> Option<(MonoTime, &DroppedSegment)>| {
            Some([since.iter().find_map(dropped)?, since.iter().rev().find_map(dropped)?])
        };
        ends(Self::as_dropped).or_else(|| ends(|evidence| Some((evidence.at, &evidence.as_invalid()?.segment))))
    }

    /// When copies of this FIN were thrown away that have not got through since, or where no drop was seen were held for invalid.
    pub fn copies(evidence: &[Self], fin: &DroppedSegment) -> Vec<MonoTime> {
        let of = |evidence: &Self| {
            let segment = evidence.segment().filter(|segment| segment.is_copy_of(fin))?;
            (segment.reason.is_seen() == fin.reason.is_seen()).then_some(evidence.at)
        };
        Self::since_got_through(evidence).iter().filter_map(of).collect()
    }

    /// Why connection tracking held this segment for invalid, dropped at this time, where it has told so.
    pub fn why_invalid<'a>(evidence: &'a [Self], at: MonoTime, dropped: &DroppedSegment) -> Option<&'a InvalidSegment> {
        /// A packet passes from one hook of netfilter to a rule on the next in microseconds; the copy before it came 0.2 s earlier
        /// at least (`TCP_RTO_MIN`).
        const ONE_PACKET: Duration = Duration::from_millis(100);
        let is_it = |invalid: &&InvalidSegment| invalid.is_same_as(dropped);
        let before = Self::since_got_through(evidence).iter().rev().filter(|evidence| evidence.at <= at);
        before.take_while(|evidence| at.since(evidence.at) <= ONE_PACKET).filter_map(Self::as_invalid).find(is_it)
    }

    /// What connection tracking's entry was when it was last told of.
    pub fn latest_conntrack_entry(evidence: &[Self]) -> Option<&ConntrackEntry> {
        evidence.iter().rev().find_map(|evidence| {
            if let EvidenceKind::ConntrackEntry(entry) = &evidence.kind { Some(entry) } else { None }
        })
    }

    /// Where the latest was dropped that was asked about.
    pub fn place(evidence: &[Self]) -> Option<&DropPlace> {
        evidence.iter().rev().find_map(|evidence| {
            if let EvidenceKind::DropPlace(place) = &evidence.kind { Some(&**place) } else { None }
        })
    }

    fn since_got_through(evidence: &[Self]) -> &[Self] {
        let latest = evidence.iter().rposition(|evidence| matches!(evidence.kind, EvidenceKind::SegmentGotThrough));
        latest.and_then(|latest| evidence.get(latest + 1..)).unwrap_or(evidence)
    }

    fn as_dropped(&self) -> Option<(MonoTime, &DroppedSegment)> {
        let EvidenceKind::SegmentDropped(segment) = &self.kind else { return None };
        segment.message.is_ending().then_some((self.at, segment))
    }

    /// The segment that connection tracking holds for invalid, if it is about one.
    pub fn as_invalid(&self) -> Option<&InvalidSegment> {
        if let EvidenceKind::SegmentInvalid(segment) = &self.kind { Some(segment) } else { None }
    }

    /// Which FINs and RSTs of a forwarded connection were thrown away on their way from this end, in time order. Where no drop was seen,
    /// what connection tracking holds for invalid.
    pub fn dropped_from(evidence: &[Self], from: SocketAddr) -> Vec<(MonoTime, &DroppedSegment)> {
        let of = |dropped: fn(&Self) -> Option<(MonoTime, &DroppedSegment)>| -> Vec<_> {
            let all = evidence.iter().filter_map(dropped);
            all.filter(|(_, segment)| segment.origin.forwarded_sender() == Some(from)).collect()
        };
        let dropped = of(Self::as_dropped);
        if dropped.is_empty() { of(|evidence| Some((evidence.at, &evidence.as_invalid()?.segment))) } else { dropped }
    }

    /// Every segment of a forwarded connection that was thrown away on its way from this end, whatever it says, in time order.
    pub fn segments_from(
        evidence: &[Self],
        from: SocketAddr,
    ) -> impl DoubleEndedIterator<Item = (MonoTime, &DroppedSegment)> {
        evidence.iter().filter_map(move |evidence| {
            let EvidenceKind::SegmentDropped(segment) = &evidence.kind else { return None };
            (segment.origin.forwarded_sender() == Some(from)).then_some((evidence.at, &**segment))
        })
    }

    /// Who has sent what was thrown away of a forwarded connection, in the order of their first segments.
    pub fn senders(evidence: &[Self]) -> Vec<SocketAddr> {
        let mut senders = Vec::new();
        for sender in evidence.iter().filter_map(|evidence| evidence.segment()?.origin.forwarded_sender()) {
            if !senders.contains(&sender) {
                senders.push(sender);
            }
        }
        senders
    }

    /// When the receiver of what this end sends was last seen to wait, and in which state; `None` where it is not on this host any more.
    pub fn receiver_waits(evidence: &[Self], sender: SocketAddr) -> Option<(MonoTime, TcpState)> {
        evidence.iter().rev().take_while(|evidence| !matches!(evidence.kind, EvidenceKind::SocketGone)).find_map(
            |evidence| {
                let EvidenceKind::EndWaits(end) = evidence.kind else { return None };
                (end.sender == sender).then_some((evidence.at, end.state))
            },
        )
    }

    /// The segment that it is about: one that was dropped, or that connection tracking holds for invalid.
    pub fn segment(&self) -> Option<&DroppedSegment> {
        if let EvidenceKind::SegmentDropped(segment) = &self.kind {
            Some(segment)
        } else {
            Some(&self.as_invalid()?.segment)
        }
    }

    fn sight(&self) -> Option<Sight<'_>> {
        let sight = |socket, timer_fired| Some(Sight { at: self.at, socket, timer_fired });
        if let EvidenceKind::RetransmissionTimeout(attempt) = &self.kind {
            sight(&attempt.socket, true)
        } else if let EvidenceKind::ProbeSent(attempt) = &self.kind {
            sight(&attempt.socket, false)
        } else if let EvidenceKind::Scanned(socket) = &self.kind {
            sight(socket, false)
        } else {
            None
        }
    }
}

/// What was seen. Each has one name in records ([`EvidenceKind::name`]) and one sentence for people (`Display`).
///
/// Attempts are in it without a box: in a storm nearly all are, and none allocates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvidenceKind {
    /// The retransmission timer fired.
    RetransmissionTimeout(Attempt),
    /// A probe was sent, and the one before was not answered, or sending failed.
    ProbeSent(Attempt),
    /// The scan found it waiting.
    Scanned(Box<SocketView>),
    /// The local address is on no interface of the namespace any more.
    LocalAddressGone,
    /// The namespace has no route to the peer.
    NoRoute {
        /// What looking it up gave, a positive errno.
        errno: i32,
    },
    /// The next hop to the peer does not answer ARP or neighbour discovery.
    NextHopSilent(Route),
    /// This host's connection tracking has an entry for the connection.
    ConntrackEntry(ConntrackEntry),
    /// This host's connection tracking has entries, and none for this connection.
    ConntrackEntryMissing(ConntrackSettings),
    /// A SYN-ACK was sent again.
    SynAckRetransmission(SynAckRepeat),
    /// A SYN-ACK came in for this connection, which is established here; the socket as far as it was told.
    SynAckReceived(Box<SocketView>),
    /// Segments come in by one interface and leave by another.
    PathMismatch {
        /// By which they come in.
        ingress: Interface,
        /// By which they leave.
        egress: Interface,
    },
    /// The peer has other connections to the same port of this host, which are established.
    PeerConnected {
        /// How many.
        count: usize,
    },
    /// The handshake was completed after all.
    HandshakeCompleted,
    /// The socket's state changed.
    StateChange {
        /// State before.
        from: TcpState,
        /// State after.
        to: TcpState,
        /// The socket's pending error, a positive errno; `Some(0)` for none.
        error: Option<i32>,
    },
    /// A SYN came in for this connection.
    SynReceived,
    /// A reset came in; the socket as it was then.
    ResetReceived(Box<SocketView>),
    /// This host sent a reset.
    ResetSent,
    /// A segment was thrown away.
    SegmentDropped(Box<DroppedSegment>),
    /// Where what was thrown away was dropped.
    DropPlace(Box<DropPlace>),
    /// Connection tracking holds a FIN or a RST for invalid.
    SegmentInvalid(Box<InvalidSegment>),
    /// The socket was looked up, and has not got what was thrown away.
    StillOpen {
        /// The state it is in.
        state: TcpState,
    },
    /// The receiver of a forwarded segment is a socket of this host; it was looked up, and has not got what was thrown away.
    EndWaits(WaitingEnd),
    /// What was thrown away has got through after all.
    SegmentGotThrough,
    /// The kernel reported an error to the application.
    SocketError {
        /// A positive errno.
        error: Option<i32>,
    },
    /// The socket was looked up: the peer has acknowledged new data since the last timeout.
    AcknowledgmentsResumed,
    /// The socket was looked up and is no more.
    SocketGone,
    /// connprobe was started anew: between the piece before this and now nobody watched.
    WatchResumed,
}

/// An attempt to send something again, or a probe, with what the judge needs of the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// What sending returned, a negative errno or at least 0, where the kernel tells.
    pub send_result: Option<i32>,
    /// The socket at that moment.
    pub socket: SocketView,
}

impl Attempt {
    /// Whether the attempt failed for good within this host. EBUSY is the host's own queue being full: the kernel tries
    /// again half a second later (`tcp_retransmit_timer`), and it says nothing about the connection.
    pub fn failed_locally(&self) -> bool {
        self.send_result.is_some_and(|result| result < 0 && Errno::from_raw(result.saturating_neg()) != Errno::EBUSY)
    }
}

impl EvidenceKind {
    /// The name in records.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RetransmissionTimeout(_) => "retransmission_timeout",
            Self::ProbeSent(_) => "probe_sent",
            Self::SynReceived => "syn_received",
            Self::Scanned(_) => "scanned",
            Self::LocalAddressGone => "local_address_gone",
            Self::NoRoute { .. } => "no_route",
            Self::NextHopSilent(_) => "next_hop_silent",
            Self::ConntrackEntry(_) => "conntrack_entry",
            Self::ConntrackEntryMissing(_) => "conntrack_entry_missing",
            Self::SynAckRetransmission(_) => "syn_ack_retransmission",
            Self::SynAckReceived(_) => "syn_ack_received",
            Self::PathMismatch { .. } => "path_mismatch",
            Self::PeerConnected { .. } => "peer_connected",
            Self::HandshakeCompleted => "handshake_completed",
            Self::StateChange { .. } => "state_change",
            Self::ResetReceived(_) => "reset_received",
            Self::ResetSent => "reset_sent",
            Self::SegmentDropped(_) => "segment_dropped",
            Self::SegmentInvalid(_) => "segment_invalid",
            Self::DropPlace(_) => "drop_place",
            Self::StillOpen { .. } => "still_open",
            Self::EndWaits(_) => "end_waits",
            Self::SegmentGotThrough => "segment_got_through",
            Self::SocketError { .. } => "socket_error",
            Self::AcknowledgmentsResumed => "acknowledgments_resumed",
            Self::SocketGone => "socket_gone",
            Self::WatchResumed => "watch_resumed",
        }
    }

    /// The error it carries, if it carries one.
    pub fn error(&self) -> Option<Errno> {
        match self {
            Self::StateChange { error: Some(error), .. } | Self::SocketError { error: Some(error) } => {
                (*error > 0).then(|| Errno::from_raw(*error))
            }
            Self::StateChange { error: None, .. }
            | Self::SocketError { error: None }
            | Self::RetransmissionTimeout(_)
            | Self::ProbeSent(_)
            | Self::SynReceived
            | Self::Scanned(_)
            | Self::LocalAddressGone
            | Self::NoRoute { .. }
            | Self::NextHopSilent(_)
            | Self::ConntrackEntry(_)
            | Self::ConntrackEntryMissing(_)
            | Self::SynAckRetransmission(_)
            | Self::SynAckReceived(_)
            | Self::PathMismatch { .. }
            | Self::PeerConnected { .. }
            | Self::HandshakeCompleted
            | Self::ResetReceived(_)
            | Self::ResetSent
            | Self::SegmentDropped(_)
            | Self::SegmentInvalid(_)
            | Self::DropPlace(_)
            | Self::StillOpen { .. }
            | Self::EndWaits(_)
            | Self::SegmentGotThrough
            | Self::AcknowledgmentsResumed
            | Self::SocketGone
            | Self::WatchResumed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_host_queue_is_no_local_failure() {
        let timeout = |send_result| Attempt { send_result, socket: SocketView::default() };
        assert!(!timeout(None).failed_locally());
        assert!(!timeout(Some(0)).failed_locally());
        assert!(!timeout(Some(-16)).failed_locally());
        assert!(timeout(Some(-113)).failed_locally());
        assert!(timeout(Some(i32::MIN + 1)).failed_locally());
    }

    #[test]
    fn sentences_leave_out_what_is_unavailable() {
        let timeout = Attempt { send_result: None, socket: SocketView::default() };
        assert_eq!(EvidenceKind::RetransmissionTimeout(timeout).to_string(), "retransmission timeout");
    }

    #[test]
    fn errors_are_named_and_explained() {
        let kind = EvidenceKind::StateChange { from: TcpState::Established, to: TcpState::Close, error: Some(110) };
        assert_eq!(kind.to_string(), "state changed from established to closed with ETIMEDOUT (Connection timed out)");
        assert_eq!(kind.error(), Some(Errno::ETIMEDOUT));
    }
}
