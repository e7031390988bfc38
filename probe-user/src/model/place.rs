//! Where in the kernel, and by which rule, a packet was dropped.

use connprobe_common::abi::MAX_STACK_FRAMES;
use serde::{Deserialize, Serialize};

use super::Knowledge;

/// By which calls the kernel got to where it dropped a packet: return addresses, the innermost first, 0 behind the last.
pub type Stack = [u64; MAX_STACK_FRAMES];

/// What a witness needs to find the place of a drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DropTrace {
    /// The calls.
    pub stack: Stack,
    /// Whether a rule of the packet filter dropped it.
    pub is_by_filter: bool,
    /// Whether connection tracking has given it no connection, which makes it invalid to rules; `None` where that is not known.
    pub is_invalid: Option<bool>,
    /// Whether this host has sent it.
    pub is_sent: bool,
    /// Whether it is a RST; else it is a FIN.
    pub is_reset: bool,
}

/// Where a packet was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropPlace {
    /// The part of the kernel; `None` where the calls do not tell.
    pub site: Option<Site>,
    /// The kernel functions that called each other, the innermost first.
    pub functions: Vec<String>,
    /// The rules there that can have dropped it; not asked for where no rule of the packet filter did.
    pub rules: Knowledge<FilterRules>,
}

/// A part of the kernel in which packets are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Site {
    /// A hook of netfilter, of IP packets.
    Netfilter(NetfilterHook),
    /// The same of a bridge's frames.
    Bridge(NetfilterHook),
    /// The datapath of Open vSwitch.
    OpenVswitch,
    /// Queueing disciplines and their filters (`tc`).
    TrafficControl,
}

impl Site {
    /// The site that a function's name tells, if it tells one.
    fn of_function(name: &str) -> Option<Self> {
        use NetfilterHook::{Forward, Input, Output, Postrouting, Prerouting};
        // What the compiler appends: `.isra.0`, `.constprop.0`.
        let name = name.split('.').next().unwrap_or(name);
        Some(match name {
            "ip_rcv"
            | "ipv6_rcv"
            | "ip_list_rcv"
            | "ipv6_list_rcv"
            | "ip_sublist_rcv"
            | "ip6_sublist_rcv"
            | "ip_sabotage_in"
            | "br_nf_pre_routing"
            | "br_nf_pre_routing_ipv6" => Self::Netfilter(Prerouting),
            "ip_local_deliver" | "ip6_input" => Self::Netfilter(Input),
            "ip_forward" | "ip6_forward" | "br_nf_forward_ip" | "br_nf_forward" => Self::Netfilter(Forward),
            "__ip_local_out" | "__ip6_local_out" | "ip_local_out" | "ip6_local_out" | "ip6_xmit" => {
                Self::Netfilter(Output)
            }
            "ip_output" | "ip6_output" | "ip_mc_output" | "br_nf_post_routing" => Self::Netfilter(Postrouting),
            "br_handle_frame" => Self::Bridge(Prerouting),
            "br_pass_frame_up" => Self::Bridge(Input),
            "__br_forward" | "br_forward" => Self::Bridge(Forward),
            "br_dev_xmit" => Self::Bridge(Output),
            "br_forward_finish" => Self::Bridge(Postrouting),
            "do_execute_actions" | "tc_run" | "sch_handle_ingress" | "sch_handle_egress" | "tcf_classify" => {
                if name == "do_execute_actions" { Self::OpenVswitch } else { Self::TrafficControl }
            }
            _ if name.starts_with("ovs_") => Self::OpenVswitch,
            _ => return None,
        })
    }

    /// The site that these calls tell, the innermost first: the innermost that tells one counts.
    pub fn of_calls(functions: &[String]) -> Option<Self> {
        functions.iter().find_map(|name| Self::of_function(name))
    }

    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Netfilter(_) => "netfilter",
            Self::Bridge(_) => "bridge",
            Self::OpenVswitch => "openvswitch",
            Self::TrafficControl => "tc",
        }
    }

    /// The hook of netfilter, where it is one.
    pub const fn hook(self) -> Option<NetfilterHook> {
        match self {
            Self::Netfilter(hook) | Self::Bridge(hook) => Some(hook),
            Self::OpenVswitch | Self::TrafficControl => None,
        }
    }
}

/// A hook of netfilter (`enum nf_inet_hooks`, `include/uapi/linux/netfilter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are netfilter's")]
pub enum NetfilterHook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Ingress,
}

impl NetfilterHook {
    /// From the kernel's number; `None` for one that has no name.
    pub const fn from_kernel(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Prerouting,
            1 => Self::Input,
            2 => Self::Forward,
            3 => Self::Output,
            4 => Self::Postrouting,
            5 => Self::Ingress,
            _ => return None,
        })
    }

    /// The name, as nftables writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
        }
    }
}

/// The rules that can have dropped a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRules {
    /// In the order in which they are passed.
    pub candidates: Vec<FilterRule>,
    /// How many more there are.
    pub left_out: usize,
}

impl FilterRules {
    /// The rule, where only one comes into question.
    pub fn only(&self) -> Option<&FilterRule> {
        let [rule] = self.candidates.as_slice() else { return None };
        (self.left_out == 0).then_some(rule)
    }
}

/// A rule of nftables, or the policy of a chain. What iptables-nft sets up shows up as the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRule {
    /// The table's family, as `nft` names it.
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; `None` for the chain's policy.
    pub handle: Option<u64>,
    /// The rule, as `nft` writes it.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_call_that_tells_a_place_counts() {
        let site = |calls: &str| Site::of_calls(&calls.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let hook = |hook| Some(Site::Netfilter(hook));
        let received = "kfree_skb_reason nf_hook_slow ip_local_deliver ip_rcv __netif_receive_skb_one_core";
        assert_eq!(site(received), hook(NetfilterHook::Input));
        assert_eq!(site("nft_do_chain nf_hook_slow ip_forward ip_rcv"), hook(NetfilterHook::Forward));
        assert_eq!(site("nf_hook_slow ip_sublist_rcv.isra.0 ip_list_rcv"), hook(NetfilterHook::Prerouting));
        assert_eq!(site("nf_hook_slow __ip_local_out __ip_queue_xmit"), hook(NetfilterHook::Output));
        assert_eq!(site("kfree_skb do_execute_actions ovs_execute_actions ip_rcv"), Some(Site::OpenVswitch));
        assert_eq!(site("tcp_v4_rcv"), None);
    }
}
