//! The few netlink requests the harness makes itself, because a process costs far more in a slow guest.
//!
//! Numbers are in the byte order of the host, as netlink wants them. The socket speaks for the namespace of the thread
//! that opens it.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLA_F_NESTED: u16 = 1 << 15;
const RTM_NEWLINK: u16 = 16;
const IFF_UP: u32 = 1;

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// Bytes of `struct genlmsghdr`.
const GENERIC_HEADER_LENGTH: usize = 4;
/// Bytes of `struct nlmsghdr`.
const HEADER_LENGTH: usize = 16;
/// Bytes of the largest answer read here.
const ANSWER_LENGTH: usize = 16 * 1024;

/// A request under construction: the part behind `struct nlmsghdr`.
#[derive(Debug, Default)]
pub(crate) struct Body {
    bytes: Vec<u8>,
}

impl Body {
    /// A fixed header of a family.
    pub(crate) fn new(header: &[u8]) -> Self {
        Self { bytes: header.to_vec() }
    }

    /// Adds an attribute; padded to four bytes as netlink demands.
    pub(crate) fn attribute(mut self, kind: u16, payload: &[u8]) -> Result<Self> {
        let length = u16::try_from(payload.len() + 4).context("the attribute is too long")?;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(payload);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        Ok(self)
    }

    /// Adds an attribute that ends with a zero byte.
    pub(crate) fn text(self, kind: u16, text: &str) -> Result<Self> {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute made of attributes.
    pub(crate) fn nested(self, kind: u16, inner: &Self) -> Result<Self> {
        self.attribute(kind | NLA_F_NESTED, &inner.bytes)
    }
}

/// A netlink socket of one protocol.
pub(crate) struct Connection {
    socket: OwnedFd,
}

impl Connection {
    /// Opens a socket in the namespace of this thread.
    pub(crate) fn open(protocol: SockProtocol) -> Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
        Ok(Self { socket: socket.context("cannot open a netlink socket")? })
    }

    /// Sends one request and reads until its acknowledgement. Returns what came before that: the bodies of the answers,
    /// each without `struct nlmsghdr`.
    pub(crate) fn request(&self, kind: u16, body: &Body) -> Result<Vec<Vec<u8>>> {
        let length = u32::try_from(HEADER_LENGTH + body.bytes.len()).context("the request is too long")?;
        let mut message = Vec::new();
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        message.extend([0; 8]); // sequence number and port: one request at a time needs neither
        message.extend(&body.bytes);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.as_raw_fd(), &message, &kernel, MsgFlags::empty()).context("cannot send by netlink")?;

        let mut answers = Vec::new();
        let mut buffer = vec![0; ANSWER_LENGTH];
        loop {
            let received = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty());
            let received = received.context("cannot receive by netlink")?;
            let mut rest = buffer.get(..received).unwrap_or_default();
            while let Some((kind, body, behind)) = split_message(rest) {
                if kind == NLMSG_ERROR {
                    return acknowledge(body).map(|()| answers);
                }
                answers.push(body.to_vec());
                rest = behind;
            }
        }
    }
}

impl Connection {
    /// The number of a family of generic netlink; the kernel loads the module it belongs to, if it has it (`linux/genetlink.h`).
    pub(crate) fn generic_family(&self, name: &str) -> Result<u16> {
        let query = Body::new(&generic_header(CTRL_CMD_GETFAMILY)).text(CTRL_ATTR_FAMILY_NAME, name)?;
        let answers = self.request(GENL_ID_CTRL, &query).with_context(|| format!("no generic netlink of {name}"))?;
        let family = answers.iter().find_map(|answer| {
            let found = attributes(answer.get(GENERIC_HEADER_LENGTH..)?);
            found.iter().find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID).and_then(|(_, payload)| u16_at(payload, 0))
        });
        family.with_context(|| format!("the kernel does not number {name}"))
    }
}

/// `struct genlmsghdr`: command, version 1, two reserved bytes.
pub(crate) fn generic_header(command: u8) -> [u8; GENERIC_HEADER_LENGTH] {
    [command, 1, 0, 0]
}

/// The attributes in some bytes: kind (without flags) and payload.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut attributes = Vec::new();
    while let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2))
        && let Some(payload) = bytes.get(4..usize::from(length))
    {
        attributes.push((kind & !NLA_F_NESTED, payload));
        bytes = bytes.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    attributes
}

/// Two bytes as a number.
fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

/// Switches a device of this thread's namespace up or down.
pub(crate) fn set_link(device: &str, up: bool) -> Result<()> {
    let index = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
    // struct ifinfomsg: family, padding, type; index; flags; mask of the flags to change.
    let mut header = vec![0; 4];
    header.extend(index.to_ne_bytes());
    header.extend(if up { IFF_UP } else { 0 }.to_ne_bytes());
    header.extend(IFF_UP.to_ne_bytes());
    let connection = Connection::open(SockProtocol::NetlinkRoute)?;
    let answer = connection.request(RTM_NEWLINK, &Body::new(&header));
    answer.map(drop).with_context(|| format!("cannot switch {device} {}", if up { "up" } else { "down" }))
}

/// Kind and body of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let body = bytes.get(HEADER_LENGTH..length)?;
    Some((u16_at(bytes, 4)?, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn acknowledge(body: &[u8]) -> Result<()> {
    let code = body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    match code.ok_or_else(|| anyhow!("the acknowledgement is too short"))? {
        0 => Ok(()),
        code => bail!(Errno::from_raw(-code)),
    }
}
