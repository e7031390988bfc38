//! A connection that this host only forwards: it sees packets, and holds no socket of it in the network namespace they pass.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::{
    CommunityId, ConnectionKey, ConntrackEntry, ConntrackSettings, ConntrackStatus, Interface, SocketStatus, TcpState,
};

/// From where a connection is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vantage {
    /// This host holds the socket.
    Endpoint,
    /// This host forwards the connection's packets.
    Forwarder,
}

impl Vantage {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Forwarder => "forwarder",
        }
    }
}

/// Which forwarded connection: the network namespace, the zone of connection tracking, and the tuple of the packet that began it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowKey {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// The zone; `None` where connection tracking does not know the connection, or several zones do.
    pub zone: Option<u16>,
    /// Who began the connection; where connection tracking does not tell, who sent the segment that was dropped.
    pub initiator: SocketAddr,
    /// Who accepted it.
    pub responder: SocketAddr,
}

impl FlowKey {
    /// Of a connection of which only a packet is known, named as its receiver would.
    pub const fn of_packet(key: &ConnectionKey) -> Self {
        Self { netns: key.netns, zone: None, initiator: key.remote, responder: key.local }
    }

    /// The connection's Community ID, the same in every namespace where no address is translated.
    pub fn community_id(&self) -> CommunityId {
        CommunityId::of_tcp(self.initiator, self.responder)
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.initiator, self.responder)
    }
}

/// Source and destination of a packet.
pub type Tuple = (SocketAddr, SocketAddr);

/// An entry of connection tracking for a forwarded connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedFlow {
    /// The entry.
    pub entry: ConntrackEntry,
    /// Its packets from who began it, before any translation of addresses.
    pub original: Tuple,
    /// The answers, as they come from who accepted it.
    pub reply: Tuple,
    /// Which way the first FIN went that connection tracking let pass, if one has.
    pub closed_by: Option<Direction>,
}

/// One of the two directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// From who began it.
    Original,
    /// From who accepted it.
    Reply,
}

impl TrackedFlow {
    /// Which way packets go that come from this end.
    pub fn direction_from(&self, sender: SocketAddr) -> Direction {
        // Its own address, or the one that its packets are given on their way.
        let is_initiator = sender == self.original.0 || sender == self.reply.1;
        if is_initiator { Direction::Original } else { Direction::Reply }
    }

    /// Whether addresses or ports are translated.
    pub fn is_translated(&self) -> bool {
        self.translation().is_some()
    }

    /// What they are translated to, if they are.
    pub fn translation(&self) -> Option<Translation> {
        let (original, translated) = (self.original, (self.reply.1, self.reply.0));
        (original != translated).then_some(Translation { original, translated })
    }

    /// The tuples of its packets from who began it, on their way: as they come in; with the destination translated, which comes first;
    /// with the source, too. The answers have the same the other way round.
    pub const fn packets(&self) -> [Tuple; 3] {
        let ((initiator, service), (responder, outside)) = (self.original, self.reply);
        [(initiator, service), (initiator, responder), (outside, responder)]
    }

    /// Local and remote end of the socket of the end that sends with this source.
    pub fn socket_of(&self, sender: SocketAddr) -> Tuple {
        match self.direction_from(sender) {
            Direction::Original => self.original,
            Direction::Reply => self.reply,
        }
    }
}

/// A connection whose addresses or ports connection tracking translates (DNAT, SNAT): its packets from who began it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translation {
    /// As they come in; so the socket of who began it names them.
    pub original: Tuple,
    /// As they go on; so the socket of who accepted it does.
    pub translated: Tuple,
}

impl Translation {
    /// Local and remote end of the socket that a packet is for, by its tuple on either side of the translation.
    pub fn receiver_of(&self, packet: Tuple) -> Tuple {
        let (initiator, virtual_responder) = self.original;
        let (virtual_initiator, responder) = self.translated;
        let is_from_initiator = [initiator, virtual_initiator].contains(&packet.0);
        if is_from_initiator { (responder, virtual_initiator) } else { (initiator, virtual_responder) }
    }
}

/// What connection tracking of the namespace knows of a forwarded connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowConntrack {
    /// These entries, one a zone, and none is an empty list: it knows others over the same IP version.
    Active(Vec<TrackedFlow>, ConntrackSettings),
    /// It tracks nothing over this IP version.
    Inactive,
}

impl FlowConntrack {
    /// Every entry.
    pub fn entries(&self) -> &[TrackedFlow] {
        match self {
            Self::Active(entries, _) => entries,
            Self::Inactive => &[],
        }
    }

    /// As one entry, the one in which the connection has got least far.
    pub fn status(&self) -> ConntrackStatus {
        self.as_one(self.entries().iter().min_by_key(|flow| flow.entry.state))
    }

    /// As one entry, the one in which the handshake has got furthest.
    pub fn furthest(&self) -> ConntrackStatus {
        let is_complete = |flow: &&TrackedFlow| flow.entry.state.is_some_and(|state| !state.is_embryonic());
        self.as_one(self.entries().iter().max_by_key(|flow| (is_complete(flow), flow.entry.state)))
    }

    fn as_one(&self, entry: Option<&TrackedFlow>) -> ConntrackStatus {
        match (self, entry) {
            (Self::Active(_, settings), Some(flow)) => ConntrackStatus::Tracked(flow.entry, *settings),
            (Self::Active(_, settings), None) => ConntrackStatus::Forgotten(*settings),
            (Self::Inactive, _) => ConntrackStatus::Inactive,
        }
    }
}

/// The way of a forwarded packet through the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardPath {
    /// Whether it ends here: its destination is an address of this namespace.
    pub ends_here: bool,
    /// By which interface it came in.
    pub ingress: Option<Port>,
    /// By which it would leave; `None` where only Open vSwitch knows that, or nobody.
    pub egress: Option<Port>,
}

/// An interface with what is behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The interface.
    pub interface: Interface,
    /// What is behind it, where that is on this host and can be told.
    pub behind: Option<Behind>,
}

/// What is behind an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behind {
    /// A virtual machine.
    Machine(Machine),
    /// Another network namespace of this host, with this inode number (the other end of a veth pair).
    Netns(u32),
}

/// A virtual machine, by the command line of the process that runs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Process id.
    pub pid: u32,
    /// libvirt's name of it (`-name guest=`), `instance-` and eight hexadecimal digits for Nova's.
    pub name: Option<String>,
    /// Its UUID (`-uuid`), which is Nova's server id.
    pub uuid: Option<String>,
}

/// The ends of a forwarded connection that are sockets of other network namespaces of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEnds {
    /// Who was to receive the segment that was dropped.
    pub receiver: Option<HostEnd>,
    /// Who sent it.
    pub sender: Option<HostEnd>,
}

/// A socket of another network namespace of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEnd {
    /// Inode number of its namespace.
    pub netns: u32,
    /// How it is.
    pub status: SocketStatus,
}

/// An end that was looked at, and waits for what was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingEnd {
    /// Inode number of its namespace.
    pub netns: u32,
    /// Who has sent what it waits for, by the address in the packets that pass here.
    pub sender: SocketAddr,
    /// The state it is in.
    pub state: TcpState,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sockets_of_a_translated_connection_are_named_as_they_are() {
        let end = |last, port| SocketAddr::from(([10, 0, 0, last], port));
        let (client, virtual_ip, server) = (end(1, 40_000), end(100, 443), end(2, 8443));
        let entry = ConntrackEntry { state: None, replied: true, assured: true, expires_in: None, zone: 0 };
        let flow = TrackedFlow { entry, original: (client, virtual_ip), reply: (server, client), closed_by: None };
        assert_eq!(flow.socket_of(client), (client, virtual_ip));
        assert_eq!(flow.socket_of(server), (server, client));
        assert_eq!(flow.direction_from(server), Direction::Reply);
        let translation = flow.translation().unwrap();
        assert_eq!(translation.translated, (client, server));
        for packet in [(client, virtual_ip), (client, server)] {
            assert_eq!(translation.receiver_of(packet), (server, client), "{packet:?}");
        }
        for packet in [(server, client), (virtual_ip, client)] {
            assert_eq!(translation.receiver_of(packet), (client, virtual_ip), "{packet:?}");
        }
        assert_eq!(flow.packets(), [(client, virtual_ip), (client, server), (client, server)]);
        let plain = TrackedFlow { reply: (virtual_ip, client), ..flow };
        assert_eq!(plain.translation(), None);
    }
}
