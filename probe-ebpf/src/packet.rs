//! Reading packets.

use connprobe_common::fields::Field;

use crate::{
    memory::{Memory, load},
    socket::{self, Address, Tuple, mapped},
};

/// Offsets in the header of IPv4 (RFC 791 section 3.1).
const IPV4_FRAGMENT: u64 = 6;
const IPV4_PROTOCOL: u64 = 9;
const IPV4_SOURCE: u64 = 12;
const IPV4_DESTINATION: u64 = 16;
/// Offsets in the header of IPv6 (RFC 8200 section 3), and its length.
const IPV6_NEXT_HEADER: u64 = 6;
const IPV6_SOURCE: u64 = 8;
const IPV6_DESTINATION: u64 = 24;
const IPV6_BYTES: u64 = 40;
/// Offsets in the header of TCP (RFC 9293 section 3.1).
const TCP_DATA_OFFSET: u64 = 12;
const TCP_FLAGS: u64 = 13;

/// The length of an Ethernet header.
const ETHERNET_BYTES: u64 = 14;

/// The flags of a TCP header.
pub mod flag {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// A TCP segment within a packet. Not seen as one: a later fragment, and IPv6 with extension headers.
#[derive(Clone, Copy)]
pub struct Segment {
    skb: Address,
    /// The address of the IP header.
    network: u64,
    /// The address of the TCP header.
    transport: u64,
    is_ipv6: bool,
}

impl Segment {
    #[inline(always)]
    pub fn of(skb: Address) -> Option<Self> {
        let head: u64 = skb.read(Field::SkbHead)?;
        let network = head.wrapping_add(u64::from(skb.read::<u16>(Field::SkbNetworkHeader)?));
        let first: u8 = load(network)?;
        match first >> 4 {
            4 => {
                let fragment: [u8; 2] = load(network + IPV4_FRAGMENT)?;
                let is_first = u16::from_be_bytes(fragment) & 0x1fff == 0;
                let is_tcp = load::<u8>(network + IPV4_PROTOCOL)? == socket::IPPROTO_TCP;
                let transport = network + u64::from(first & 0xf) * 4;
                (is_first && is_tcp).then_some(Self { skb, network, transport, is_ipv6: false })
            }
            6 => {
                let is_tcp = load::<u8>(network + IPV6_NEXT_HEADER)? == socket::IPPROTO_TCP;
                is_tcp.then_some(Self { skb, network, transport: network + IPV6_BYTES, is_ipv6: true })
            }
            _ => None,
        }
    }

    #[inline(always)]
    pub fn flags(self) -> Option<u8> {
        load(self.transport + TCP_FLAGS)
    }

    /// The tuple as who receives it would name it: local is where it is sent to.
    #[inline(always)]
    pub fn tuple_of_receiver(self) -> Option<Tuple> {
        self.tuple(false)
    }

    /// The tuple as who receives it would name it, or as who has sent it.
    #[inline(always)]
    pub fn tuple(self, of_sender: bool) -> Option<Tuple> {
        // Where the addresses and ports of the end that names it are, and those of the other end.
        let (local, remote) = if of_sender { (1, 0) } else { (0, 1) };
        let (local_address, remote_address) = if self.is_ipv6 {
            let at = |is_source: u64| self.network + IPV6_DESTINATION - is_source * (IPV6_DESTINATION - IPV6_SOURCE);
            (load(at(local))?, load(at(remote))?)
        } else {
            let at = |is_source: u64| self.network + IPV4_DESTINATION - is_source * (IPV4_DESTINATION - IPV4_SOURCE);
            (mapped(load(at(local))?), mapped(load(at(remote))?))
        };
        Some(Tuple {
            netns: device(self.skb)?.follow(Field::DevNet)?.read(Field::NetInum)?,
            local_port: u16::from_be(load(self.transport + 2 * remote)?),
            remote_port: u16::from_be(load(self.transport + 2 * local)?),
            local_address,
            remote_address,
        })
    }

    /// Where the IP header begins.
    #[inline(always)]
    pub fn start(self) -> u64 {
        self.network
    }

    /// The address that the frame is for, where the link layer is Ethernet: its header of 14 bytes begins with it, and ends where the IP
    /// header begins. A tag of a VLAN is kept apart from the packet (`skb_vlan_untag`). Zeros of one that came in by no interface.
    #[inline(always)]
    pub fn destination_mac(self, ingress_ifindex: u32) -> [u8; 6] {
        match ingress_ifindex {
            0 => [0; 6],
            _ => load(self.network - ETHERNET_BYTES).unwrap_or_default(),
        }
    }

    /// Bytes of both headers together.
    #[inline(always)]
    pub fn headers_bytes(self) -> Option<u64> {
        let data_offset: u8 = load(self.transport + TCP_DATA_OFFSET)?;
        Some(self.transport - self.network + u64::from(data_offset >> 4) * 4)
    }

    /// Bytes from the IP header to the end of the packet.
    #[inline(always)]
    pub fn packet_bytes(self) -> Option<u32> {
        let data: u64 = self.skb.read(Field::SkbData)?;
        let length: u32 = self.skb.read(Field::SkbLen)?;
        Some((data.wrapping_sub(self.network) as u32).wrapping_add(length))
    }
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
