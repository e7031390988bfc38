//! What user space tells the programs once, before they are loaded (read-only globals).

#[cfg(feature = "zerocopy")]
use zerocopy::{Immutable, IntoBytes};

use crate::fields::Location;

/// How many ports a filter can name. More would make every suspicious event slower for a case nobody has asked for.
pub const MAX_FILTER_PORTS: usize = 16;
/// How many peer prefixes a filter can name.
pub const MAX_FILTER_PREFIXES: usize = 8;

/// A peer prefix: an address matches when `address & mask == network`, each 16 bytes in network order with IPv4 mapped into
/// IPv6 (`::ffff:a.b.c.d`).
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "zerocopy", derive(IntoBytes, Immutable))]
#[repr(C)]
pub struct Prefix {
    /// The network, masked.
    pub network: [u8; 16],
    /// The mask.
    pub mask: [u8; 16],
}

/// Where a function's arguments and result are in `struct pt_regs`, which a kprobe's program is given. Offsets in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "zerocopy", derive(IntoBytes, Immutable))]
#[repr(C)]
pub struct Registers {
    /// The registers of the first arguments.
    pub arguments: [u32; 5],
    /// The register of the result.
    pub result: u32,
    /// The stack pointer.
    pub stack_pointer: u32,
    /// By how much the stack pointer is larger at the return than at the entry: 8 where a call pushes the return address
    /// (x86-64), 0 where it goes into a register (arm64).
    pub return_address_bytes: u32,
}

/// Which connections are observed, and what the running kernel's tracepoints look like.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "zerocopy", derive(IntoBytes, Immutable))]
#[repr(C)]
pub struct Settings {
    /// Only this namespace (inode number); 0 for all.
    pub netns: u32,
    /// How many of `ports` are used; 0 for all ports. A port matches either end.
    pub port_count: u32,
    /// How many of `prefixes` are used; 0 for all peers.
    pub prefix_count: u32,
    /// 1 when `tcp_retransmit_skb` passes the result of sending as its third argument (from Linux 6.17).
    pub retransmit_has_result: u32,
    /// Offsets of `skaddr` within the records of the classic tracepoints, by [`crate::abi::hook`] number.
    pub classic_skaddr_offset: [u32; crate::abi::hook::COUNT],
    /// Offsets of `oldstate` and `newstate` within the classic record of `inet_sock_set_state`.
    pub classic_oldstate_offset: u32,
    /// See `classic_oldstate_offset`.
    pub classic_newstate_offset: u32,
    /// Offset of `req` (a pointer) within the classic record of `tcp_retransmit_synack`.
    pub classic_req_offset: u32,
    /// Offsets of `skbaddr`, `rx_sk` and `reason` within the classic record of `kfree_skb`.
    pub classic_skbaddr_offset: u32,
    /// See `classic_skbaddr_offset`; from Linux 6.11.
    pub classic_rx_sk_offset: u32,
    /// See `classic_skbaddr_offset`.
    pub classic_reason_offset: u32,
    /// 1 when `kfree_skb` passes the receiving socket as its fourth argument (from Linux 6.11).
    pub drop_has_socket: u32,
    /// The number of `SKB_DROP_REASON_TCP_INVALID_SYN`; 0 when this kernel has none.
    pub invalid_syn_reason: u32,
    /// Offset of `location` within the classic record of `kfree_skb`.
    pub classic_location_offset: u32,
    /// Offset of `err` within the classic record of `tcp_retransmit_skb`, where `retransmit_has_result` is 1.
    pub classic_err_offset: u32,
    /// For kprobes.
    pub registers: Registers,
    /// Where `nf_conn.zone.id` is, or [`crate::fields::UNAVAILABLE`]. No [`crate::fields::Field`]: it is in a module.
    pub conntrack_zone: Location,
    /// Where `nf_hook_state.hook` is, one byte, or [`crate::fields::UNAVAILABLE`].
    pub netfilter_hook: Location,
    /// The ports, in host order.
    pub ports: [u16; MAX_FILTER_PORTS],
    /// The peer prefixes.
    pub prefixes: [Prefix; MAX_FILTER_PREFIXES],
    /// By this kernel's number of a drop reason: user space's code for it, or 0 for one of which nothing is told. With
    /// [`TOLD_OF_RESETS`] it is told of other dropped segments as well as of FINs, with [`TOLD_OF_SYNS`] also of every SYN.
    pub told_reasons: [u8; MAX_DROP_REASONS],
    /// The bits above the lowest 16 of the drop reasons of Open vSwitch (`enum skb_drop_reason_subsys`); 0 where there are none.
    pub subsystem: u32,
    /// The same as `told_reasons` for those, by the lowest 16 bits.
    pub told_subsystem_reasons: [u8; MAX_SUBSYSTEM_REASONS],
}

/// How many of the kernel's drop reasons are looked at: those that are not of a subsystem; 6.18 has 128.
pub const MAX_DROP_REASONS: usize = 256;

/// How many of a subsystem's drop reasons are looked at; Open vSwitch of 6.18 has 11.
pub const MAX_SUBSYSTEM_REASONS: usize = 16;

/// A bit of [`Settings::told_reasons`] that is not part of the code.
pub const TOLD_OF_RESETS: u8 = 0x80;
/// Another such bit.
pub const TOLD_OF_SYNS: u8 = 0x40;

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Prefix>() == 32);
    assert!(offset_of!(Settings, netns) == 0);
    assert!(offset_of!(Settings, port_count) == 4);
    assert!(offset_of!(Settings, prefix_count) == 8);
    assert!(offset_of!(Settings, retransmit_has_result) == 12);
    assert!(offset_of!(Settings, classic_skaddr_offset) == 16);
    assert!(offset_of!(Settings, classic_oldstate_offset) == 52);
    assert!(offset_of!(Settings, classic_newstate_offset) == 56);
    assert!(offset_of!(Settings, classic_req_offset) == 60);
    assert!(offset_of!(Settings, classic_skbaddr_offset) == 64);
    assert!(offset_of!(Settings, classic_rx_sk_offset) == 68);
    assert!(offset_of!(Settings, classic_reason_offset) == 72);
    assert!(offset_of!(Settings, drop_has_socket) == 76);
    assert!(offset_of!(Settings, invalid_syn_reason) == 80);
    assert!(offset_of!(Settings, classic_location_offset) == 84);
    assert!(offset_of!(Settings, classic_err_offset) == 88);
    assert!(size_of::<Registers>() == 32);
    assert!(offset_of!(Settings, registers) == 92);
    assert!(offset_of!(Settings, conntrack_zone) == 124);
    assert!(offset_of!(Settings, netfilter_hook) == 128);
    assert!(offset_of!(Settings, ports) == 132);
    assert!(offset_of!(Settings, prefixes) == 164);
    assert!(offset_of!(Settings, told_reasons) == 420);
    assert!(offset_of!(Settings, subsystem) == 676);
    assert!(offset_of!(Settings, told_subsystem_reasons) == 680);
    assert!(size_of::<Settings>() == 696);
};
