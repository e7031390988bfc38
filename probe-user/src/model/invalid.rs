//! A segment that connection tracking holds for invalid. It drops nothing itself: a rule may, or Open vSwitch.

use serde::{Deserialize, Serialize};

use super::{DroppedSegment, NetfilterHook, Origin};

/// A FIN or a RST that connection tracking holds for invalid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvalidSegment {
    /// The segment. Whether it was dropped is not known from this: its reason is [`DropReason::Unseen`](super::DropReason::Unseen).
    pub segment: DroppedSegment,
    /// Why, in the kernel's words, with an ellipsis where it writes a number.
    pub why: String,
    /// The zone of the connection it was taken for; `None` where none was looked for yet, or the kernel does not tell.
    pub zone: Option<u16>,
    /// Where it was looked at; Open vSwitch looks as if on prerouting.
    pub hook: Option<NetfilterHook>,
}

impl InvalidSegment {
    /// Whether it was held for invalid at all: some of these texts speak of packets that are let pass, or of what becomes of the entry
    /// (`nf_conntrack_tcp_packet`, `tcp_in_window` and `nf_tcp_handle_invalid`, `net/netfilter/nf_conntrack_proto_tcp.c`, 6.1 to
    /// 6.18).
    pub fn is_verdict(&self) -> bool {
        /// "packet … ignored", "ignored ACK under lower bound …", "challenge-ack ignored", "SEQ is under lower bound … (already ACKed
        /// data retransmitted)", "… lower timeout to …", "lowered timeout to UNACK".
        const OTHERS: [&str; 3] = ["ignored", "SEQ is under lower bound", "timeout to"];
        !OTHERS.iter().any(|other| self.why.contains(other))
    }

    /// Whether its checksum is why ("bad checksum", `tcp_error`).
    pub fn is_about_checksum(&self) -> bool {
        self.why.contains("checksum")
    }

    /// Whether it lies outside of the window that connection tracking has followed: then `nf_conntrack_tcp_be_liberal` lets it pass
    /// (`nf_tcp_log_invalid`).
    pub fn is_about_window(&self) -> bool {
        self.why.contains("upper bound") || self.why.contains("lower bound")
    }

    /// Whether this segment may be the one that was dropped.
    pub fn is_same_as(&self, dropped: &DroppedSegment) -> bool {
        // Addresses may be translated in between, and the checksum with them.
        let of = |segment: &DroppedSegment| (segment.message, segment.origin == Origin::Sent, segment.stated_bytes);
        of(&self.segment) == of(dropped)
    }
}
