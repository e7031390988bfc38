//! What is seen of handshakes.

use serde::{Deserialize, Serialize};

use super::{Evidence, EvidenceKind};
use crate::model::{ControlMessage, DroppedSegment, MonoTime, Origin, SocketView, TcpState};

/// A SYN-ACK that was sent again, and how often the request socket had done so for which reason before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynAckRepeat {
    /// How often its timer had fired (`request_sock.num_timeout`).
    pub timeouts: Option<u8>,
    /// How often its SYN-ACK had been sent again, by the timer or because the client had repeated its SYN
    /// (`request_sock.num_retrans`).
    pub repeats: Option<u32>,
}

impl SynAckRepeat {
    /// As the view of a request socket tells it.
    pub fn of(socket: &SocketView) -> Self {
        Self { timeouts: socket.retransmits, repeats: socket.total_retransmits }
    }

    /// How often the client had repeated its SYN.
    pub fn syn_repeats(&self) -> Option<u32> {
        Some(self.repeats?.saturating_sub(u32::from(self.timeouts?)))
    }

    /// Whether the client has repeated its SYN so often that it cannot have got a SYN-ACK: one may have crossed a late one.
    pub fn is_asked_for_again(&self) -> bool {
        self.syn_repeats().is_some_and(|count| count >= 2)
    }
}

/// What of a handshake was thrown away on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The SYN of the peer.
    SynReceived,
    /// The SYN-ACK of the peer.
    SynAckReceived,
    /// The SYN-ACK of this host.
    SynAckSent,
    /// An ACK or data of the peer.
    AckReceived,
    /// An ACK or data of this host.
    AckSent,
}

impl Step {
    /// Which step the segment is; `None` for a SYN of this host, for what ends a connection, and for what is only forwarded.
    pub const fn of(segment: &DroppedSegment) -> Option<Self> {
        match (segment.message, segment.origin) {
            (ControlMessage::Syn, Origin::Received { .. }) => Some(Self::SynReceived),
            (ControlMessage::SynAck, Origin::Received { .. }) => Some(Self::SynAckReceived),
            (ControlMessage::SynAck, Origin::Sent) => Some(Self::SynAckSent),
            (ControlMessage::Ack | ControlMessage::Data, Origin::Received { .. }) => Some(Self::AckReceived),
            (ControlMessage::Ack | ControlMessage::Data, Origin::Sent) => Some(Self::AckSent),
            (ControlMessage::Syn, Origin::Sent)
            | (ControlMessage::Fin | ControlMessage::Reset, _)
            | (_, Origin::Forwarded { .. }) => None,
        }
    }
}

impl Evidence {
    /// The segments of this step that were dropped, in time order.
    pub fn dropped_steps(
        evidence: &[Self],
        step: Step,
    ) -> impl DoubleEndedIterator<Item = (MonoTime, &DroppedSegment)> {
        evidence.iter().filter_map(move |evidence| {
            if let EvidenceKind::SegmentDropped(segment) = &evidence.kind {
                (Step::of(segment) == Some(step)).then_some((evidence.at, &**segment))
            } else {
                None
            }
        })
    }

    /// The latest segment dropped that does not end the connection, and when.
    pub fn latest_dropped_step(evidence: &[Self]) -> Option<(MonoTime, &DroppedSegment)> {
        evidence.iter().rev().find_map(|evidence| {
            if let EvidenceKind::SegmentDropped(segment) = &evidence.kind {
                Step::of(segment).map(|_| (evidence.at, &**segment))
            } else {
                None
            }
        })
    }

    /// The SYN-ACKs that came in for the synchronized connection, each with the socket as far as it was told.
    pub fn syn_acks_received(evidence: &[Self]) -> impl DoubleEndedIterator<Item = (MonoTime, &SocketView)> {
        evidence.iter().filter_map(|evidence| {
            if let EvidenceKind::SynAckReceived(socket) = &evidence.kind {
                Some((evidence.at, &**socket))
            } else {
                None
            }
        })
    }

    /// The SYN-ACKs that this host has sent again.
    pub fn syn_ack_repeats(evidence: &[Self]) -> impl DoubleEndedIterator<Item = (MonoTime, &SynAckRepeat)> {
        evidence.iter().filter_map(|evidence| {
            if let EvidenceKind::SynAckRetransmission(repeat) = &evidence.kind {
                Some((evidence.at, repeat))
            } else {
                None
            }
        })
    }

    /// When this host has sent its SYN again.
    pub fn syn_timeouts(evidence: &[Self]) -> impl DoubleEndedIterator<Item = MonoTime> {
        evidence.iter().filter_map(|evidence| {
            if let EvidenceKind::RetransmissionTimeout(attempt) = &evidence.kind {
                (attempt.socket.state == Some(TcpState::SynSent)).then_some(evidence.at)
            } else {
                None
            }
        })
    }
}
