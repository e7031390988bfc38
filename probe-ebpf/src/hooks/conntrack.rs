//! `nf_l4proto_log_invalid()` and `nf_ct_l4proto_log_invalid()`: why connection tracking holds a packet for invalid.

use aya_ebpf::{EbpfContext as _, macros::kprobe, programs::ProbeContext};
use connprobe_common::{
    abi::{NO_ZONE, UNKNOWN},
    fields::{Location, UNAVAILABLE, offset_bytes},
};

use super::kprobe_argument;
use crate::{
    emit::packet::{InvalidPacket, Packet, invalid_event},
    globals::{read, settings},
    memory::load,
    packet::{Segment, flag},
    socket::{self, Address},
};

/// Connection tracking holds a packet for invalid, without having found its connection.
///
/// Kernel functions `nf_l4proto_log_invalid(skb, state, protonum, fmt, ...)` and
/// `nf_ct_l4proto_log_invalid(skb, ct, state, fmt, ...)` (`net/netfilter/nf_conntrack_proto.c`), alike from 6.1 to 6.18; called whether
/// or not `nf_conntrack_log_invalid` is set. With the format "%s" the text is the argument behind it;
/// with "%pV" the first is called by the second, which has told it already, and the second has a `struct va_format`. Told of: FINs
/// and RSTs. Trampolines refuse a variable number of arguments. Blind spot: some of these texts speak of packets that are let pass;
/// user space knows them. Cost of a packet that connection tracking accepts: nothing.
#[kprobe]
fn nf_l4proto_log_invalid_kprobe(ctx: ProbeContext) -> u32 {
    // An enumeration's or byte's register may hold anything above it.
    if kprobe_argument(&ctx, 2).is_some_and(|protocol| protocol as u8 == socket::IPPROTO_TCP) {
        tell(&ctx, 1, None, false);
    }
    0
}

/// The same for a packet of a known connection.
#[kprobe]
fn nf_ct_l4proto_log_invalid_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(connection) = kprobe_argument(&ctx, 1) {
        tell(&ctx, 2, Some(connection), true);
    }
    0
}

#[inline(always)]
fn tell(ctx: &ProbeContext, state_index: usize, connection: Option<u64>, follows_format: bool) {
    let Some(skb) = kprobe_argument(ctx, 0).map(Address) else { return };
    let Some(segment) = Segment::of(skb) else { return };
    let Some(flags) = segment.flags() else { return };
    if !is_told(flags) {
        return;
    }
    let Some(format) = kprobe_argument(ctx, 3) else { return };
    let Some(begin) = load::<[u8; 4]>(format) else { return };
    let text = match begin {
        [b'%', b's', 0, _] => kprobe_argument(ctx, 4),
        // `struct va_format` begins with its format (`include/linux/printk.h`).
        [b'%', b'p', b'V', 0] if follows_format => kprobe_argument(ctx, 4).and_then(load::<u64>),
        [b'%', b'p', b'V', 0] => None,
        _ => Some(format),
    };
    let Some(text) = text else { return };
    // SAFETY: both point into the settings.
    let (zone_at, hook_at) =
        unsafe { (read(&raw const (*settings()).conntrack_zone), read(&raw const (*settings()).netfilter_hook)) };
    let zone = connection.and_then(|connection| at::<u16>(connection, zone_at)).map_or(NO_ZONE, u32::from);
    let netfilter_hook =
        kprobe_argument(ctx, state_index).and_then(|state| at::<u8>(state, hook_at)).unwrap_or(UNKNOWN);
    let packet = Packet { context: ctx.as_ptr(), skb, segment };
    invalid_event(&InvalidPacket { packet, text, zone, netfilter_hook }, flags & flag::RST != 0);
}

/// Which segments are told of: the same of which drops are.
#[inline(always)]
fn is_told(flags: u8) -> bool {
    flags & (flag::FIN | flag::RST) != 0
}

#[inline(always)]
fn at<T: Copy>(structure: u64, location: Location) -> Option<T> {
    if location == UNAVAILABLE { None } else { load(structure.wrapping_add(u64::from(offset_bytes(location)))) }
}
