use serde::{Deserialize, Serialize};

/// Why the kernel dropped a packet: those of its reasons (`enum skb_drop_reason`, `include/net/dropreason-core.h`) that keep a segment
/// from a receiver who waits for it. All others are ordinary: duplicates, closed ports, shut windows, torn-down queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DropReason {
    /// A rule of nftables or iptables.
    NetfilterDrop,
    /// A filter of `tc` on the way in.
    TcIngress,
    /// A filter of `tc` on the way out.
    TcEgress,
    /// An XDP program.
    Xdp,
    /// A BPF program of a cgroup, on the way out.
    BpfCgroupEgress,
    /// A filter on the socket, or a BPF program of its cgroup.
    SocketFilter,
    /// An IPsec policy.
    XfrmPolicy,
    /// It came by another interface than its answer would take (`rp_filter`).
    IpRpfilter,
    /// The IP header's checksum is wrong.
    IpChecksum,
    /// The TCP checksum is wrong.
    TcpChecksum,
    /// Its timestamp is older than the last (PAWS, RFC 7323 section 5).
    Paws,
    /// Its sequence number lies outside the window.
    InvalidSequence,
    /// Open vSwitch: no action of its flow has sent it on.
    OvsLastAction,
    /// Open vSwitch: its flow drops it.
    OvsExplicit,
    /// Open vSwitch: its flow drops it, after an error.
    OvsExplicitError,
    /// Open vSwitch: an action failed.
    OvsActionError,
    /// Open vSwitch: a meter's rate is exceeded.
    OvsMeter,
    /// Open vSwitch: connection tracking failed.
    OvsConntrack,
    /// Not known: connection tracking holds it for invalid, and nothing has told who dropped it, or whether. No reason of the kernel's.
    Unseen,
}

impl DropReason {
    /// Every reason that is told of.
    pub const ALL: [Self; 18] = [
        Self::NetfilterDrop,
        Self::TcIngress,
        Self::TcEgress,
        Self::Xdp,
        Self::BpfCgroupEgress,
        Self::SocketFilter,
        Self::XfrmPolicy,
        Self::IpRpfilter,
        Self::IpChecksum,
        Self::TcpChecksum,
        Self::Paws,
        Self::InvalidSequence,
        Self::OvsLastAction,
        Self::OvsExplicit,
        Self::OvsExplicitError,
        Self::OvsActionError,
        Self::OvsMeter,
        Self::OvsConntrack,
    ];

    /// The kernel's name, without `SKB_DROP_REASON_`; one of Open vSwitch's is whole.
    pub const fn kernel_name(self) -> &'static str {
        match self {
            Self::NetfilterDrop => "NETFILTER_DROP",
            Self::TcIngress => "TC_INGRESS",
            Self::TcEgress => "TC_EGRESS",
            Self::Xdp => "XDP",
            Self::BpfCgroupEgress => "BPF_CGROUP_EGRESS",
            Self::SocketFilter => "SOCKET_FILTER",
            Self::XfrmPolicy => "XFRM_POLICY",
            Self::IpRpfilter => "IP_RPFILTER",
            Self::IpChecksum => "IP_CSUM",
            Self::TcpChecksum => "TCP_CSUM",
            Self::Paws => "TCP_RFC7323_PAWS",
            Self::InvalidSequence => "TCP_INVALID_SEQUENCE",
            Self::OvsLastAction => "OVS_DROP_LAST_ACTION",
            Self::OvsExplicit => "OVS_DROP_EXPLICIT",
            Self::OvsExplicitError => "OVS_DROP_EXPLICIT_WITH_ERROR",
            Self::OvsActionError => "OVS_DROP_ACTION_ERROR",
            Self::OvsMeter => "OVS_DROP_METER",
            Self::OvsConntrack => "OVS_DROP_CONNTRACK",
            Self::Unseen => "UNSEEN",
        }
    }

    /// Whether the drop itself was seen.
    pub const fn is_seen(self) -> bool {
        !matches!(self, Self::Unseen)
    }

    /// Whether it is one of Open vSwitch's own (`enum ovs_drop_reason`, `net/openvswitch/drop.h`, from 6.6), numbered apart from the kernel's.
    pub const fn is_of_open_vswitch(self) -> bool {
        matches!(
            self,
            Self::OvsLastAction
                | Self::OvsExplicit
                | Self::OvsExplicitError
                | Self::OvsActionError
                | Self::OvsMeter
                | Self::OvsConntrack
        )
    }

    /// The code by which the kernel programs name it; never 0.
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The reason of that code.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| u32::from(reason.code()) == code)
    }

    /// Whether a RST dropped for it is lost to a receiver: TCP itself drops those outside the window to withstand forged ones
    /// (RFC 5961 section 3).
    pub const fn is_told_of_resets(self) -> bool {
        !matches!(self, Self::Paws | Self::InvalidSequence)
    }

    /// Whether a SYN dropped for it is told of, whatever it is for: what a firewall keeps from closed ports is ordinary.
    pub const fn is_told_of_syns(self) -> bool {
        matches!(self, Self::IpRpfilter)
    }

    /// Whether somebody has told this host to drop it.
    pub const fn is_filter(self) -> bool {
        match self {
            Self::NetfilterDrop
            | Self::TcIngress
            | Self::TcEgress
            | Self::Xdp
            | Self::BpfCgroupEgress
            | Self::SocketFilter
            | Self::XfrmPolicy
            | Self::OvsLastAction
            | Self::OvsExplicit
            | Self::OvsExplicitError
            | Self::OvsActionError
            | Self::OvsMeter
            | Self::OvsConntrack => true,
            Self::IpRpfilter
            | Self::IpChecksum
            | Self::TcpChecksum
            | Self::Paws
            | Self::InvalidSequence
            | Self::Unseen => false,
        }
    }

    /// Who dropped it or why, to stand behind "dropped".
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::NetfilterDrop => "by the firewall (nftables or iptables)",
            Self::TcIngress => "by a tc filter on the way in",
            Self::TcEgress => "by a tc filter on the way out",
            Self::Xdp => "by an XDP program",
            Self::BpfCgroupEgress => "by a BPF program of a cgroup",
            Self::SocketFilter => "by a socket filter or a BPF program of a cgroup",
            Self::XfrmPolicy => "by an IPsec policy",
            Self::IpRpfilter => "because it came by another interface than the answer would take (rp_filter)",
            Self::IpChecksum => "because its IP checksum is wrong",
            Self::TcpChecksum => "because its TCP checksum is wrong",
            Self::Paws => "because its timestamp is older than the last one (PAWS)",
            Self::InvalidSequence => "because its sequence number lies outside the window",
            Self::OvsLastAction => "by Open vSwitch (no action of its flow sends it on: OVS_DROP_LAST_ACTION)",
            Self::OvsExplicit => "by Open vSwitch (its flow drops it: OVS_DROP_EXPLICIT)",
            Self::OvsExplicitError => "by Open vSwitch (its flow drops it: OVS_DROP_EXPLICIT_WITH_ERROR)",
            Self::OvsActionError => "by Open vSwitch (an action failed: OVS_DROP_ACTION_ERROR)",
            Self::OvsMeter => "by Open vSwitch (a meter: OVS_DROP_METER)",
            Self::OvsConntrack => "by Open vSwitch (connection tracking failed: OVS_DROP_CONNTRACK)",
            Self::Unseen => "by what was not seen",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_by_its_code() {
        for reason in DropReason::ALL {
            assert_eq!(DropReason::from_code(reason.code().into()), Some(reason));
            assert!(reason.code() < connprobe_common::settings::TOLD_OF_SYNS);
        }
        assert_eq!(DropReason::from_code(0), None);
    }
}
