//! Events of packets that are thrown away, or that connection tracking holds for invalid.

use core::hint::black_box;

use aya_ebpf::helpers::generated::{bpf_get_stack, bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use connprobe_common::{
    abi::{ABI_VERSION, DropRecord, InvalidRecord, MAX_HEADERS_BYTES, MAX_REASON_BYTES, UNKNOWN, hook},
    fields::Field,
};

use super::{COUNTERS, EVENTS, wake::wakeup_if_asleep, zeroed};
use crate::{
    clock, filter,
    limit::{self, PerCpu, Stage},
    memory::Memory,
    packet::Segment,
    socket::{Address, state},
};

/// A packet that is thrown away.
#[derive(Clone, Copy)]
pub struct Drop {
    /// What the program was given: the way to the stack.
    pub context: *mut core::ffi::c_void,
    pub skb: Address,
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
pub fn drop_event(drop: &Drop, segment: Segment) {
    let now_ns = clock::now_ns();
    let Some(counters) = COUNTERS.get_ptr_mut(u32::from(hook::KFREE_SKB)) else { return };
    // SAFETY: a per-CPU value belongs to this CPU while the program runs.
    let counters = unsafe { &mut *counters };
    let budget = match drop.part {
        Part::Fin => PerCpu::DroppedFins,
        Part::Reset => PerCpu::DroppedResets,
        Part::Beginning => PerCpu::DroppedHandshakes,
        Part::Other => PerCpu::LookedUpDrops,
    };
    // Before anything else is read: firewalls drop by the million. Counted, but for others, of which most would not be told.
    if limit::is_used_up(budget, now_ns) || drop.part == Part::Other && !limit::take(budget, now_ns) {
        counters.suppressed += u64::from(drop.part != Part::Other);
        return;
    }
    let ingress_ifindex: u32 = drop.skb.read(Field::SkbSkbIif).unwrap_or(0);
    // Who has made it is its sender.
    let Some(tuple) = segment.tuple(ingress_ifindex == 0) else { return };
    // A socket of this host that has sent it sends it again, and is told of then.
    if !filter::passes_packet(&tuple)
        || drop.part == Part::Other && !limit::take_from_dropped(&tuple, now_ns, ingress_ifindex != 0)
    {
        return;
    }
    if drop.part != Part::Other && !limit::take(budget, now_ns) {
        counters.suppressed += 1;
        return;
    }
    if drop.part == Part::Beginning {
        limit::suspect(&tuple, now_ns, Stage::Embryonic);
    }
    // Where routing has found the socket already (`ip_rcv_finish_core`, early demux), its state changes are told from now on.
    if let Some(sk) = drop.skb.follow(Field::SkbSk) {
        if sk.state().is_some_and(state::is_synchronized) {
            limit::watch(sk, now_ns);
        }
    }
    counters.seen += 1;
    if write_drop(drop, segment, tuple.netns, ingress_ifindex, now_ns) {
        counters.emitted += 1;
    } else {
        counters.lost += 1;
    }
}

/// Writes the record; `false` when the ring is full.
#[inline(always)]
fn write_drop(drop: &Drop, segment: Segment, netns: u32, ingress_ifindex: u32, now_ns: u64) -> bool {
    let Some(headers_bytes) = segment.headers_bytes() else { return true };
    let Some(mut entry) = EVENTS.reserve::<DropRecord>(0) else { return false };
    let record = zeroed(entry.as_mut_ptr());
    record.abi_version = ABI_VERSION;
    record.hook = hook::KFREE_SKB;
    record.size = size_of::<DropRecord>() as u32;
    record.ktime_ns = now_ns;
    record.location = drop.location;
    record.reason = u32::from(drop.reason);
    record.netns = netns;
    record.ingress_ifindex = ingress_ifindex;
    fill_packet(record, drop.skb, segment, headers_bytes);
    fill_stack(record, drop.context);
    entry.submit(wakeup_if_asleep::<DropRecord>(&EVENTS));
    true
}

/// A packet that connection tracking holds for invalid.
#[derive(Clone, Copy)]
pub struct Invalid {
    /// See [`Drop::context`].
    pub context: *mut core::ffi::c_void,
    pub skb: Address,
    /// Where the kernel's text for why is.
    pub text: u64,
    /// The zone, or `abi::NO_ZONE`.
    pub zone: u32,
    /// Netfilter's number of its hook, or [`UNKNOWN`].
    pub netfilter_hook: u8,
}

/// Filters, limits, counts and writes a FIN or a RST that connection tracking holds for invalid.
#[inline(always)]
pub fn invalid_event(invalid: &Invalid, segment: Segment, is_reset: bool) {
    let now_ns = clock::now_ns();
    let Some(counters) = COUNTERS.get_ptr_mut(u32::from(hook::NF_CT_LOG_INVALID)) else { return };
    // SAFETY: a per-CPU value belongs to this CPU while the program runs.
    let counters = unsafe { &mut *counters };
    let budget = if is_reset { PerCpu::InvalidResets } else { PerCpu::InvalidFins };
    // As of drops.
    if limit::is_used_up(budget, now_ns) {
        counters.suppressed += 1;
        return;
    }
    let ingress_ifindex: u32 = invalid.skb.read(Field::SkbSkbIif).unwrap_or(0);
    // Who has made it is its sender.
    let Some(tuple) = segment.tuple(ingress_ifindex == 0) else { return };
    if !filter::passes_packet(&tuple) {
        return;
    }
    if !limit::take(budget, now_ns) {
        counters.suppressed += 1;
        return;
    }
    counters.seen += 1;
    if write_invalid(invalid, segment, tuple.netns, ingress_ifindex, now_ns) {
        counters.emitted += 1;
    } else {
        counters.lost += 1;
    }
}

/// Writes the record; `false` when the ring is full.
#[inline(always)]
fn write_invalid(invalid: &Invalid, segment: Segment, netns: u32, ingress_ifindex: u32, now_ns: u64) -> bool {
    let Some(headers_bytes) = segment.headers_bytes() else { return true };
    let Some(mut entry) = EVENTS.reserve::<InvalidRecord>(0) else { return false };
    let record = zeroed(entry.as_mut_ptr());
    record.packet.abi_version = ABI_VERSION;
    record.packet.hook = hook::NF_CT_LOG_INVALID;
    record.packet.size = size_of::<InvalidRecord>() as u32;
    record.packet.ktime_ns = now_ns;
    record.packet.netns = netns;
    record.packet.ingress_ifindex = ingress_ifindex;
    fill_packet(&mut record.packet, invalid.skb, segment, headers_bytes);
    fill_stack(&mut record.packet, invalid.context);
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
    entry.submit(wakeup_if_asleep::<InvalidRecord>(&EVENTS));
    true
}

/// The calls' part of a record. On failure it stays zero.
#[inline(always)]
fn fill_stack(record: &mut DropRecord, context: *mut core::ffi::c_void) {
    // SAFETY: the context is the program's own, and the helper writes at most as many bytes as the array has.
    unsafe { bpf_get_stack(context, record.stack.as_mut_ptr().cast(), size_of_val(&record.stack) as u32, 0) };
}

/// The packet's part of a record.
#[inline(always)]
fn fill_packet(record: &mut DropRecord, skb: Address, segment: Segment, headers_bytes: u64) {
    record.packet_bytes = segment.packet_bytes().unwrap_or(0);
    record.checksum_state = skb.read_bits(Field::SkbIpSummed).unwrap_or(UNKNOWN);
    record.is_tracked = match skb.read::<u64>(Field::SkbNfct) {
        // The low bits say what the packet is to the connection.
        Some(connection) => u8::from(connection & !7 != 0),
        None => UNKNOWN,
    };
    record.destination_mac = segment.destination_mac(record.ingress_ifindex);
    // The compiler knows that this is below the mask and leaves it out; the verifier of 6.1 does not.
    let bytes = black_box(headers_bytes) & (MAX_HEADERS_BYTES as u64 - 1);
    // SAFETY: writes at most `bytes`, which the array has room for; the helper checks the source itself.
    let result =
        unsafe { bpf_probe_read_kernel(record.headers.as_mut_ptr().cast(), bytes as u32, segment.start() as *const _) };
    record.headers_bytes = if result == 0 { bytes as u16 } else { 0 };
}
