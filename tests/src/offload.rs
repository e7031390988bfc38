//! Checksum offload off, by generic netlink: the `ethtool` program is missing on many hosts.
//!
//! Numbers are those of `linux/genetlink.h` and `linux/ethtool_netlink.h`.

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::SockProtocol;

use crate::netlink::{Body, Connection, attributes, u16_at};
use crate::netns::Netns;

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;

/// Bytes of `struct genlmsghdr`.
const GENERIC_HEADER_LENGTH: usize = 4;

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
    let query = Body::new(&generic_header(CTRL_CMD_GETFAMILY)).text(CTRL_ATTR_FAMILY_NAME, "ethtool")?;
    let answers = connection.request(GENL_ID_CTRL, &query).context("no ethtool netlink")?;
    let family = answers.iter().find_map(|answer| {
        let found = attributes(answer.get(GENERIC_HEADER_LENGTH..)?);
        found.iter().find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID).and_then(|(_, payload)| u16_at(payload, 0))
    });
    let family = family.ok_or_else(|| anyhow!("the kernel does not number ethtool netlink"))?;

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

/// `struct genlmsghdr`: command, version 1, two reserved bytes.
fn generic_header(command: u8) -> [u8; GENERIC_HEADER_LENGTH] {
    [command, 1, 0, 0]
}
