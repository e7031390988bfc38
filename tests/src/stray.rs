//! Segments of connections that nobody has.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result, bail};
use etherparse::{PacketBuilder, TcpHeader};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};

use crate::netns::Netns;

/// What a stray segment says.
#[derive(Clone, Copy, Debug)]
pub enum Stray {
    /// A FIN with an acknowledgment, as every one is that TCP sends.
    Fin,
    /// A RST.
    Reset,
    /// The answer to a SYN.
    SynAck,
    /// An acknowledgment without data.
    Ack,
}

impl Netns {
    /// Sends a TCP segment without data from an address of this namespace, with a right checksum. No socket has sent it.
    ///
    /// # Errors
    /// Without the right to send such, or without a route.
    pub fn send_stray(&self, from: SocketAddrV4, to: SocketAddrV4, what: Stray) -> Result<()> {
        self.run(|| send(from, to, what))?.with_context(|| format!("cannot send a stray segment to {to}"))
    }
}

impl Netns {
    /// Sends a SYN to `to` from each of these addresses and ports, whoever's they are. No socket has sent it.
    ///
    /// # Errors
    /// Without the right to send such, or for IPv6.
    pub fn send_syns(&self, to: SocketAddr, from: impl Iterator<Item = (Ipv4Addr, u16)> + Send) -> Result<()> {
        let SocketAddr::V4(to) = to else { bail!("only for IPv4") };
        self.run(|| {
            let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
            for (address, port) in from {
                let builder =
                    PacketBuilder::ipv4(address.octets(), to.ip().octets(), 64).tcp(port, to.port(), 1, 64_000);
                let mut packet = Vec::new();
                builder.syn().write(&mut packet, &[])?;
                sendto(raw.as_raw_fd(), &packet, &SockaddrIn::from(to), MsgFlags::empty())?;
            }
            Ok(())
        })?
    }
}

fn send(from: SocketAddrV4, to: SocketAddrV4, what: Stray) -> Result<()> {
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    let destination = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
    sendto(raw.as_raw_fd(), &header(from, to, what)?, &destination, MsgFlags::empty())?;
    Ok(())
}

fn header(from: SocketAddrV4, to: SocketAddrV4, what: Stray) -> Result<Vec<u8>> {
    let mut header = TcpHeader::new(from.port(), to.port(), 0x1234_5678, 256);
    (header.fin, header.syn) = (matches!(what, Stray::Fin), matches!(what, Stray::SynAck));
    (header.rst, header.ack) = (matches!(what, Stray::Reset), !matches!(what, Stray::Reset));
    if header.ack {
        header.acknowledgment_number = 0x0bad_cafe;
    }
    header.checksum = header.calc_checksum_ipv4_raw(from.ip().octets(), to.ip().octets(), &[])?;
    Ok(header.to_bytes().to_vec())
}
