//! Events of packets that are thrown away, or that connection tracking holds for invalid.

use core::hint::black_box;

use aya_ebpf::helpers::generated::{bpf_get_stack, bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use connprobe_common::{
    abi::{ABI_VERSION, DropRecord, InvalidRecord, MAX_HEADERS_BYTES, MAX_REASON_BYTES, UNKNOWN, hook},
    fields::Field,
};

use super::{Room, count, counters};
use crate::{
    clock, filter,
    limit::{self, PerCpu, Stage},
    memory::Memory,
    packet::Segment,
    socket::{Address, state},
};

/// A packet that a program was given.
#[derive(Clone, Copy)]
pub struct Packet {
    /// What the program was given: the way to the stack.
    pub context: *mut core::ffi::c_void,
    pub skb: Address,
    pub segment: Segment,
}

/// A packet that is thrown away.
#[derive(Clone, Copy)]
pub struct DroppedPacket {
    pub packet: Packet,
    /// The address after the call that drops it.
    pub location: u64,
    /// User space's code for the reason.
    pub reason: u8,
    /// What makes it worth telling.
    pub part: Part,
}

/// What a segment is to its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A FIN ends its sender's half.
    Fin,
    /// A RST ends all of it.
    Reset,
    /// A SYN-ACK, or a SYN that came by an unexpected interface, begins it.
    Beginning,
    /// Anything else: told of connections under suspicion, and where it is dropped again and again.
    Other,
}

/// Filters, limits, counts and writes a segment that is thrown away.
#[inline(always)]
pub fn drop_event(dropped: &DroppedPacket) {
    let Packet { skb, segment, .. } = dropped.packet;
    let now_ns = clock::now_ns();
    let Some(counters) = counters(hook::KFREE_SKB) else { return };
    let budget = match dropped.part {
        Part::Fin => PerCpu::DroppedFins,
        Part::Reset => PerCpu::DroppedResets,
        Part::Beginning => PerCpu::DroppedHandshakes,
        Part::Other => PerCpu::LookedUpDrops,
    };
    // Before anything else is read: firewalls drop by the million. Counted, but for others, of which most would not be told.
    if limit::is_used_up(budget, now_ns) || dropped.part == Part::Other && !limit::take(budget, now_ns) {
        counters.suppressed += u64::from(dropped.part != Part::Other);
        return;
    }
    let ingress_ifindex: u32 = skb.read(Field::SkbSkbIif).unwrap_or(0);
    // Who has made it is its sender.
    let Some(tuple) = segment.tuple(ingress_ifindex == 0) else { return };
    // A socket of this host that has sent it sends it again, and is told of then.
    if !filter::passes_packet(&tuple)
        || dropped.part == Part::Other && !limit::take_from_dropped(&tuple, now_ns, ingress_ifindex != 0)
    {
        return;
    }
    if dropped.part != Part::Other && !limit::take(budget, now_ns) {
        counters.suppressed += 1;
        return;
    }
    if dropped.part == Part::Beginning {
        limit::suspect(&tuple, now_ns, Stage::Embryonic);
    }
    // Where routing has found the socket already (`ip_rcv_finish_core`, early demux), its state changes are told from now on.
    if let Some(sk) = skb.follow(Field::SkbSk) {
        if sk.state().is_some_and(state::is_synchronized) {
            limit::watch(sk, now_ns);
        }
    }
    count(counters, write_drop(dropped, Head { now_ns, netns: tuple.netns, ingress_ifindex }));
}

/// Writes the record; `false` when the ring is full.
#[inline(always)]
fn write_drop(dropped: &DroppedPacket, head: Head) -> bool {
    let Some(headers_bytes) = dropped.packet.segment.headers_bytes() else { return true };
    let Some(mut room) = Room::<DropRecord>::reserve() else { return false };
    let record = room.record();
    fill::<DropRecord>(record, hook::KFREE_SKB, &dropped.packet, head, headers_bytes);
    record.location = dropped.location;
    record.reason = u32::from(dropped.reason);
    room.submit();
    true
}

/// A packet that connection tracking holds for invalid.
#[derive(Clone, Copy)]
pub struct InvalidPacket {
    pub packet: Packet,
    /// Where the kernel's text for why is.
    pub text: u64,
    /// The zone, or `abi::NO_ZONE`.
    pub zone: u32,
    /// Netfilter's number of its hook, or [`UNKNOWN`].
    pub netfilter_hook: u8,
}

/// Filters, limits, counts and writes a FIN or a RST that connection tracking holds for invalid.
#[inline(always)]
pub fn invalid_event(invalid: &InvalidPacket, is_reset: bool) {
    let Packet { skb, segment, .. } = invalid.packet;
    let now_ns = clock::now_ns();
    let Some(counters) = counters(hook::NF_CT_LOG_INVALID) else { return };
    let budget = if is_reset { PerCpu::InvalidResets } else { PerCpu::InvalidFins };
    // As of drops.
    if limit::is_used_up(budget, now_ns) {
        counters.suppressed += 1;
        return;
    }
    let ingress_ifindex: u32 = skb.read(Field::SkbSkbIif).unwrap_or(0);
    // Who has made it is its sender.
    let Some(tuple) = segment.tuple(ingress_ifindex == 0) else { return };
    if !filter::passes_packet(&tuple) {
        return;
    }
    if !limit::take(budget, now_ns) {
        counters.suppressed += 1;
        return;
    }
    count(counters, write_invalid(invalid, Head { now_ns, netns: tuple.netns, ingress_ifindex }));
}

/// Writes the record; `false` when the ring is full.
#[inline(always)]
fn write_invalid(invalid: &InvalidPacket, head: Head) -> bool {
    let Some(headers_bytes) = invalid.packet.segment.headers_bytes() else { return true };
    let Some(mut room) = Room::<InvalidRecord>::reserve() else { return false };
    let record = room.record();
    fill::<InvalidRecord>(&mut record.packet, hook::NF_CT_LOG_INVALID, &invalid.packet, head, headers_bytes);
    record.zone = invalid.zone;
    record.netfilter_hook = invalid.netfilter_hook;
    // SAFETY: writes at most as many bytes as the array has, with the zero that ends them; the helper checks the source itself. What it
    // cannot read stays empty.
    unsafe {
        bpf_probe_read_kernel_str(
            record.text.as_mut_ptr().cast(),
            MAX_REASON_BYTES as u32,
            invalid.text as *const core::ffi::c_void,
        );
    }
    room.submit();
    true
}

/// What is known of a packet before its record is filled.
#[derive(Clone, Copy)]
struct Head {
    now_ns: u64,
    netns: u32,
    ingress_ifindex: u32,
}

/// Fills what a record `R` of a packet begins with. On failure the calls stay zero.
#[inline(always)]
fn fill<R>(record: &mut DropRecord, hook: u16, packet: &Packet, head: Head, headers_bytes: u64) {
    record.abi_version = ABI_VERSION;
    record.hook = hook;
    record.size = size_of::<R>() as u32;
    record.ktime_ns = head.now_ns;
    record.netns = head.netns;
    record.ingress_ifindex = head.ingress_ifindex;
    record.packet_bytes = packet.segment.packet_bytes().unwrap_or(0);
    record.checksum_state = packet.skb.read_bits(Field::SkbIpSummed).unwrap_or(UNKNOWN);
    record.is_tracked = match packet.skb.read::<u64>(Field::SkbNfct) {
        // The low bits say what the packet is to the connection.
        Some(connection) => u8::from(connection & !7 != 0),
        None => UNKNOWN,
    };
    record.destination_mac = packet.segment.destination_mac(head.ingress_ifindex);
    // The compiler knows that this is below the mask and leaves it out; the verifier of 6.1 does not.
    let bytes = black_box(headers_bytes) & (MAX_HEADERS_BYTES as u64 - 1);
    let (headers, start) = (record.headers.as_mut_ptr(), packet.segment.start() as *const _);
    // SAFETY: writes at most `bytes`, which the array has room for; the helper checks the source itself.
    let result = unsafe { bpf_probe_read_kernel(headers.cast(), bytes as u32, start) };
    record.headers_bytes = if result == 0 { bytes as u16 } else { 0 };
    // SAFETY: the context is the program's own, and the helper writes at most as many bytes as the array has.
    unsafe { bpf_get_stack(packet.context, record.stack.as_mut_ptr().cast(), size_of_val(&record.stack) as u32, 0) };
}
