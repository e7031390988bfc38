//! A segment that was thrown away on its way to its receiver or out of this host.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{DropReason, SocketStatus, Stack, TcpState};

/// A segment that the kernel dropped: a FIN, a RST, one of a handshake, or any of a connection under suspicion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedSegment {
    /// What it would have said.
    pub message: ControlMessage,
    /// From where it came.
    pub origin: Origin,
    /// Its sequence number: that of its first byte, or of the FIN where it carries no data.
    pub sequence: u32,
    /// Why it was dropped.
    pub reason: DropReason,
    /// Where in the kernel's code, as an address; 0 where that is not told.
    pub location: u64,
    /// By which calls the kernel got there; zeros where that is not told.
    pub stack: Stack,
    /// The kernel function that `location` is in, once it has been looked up.
    pub function: Option<String>,
    /// The packet's length from the IP header on, as its IP header says.
    pub stated_bytes: u32,
    /// The packet's length from the IP header on, as the kernel held it: more than stated is padding of the link layer.
    pub actual_bytes: u32,
    /// Bytes of application data in it.
    pub data_bytes: u32,
    /// Whether its TCP checksum is right.
    pub checksum: Checksum,
    /// Whether connection tracking had given it a connection; `None` where the kernel does not tell. A packet without one is
    /// invalid to connection tracking, or was not shown to it.
    pub is_tracked: Option<bool>,
    /// The address of the link layer it is for, of one that came in over Ethernet.
    pub destination_mac: Option<LinkAddress>,
}

/// An address of Ethernet (IEEE 802).
pub type LinkAddress = [u8; 6];

impl DroppedSegment {
    /// Whether a socket of this connection that is in this state has not got it, nor a copy of it; for one that this host has
    /// sent, whether the peer has not.
    pub const fn is_missed_in(&self, state: TcpState) -> bool {
        match (self.origin, self.message) {
            // The peer's FIN moves a socket on from each of these (RFC 9293 section 3.10.7.4).
            (Origin::Received { .. } | Origin::Forwarded { .. }, ControlMessage::Fin) => {
                matches!(state, TcpState::Established | TcpState::FinWait1 | TcpState::FinWait2)
            }
            // A reset ends it, whatever the state is.
            (Origin::Received { .. } | Origin::Forwarded { .. }, ControlMessage::Reset) => state.is_synchronized(),
            // The acknowledgment of our FIN does.
            (Origin::Sent, ControlMessage::Fin) => state.awaits_fin_ack(),
            // Who sends a reset has no connection any more.
            (Origin::Sent, ControlMessage::Reset) => false,
            // The SYN-ACK moves a client on, the ACK of it a server (RFC 9293 section 3.10.7).
            (Origin::Received { .. } | Origin::Forwarded { .. }, ControlMessage::SynAck) => {
                matches!(state, TcpState::SynSent)
            }
            (Origin::Sent, ControlMessage::SynAck)
            | (Origin::Received { .. } | Origin::Forwarded { .. }, ControlMessage::Ack) => state.awaits_final_ack(),
            // Of these the state does not tell.
            (_, ControlMessage::Syn | ControlMessage::Data) | (Origin::Sent, ControlMessage::Ack) => false,
        }
    }

    /// The same, or its state does not tell, as with data that an established one may have got.
    pub const fn may_be_missed_in(&self, state: TcpState) -> bool {
        let is_told = !matches!(self.message, ControlMessage::Ack | ControlMessage::Data);
        self.is_missed_in(state) || !is_told && (state.awaits_final_ack() || matches!(state, TcpState::Established))
    }

    /// Whether it was forged, or of an earlier connection: its sender goes on talking to the receiver's socket, which was asked for so long
    /// after the drop.
    pub fn was_no_end(&self, status: &SocketStatus, asked_after: Duration) -> bool {
        /// What was on its way before, and the kernel's ticks.
        const SLACK: Duration = Duration::from_millis(100);
        let heard_ago = match (self.origin, self.message) {
            (Origin::Received { .. } | Origin::Forwarded { .. }, ControlMessage::Reset) => Some(status.heard_ago),
            // Who has sent a FIN goes on acknowledging. Data that it sends again comes before its FIN, of which another copy then follows.
            (Origin::Received { .. } | Origin::Forwarded { .. }, ControlMessage::Fin) => status.data_ago,
            (Origin::Sent, _)
            | (_, ControlMessage::Syn | ControlMessage::SynAck | ControlMessage::Ack | ControlMessage::Data) => None,
        };
        heard_ago.is_some_and(|ago| ago + SLACK < asked_after)
    }

    /// The sequence number behind its data: of every copy of a FIN the same, also where one carries data that was sent before.
    pub const fn end_sequence(&self) -> u32 {
        self.sequence.wrapping_add(self.data_bytes)
    }

    /// Whether it is the same FIN from the same end, with its data or without.
    pub fn is_copy_of(&self, fin: &Self) -> bool {
        let of = |segment: &Self| (segment.message, segment.end_sequence(), segment.origin.forwarded_sender());
        self.message == ControlMessage::Fin && of(self) == of(fin)
    }

    /// The interface it came in by; `None` for one that this host has sent.
    pub const fn ingress_ifindex(&self) -> Option<u32> {
        match self.origin {
            Origin::Received { ifindex } | Origin::Forwarded { ifindex, .. } => Some(ifindex),
            Origin::Sent => None,
        }
    }

    /// Bytes behind the end that the IP header states.
    pub const fn padding_bytes(&self) -> u32 {
        self.actual_bytes.saturating_sub(self.stated_bytes)
    }
}

/// What a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlMessage {
    /// The sender has nothing more to say (FIN).
    Fin,
    /// The sender has no such connection any more (RST).
    Reset,
    /// The sender asks for a connection (SYN).
    Syn,
    /// The sender grants it (SYN-ACK).
    SynAck,
    /// The sender has got something (ACK without data), as in the last step of a handshake.
    Ack,
    /// It carries data of the application.
    Data,
}

impl Origin {
    /// Who sent it, of one that is only forwarded.
    pub const fn forwarded_sender(self) -> Option<SocketAddr> {
        match self {
            Self::Forwarded { sender, .. } => Some(sender),
            Self::Received { .. } | Self::Sent => None,
        }
    }
}

impl ControlMessage {
    /// The flag's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fin => "FIN",
            Self::Reset => "RST",
            Self::Syn => "SYN",
            Self::SynAck => "SYN-ACK",
            Self::Ack => "ACK",
            Self::Data => "data",
        }
    }

    /// Whether it ends its sender's half of the connection, or all of it.
    pub const fn is_ending(self) -> bool {
        match self {
            Self::Fin | Self::Reset => true,
            Self::Syn | Self::SynAck | Self::Ack | Self::Data => false,
        }
    }
}

/// From where a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// It came in by the interface with this index.
    Received {
        /// As in `ip link`.
        ifindex: u32,
    },
    /// The same, and it was for another host.
    Forwarded {
        /// As in `ip link`.
        ifindex: u32,
        /// The end that sent it.
        sender: SocketAddr,
    },
    /// A socket of this host sent it.
    Sent,
}

/// What a TCP checksum turned out to be (RFC 9293 section 3.1), computed anew from the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Checksum {
    /// As it should be.
    Right,
    /// Otherwise.
    Wrong {
        /// What the segment carries.
        carried: u16,
        /// What it should carry.
        due: u16,
    },
    /// Not yet computed: that is left to the network card (`CHECKSUM_PARTIAL`).
    Offloaded,
    /// It cannot be verified: the segment carries data, which is not looked at.
    NotVerifiable,
}

impl Checksum {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong { .. } => "wrong",
            Self::Offloaded => "offloaded",
            Self::NotVerifiable => "not_verifiable",
        }
    }
}

/// A FIN that a rule has dropped, for tests.
#[cfg(test)]
pub(crate) fn dropped_fin(origin: Origin) -> DroppedSegment {
    DroppedSegment {
        message: ControlMessage::Fin,
        origin,
        sequence: 1,
        reason: DropReason::NetfilterDrop,
        location: 0xf00,
        stack: Stack::default(),
        function: None,
        stated_bytes: 40,
        actual_bytes: 40,
        data_bytes: 0,
        checksum: Checksum::Right,
        is_tracked: Some(true),
        destination_mac: None,
    }
}
