//! What a finding about a handshake says.

use crate::{
    case::{Finding, Outcome},
    judge::{Cause, Evidence, Step},
    model::{DropReason, DroppedSegment, TcpState},
};

/// Whether it is about the handshake itself, of which the socket's numbers tell nothing.
pub(super) fn is_about(finding: &Finding) -> bool {
    match finding.ruling.cause {
        Cause::FinalAckLost | Cause::SynackLost | Cause::ReversePathFiltered => true,
        Cause::PeerSilent
        | Cause::SourceAddressLost
        | Cause::LocalSendFailure
        | Cause::PeerReset
        | Cause::PeerRestarted
        | Cause::PeerUnreachable
        | Cause::ConntrackExpired
        | Cause::KeepaliveUnanswered
        | Cause::WindowProbesUnanswered
        | Cause::PeerWindowShut
        | Cause::ConntrackBadChecksum
        | Cause::ConntrackInvalid
        | Cause::FirewallDrop
        | Cause::StackDrop
        | Cause::UnacknowledgedFin
        | Cause::PathMismatch
        | Cause::EmbryonicExpired => false,
    }
}

/// What is wrong with the handshake.
pub(super) fn what(finding: &Finding, since: &str) -> String {
    let peer = finding.id.key.remote.ip();
    let dropped = Evidence::latest_dropped_step(&finding.evidence)
        .and_then(|(_, segment)| Step::of(segment).map(|step| (step, segment)));
    if let Some((step, segment)) = dropped {
        return format!("{}: {} {since}.{}", consequence(step, finding), thrown_away(step, segment), paths(finding));
    }
    match (finding.ruling.cause, Evidence::syn_acks_received(&finding.evidence).count()) {
        (Cause::FinalAckLost, 0) => format!(
            "{peer} has been sent a SYN-ACK and does not answer it {since}, though it has other connections to this port: it may hold this one \
             for established, while the ACK that would complete the handshake here is lost on its way."
        ),
        (Cause::FinalAckLost, count) => format!(
            "The connection is established here and {} data, but {peer} does not hold it for established: it has sent its SYN-ACK {} {since}. \
             The ACK that completes the handshake, and what follows it, is lost on its way.",
            if finding.socket.unacknowledged_data().is_some_and(|bytes| bytes > 0) { "has sent" } else { "may send" },
            times(count)
        ),
        (_, _) => format!(
            "{peer} repeats its SYN {since}, though this host has sent it a SYN-ACK each time: the SYN-ACK is lost on its way."
        ),
    }
}

/// What stands behind data without an answer.
pub(super) fn of_stalled(finding: &Finding, waiting: &str) -> String {
    let mismatch = paths(finding);
    if finding.ruling.cause == Cause::EmbryonicExpired {
        format!(
            "{waiting}; this host's connection tracking has seen only one direction of its handshake, so that the firewall holds what \
             follows for no part of a connection.{mismatch}"
        )
    } else {
        format!(
            "{waiting}.{mismatch} If a stateful firewall is on one of the two ways, it sees only half of the connection, and drops it \
             soon after the handshake."
        )
    }
}

/// How it ended, where that is said in other words than of an established connection.
pub(super) fn ended(finding: &Finding, outcome: Outcome) -> Option<&'static str> {
    if !is_about(finding) {
        return None;
    }
    let is_request = finding.socket.state == Some(TcpState::NewSynReceived);
    match outcome {
        Outcome::Recovered if Evidence::syn_acks_received(&finding.evidence).next().is_none() => {
            Some("the handshake was completed")
        }
        Outcome::TimedOut if is_request => Some("the kernel gave the request up: the client was not answered again"),
        Outcome::Unobserved if finding.flow.is_none() && finding.socket.state.is_none() => {
            Some("the client did not try again")
        }
        Outcome::Recovered
        | Outcome::TimedOut
        | Outcome::Unobserved
        | Outcome::ClosedNormally
        | Outcome::Reset
        | Outcome::Evicted => None,
    }
}

fn consequence(step: Step, finding: &Finding) -> String {
    let peer = finding.id.key.remote.ip();
    match step {
        Step::SynReceived => format!("{peer} asks for a connection and gets no answer"),
        Step::SynAckReceived => format!("{peer} answers, and this host goes on waiting for the answer"),
        Step::SynAckSent => format!("{peer} asks for a connection again and again and does not get the answer"),
        Step::AckReceived => format!("{peer} holds the connection for established, and this host does not"),
        Step::AckSent => format!("The connection is established here, and {peer} still waits for the final ACK"),
    }
}

fn thrown_away(step: Step, segment: &DroppedSegment) -> String {
    let whose = match step {
        Step::SynReceived => "its SYNs are",
        Step::SynAckReceived => "its SYN-ACKs are",
        Step::SynAckSent => "the SYN-ACKs of this host are",
        Step::AckReceived => "its ACK, and what follows it, is",
        Step::AckSent => "what this host sends is",
    };
    // The interfaces follow.
    if segment.reason == DropReason::IpRpfilter {
        return format!("{whose} dropped by the reverse-path filter of this host");
    }
    format!("{whose} dropped on this host {}", segment.reason.phrase())
}

/// The two interfaces, where they differ.
fn paths(finding: &Finding) -> String {
    let crate::model::Knowledge::Known(path) = &finding.path else { return String::new() };
    match path.mismatch() {
        Some((ingress, egress)) => {
            let filter = match path.reverse_path_filter {
                Some(filter) if finding.ruling.cause == Cause::ReversePathFiltered => {
                    format!(" (rp_filter of {} is {filter})", ingress.name)
                }
                Some(_) | None => String::new(),
            };
            format!(
                " Segments of {} come in by {} and leave by {}{filter}.",
                finding.id.key.remote.ip(),
                ingress.name,
                egress.name
            )
        }
        None => String::new(),
    }
}

fn times(count: usize) -> String {
    match count {
        1 => "once more".to_owned(),
        count => format!("{count} times more"),
    }
}
