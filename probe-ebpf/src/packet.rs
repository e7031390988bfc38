//! Reading packets.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use connprobe_common::fields::Field;

use crate::socket::{Address, Tuple, mapped};

/// Offsets of the addresses in the headers of IPv4 (RFC 791 section 3.1) and IPv6 (RFC 8200 section 3).
const IPV4_SOURCE: u64 = 12;
const IPV4_DESTINATION: u64 = 16;
const IPV6_SOURCE: u64 = 8;
const IPV6_DESTINATION: u64 = 24;

/// The tuple of a TCP segment that has come in, as its receiver would name it: local is where it was sent to.
#[inline(always)]
pub fn tuple_of_received(skb: Address) -> Option<Tuple> {
    let head: u64 = skb.read(Field::SkbHead)?;
    let network = head.wrapping_add(u64::from(skb.read::<u16>(Field::SkbNetworkHeader)?));
    let transport = head.wrapping_add(u64::from(skb.read::<u16>(Field::SkbTransportHeader)?));
    let version: u8 = load(network)?;
    let (remote_address, local_address) = match version >> 4 {
        4 => (mapped(load(network + IPV4_SOURCE)?), mapped(load(network + IPV4_DESTINATION)?)),
        6 => (load(network + IPV6_SOURCE)?, load(network + IPV6_DESTINATION)?),
        _ => return None,
    };
    Some(Tuple {
        netns: device(skb)?.follow(Field::DevNet)?.read(Field::NetInum)?,
        local_port: u16::from_be(load(transport + 2)?),
        remote_port: u16::from_be(load(transport)?),
        local_address,
        remote_address,
    })
}

/// The device the packet is at. While TCP has the packet only its route still names one (`tcp_v4_rcv` takes `skb->dev` away).
#[inline(always)]
fn device(skb: Address) -> Option<Address> {
    /// `SKB_DST_NOREF` and a bit above it (`include/linux/skbuff.h`).
    const FLAGS: u64 = 3;
    match skb.follow(Field::SkbDev) {
        Some(device) => Some(device),
        None => Address(skb.read::<u64>(Field::SkbRefdst)? & !FLAGS).follow(Field::DstDev),
    }
}

#[inline(always)]
fn load<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address itself and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}
