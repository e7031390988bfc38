//! The entries of connections that are only forwarded, with their tuples, in every zone. A packet's tuple is one of an entry's two, or
//! one of these the other way round, whatever addresses were translated before it was dropped; or, where both are, lies between them.

use std::{collections::HashMap, io, ops::ControlFlow};

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::{
    NetfilterMessage,
    conntrack::{ConntrackAttribute, ProtoInfo, ProtoInfoTCP},
};

use super::{Ctnetlink, DIRECTIONS, Entries, Tracked, attributes, by_source, ends, entry, tracked_of};
use crate::{
    model::{ConnectionKey, Direction, FlowConntrack, InZone, TrackedFlow, Tuple},
    witness::netns::Namespaces,
};

/// `IP_CT_TCP_FLAG_CLOSE_INIT` (`include/uapi/linux/netfilter/nf_conntrack_tcp.h`): the first FIN went this way.
const CLOSE_INIT: u8 = 0x04;
/// A connection is in a zone for each bridge or router that it passes on this host.
const MOST_ZONES: usize = 8;
/// So many flows are looked for one by one: of more together, all entries there are are gone through once.
const MOST_BY_FILTER: usize = 4;

/// Looks up the entries of these flows of one namespace.
pub(in crate::witness) fn look_up_flows(
    namespaces: &mut Namespaces,
    netns: u32,
    asked: &[(ConnectionKey, InZone)],
) -> Vec<Result<FlowConntrack, String>> {
    namespaces.ask_about(netns, "ctnetlink", asked, |asked| Ok(query_all(asked)?.into_iter().map(Ok)))
}

/// Looks up in the namespace this thread is in.
fn query_all(asked: &[(ConnectionKey, InZone)]) -> io::Result<Vec<FlowConntrack>> {
    let status = |tracked: Tracked<TrackedFlow>| {
        tracked.map_or(FlowConntrack::Inactive, |(flows, settings)| FlowConntrack::Active(flows, settings))
    };
    Ok(tracked_of(asked, |(key, _)| key, search)?.into_iter().map(status).collect())
}

/// The entries of flows of one IP version.
fn search(ctnetlink: &Ctnetlink, asked: &[&(ConnectionKey, InZone)]) -> io::Result<Entries<TrackedFlow>> {
    let mut entries = HashMap::new();
    let mut left = Vec::new();
    for (key, zone) in asked {
        // Of several zones all count: the one that accepts a packet is found first, and another holds it for invalid.
        let mut flow = None;
        if let InZone::First(zone) | InZone::Only(zone) = *zone {
            for packet in packets(key) {
                flow = flow.map_or_else(|| find(ctnetlink, packet, zone), |flow| Ok(Some(flow)))?;
            }
        }
        match (flow, zone) {
            (Some(flow), _) => drop(entries.insert(*key, vec![flow])),
            (None, InZone::Only(_)) => {}
            (None, InZone::First(_) | InZone::Any) => left.push(*key),
        }
    }
    if left.len() <= MOST_BY_FILTER {
        for key in left {
            entries.insert(key, find_in_any_zone(ctnetlink, packets(&key))?);
        }
    } else {
        entries.extend(find_all_in_any_zone(ctnetlink, &left)?);
    }
    Ok(entries)
}

/// A packet of the flow, and one that goes the other way.
const fn packets(key: &ConnectionKey) -> [Tuple; 2] {
    [(key.remote, key.local), (key.local, key.remote)]
}

/// The entry of which this is one tuple, in one zone.
fn find(ctnetlink: &Ctnetlink, packet: Tuple, zone: u16) -> io::Result<Option<TrackedFlow>> {
    Ok(ctnetlink.find(packet.0, packet.1, zone)?.as_ref().and_then(tracked))
}

/// The same in every zone: the kernel goes through its whole table, once for each end and direction.
fn find_in_any_zone(ctnetlink: &Ctnetlink, packets: [Tuple; 2]) -> io::Result<Vec<TrackedFlow>> {
    let mut found: Vec<TrackedFlow> = Vec::new();
    for direction in DIRECTIONS {
        for packet in packets {
            dump(ctnetlink, by_source(direction, packet.0, packet.1), |flow| {
                if is_of(&flow, packets) && !found.contains(&flow) && found.len() < MOST_ZONES {
                    found.push(flow);
                }
            })?;
        }
        if !found.is_empty() {
            break;
        }
    }
    Ok(found)
}

/// The same for many flows, by all entries there are: for each to be looked for by itself would take longer.
fn find_all_in_any_zone(ctnetlink: &Ctnetlink, keys: &[ConnectionKey]) -> io::Result<Entries<TrackedFlow>> {
    let wanted: HashMap<Tuple, ConnectionKey> =
        keys.iter().flat_map(|key| packets(key).map(|packet| (packet, *key))).collect();
    let mut found: Entries<TrackedFlow> = HashMap::new();
    dump(ctnetlink, Vec::new(), |flow| {
        let key = flow.packets().iter().find_map(|packet| wanted.get(packet));
        if let Some(key) = key {
            let flows = found.entry(*key).or_default();
            if flows.len() < MOST_ZONES {
                flows.push(flow);
            }
        }
    })?;
    Ok(found)
}

fn is_of(flow: &TrackedFlow, packets: [Tuple; 2]) -> bool {
    flow.packets().iter().any(|packet| packets.contains(packet))
}

fn dump(ctnetlink: &Ctnetlink, attributes: Vec<DefaultNla>, mut each: impl FnMut(TrackedFlow)) -> io::Result<()> {
    ctnetlink.dump(attributes, |message| {
        if let Some(flow) = tracked(message) {
            each(flow);
        }
        ControlFlow::Continue(())
    })
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
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn asking_for_a_flow_that_is_not_there_finds_none_and_fails_for_nothing_but_rights() {
        let key = ConnectionKey { netns: 1, local: ([192, 0, 2, 1], 1).into(), remote: ([192, 0, 2, 2], 2).into() };
        for count in [1, MOST_BY_FILTER + 1] {
            let asked: Vec<_> =
                (0..count).map(|zone| (key, u16::try_from(zone).map_or(InZone::Any, InZone::First))).collect();
            match query_all(&asked) {
                Ok(found) => {
                    assert!(found.iter().all(|conntrack| conntrack.entries().is_empty()) && found.len() == count)
                }
                Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32), "{error}"),
            }
        }
    }
}
