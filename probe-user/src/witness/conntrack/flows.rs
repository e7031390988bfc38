//! The entries of connections that are only forwarded, with their tuples, in every zone. A packet's tuple is one of an entry's two, or
//! one of these the other way round, whatever addresses were translated before it was dropped.

use std::{io, ops::ControlFlow};

use netlink_packet_core::{DefaultNla, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterSubsystem,
    conntrack::{ConntrackAttribute, ConntrackMessageType, ProtoInfo, ProtoInfoTCP},
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::{
    BY_SOURCE, CTA_FILTER, CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ZONE,
    Ctnetlink, attributes, ends, entry, family, nested, setting, settings, tuple,
};
use crate::{
    model::{ConnectionKey, Direction, FlowConntrack, TrackedFlow, Tuple},
    witness::{netlink::Netlink, netns::Namespaces},
};

/// `IP_CT_TCP_FLAG_CLOSE_INIT` (`include/uapi/linux/netfilter/nf_conntrack_tcp.h`): the first FIN went this way.
const CLOSE_INIT: u8 = 0x04;
/// A connection is in a zone for each bridge or router that it passes on this host.
const MOST_ZONES: usize = 8;

/// Looks up the entries of these flows of one namespace, each in the zone it was found in before, where it was.
pub(in crate::witness) fn look_up_flows(
    namespaces: &mut Namespaces,
    netns: u32,
    asked: &[(ConnectionKey, Option<u16>)],
) -> Vec<Result<FlowConntrack, String>> {
    let all = |why: String| vec![Err(why); asked.len()];
    if netns == 0 {
        return all("its network namespace is not known".to_owned());
    }
    let failed = |error: io::Error| format!("ctnetlink in network namespace {netns}: {error}");
    let query_all = || asked.iter().map(|(key, zone)| query(key, *zone)).collect::<Vec<_>>();
    match namespaces.open(netns).map(|netns| netns.run(query_all)) {
        Ok(Ok(found)) => found.into_iter().map(|found| found.map_err(failed)).collect(),
        Ok(Err(error)) => all(failed(error)),
        Err(error) => all(error.to_string()),
    }
}

/// Looks up in the namespace this thread is in.
fn query(key: &ConnectionKey, zone: Option<u16>) -> io::Result<FlowConntrack> {
    // Asking must not load the module.
    if setting::<u32>("nf_conntrack_count").is_none_or(|count| count == 0) {
        return Ok(FlowConntrack::Inactive);
    }
    let ctnetlink = Ctnetlink { socket: Netlink::open(NETLINK_NETFILTER)?, family: family(key.local.ip()) };
    let tuples = [(key.remote, key.local), (key.local, key.remote)];
    for packet in tuples {
        if let Some(flow) = find(&ctnetlink, packet, zone)? {
            return Ok(FlowConntrack::Active(vec![flow], settings()));
        }
    }
    let flows = find_in_any_zone(&ctnetlink, tuples)?;
    // The socket of a dump that was broken off is used up.
    let any = Ctnetlink { socket: Netlink::open(NETLINK_NETFILTER)?, family: family(key.local.ip()) };
    if flows.is_empty() && !any.tracks_something()? {
        return Ok(FlowConntrack::Inactive);
    }
    Ok(FlowConntrack::Active(flows, settings()))
}

/// The entry of which this is one tuple, in one zone.
fn find(ctnetlink: &Ctnetlink, packet: Tuple, zone: Option<u16>) -> io::Result<Option<TrackedFlow>> {
    let mut wanted = vec![ConntrackAttribute::CtaTupleOrig(tuple(packet.0, packet.1))];
    let zone = zone.filter(|zone| *zone != 0).map(|zone| DefaultNla::new(CTA_ZONE, zone.to_be_bytes().to_vec()));
    wanted.extend(zone.map(ConntrackAttribute::Other));
    match ctnetlink.socket.ask(ctnetlink.get(wanted))? {
        NetlinkPayload::InnerMessage(message) => Ok(tracked(&message)),
        NetlinkPayload::Error(error) => match error.to_io().raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) => Ok(None),
            Some(_) | None => Err(error.to_io()),
        },
        _ => Err(io::Error::other("an answer of another kind")),
    }
}

/// The same in every zone: the kernel goes through its whole table, once for each end and direction.
fn find_in_any_zone(ctnetlink: &Ctnetlink, packets: [Tuple; 2]) -> io::Result<Vec<TrackedFlow>> {
    let mut found: Vec<TrackedFlow> = Vec::new();
    let directions = [(CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS), (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS)];
    for (direction, flags) in directions {
        for packet in packets {
            let filter = DefaultNla::new(flags, BY_SOURCE.to_ne_bytes().to_vec());
            let question = NetfilterMessageInner::Other {
                subsys: NetfilterSubsystem::Conntrack,
                message_type: ConntrackMessageType::Get.into(),
                attributes: vec![nested(direction, &tuple(packet.0, packet.1)), nested(CTA_FILTER, &[filter])],
            };
            let header = NetfilterHeader::new(ctnetlink.family, 0, 0);
            let socket = Netlink::open(NETLINK_NETFILTER)?;
            socket.dump(NetfilterMessage::new(header, question), |message| {
                if let Some(flow) = tracked(&message)
                    && packets.iter().any(|packet| *packet == flow.original || *packet == flow.reply)
                    && !found.contains(&flow)
                {
                    found.push(flow);
                }
                if found.len() < MOST_ZONES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        if !found.is_empty() {
            break;
        }
    }
    Ok(found)
}

fn tracked(message: &NetfilterMessage) -> Option<TrackedFlow> {
    let attributes = attributes(message)?;
    let (mut original, mut reply) = (None, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = ends(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = ends(tuple),
            _ => {}
        }
    }
    let closed_by = attributes.iter().find_map(closed_by);
    Some(TrackedFlow { entry: entry(message)?, original: original?, reply: reply?, closed_by })
}

fn closed_by(attribute: &ConntrackAttribute) -> Option<Direction> {
    let ConntrackAttribute::CtaProtoInfo(protocols) = attribute else { return None };
    let tcp = protocols.iter().find_map(|protocol| match protocol {
        ProtoInfo::TCP(tcp) => Some(tcp),
        _ => None,
    })?;
    tcp.iter().find_map(|attribute| match attribute {
        ProtoInfoTCP::OriginalFlags(flags) if flags.flags & CLOSE_INIT != 0 => Some(Direction::Original),
        ProtoInfoTCP::ReplyFlags(flags) if flags.flags & CLOSE_INIT != 0 => Some(Direction::Reply),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_a_flow_that_is_not_there_finds_none_and_fails_for_nothing_but_rights() {
        let key = ConnectionKey { netns: 1, local: ([192, 0, 2, 1], 1).into(), remote: ([192, 0, 2, 2], 2).into() };
        for zone in [None, Some(7)] {
            match query(&key, zone) {
                Ok(conntrack) => assert_eq!(conntrack.entries(), []),
                Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32), "{error}"),
            }
        }
    }
}
