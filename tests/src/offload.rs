//! Checksum offload off, by generic netlink: the `ethtool` program is missing on many hosts.
//!
//! Numbers are those of `linux/ethtool_netlink.h`.

use anyhow::{Context, Result};
use nix::sys::socket::SockProtocol;

use crate::netlink::{Body, Connection, generic_header};
use crate::netns::Netns;

const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;

/// What `ethtool -K DEVICE tx off` switches off.
const CHECKSUM_FEATURES: [&str; 5] =
    ["tx-checksum-ipv4", "tx-checksum-ip-generic", "tx-checksum-ipv6", "tx-checksum-fcoe-crc", "tx-checksum-sctp"];

impl Netns {
    /// Makes the device send packets with finished checksums, as a wire would carry them. With offload on, a packet
    /// crosses a veth pair without its checksum ever being computed or checked.
    ///
    /// # Errors
    /// When there is no such device, or the kernel has no ethtool netlink (before 5.6).
    pub fn tx_offload_off(&self, device: &str) -> Result<()> {
        self.run(|| switch_off(device))?.with_context(|| format!("cannot switch off tx offload of {device}"))
    }
}

fn switch_off(device: &str) -> Result<()> {
    let connection = Connection::open(SockProtocol::NetlinkGeneric)?;
    let family = connection.generic_family("ethtool")?;

    let mut bits = Body::default();
    for name in CHECKSUM_FEATURES {
        // A bit that is named without a value is wanted off.
        bits = bits.nested(ETHTOOL_A_BITSET_BITS_BIT, &Body::default().text(ETHTOOL_A_BITSET_BIT_NAME, name)?)?;
    }
    let request = Body::new(&generic_header(ETHTOOL_MSG_FEATURES_SET))
        .nested(ETHTOOL_A_FEATURES_HEADER, &Body::default().text(ETHTOOL_A_HEADER_DEV_NAME, device)?)?
        .nested(ETHTOOL_A_FEATURES_WANTED, &Body::default().nested(ETHTOOL_A_BITSET_BITS, &bits)?)?;
    connection.request(family, &request).map(drop)
}
