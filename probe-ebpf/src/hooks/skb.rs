//! `skb:kfree_skb`.

use core::hint::black_box;

use aya_ebpf::{
    EbpfContext as _,
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use connprobe_common::{
    abi::hook,
    settings::{MAX_DROP_REASONS, MAX_SUBSYSTEM_REASONS, TOLD_OF_RESETS, TOLD_OF_SYNS},
};

use super::{classic_field, cookie, no_cookie, socket_argument};
use crate::{
    emit::{
        packet::{DroppedPacket, Packet, Part, drop_event},
        socket::{Kind, Limit, SocketEvent, packet_event, socket_event},
    },
    globals::{read, settings},
    packet::{Segment, flag},
    socket::{Address, state},
};

/// A packet is thrown away, with a reason.
///
/// Kernel functions `kfree_skb_reason` (`net/core/skbuff.c`), from 5.17, and `sk_skb_reason_drop`, from 6.11; from there also with
/// the socket it was meant for. Told of: a SYN or a SYN-ACK that came for a synchronized connection, which the kernel answers with
/// a challenge ACK and drops (`tcp_validate_incoming`, RFC 5961 section 4); and, dropped for one of the reasons in the settings, a FIN,
/// a RST, a SYN-ACK, a SYN where the reason says so, any segment of a connection under suspicion, and any other that came in from the
/// second of its connection on. Ordinary: everything else. Blind spot: packets are dropped in softirq, also while this program runs
/// for another one. Cost of an ordinary one: two comparisons; where the reason is one of those told of, six reads more. Further a CPU
/// looks only so often in a tenth of a second.
#[btf_tracepoint(function = "kfree_skb")]
fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    let reason = ctx.arg::<u32>(2);
    let skb = Address(ctx.arg::<u64>(0));
    if is_invalid_syn(reason) {
        // SAFETY: points into the settings.
        if unsafe { read(&raw const (*settings()).drop_has_socket) } == 1 {
            if let Some((sk, raw)) = socket_argument(ctx.arg(3)) {
                on_syn(skb, sk, || cookie(raw));
            }
        } else {
            on_syn_of_unknown_socket(skb);
        }
    } else if told_reason(reason) != 0 {
        on_drop(ctx.as_ptr(), skb, ctx.arg::<u64>(1), told_reason(reason));
    }
    0
}

#[tracepoint]
fn kfree_skb_classic(ctx: TracePointContext) -> u32 {
    // SAFETY: all point into the settings.
    let (reason_offset, skb_offset, sk_offset, location_offset) = unsafe {
        (
            &raw const (*settings()).classic_reason_offset,
            &raw const (*settings()).classic_skbaddr_offset,
            &raw const (*settings()).classic_rx_sk_offset,
            &raw const (*settings()).classic_location_offset,
        )
    };
    let Some(reason) = classic_field::<u32>(&ctx, reason_offset) else { return 0 };
    if is_invalid_syn(reason) {
        if let Some(sk) = classic_field::<u64>(&ctx, sk_offset).filter(|sk| *sk != 0) {
            let skb = classic_field::<u64>(&ctx, skb_offset).unwrap_or(0);
            on_syn(Address(skb), Address(sk), no_cookie);
        } else if let Some(skb) = classic_field::<u64>(&ctx, skb_offset) {
            on_syn_of_unknown_socket(Address(skb));
        }
    } else if told_reason(reason) != 0 {
        let Some(skb) = classic_field::<u64>(&ctx, skb_offset) else { return 0 };
        let location = classic_field::<u64>(&ctx, location_offset).unwrap_or(0);
        on_drop(ctx.as_ptr(), Address(skb), location, told_reason(reason));
    }
    0
}

/// Whether the reason is the one for a SYN on a synchronized connection, by this kernel's number.
#[inline(always)]
fn is_invalid_syn(reason: u32) -> bool {
    // SAFETY: points into the settings.
    let invalid_syn = unsafe { read(&raw const (*settings()).invalid_syn_reason) };
    invalid_syn != 0 && reason == invalid_syn
}

/// What the settings have for the reason; 0 for one of which nothing is told.
#[inline(always)]
fn told_reason(reason: u32) -> u8 {
    if reason as usize >= MAX_DROP_REASONS {
        return told_subsystem_reason(reason);
    }
    let index = bounded(reason as usize, MAX_DROP_REASONS);
    // SAFETY: below the array's length, so it points into the settings.
    unsafe { read((&raw const (*settings()).told_reasons as *const u8).add(index)) }
}

/// The same for a reason of Open vSwitch, whose numbers begin above the kernel's own 65,536.
#[inline(always)]
fn told_subsystem_reason(reason: u32) -> u8 {
    // SAFETY: points into the settings.
    let subsystem = unsafe { read(&raw const (*settings()).subsystem) };
    let index = (reason & 0xffff) as usize;
    if subsystem == 0 || reason & !0xffff != subsystem || index >= MAX_SUBSYSTEM_REASONS {
        return 0;
    }
    let index = bounded(index, MAX_SUBSYSTEM_REASONS);
    // SAFETY: below the array's length, so it points into the settings.
    unsafe { read((&raw const (*settings()).told_subsystem_reasons as *const u8).add(index)) }
}

/// An index that is below a length, a power of two: the compiler checks it in one register and uses it from another, which the verifier
/// of 6.1 does not follow.
#[inline(always)]
fn bounded(index: usize, length: usize) -> usize {
    black_box(index) & (length - 1)
}

#[inline(always)]
fn on_syn(skb: Address, sk: Address, cookie: impl FnOnce() -> u64) {
    let Some(state) = sk.state() else { return };
    if state::is_synchronized(state) {
        // Without them it counts as a SYN.
        let segment_flags = match Segment::of(skb) {
            Some(segment) => segment.flags().unwrap_or(0),
            None => 0,
        };
        let event = SocketEvent { segment_flags, ..SocketEvent::new(hook::KFREE_SKB, Kind::Full, state) };
        socket_event(event, Limit::Connection, sk, cookie);
    }
}

/// Only the packet tells which connection it came for.
#[inline(always)]
fn on_syn_of_unknown_socket(skb: Address) {
    let Some(segment) = Segment::of(skb) else { return };
    if let Some(tuple) = segment.tuple_of_receiver() {
        packet_event(&tuple, segment.flags().unwrap_or(0));
    }
}

#[inline(always)]
fn on_drop(context: *mut core::ffi::c_void, skb: Address, location: u64, told: u8) {
    let Some(segment) = Segment::of(skb) else { return };
    let Some(flags) = segment.flags() else { return };
    if flags & (flag::FIN | flag::RST) != flag::FIN && told & TOLD_OF_RESETS == 0 {
        return;
    }
    let part = if flags & flag::RST != 0 {
        Part::Reset
    } else if flags & flag::FIN != 0 {
        Part::Fin
    } else if flags & (flag::SYN | flag::ACK) == flag::SYN {
        // A SYN that a firewall keeps from a port is ordinary, and floods are made of them.
        if told & TOLD_OF_SYNS == 0 {
            return;
        }
        Part::Beginning
    } else if flags & flag::SYN != 0 {
        Part::Beginning
    } else {
        Part::Other
    };
    let reason = told & !(TOLD_OF_RESETS | TOLD_OF_SYNS);
    drop_event(&DroppedPacket { packet: Packet { context, skb, segment }, location, reason, part });
}
