use std::{
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

/// Which connection: the network namespace and the two TCP endpoints, seen from this host.
///
/// The namespace is part of the identity: over loopback and veth both ends of one connection live on one host, and without
/// it they would be confused. Addresses are canonical (an IPv4-mapped IPv6 address is the IPv4 address it maps).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionKey {
    /// Inode number of the network namespace, as `stat -L /proc/PID/ns/net` shows it; 0 where the hook cannot tell.
    pub netns: u32,
    /// This host's endpoint.
    pub local: SocketAddr,
    /// The peer's endpoint.
    pub remote: SocketAddr,
}

impl ConnectionKey {
    /// The connection's Community ID, the same from both ends and in every namespace.
    pub fn community_id(&self) -> CommunityId {
        CommunityId::of_tcp(self.local, self.remote)
    }
}

/// In three steps: every event asks for it. Scopes and flow labels of IPv6 only make two hashes collide.
impl Hash for ConnectionKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for end in [self.local, self.remote] {
            state.write_u128(match end.ip() {
                IpAddr::V4(v4) => v4.to_bits().into(),
                IpAddr::V6(v6) => v6.to_bits(),
            });
        }
        let ports = u64::from(self.local.port()) << 16 | u64::from(self.remote.port());
        state.write_u64(u64::from(self.netns) << 32 | ports);
    }
}

impl fmt::Display for ConnectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.local, self.remote)
    }
}

/// Community ID v1 of a TCP connection with seed 0, as Zeek and Suricata print it (`1:` and base64 of a SHA-1).
///
/// Source: the Community ID Flow Hashing specification, version 1. The smaller endpoint (address bytes, then port) is hashed
/// first, so that both directions give one value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommunityId(String);

impl CommunityId {
    const SEED: u16 = 0;
    const PROTOCOL_TCP: u8 = 6;

    /// The id of the TCP connection between two endpoints, in either order.
    pub fn of_tcp(one: SocketAddr, other: SocketAddr) -> Self {
        let (one, other) = (endpoint_bytes(one), endpoint_bytes(other));
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        let hash = Sha1::new()
            .chain_update(Self::SEED.to_be_bytes())
            .chain_update(low.0)
            .chain_update(high.0)
            .chain_update([Self::PROTOCOL_TCP, 0])
            .chain_update(low.1.to_be_bytes())
            .chain_update(high.1.to_be_bytes())
            .finalize();
        Self(format!("1:{}", STANDARD.encode(hash)))
    }
}

impl fmt::Display for CommunityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn endpoint_bytes(endpoint: SocketAddr) -> (Vec<u8>, u16) {
    let address = match endpoint.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    (address, endpoint.port())
}

/// The kernel's name for one socket, never reused while the host is up (`sock_gen_cookie`, `net/core/sock_diag.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SocketCookie(pub u64);

/// A TCP connection state (RFC 9293 section 3.3.2), with the kernel's two additions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are RFC 9293's")]
pub enum TcpState {
    Established,
    SynSent,
    /// SYN-RECEIVED of a socket that began with an active open or Fast Open (`TCP_SYN_RECV`).
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    /// SYN-RECEIVED of a request socket, before the application sees it (`TCP_NEW_SYN_RECV`).
    NewSynReceived,
}

impl TcpState {
    /// The state the kernel writes as `number` (`include/net/tcp_states.h`, unchanged since 4.4), if it is one.
    pub const fn from_kernel(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            12 => Self::NewSynReceived,
            _ => return None,
        })
    }

    /// The name used in records: lower case with underscores, as `ss` and the kernel spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_recv",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
            Self::NewSynReceived => "new_syn_recv",
        }
    }

    /// For people: a word where one says it, else RFC 9293's name.
    pub const fn spoken(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived | Self::NewSynReceived => "SYN-RECEIVED",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Close => "closed",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }

    /// Whether the handshake is complete and the socket still holds the connection (RFC 9293's synchronized states,
    /// without TIME-WAIT, which has no full socket any more).
    pub const fn is_synchronized(self) -> bool {
        matches!(
            self,
            Self::Established | Self::FinWait1 | Self::FinWait2 | Self::CloseWait | Self::LastAck | Self::Closing
        )
    }

    /// Whether its handshake is not complete (RFC 9293 section 3.5).
    pub const fn is_embryonic(self) -> bool {
        matches!(self, Self::SynSent) || self.awaits_final_ack()
    }

    /// Whether it has granted a connection, and waits for the ACK that completes the handshake.
    pub const fn awaits_final_ack(self) -> bool {
        matches!(self, Self::SynReceived | Self::NewSynReceived)
    }

    /// Whether the peer's FIN has come in: it has closed its end in order (RFC 9293 section 3.6).
    pub const fn peer_has_closed(self) -> bool {
        matches!(self, Self::CloseWait | Self::LastAck | Self::Closing)
    }

    /// Whether this end has queued its FIN and still waits for its acknowledgment (RFC 9293 section 3.6).
    pub const fn awaits_fin_ack(self) -> bool {
        matches!(self, Self::FinWait1 | Self::LastAck | Self::Closing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(one: &str, other: &str) -> String {
        CommunityId::of_tcp(one.parse().unwrap(), other.parse().unwrap()).to_string()
    }

    /// The values of the specification's reference implementation (baseline, TCP over IPv4 and IPv6).
    #[test]
    fn community_ids_match_the_published_baseline() {
        assert_eq!(id("128.232.110.120:34855", "66.35.250.204:80"), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        assert_eq!(id("66.35.250.204:80", "128.232.110.120:34855"), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
    }

    #[test]
    fn every_kernel_state_has_one_name() {
        let names: std::collections::BTreeSet<_> =
            (0..=u8::MAX).filter_map(TcpState::from_kernel).map(TcpState::name).collect();
        assert_eq!(names.len(), 12);
    }
}
