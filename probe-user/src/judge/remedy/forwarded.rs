//! What to do where this host only forwards the connection.

use super::{MOST_REMEDIES, Patient, Remedy, dropped, handshake, remedies_of};
use crate::{
    judge::{Evidence, Ruling, Verdict},
    model::{ConnectionKey, Owner, Tuple},
};

/// The end that waits for what was dropped, where it is a socket of this host.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// The process that holds it, where that is known.
    pub owner: Option<&'a Owner>,
}

/// The connection, by its names in the different places where something can be done. Without translation of addresses they are the same.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// Inode number of the network namespace that forwards it.
    pub netns: u32,
    /// Source and destination of what was dropped, as rules there see them.
    pub packet: Tuple,
    /// Local and remote end of the socket that was to receive it.
    pub receiver: Tuple,
    /// That socket, where it is on this host.
    pub waiting: Option<Waiting<'a>>,
}

/// What to do about a ruling on a connection that this host only forwards, the most useful first.
pub fn forwarded_remedies(
    forwarded: &Forwarded<'_>,
    ruling: &Ruling,
    is_over: bool,
    evidence: &[Evidence],
) -> Vec<Remedy> {
    let Forwarded { netns, packet: (source, destination), receiver: (local, remote), waiting } = *forwarded;
    let key = ConnectionKey { netns, local: destination, remote: source };
    let socket = ConnectionKey { netns, local, remote };
    let (owner, mark, is_forwarded) = (None, None, true);
    let patient = Patient { key: &key, ruling: Some(ruling), owner, mark, is_over, is_forwarded, evidence };
    if ruling.verdict == Verdict::AsymmetricHandshake {
        return handshake::forwarded(&patient, &socket, ruling.cause);
    }
    let mut remedies = remedies_of(&patient, ruling.cause);
    if !is_over {
        let end = match waiting {
            Some(Waiting { netns, owner }) => {
                let socket = ConnectionKey { netns, ..socket };
                dropped::end(&Patient { key: &socket, owner, ..patient })
            }
            None => {
                let place = format!("on {}, which this host only forwards to", local.ip());
                Remedy { place: Some(place), ..dropped::end(&Patient { key: &socket, ..patient }) }
            }
        };
        remedies.insert(remedies.len().min(1), end);
    }
    remedies.truncate(MOST_REMEDIES);
    remedies
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{
        judge::{Cause, Confidence, EvidenceKind},
        model::{
            Checksum, ControlMessage, DropPlace, DropReason, DroppedSegment, FilterRule, FilterRules, Knowledge,
            MonoTime, Origin, Stack,
        },
    };

    const CAUSES: [Cause; 4] =
        [Cause::ConntrackBadChecksum, Cause::ConntrackInvalid, Cause::FirewallDrop, Cause::StackDrop];

    fn ruling(cause: Cause) -> Ruling {
        Ruling {
            verdict: Verdict::SilentlyDroppedFin,
            cause,
            confidence: Confidence::Confirmed,
            since: MonoTime::default(),
            deadline: None,
            missing: Vec::new(),
        }
    }

    fn end(last: u8, port: u16) -> SocketAddr {
        ([10, 0, 0, last], port).into()
    }

    #[test]
    fn the_connection_is_ended_at_the_end_that_waits() {
        let (initiator, responder) = (end(1, 40_000), end(2, 5672));
        for cause in CAUSES {
            let of = |waiting, is_over| {
                let (packet, receiver) = ((responder, initiator), (initiator, responder));
                let forwarded = Forwarded { netns: 7, packet, receiver, waiting };
                forwarded_remedies(&forwarded, &ruling(cause), is_over, &[])
            };
            let end = of(Some(Waiting { netns: 8, owner: None }), false).swap_remove(1);
            assert_eq!(end.command.unwrap(), "ss -tK src 10.0.0.1 sport = :40000 dst 10.0.0.2 dport = :5672");
            assert!(end.place.unwrap().contains("namespace 8 "));
            let owner = Owner { pid: 77, ..Owner::default() };
            let end = of(Some(Waiting { netns: 8, owner: Some(&owner) }), false).swap_remove(1);
            assert!(end.command.unwrap().starts_with("nsenter -t 77 -n ss -tK "));
            assert!(of(None, false)[1].place.as_ref().unwrap().starts_with("on 10.0.0.1"));
            assert!(of(None, true).iter().all(|remedy| !remedy.text.starts_with("End the connection")));
        }
    }

    #[test]
    fn where_addresses_are_translated_the_socket_is_named_as_it_names_itself_and_the_rule_gets_what_passes_it() {
        let (client, service, server) = (end(1, 40_000), end(100, 443), end(2, 8443));
        let forwarded = Forwarded { netns: 7, packet: (server, client), receiver: (client, service), waiting: None };
        let segment = DroppedSegment {
            message: ControlMessage::Fin,
            origin: Origin::Forwarded { ifindex: 2, sender: server },
            sequence: 1,
            reason: DropReason::NetfilterDrop,
            location: 1,
            stack: Stack::default(),
            function: None,
            stated_bytes: 40,
            actual_bytes: 40,
            data_bytes: 0,
            checksum: Checksum::Right,
            is_tracked: Some(false),
            destination_mac: None,
        };
        let rule = FilterRule {
            family: "inet".to_owned(),
            table: "t".to_owned(),
            chain: "c".to_owned(),
            handle: Some(4),
            text: "drop".to_owned(),
        };
        let rules = Knowledge::Known(FilterRules { candidates: vec![rule], left_out: 0 });
        let place = DropPlace { site: None, functions: Vec::new(), rules };
        let kinds = [EvidenceKind::SegmentDropped(Box::new(segment)), EvidenceKind::DropPlace(Box::new(place))];
        let evidence = kinds.map(|kind| Evidence { at: MonoTime::default(), kind });
        for cause in [Cause::ConntrackInvalid, Cause::FirewallDrop] {
            let said: Vec<_> = forwarded_remedies(&forwarded, &ruling(cause), false, &evidence)
                .into_iter()
                .filter_map(|remedy| remedy.command)
                .collect();
            let ends = "ss -tK src 10.0.0.1 sport = :40000 dst 10.0.0.100 dport = :443";
            assert!(said.iter().any(|command| command == ends), "{said:?}");
            let passes = "ip saddr 10.0.0.2 ip daddr 10.0.0.1 tcp flags";
            assert!(said.iter().any(|command| command.contains(passes)), "{said:?}");
        }
    }
}
