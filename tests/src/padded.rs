//! FINs in frames that are padded, as Ethernet pads what is shorter than 60 bytes. Nothing between two namespaces does so by itself.

use std::{net::SocketAddr, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result, bail};
use etherparse::{EtherType, Ethernet2Header, Ipv4Header, TcpHeader, ip_number};
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, sendto, socket},
};

use crate::netns::Netns;

/// What follows the 40 bytes of the packet.
const PADDING_BYTES: usize = 6;

/// What the padding is, and what it is to the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Zeros, which the checksum counts in: it is wrong for the packet.
    CountedIn,
    /// Something else, and the checksum is right without it.
    Garbage,
}

/// From where to where a frame goes: the device it leaves by, and the one it is for.
#[derive(Clone, Copy, Debug)]
pub struct Wire<'a> {
    /// The sender's.
    pub from: (&'a Netns, &'a str),
    /// That of the next hop, or of the receiver.
    pub to: (&'a Netns, &'a str),
}

impl Wire<'_> {
    /// Sends a FIN without options or data in a frame of 60 bytes. No socket has sent it; each call sends the same one.
    ///
    /// # Errors
    /// Without the right to send frames, or when there is no such device.
    pub fn send_padded_fin(&self, from: SocketAddr, to: SocketAddr, padding: Padding) -> Result<()> {
        let (sender, device) = self.from;
        let (hop, hop_device) = self.to;
        let destination = mac(&hop.run(|| address(hop_device))??)?;
        sender.run(|| {
            let port = address(device)?;
            let frame = frame(mac(&port)?, destination, from, to, padding)?;
            let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            sendto(raw.as_raw_fd(), &frame, &port, MsgFlags::empty()).context("cannot send a frame").map(drop)
        })?
    }
}

/// The address of the link layer of a device of this thread's namespace, with the number of the device.
fn address(device: &str) -> Result<SockaddrStorage> {
    let mut devices = getifaddrs()?.filter(|entry| entry.interface_name == device);
    let found = devices.find_map(|entry| entry.address.filter(|address| address.as_link_addr().is_some()));
    found.with_context(|| format!("no device {device}"))
}

fn mac(address: &SockaddrStorage) -> Result<[u8; 6]> {
    address.as_link_addr().and_then(nix::sys::socket::LinkAddr::addr).context("a device without an address")
}

fn frame(source: [u8; 6], destination: [u8; 6], from: SocketAddr, to: SocketAddr, padding: Padding) -> Result<Vec<u8>> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else { bail!("only for IPv4") };
    let (from_ip, to_ip) = (from.ip().octets(), to.ip().octets());
    let mut tcp = TcpHeader::new(from.port(), to.port(), 0x1234_5678, 256);
    (tcp.fin, tcp.ack) = (true, true);
    tcp.acknowledgment_number = 0x0bad_cafe;
    let (counted, padding) = match padding {
        Padding::CountedIn => (&[0; PADDING_BYTES][..], [0; PADDING_BYTES]),
        Padding::Garbage => (&[][..], [0xa5; PADDING_BYTES]),
    };
    tcp.checksum = tcp.calc_checksum_ipv4_raw(from_ip, to_ip, counted)?;
    let mut ip = Ipv4Header::new(tcp.header_len_u16(), 64, ip_number::TCP, from_ip, to_ip)?;
    ip.header_checksum = ip.calc_header_checksum();
    let ethernet = Ethernet2Header { source, destination, ether_type: EtherType::IPV4 };
    let mut frame = ethernet.to_bytes().to_vec();
    frame.extend_from_slice(&ip.to_bytes());
    frame.extend_from_slice(&tcp.to_bytes());
    frame.extend_from_slice(&padding);
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_sixty_bytes_long_and_states_forty_of_them() {
        let (from, to) = (([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], 40_000).into());
        let frame = |padding| frame([2; 6], [4; 6], from, to, padding).unwrap();
        let (counted, garbage) = (frame(Padding::CountedIn), frame(Padding::Garbage));
        for frame in [&counted, &garbage] {
            assert_eq!((frame.len(), &frame[16..18]), (60, &[0, 40][..]));
        }
        assert_ne!(counted[50..52], garbage[50..52], "the checksum");
    }
}
