//! What a finding says in sentences: who, what, since when, until when.

mod dropped;
mod forwarded;
mod handshake;
mod risk;

use std::fmt::Write as _;

use jiff::Timestamp;

pub(super) use forwarded::forwarded;
pub(super) use risk::{heading, holder, risk};

use self::dropped::{dropped, dropped_for_that, dropping_rule, latest_dropped, padding, waits, why_invalid};
use super::WallClock;
use crate::{
    case::{Finding, FindingState, Outcome},
    judge::{Cause, DeadlineSource, Evidence, EvidenceKind},
    model::{MonoTime, Owner, OwnerKnowledge, Place, SocketView, counted, span},
};

/// Who holds the socket, where there is one.
pub(super) fn held(finding: &Finding) -> String {
    finding.flow.as_ref().map_or_else(|| owner(&finding.owner), |flow| forwarded(flow))
}

pub(super) fn owner(owner: &OwnerKnowledge) -> String {
    match owner {
        OwnerKnowledge::Process(owner) => {
            format!("held by {} (pid {}){}{}", owner.comm, owner.pid, others(owner), whereabouts(owner))
        }
        OwnerKnowledge::NoProcess => "held by no process any more".to_owned(),
        OwnerKnowledge::NotAsked => "owner not known yet".to_owned(),
        OwnerKnowledge::Unavailable(why) => format!("owner unknown ({why})"),
    }
}

/// Who else holds it: the connection ends when the last of them closes it.
fn others(owner: &Owner) -> String {
    match owner.other_holders {
        0 => String::new(),
        1 => " and one more process".to_owned(),
        count => format!(" and {count} more processes"),
    }
}

/// The most telling of what is known of where a process runs.
fn whereabouts(owner: &Owner) -> String {
    let Place { container_id, runtime, pod_uid, unit, vm } = &owner.place;
    if let Some(vm) = vm {
        return format!(", virtual machine {vm}");
    }
    let of_pod = pod_uid.as_ref().map_or(String::new(), |uid| format!(" of pod {uid}"));
    if let Some(id) = container_id {
        let runtime = runtime.map_or(String::new(), |runtime| format!("{} ", runtime.name()));
        return format!(" in {runtime}container {}{of_pod}", short(id));
    }
    match unit.as_deref().or(owner.cgroup.as_deref()) {
        None | Some("/") => String::new(),
        Some(place) => format!(" in {place}"),
    }
}

/// A container id as its runtime's own tools shorten it; a name stays whole.
fn short(id: &str) -> &str {
    const DIGITS: usize = 12;
    if id.bytes().all(|byte| byte.is_ascii_hexdigit()) { id.get(..DIGITS).unwrap_or(id) } else { id }
}

/// What is wrong, since when, in a sentence or two.
pub(super) fn what(finding: &Finding, clock: &WallClock, now: MonoTime) -> String {
    if let Some(flow) = &finding.flow {
        return forwarded::what(finding, flow, clock, now);
    }
    let ruling = &finding.ruling;
    let (local, peer) = (finding.id.key.local.ip(), finding.id.key.remote.ip());
    let sight = match ruling.cause {
        Cause::PeerReset | Cause::PeerRestarted => Evidence::reset_received(&finding.evidence),
        Cause::PeerSilent
        | Cause::PeerUnreachable
        | Cause::SourceAddressLost
        | Cause::LocalSendFailure
        | Cause::ConntrackExpired
        | Cause::KeepaliveUnanswered
        | Cause::WindowProbesUnanswered
        | Cause::UnacknowledgedFin
        | Cause::PathMismatch
        | Cause::EmbryonicExpired
        | Cause::PeerWindowShut => Evidence::latest_sight(&finding.evidence),
        Cause::FinalAckLost | Cause::SynackLost | Cause::ReversePathFiltered => None,
        // What is known of the socket is only that it is still open.
        Cause::ConntrackBadChecksum | Cause::ConntrackInvalid | Cause::FirewallDrop | Cause::StackDrop => None,
    };
    let (at, socket) = sight.map_or((finding.at, &finding.socket), |sight| (sight.at, sight.socket));
    let since = format!("since {} ({} ago)", time_of_day(clock.at(ruling.since)), span(now.since(ruling.since)));
    let mut text = match ruling.cause {
        Cause::PeerSilent => {
            format!(
                "{}, and nothing at all has come back from {peer}.",
                waiting(socket, "for an acknowledgment", &since)
            )
        }
        // IPv6 does not look at the source when it sends.
        Cause::SourceAddressLost if local.is_ipv6() && !socket.cannot_send() => format!(
            "{}, and none can come: {local} is no longer an address of this network namespace, so that answers go elsewhere.",
            waiting(socket, "for an acknowledgment", &since)
        ),
        Cause::SourceAddressLost => format!(
            "{}, and cannot: {local} is no longer an address of this network namespace.",
            waiting(socket, "to be sent", &since)
        ),
        Cause::LocalSendFailure => {
            format!("{}, and the segments do not leave this host.", waiting(socket, "to be sent", &since))
        }
        Cause::PeerReset => format!(
            "{peer} answered with a reset after a silence of {}: it no longer knew the connection.",
            socket.heard_ago().map_or("unknown length".to_owned(), span)
        ),
        Cause::PeerRestarted => format!(
            "{peer} has sent a SYN to make this connection anew: it no longer knows the one this host holds open."
        ),
        Cause::PeerUnreachable => {
            let errno = nix::errno::Errno::from_raw(socket.soft_error.unwrap_or(0));
            format!(
                "{}, and what comes back is an error: {peer} cannot be reached ({errno:?}, {}).",
                waiting(socket, "for an acknowledgment", &since),
                errno.desc()
            )
        }
        Cause::ConntrackExpired => format!(
            "{}, and this host's own connection tracking has forgotten the connection: its firewall takes the segments, or the \
             answers to them, for strange ones.",
            waiting(socket, if socket.cannot_send() { "to be sent" } else { "for an acknowledgment" }, &since)
        ),
        Cause::KeepaliveUnanswered => {
            format!(
                "The connection is idle, and {} not been answered by {peer} {since}.",
                unanswered(socket, "keepalive probe")
            )
        }
        Cause::WindowProbesUnanswered => format!(
            "{peer} had shut its window with {} waiting, and {} not been answered {since}.",
            bytes(socket.unsent()),
            unanswered(socket, "probe")
        ),
        Cause::ConntrackBadChecksum => format!(
            "{} this host's connection tracking held it for invalid because its checksum is wrong{}, {}. {}",
            dropped(finding, &since),
            padding(finding),
            dropped_for_that(finding),
            waits(finding)
        ),
        Cause::ConntrackInvalid => format!(
            "{} this host's connection tracking held it for invalid{}, {}. {}",
            dropped(finding, &since),
            why_invalid(finding).map_or(String::new(), |invalid| format!(" ({})", invalid.why)),
            dropped_for_that(finding),
            waits(finding)
        ),
        Cause::FirewallDrop | Cause::StackDrop => {
            let why = latest_dropped(finding).map_or("by this host", |segment| segment.reason.phrase());
            let why = dropping_rule(finding).map_or(why.to_owned(), |rule| format!("{why}: {rule}"));
            format!("{} it was dropped {why}. {}", dropped(finding, &since), waits(finding))
        }
        Cause::UnacknowledgedFin => format!(
            "This host has closed the connection and sent its FIN{} {since}, and {peer} does not acknowledge it.",
            match socket.retransmits {
                None | Some(0) => String::new(),
                Some(count) => format!(", again at {}", counted(count, "retransmission timeout")),
            }
        ),
        Cause::FinalAckLost | Cause::SynackLost | Cause::ReversePathFiltered => handshake::what(finding, &since),
        Cause::PathMismatch | Cause::EmbryonicExpired => {
            handshake::of_stalled(finding, &waiting(socket, "for an acknowledgment", &since))
        }
        Cause::PeerWindowShut => format!(
            "{peer} has kept its window shut {since} with {} waiting, and answers the probes: its application does not read.",
            bytes(socket.unsent())
        ),
    };
    if let Some(ago) = socket.heard_ago().filter(|_| !handshake::is_about(finding)) {
        let heard = at.before(ago);
        let (time, ago) = (time_of_day(clock.at(heard)), span(now.since(heard)));
        let _ = write!(text, " The last sign of life from the peer was at {time} ({ago} ago).");
    }
    text
}

fn has_got_through(finding: &Finding) -> bool {
    finding.evidence.iter().any(|evidence| evidence.kind == EvidenceKind::SegmentGotThrough)
}

/// How much waits for what, through how many timeouts.
fn waiting(socket: &SocketView, for_what: &str, since: &str) -> String {
    let amount = if socket.cannot_send() { socket.unsent() } else { socket.unacknowledged_data() };
    let timeouts = match socket.retransmits {
        None | Some(0) => String::new(),
        Some(1) => " through a retransmission timeout".to_owned(),
        Some(count) => format!(" through {count} retransmission timeouts"),
    };
    let subject = match amount {
        Some(1) => "1 byte has".to_owned(),
        Some(amount) => format!("{amount} bytes have"),
        None => "Data has".to_owned(),
    };
    format!("{subject} waited {for_what}{timeouts} {since}")
}

fn bytes(amount: Option<u32>) -> String {
    amount.map_or("data".to_owned(), |amount| counted(amount, "byte"))
}

/// How many probes have not, up to the "been answered".
fn unanswered(socket: &SocketView, probe: &str) -> String {
    match socket.unanswered_probes() {
        None | Some(0 | 1) => format!("a {probe} has"),
        Some(count) => format!("{count} {probe}s have"),
    }
}

/// What the kernel will do and when.
pub(super) fn until(finding: &Finding, clock: &WallClock, now: MonoTime) -> Option<String> {
    if let FindingState::Closed(outcome) = finding.state {
        return Some(format!("At {} {}.", time_of_day(clock.at(finding.at)), ended(finding, outcome)));
    }
    let Some(deadline) = finding.ruling.deadline else {
        if finding.ruling.cause == Cause::PeerWindowShut {
            let text = "The kernel waits for as long as the peer answers the probes: no TCP_USER_TIMEOUT is set.";
            return Some(text.to_owned());
        }
        return dropped::repeated_until(finding);
    };
    let set_by = match deadline.set_by {
        DeadlineSource::TcpRetries2 { retries } => format!("net.ipv4.tcp_retries2 = {retries}"),
        DeadlineSource::TcpOrphanRetries { retries } => {
            format!("net.ipv4.tcp_orphan_retries (in effect {retries}: the application has already closed the socket)")
        }
        DeadlineSource::TcpUserTimeout { timeout } => format!("TCP_USER_TIMEOUT = {} ms", timeout.as_millis()),
        DeadlineSource::KeepaliveProbes { probes } => counted(probes, "keepalive probe"),
    };
    let at = time_of_day(clock.at(deadline.at));
    let then = match deadline.set_by {
        DeadlineSource::TcpOrphanRetries { .. } => "drops the connection".to_owned(),
        DeadlineSource::TcpRetries2 { .. }
        | DeadlineSource::TcpUserTimeout { .. }
        | DeadlineSource::KeepaliveProbes { .. } => match finding.socket.error_when_given_up() {
            Some(errno) => format!("reports {errno:?} to the application"),
            None => "reports ETIMEDOUT to the application, or an ICMP error it has got".to_owned(),
        },
    };
    Some(if deadline.at > now {
        format!(
            "The kernel goes on trying until {at} (in {}) and then {then}; set by {set_by}.",
            span(deadline.at.since(now))
        )
    } else {
        format!("The kernel was to give up at {at}, set by {set_by}.")
    })
}

pub(super) fn ended(finding: &Finding, outcome: Outcome) -> String {
    if let Some(text) = handshake::ended(finding, outcome) {
        return text.to_owned();
    }
    let text = match outcome {
        Outcome::Recovered if has_got_through(finding) => "a copy of what was thrown away got through",
        Outcome::Recovered => "the peer acknowledged data again",
        Outcome::ClosedNormally => "the connection was closed",
        Outcome::Reset => "a reset ended the connection",
        Outcome::TimedOut => {
            let error = finding.evidence.iter().rev().find_map(|evidence| evidence.kind.error());
            let error = error.map_or("the timeout".to_owned(), |errno| format!("{errno:?}"));
            return format!("the kernel gave up and reported {error} to the application");
        }
        Outcome::Evicted => "there was no room left to follow it; it may go on",
        Outcome::Unobserved if finding.flow.is_some() => "nothing more was seen of it; how it ended is not known",
        Outcome::Unobserved => "the socket was gone; how it ended was not seen",
    };
    text.to_owned()
}

pub(super) fn keepalive(finding: &Finding) -> Option<&'static str> {
    let keepalive = finding.socket.keepalive?;
    let is_masked = finding.ruling.cause != Cause::KeepaliveUnanswered
        && matches!(finding.state, FindingState::Opened | FindingState::Updated);
    (keepalive.enabled && is_masked).then_some(
        "Keepalive is on, but it does not shorten this: the kernel sends no keepalive probe while data waits.",
    )
}

/// The time of day in UTC with milliseconds; evidence is at most hours old.
pub(super) fn time_of_day(time: Timestamp) -> String {
    time.strftime("%H:%M:%S%.3f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ContainerRuntime;

    #[test]
    fn the_most_telling_of_what_is_known_of_the_owner_is_said() {
        let text = |place: Place| {
            let cgroup = Some("/a/path".to_owned());
            owner(&OwnerKnowledge::Process(Owner {
                pid: 7,
                comm: "x".to_owned(),
                other_holders: 0,
                exe: None,
                cgroup,
                place,
            }))
        };
        let some = |text: &str| Some(text.to_owned());
        let in_unit = Place { unit: some("x.service"), ..Place::default() };
        let in_container = Place { container_id: Some("0123456789abcdef".repeat(4)), ..in_unit.clone() };
        let in_pod = Place {
            runtime: Some(ContainerRuntime::CriO),
            pod_uid: some("0d6b3b3a-58a8-4a4e-9f0e-2f0d1c6f7a11"),
            ..in_container.clone()
        };
        let named =
            Place { container_id: some("aio1_galera"), runtime: Some(ContainerRuntime::Lxc), ..Place::default() };
        for (place, expected) in [
            (Place::default(), " in /a/path"),
            (in_unit.clone(), " in x.service"),
            (in_container, " in container 0123456789ab"),
            (in_pod, " in cri-o container 0123456789ab of pod 0d6b3b3a-58a8-4a4e-9f0e-2f0d1c6f7a11"),
            (named, " in lxc container aio1_galera"),
            (Place { vm: some("instance-00000007"), ..in_unit }, ", virtual machine instance-00000007"),
        ] {
            assert_eq!(text(place), format!("held by x (pid 7){expected}"));
        }
    }

    #[test]
    fn it_is_said_how_many_more_hold_it() {
        let text = |other_holders| {
            owner(&OwnerKnowledge::Process(Owner { pid: 7, comm: "x".to_owned(), other_holders, ..Owner::default() }))
        };
        assert_eq!(text(1), "held by x (pid 7) and one more process");
        assert_eq!(text(12), "held by x (pid 7) and 12 more processes");
    }
}
