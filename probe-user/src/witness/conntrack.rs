//! A connection's entry in connection tracking, through ctnetlink in the connection's namespace.
//!
//! Asking must not change anything: where `nf_conntrack` is not loaded, ctnetlink would load it (`nfnetlink_rcv_msg`), so the
//! count of its entries is read first. The entry is looked for by the tuple as the socket sees it, which is one of the entry's two
//! whatever addresses were translated on the way; first in the default zone, then in all. There the kernel goes through its whole
//! table, so one search serves all connections from one local address.

mod flows;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    time::Duration,
};

use netlink_packet_core::{DefaultNla, Emitable as _, NLA_F_NESTED, Nla};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
    conntrack::{
        ConntrackAttribute, ConntrackMessage, ConntrackMessageType, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple,
        Protocol, Status, Tuple,
    },
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

pub(super) use flows::look_up_flows;

use super::{netlink::Netlink, netns::Namespaces};
use crate::model::{ConnectionKey, ConntrackEntry, ConntrackSettings, ConntrackState, ConntrackStatus, LocalConntrack};

/// Where the settings of this thread's namespace are.
const SETTINGS: &str = "/proc/sys/net/netfilter/";

/// Attributes and what is in the filter (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// The two tuples of an entry, each with the flags that say what in it counts.
const DIRECTIONS: [(u16, u16); 2] =
    [(CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS), (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS)];
/// By source address and protocol, in any zone (`CTA_FILTER_F_*`, `net/netfilter/nf_internals.h`).
const BY_SOURCE: u32 = 1 | 1 << 3;

/// Looks up the entries of these connections of one namespace.
pub(super) fn look_up_all(
    namespaces: &mut Namespaces,
    netns: u32,
    keys: &[ConnectionKey],
) -> Vec<Result<ConntrackStatus, String>> {
    namespaces.ask_about(netns, "ctnetlink", keys, |keys| Ok(query_all(keys)?.into_iter().map(Ok)))
}

/// Looks up in the namespace this thread is in.
fn query_all(keys: &[ConnectionKey]) -> io::Result<Vec<ConntrackStatus>> {
    let status = |tracked: Tracked<ConntrackEntry>| match tracked {
        Some((entries, settings)) => match entries.first() {
            Some(entry) => ConntrackStatus::Tracked(*entry, settings),
            None => ConntrackStatus::Forgotten(settings),
        },
        None => ConntrackStatus::Inactive,
    };
    Ok(tracked_of(keys, |key| key, search)?.into_iter().map(status).collect())
}

/// The entries of some connections.
type Entries<E> = HashMap<ConnectionKey, Vec<E>>;
/// A connection's entries, and the settings; `None` where nothing is tracked over its IP version.
type Tracked<E> = Option<(Vec<E>, ConntrackSettings)>;

/// What is tracked in the namespace this thread is in of each that is asked about. `search` finds the entries of those of one IP version.
fn tracked_of<A, E: Clone>(
    asked: &[A],
    key: fn(&A) -> &ConnectionKey,
    search: fn(&Ctnetlink, &[&A]) -> io::Result<Entries<E>>,
) -> io::Result<Vec<Tracked<E>>> {
    // Asking must not load the module.
    if setting::<u32>("nf_conntrack_count").is_none_or(|count| count == 0) {
        return Ok(asked.iter().map(|_| None).collect());
    }
    let of_version = |is_ipv4: bool| {
        let asked: Vec<&A> = asked.iter().filter(|asked| key(asked).local.is_ipv4() == is_ipv4).collect();
        let Some(first) = asked.first() else { return Ok(None) };
        let ctnetlink = Ctnetlink::open(family(key(first).local.ip()))?;
        let entries = search(&ctnetlink, &asked)?;
        let tracks_something = entries.values().any(|entries| !entries.is_empty()) || ctnetlink.tracks_something()?;
        Ok::<_, io::Error>(tracks_something.then_some(entries))
    };
    let (v4, v6) = (of_version(true)?, of_version(false)?);
    let settings = settings();
    let of = |key: &ConnectionKey| {
        let entries = if key.local.is_ipv4() { v4.as_ref() } else { v6.as_ref() };
        entries.map(|entries| (entries.get(key).cloned().unwrap_or_default(), settings))
    };
    Ok(asked.iter().map(|asked| of(key(asked))).collect())
}

/// The entries of connections of one IP version, in the default zone or else in any.
fn search(ctnetlink: &Ctnetlink, keys: &[&ConnectionKey]) -> io::Result<Entries<ConntrackEntry>> {
    let mut entries = HashMap::new();
    let mut left: BTreeMap<IpAddr, Vec<ConnectionKey>> = BTreeMap::new();
    for key in keys {
        match ctnetlink.find(key.local, key.remote, 0)?.as_ref().and_then(entry) {
            Some(entry) => drop(entries.insert(**key, vec![entry])),
            None => left.entry(key.local.ip()).or_default().push(**key),
        }
    }
    for keys in left.values() {
        entries.extend(find_in_any_zone(ctnetlink, keys)?.into_iter().map(|(key, entry)| (key, vec![entry])));
    }
    Ok(entries)
}

/// The entries of connections from one local address, in every zone. A tuple in the filter must be the entry's own of that
/// direction, so both are asked for.
fn find_in_any_zone(
    ctnetlink: &Ctnetlink,
    keys: &[ConnectionKey],
) -> io::Result<HashMap<ConnectionKey, ConntrackEntry>> {
    let mut found = HashMap::new();
    let Some(any) = keys.first() else { return Ok(found) };
    let wanted: HashMap<_, _> = keys.iter().map(|key| ((key.local, key.remote), *key)).collect();
    for direction in DIRECTIONS {
        ctnetlink.dump(by_source(direction, any.local, any.remote), |message| {
            // A kernel before 5.8 knows no filter, and shows all it has.
            let key = tuples(message).find_map(|ends| wanted.get(&ends));
            found.extend(key.copied().zip(entry(message)));
            if found.len() == wanted.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if found.len() == wanted.len() {
            break;
        }
    }
    Ok(found)
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    fs::read_to_string(format!("{SETTINGS}{name}")).ok()?.trim().parse().ok()
}

fn settings() -> ConntrackSettings {
    let seconds = |name| setting(name).map(Duration::from_secs);
    let switch = |name| setting::<u8>(name).map(|value| value != 0);
    ConntrackSettings {
        loose: switch("nf_conntrack_tcp_loose"),
        checksum: switch("nf_conntrack_checksum"),
        be_liberal: switch("nf_conntrack_tcp_be_liberal"),
        timeout_established: seconds("nf_conntrack_tcp_timeout_established"),
        timeout_unacknowledged: seconds("nf_conntrack_tcp_timeout_unacknowledged"),
        timeout_max_retrans: seconds("nf_conntrack_tcp_timeout_max_retrans"),
    }
}

/// How long the namespace this thread is in remembers an idle connection; `None` where it tracks nothing now.
pub(super) fn established_timeout() -> Option<Duration> {
    setting::<u32>("nf_conntrack_count").filter(|count| *count > 0)?;
    settings().timeout_established
}

/// Which of these connections, each as its socket sees it, have an entry in the namespace this thread is in, in any zone. One dump
/// an IP version, so that the number of connections does not matter.
pub(super) fn known(timeout: Duration, wanted: &HashSet<(SocketAddr, SocketAddr)>) -> io::Result<LocalConntrack> {
    let mut conntrack = LocalConntrack { timeout, ..LocalConntrack::default() };
    let LocalConntrack { known, tracks_v4, tracks_v6, .. } = &mut conntrack;
    for (family, tracks) in [(NetfilterProtoFamily::IPv4, tracks_v4), (NetfilterProtoFamily::IPv6, tracks_v6)] {
        let is_of_family = |local: &SocketAddr| local.is_ipv4() == matches!(family, NetfilterProtoFamily::IPv4);
        if !wanted.iter().any(|(local, _)| is_of_family(local)) {
            continue;
        }
        Ctnetlink::open(family)?.dump(Vec::new(), |message| {
            *tracks = true;
            for attribute in attributes(message).unwrap_or_default() {
                if let ConntrackAttribute::CtaTupleOrig(tuple) | ConntrackAttribute::CtaTupleReply(tuple) = attribute {
                    // The reply's tuple begins at the other end; a socket is at either.
                    known.extend(ends(tuple).filter(|ends| wanted.contains(ends)));
                }
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(conntrack)
}

/// A ctnetlink socket of one namespace, for one IP version.
struct Ctnetlink {
    socket: Netlink,
    family: NetfilterProtoFamily,
}

impl Ctnetlink {
    /// Opens one in the namespace this thread is in.
    fn open(family: NetfilterProtoFamily) -> io::Result<Self> {
        Ok(Self { socket: Netlink::open(NETLINK_NETFILTER)?, family })
    }

    /// The entry of which this is one tuple, in this zone.
    fn find(&self, source: SocketAddr, destination: SocketAddr, zone: u16) -> io::Result<Option<NetfilterMessage>> {
        let mut wanted = vec![ConntrackAttribute::CtaTupleOrig(tuple(source, destination))];
        if zone != 0 {
            wanted.push(ConntrackAttribute::Other(DefaultNla::new(CTA_ZONE, zone.to_be_bytes().to_vec())));
        }
        let question = NetfilterMessage::new(self.header(), ConntrackMessage::Get(wanted));
        match self.socket.ask(question)? {
            Ok(message) => Ok(Some(message)),
            Err(errno) if Errno::from_raw(errno) == Errno::ENOENT => Ok(None),
            Err(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// The entries with these attributes, until `each` has seen enough: by a socket of its own, for a dump that is broken off uses it up.
    fn dump(
        &self,
        attributes: Vec<DefaultNla>,
        mut each: impl FnMut(&NetfilterMessage) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let question = NetfilterMessageInner::Other {
            subsys: NetfilterSubsystem::Conntrack,
            message_type: ConntrackMessageType::Get.into(),
            attributes,
        };
        let question = NetfilterMessage::new(self.header(), question);
        Netlink::open(NETLINK_NETFILTER)?.dump(question, |message| each(&message))
    }

    /// Whether there is any entry of this IP version.
    fn tracks_something(&self) -> io::Result<bool> {
        let mut any = false;
        self.dump(Vec::new(), |_| {
            any = true;
            ControlFlow::Break(())
        })?;
        Ok(any)
    }

    fn header(&self) -> NetfilterHeader {
        NetfilterHeader::new(self.family, 0, 0)
    }
}

/// What a dump is limited by to entries whose tuple of this direction has this source.
fn by_source((direction, flags): (u16, u16), source: SocketAddr, destination: SocketAddr) -> Vec<DefaultNla> {
    let filter = DefaultNla::new(flags, BY_SOURCE.to_ne_bytes().to_vec());
    vec![nested(direction, &tuple(source, destination)), nested(CTA_FILTER, &[filter])]
}

const fn family(address: IpAddr) -> NetfilterProtoFamily {
    match address {
        IpAddr::V4(_) => NetfilterProtoFamily::IPv4,
        IpAddr::V6(_) => NetfilterProtoFamily::IPv6,
    }
}

fn tuple(source: SocketAddr, destination: SocketAddr) -> Vec<Tuple> {
    vec![
        Tuple::Ip(vec![IPTuple::SourceAddress(source.ip()), IPTuple::DestinationAddress(destination.ip())]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(Protocol::Tcp),
            ProtoTuple::SourcePort(source.port()),
            ProtoTuple::DestinationPort(destination.port()),
        ]),
    ]
}

/// An attribute that holds others. The crate's own type for attributes of conntrack that it has no name for leaves out the flag
/// that says so, and the kernel refuses it.
fn nested<T: Nla>(kind: u16, attributes: &[T]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

/// Source and destination in both directions.
fn tuples(message: &NetfilterMessage) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
    attributes(message).into_iter().flatten().filter_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(tuple) | ConntrackAttribute::CtaTupleReply(tuple) => ends(tuple),
        _ => None,
    })
}

fn ends(tuple: &[Tuple]) -> Option<(SocketAddr, SocketAddr)> {
    let (mut addresses, mut ports) = ((None, None), (None, None));
    for part in tuple {
        match part {
            Tuple::Ip(parts) => parts.iter().for_each(|part| match part {
                IPTuple::SourceAddress(address) => addresses.0 = Some(*address),
                IPTuple::DestinationAddress(address) => addresses.1 = Some(*address),
                _ => {}
            }),
            Tuple::Proto(parts) => {
                if !parts.contains(&ProtoTuple::Protocol(Protocol::Tcp)) {
                    return None;
                }
                parts.iter().for_each(|part| match part {
                    ProtoTuple::SourcePort(port) => ports.0 = Some(*port),
                    ProtoTuple::DestinationPort(port) => ports.1 = Some(*port),
                    _ => {}
                });
            }
            _ => {}
        }
    }
    Some(((addresses.0?, ports.0?).into(), (addresses.1?, ports.1?).into()))
}

fn attributes(message: &NetfilterMessage) -> Option<&[ConntrackAttribute]> {
    match &message.inner {
        NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) => Some(attributes),
        _ => None,
    }
}

fn entry(message: &NetfilterMessage) -> Option<ConntrackEntry> {
    let attributes = attributes(message)?;
    let status = attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaStatus(status) => Some(*status),
        _ => None,
    })?;
    Some(ConntrackEntry {
        state: attributes.iter().find_map(state),
        replied: status.contains(Status::SeenReply),
        assured: status.contains(Status::Assured),
        expires_in: attributes.iter().find_map(|attribute| match attribute {
            ConntrackAttribute::CtaTimeout(seconds) => Some(Duration::from_secs((*seconds).into())),
            _ => None,
        }),
        zone: attributes.iter().find_map(zone).unwrap_or(0),
    })
}

fn state(attribute: &ConntrackAttribute) -> Option<ConntrackState> {
    let ConntrackAttribute::CtaProtoInfo(protocols) = attribute else { return None };
    let tcp = protocols.iter().find_map(|protocol| match protocol {
        ProtoInfo::TCP(tcp) => Some(tcp),
        _ => None,
    })?;
    tcp.iter().find_map(|attribute| match attribute {
        ProtoInfoTCP::State(number) => ConntrackState::from_kernel(*number),
        _ => None,
    })
}

/// The attribute is absent in the default zone, 0.
fn zone(attribute: &ConntrackAttribute) -> Option<u16> {
    let ConntrackAttribute::Other(other) = attribute else { return None };
    let mut bytes = [0; 2];
    (other.kind() == CTA_ZONE && other.value_len() == bytes.len()).then(|| {
        other.emit_value(&mut bytes);
        u16::from_be_bytes(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_read_from_its_attribute() {
        let attribute = |kind| ConntrackAttribute::Other(DefaultNla::new(kind, vec![0x12, 0x34]));
        assert_eq!(zone(&attribute(CTA_ZONE)), Some(0x1234));
        assert_eq!(zone(&attribute(CTA_ZONE + 1)), None);
    }

    #[test]
    fn the_ends_of_a_connection_are_read_from_its_tuple() {
        for (local, remote) in [("10.0.0.1:40000", "10.0.0.2:5672"), ("[2001:db8::1]:40000", "[2001:db8::2]:5672")] {
            let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
            assert_eq!(ends(&tuple(local, remote)), Some((local, remote)));
        }
        assert_eq!(ends(&[]), None);
    }

    #[test]
    fn asking_never_fails_for_a_connection_that_is_not_there() {
        let key = ConnectionKey { netns: 1, local: ([192, 0, 2, 1], 1).into(), remote: ([192, 0, 2, 2], 2).into() };
        // A machine without root may not ask at all.
        match query_all(&[key]) {
            Ok(status) => assert!(!matches!(status[..], [ConntrackStatus::Tracked(..)]), "{status:?}"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32), "{error}"),
        }
    }
}
