//! Of a connection that this host only forwards.

use std::fmt::Write as _;

use super::{
    dropped::{dropped_for_that, dropping_rule, latest_dropped, padding, why_invalid},
    time_of_day,
};
use crate::{
    case::{Finding, FlowView},
    judge::{Cause, Evidence, Verdict},
    model::{Behind, ControlMessage, Knowledge, MonoTime, Port, span},
    report::WallClock,
};

/// In place of who holds the socket.
pub(in crate::report) fn forwarded(flow: &FlowView) -> String {
    let mut text = "only forwarded by this host".to_owned();
    text.push_str(&way(flow));
    if !flow.is_direction_known {
        text.push_str(", who began it is not known");
    }
    if let Some(translation) = flow.translation {
        let (source, destination) = translation.translated;
        let _ = write!(text, ", translated to {source} -> {destination}");
    }
    if let Some(zone) = flow.key.zone.filter(|zone| *zone != 0) {
        let _ = write!(text, ", connection tracking's zone {zone}");
    }
    text
}

/// From which interface to which.
fn way(flow: &FlowView) -> String {
    let Knowledge::Known(path) = &flow.path else { return String::new() };
    let name = |port: &Option<Port>| port.as_ref().filter(|port| !port.interface.name.is_empty()).map(named);
    match (name(&path.ingress), name(&path.egress)) {
        (Some(ingress), Some(egress)) => format!(" from {ingress} to {egress}"),
        (Some(ingress), None) => format!(", in by {ingress}"),
        (None, Some(egress)) => format!(", out by {egress}"),
        (None, None) => String::new(),
    }
}

fn named(port: &Port) -> String {
    let name = &port.interface.name;
    match &port.behind {
        Some(Behind::Machine(machine)) => {
            let vm = machine.name.as_deref().or(machine.uuid.as_deref());
            let vm = vm.map_or_else(|| format!("of pid {}", machine.pid), str::to_owned);
            format!("{name} (virtual machine {vm})")
        }
        Some(Behind::Netns(netns)) => format!("{name} (to network namespace {netns})"),
        None => name.clone(),
    }
}

/// What is wrong, since when.
pub(super) fn what(finding: &Finding, flow: &FlowView, clock: &WallClock, now: MonoTime) -> String {
    let since = finding.ruling.since;
    let since = format!("since {} ({} ago)", time_of_day(clock.at(since)), span(now.since(since)));
    if finding.ruling.verdict == Verdict::AsymmetricHandshake {
        return handshake(finding, flow, &since);
    }
    let segment = latest_dropped(finding);
    let name = segment.map_or("FIN", |segment| segment.message.name());
    let is_invalid = matches!(finding.ruling.cause, Cause::ConntrackBadChecksum | Cause::ConntrackInvalid);
    let why = if is_invalid {
        let because = if finding.ruling.cause == Cause::ConntrackBadChecksum {
            format!(" because its checksum is wrong{}", padding(finding))
        } else {
            why_invalid(finding).map_or(String::new(), |invalid| format!(" ({})", invalid.why))
        };
        format!("this host's connection tracking held it for invalid{because}, {}", dropped_for_that(finding))
    } else {
        format!("it was dropped {}", segment.map_or("by this host", |segment| segment.reason.phrase()))
    };
    format!(
        "{} has ended the connection, but its {name} was thrown away on its way through this host {since}: {why}. {}",
        flow.sender().ip(),
        waits(flow)
    )
}

/// What is wrong with the handshake.
fn handshake(finding: &Finding, flow: &FlowView, since: &str) -> String {
    let (sender, receiver) = (flow.sender().ip(), flow.receiver_socket().0.ip());
    let latest = Evidence::segments_from(&finding.evidence, flow.packet.0).next_back().map(|(_, segment)| segment);
    let why = latest.map_or("by this host", |segment| segment.reason.phrase());
    let why = dropping_rule(finding).map_or(why.to_owned(), |rule| format!("{why}: {rule}"));
    if latest.is_some_and(|segment| segment.message == ControlMessage::SynAck) {
        return format!(
            "{receiver} goes on asking for a connection: the SYN-ACKs that {sender} answers with are dropped on this host \
             {since}, {why}."
        );
    }
    let entry = Evidence::latest_conntrack_entry(&finding.evidence);
    let half = match entry {
        Some(entry) if !entry.replied => format!(
            " Its connection tracking has seen the SYN and no answer: the answers of {receiver} take another way, and what \
             follows belongs to no connection that it knows."
        ),
        Some(_) | None => String::new(),
    };
    if finding.ruling.cause == Cause::EmbryonicExpired {
        format!(
            "The connection is established at both ends, but what {sender} sends to {receiver} is dropped on this host \
             {since}, {why}.{half}"
        )
    } else {
        format!(
            "{sender} holds the connection for established, and {receiver} may not: the ACKs and the data that {sender} sends are dropped \
             on this host {since}, {why}.{half}"
        )
    }
}

fn waits(flow: &FlowView) -> String {
    let receiver = flow.receiver_socket().0.ip();
    match &flow.ends.receiver {
        Some(end) => {
            let owner = match flow.receiver_owner.process() {
                Some(_) => format!(", {}", super::owner(&flow.receiver_owner)),
                None => String::new(),
            };
            format!(
                "{receiver} is in network namespace {} of this host{owner}, and still has the connection open ({}); without keepalive or \
                 a timeout of its own it waits for ever.",
                end.netns,
                end.status.state.spoken()
            )
        }
        None => format!(
            "Nothing tells {receiver} that the connection has ended; without keepalive or a timeout of its own it waits for ever."
        ),
    }
}
