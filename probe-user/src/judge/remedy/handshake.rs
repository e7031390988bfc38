//! The two ends disagree about the handshake.

use super::{ONLY_LOOKS, Patient, Remedy, dropped, kernel, silent};
use crate::{
    judge::{Cause, Evidence},
    model::{ConnectionKey, ControlMessage, DroppedSegment},
};

pub(super) fn final_ack_lost(patient: &Patient<'_>) -> Vec<Remedy> {
    // Only a client has data that waits, and so a deadline.
    if patient.ruling.is_some_and(|ruling| ruling.deadline.is_some()) {
        return final_ack_lost_by_client(patient);
    }
    let mut remedies = vec![
        see_rules(patient, "See whether a rule of this host drops the client's ACKs: which counter goes up?"),
        capture(
            patient,
            "See which segments come and go: the ACK must go the way that the firewall has seen the SYN and the SYN-ACK go.",
        ),
        see_on_peer(patient),
    ];
    remedies.push(same_way(patient));
    remedies
}

fn final_ack_lost_by_client(patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies = vec![
        capture(
            patient,
            "See which segments come and go: the ACK must go the way that a firewall between has seen the SYN and the SYN-ACK go.",
        ),
        Remedy::new("See whether the peer has got the ACK and has no room for the connection: a full backlog, or an ACK that is dropped?")
            .command(format!(
                "ss -tln sport = :{}; ss -tn state syn-recv; nstat -az TcpExtListenOverflows",
                patient.key.remote.port()
            ))
            .place(format!("{}, in the network namespace of what listens", patient.on_peer()))
            .risk(ONLY_LOOKS),
    ];
    remedies.extend(patient.end_now());
    remedies.push(same_way(patient));
    remedies
}

pub(super) fn synack_lost(patient: &Patient<'_>) -> Vec<Remedy> {
    vec![
        see_rules(patient, "See whether a rule of this host drops SYN-ACKs: which counter goes up?"),
        capture(
            patient,
            "See which segments come and go: on which interface does the SYN-ACK appear, and on which not?",
        ),
        see_on_peer(patient),
        same_way(patient),
    ]
}

pub(super) fn path_mismatch(patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies = vec![see_route(patient), silent::look_whether_known(patient), same_way(patient)];
    remedies.extend(patient.end_now());
    remedies
}

/// Of `rp_filter`: an answer must have some way back, not the same (RFC 3704 section 2.4).
const LOOSE: u32 = 2;

pub(super) fn reverse_path_filtered(patient: &Patient<'_>) -> Vec<Remedy> {
    let text = "If packets are meant to come by the one and to go by the other interface: let the filter be loose. Of this setting and \
                the interface's own the higher one counts.";
    vec![
        see_route(patient),
        same_way(patient),
        kernel::setting(patient, text.to_owned(), &[("net.ipv4.conf.all.rp_filter", LOOSE)])
            .risk(
                "packets with a forged source that this host has some route to are no longer dropped here; on interfaces without any filter \
                 (0: often tunnels) sources without a route are, from now on: there set that of the one interface instead",
            ),
        Remedy::new("See how much is dropped for it.")
            .command(format!("{}nstat -az TcpExtIPReversePathFilter", patient.here()))
            .place(patient.place())
            .risk(ONLY_LOOKS),
    ]
}

pub(super) fn embryonic_expired(patient: &Patient<'_>) -> Vec<Remedy> {
    let here = patient.here();
    let mut remedies = vec![
        Remedy::new("See what connection tracking knows: an entry that stays in SYN_SENT or SYN_RECV has seen only one direction.")
            .command(format!("{here}conntrack -L -p tcp -s {0}; {here}conntrack -L -p tcp -d {0}", patient.key.remote.ip()))
            .place(patient.place())
            .risk(ONLY_LOOKS),
        see_route(patient),
        same_way(patient),
    ];
    remedies.extend(patient.end_now());
    remedies.push(stateless());
    remedies
}

/// What to do where this host only forwards the connection: the segments of the patient's remote end are dropped on their way to its
/// local one, whose socket has this name.
pub(super) fn forwarded(patient: &Patient<'_>, socket: &ConnectionKey, cause: Cause) -> Vec<Remedy> {
    let (sender, receiver) = (socket.remote.ip(), socket.local.ip());
    let see_entry =
        Remedy::new("See what connection tracking knows: an entry that stays in SYN_SENT has seen only one direction.")
            .command(format!(
                "conntrack -L -p tcp -s {sender} -d {receiver}; conntrack -L -p tcp -s {receiver} -d {sender}"
            ))
            .place(patient.place())
            .risk(ONLY_LOOKS);
    let text =
        "See which segments come and go, and by which interfaces: both directions must pass this host, or neither.";
    let mut remedies = Vec::new();
    if has_seen_no_answer(patient.evidence) {
        remedies.push(
            Remedy::new(format!(
                "Let the answers of {receiver} come back through this host: see there by which interface it sends them to {sender}, and \
                 let what comes from {receiver} leave by the interface where the requests come in (policy routing: `ip rule`)."
            ))
            .command(format!("ip route get {sender} from {receiver}; ip rule show"))
            .place(format!("on {receiver}, which this host only forwards to"))
            .risk("the command only looks; changed routes act on all that goes there"),
        );
    }
    if cause == Cause::ReversePathFiltered {
        let text = "If packets are meant to come by another interface than the answers take: let the filter be loose."
            .to_owned();
        remedies.push(
            kernel::setting(patient, text, &[("net.ipv4.conf.all.rp_filter", LOOSE)])
                .risk("packets with a forged source that this host has some route to are no longer dropped here"),
        );
    }
    remedies.extend(dropped::flows(patient));
    remedies.push(see_rules(patient, "See which rule of this host drops them: its counter goes up with each copy."));
    remedies.push(see_entry);
    remedies.push(capture(patient, text));
    if has_seen_no_answer(patient.evidence) {
        remedies.push(stateless());
    }
    remedies.truncate(super::MOST_REMEDIES);
    remedies
}

/// Whether connection tracking has seen what begins the connection, and nothing that answers it, neither let pass nor dropped.
fn has_seen_no_answer(evidence: &[Evidence]) -> bool {
    let is_answer = |segment: &DroppedSegment| segment.message == ControlMessage::SynAck;
    if evidence.iter().filter_map(Evidence::segment).any(is_answer) {
        return false;
    }
    Evidence::latest_conntrack_entry(evidence).is_some_and(|entry| !entry.replied)
}

fn stateless() -> Remedy {
    Remedy::new(
        "Where the two ways are meant: let neither be tracked (`notrack` in a raw chain for both directions), or accept these \
         connections without looking at their state.",
    )
    .risk("the firewall no longer tells answers from forged segments on these connections")
}

fn see_rules(patient: &Patient<'_>, text: &str) -> Remedy {
    Remedy::new(text)
        .command(format!("{0}nft list ruleset; {0}iptables-save -c", patient.here()))
        .place(patient.place())
        .risk(ONLY_LOOKS)
}

fn see_route(patient: &Patient<'_>) -> Remedy {
    Remedy::new("See by which interface segments leave; they come in by another one.")
        .command(patient.route_get())
        .place(patient.place())
        .risk(ONLY_LOOKS)
}

fn capture(patient: &Patient<'_>, text: &str) -> Remedy {
    let (local, remote) = (patient.key.local, patient.key.remote);
    Remedy::new(text)
        .command(format!(
            "{}tcpdump -nn -i any 'host {} and tcp port {} and tcp port {}'",
            patient.here(),
            remote.ip(),
            local.port(),
            remote.port()
        ))
        .place(patient.place())
        .risk("none: it only looks, but it shows what applications say to each other where that is not encrypted")
}

fn see_on_peer(patient: &Patient<'_>) -> Remedy {
    patient.look_on_the_peer(
        "See in which state the peer has its end: the one is in SYN-SENT or SYN-RECV, while the other may be established.".to_owned(),
    )
}

fn same_way(patient: &Patient<'_>) -> Remedy {
    let local = patient.key.local.ip();
    Remedy::new(format!(
        "Let both directions go the same way: a rule that sends what comes from {local} back by the interface where it comes in (policy \
         routing), or one address and one route a network."
    ))
    .command(format!("{0}ip rule show; {0}ip route show table all", patient.here()))
    .place(patient.place())
    .risk("the command only looks; changed routes act on all that goes there")
}
