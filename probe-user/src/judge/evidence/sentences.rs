//! What was seen, in a sentence each.

mod place;

use std::fmt;

use nix::errno::Errno;

use super::{Attempt, EvidenceKind, SynAckRepeat};
use crate::model::{
    Checksum, ConntrackEntry, DropReason, DroppedSegment, InvalidSegment, Origin, SocketView, counted, span,
};

impl fmt::Display for EvidenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RetransmissionTimeout(attempt) => fmt_timeout(attempt, f),
            Self::ProbeSent(attempt) => fmt_probe(attempt, f),
            Self::SynReceived => f.write_str("a SYN came in for the established connection"),
            Self::Scanned(socket) => fmt_scanned(socket, f),
            Self::LocalAddressGone => f.write_str("the local address is on no interface of this network namespace"),
            Self::NoRoute { errno } => {
                let errno = Errno::from_raw(*errno);
                write!(f, "this network namespace has no route to the peer: {errno:?} ({})", errno.desc())
            }
            Self::NextHopSilent(route) => {
                match route.gateway {
                    Some(gateway) => write!(f, "the router {gateway}")?,
                    None => f.write_str("the peer")?,
                }
                write!(f, " does not answer on the link behind {}", route.egress.name)
            }
            Self::ConntrackEntry(entry) => fmt_entry(entry, f),
            Self::ConntrackEntryMissing(settings) => {
                f.write_str("this host's connection tracking knows other connections, but not this one")?;
                match settings.timeout_established {
                    Some(timeout) => write!(f, "; it forgets an idle one after {}", span(timeout)),
                    None => Ok(()),
                }
            }
            Self::SynAckRetransmission(repeat) => fmt_syn_ack(repeat, f),
            Self::SynAckReceived(socket) => {
                f.write_str(
                    "a SYN-ACK came in again for the established connection: the peer has not got the final ACK",
                )?;
                match socket.unacknowledged_data().filter(|bytes| *bytes > 0) {
                    Some(bytes) => write!(f, "; {} unacknowledged", counted(bytes, "byte")),
                    None => Ok(()),
                }
            }
            Self::PathMismatch { ingress, egress } => {
                write!(f, "segments come in by {} and go out by {}", ingress.name, egress.name)
            }
            Self::PeerConnected { count: 1 } => {
                f.write_str("the peer has another connection to this port, established")
            }
            Self::PeerConnected { count } => {
                write!(f, "the peer has {count} other connections to this port, established")
            }
            Self::HandshakeCompleted => f.write_str("the handshake is complete"),
            Self::StateChange { from, to, error } => {
                write!(f, "state changed from {} to {}", from.spoken(), to.spoken())?;
                fmt_error(*error, f)
            }
            Self::ResetReceived(socket) => {
                f.write_str("RST received")?;
                match socket.last_ack_ago {
                    Some(ago) => write!(f, ", {} after the last ACK from the peer", span(ago)),
                    None => Ok(()),
                }
            }
            Self::ResetSent => f.write_str("RST sent by this host"),
            Self::SegmentDropped(segment) => fmt_dropped(segment, f),
            Self::SegmentInvalid(segment) => fmt_invalid(segment, f),
            Self::DropPlace(place) => place::fmt(place, f),
            Self::StillOpen { state } => write!(f, "the socket has not got it: it is still {}", state.spoken()),
            Self::EndWaits(end) => write!(
                f,
                "its receiver is on this host, in network namespace {}, and has not got it: it is still {}",
                end.netns,
                end.state.spoken()
            ),
            Self::SegmentGotThrough => f.write_str("a copy of it has got through"),
            Self::SocketError { error } => {
                f.write_str("the kernel reported an error to the application")?;
                fmt_error(*error, f)
            }
            Self::AcknowledgmentsResumed => f.write_str("the peer acknowledges data again"),
            Self::WatchResumed => f.write_str("connprobe was started anew; what happened before was not seen"),
            Self::SocketGone => f.write_str("the socket is gone; how it ended was not seen"),
        }
    }
}

fn fmt_entry(entry: &ConntrackEntry, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("this host's connection tracking knows it")?;
    if let Some(state) = entry.state {
        write!(f, " as {}", state.name())?;
    }
    if entry.zone != 0 {
        write!(f, " in zone {}", entry.zone)?;
    }
    if !entry.replied {
        f.write_str(", from one direction only")?;
    }
    match entry.expires_in {
        Some(time) => write!(f, ", for another {}", span(time)),
        None => Ok(()),
    }
}

fn fmt_dropped(segment: &DroppedSegment, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{} dropped", whose(segment))?;
    if let Some(function) = &segment.function {
        write!(f, " in {function}")?;
    }
    write!(f, " {}", segment.reason.phrase())?;
    fmt_packet(segment, f)?;
    if segment.is_tracked == Some(false) && segment.reason.is_filter() {
        f.write_str("; connection tracking had given it no connection")?;
    }
    Ok(())
}

fn fmt_invalid(invalid: &InvalidSegment, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "connection tracking held the {} for invalid", whose(&invalid.segment))?;
    if let Some(hook) = invalid.hook {
        write!(f, " on {}", hook.name())?;
    }
    if let Some(zone) = invalid.zone.filter(|zone| *zone != 0) {
        write!(f, " in zone {zone}")?;
    }
    write!(f, ": {:?}", invalid.why)?;
    fmt_packet(&invalid.segment, f)
}

fn whose(segment: &DroppedSegment) -> String {
    let name = segment.message.name();
    match segment.origin {
        Origin::Received { .. } => format!("{name} from the peer"),
        Origin::Forwarded { sender, .. } => format!("{name} from {sender}"),
        Origin::Sent => format!("{name} of this host"),
    }
}

/// What its headers show.
fn fmt_packet(segment: &DroppedSegment, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match segment.checksum {
        Checksum::Wrong { carried, due } => {
            let it = if segment.reason == DropReason::TcpChecksum { "it" } else { "its TCP checksum" };
            write!(f, "; {it} is {carried:#06x} and should be {due:#06x}")?;
            if let Some(padding) = segment.padding_in_checksum() {
                write!(f, " (it counts {} of padding in)", counted(padding, "byte"))?;
            }
        }
        Checksum::Right => f.write_str("; its TCP checksum is right")?,
        Checksum::Offloaded | Checksum::NotVerifiable => {}
    }
    if segment.padding_bytes() > 0 {
        write!(
            f,
            "; the {} bytes that its IP header states came padded to {}",
            segment.stated_bytes, segment.actual_bytes
        )?;
    }
    Ok(())
}

fn fmt_syn_ack(repeat: &SynAckRepeat, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("SYN-ACK sent again")?;
    match repeat.syn_repeats().filter(|count| *count > 0) {
        Some(1) => f.write_str("; the client has repeated its SYN once"),
        Some(count) => write!(f, "; the client has repeated its SYN {count} times"),
        None => Ok(()),
    }
}

fn fmt_error(error: Option<i32>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        None | Some(0) => Ok(()),
        Some(number) => {
            let errno = Errno::from_raw(number);
            write!(f, " with {errno:?} ({})", errno.desc())
        }
    }
}

fn fmt_timeout(timeout: &Attempt, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let socket = &timeout.socket;
    f.write_str("retransmission timeout")?;
    if let Some(count) = socket.retransmits {
        write!(f, " {count}")?;
    }
    fmt_failure(timeout, f)?;
    fmt_numbers(socket, f)
}

fn fmt_probe(probe: &Attempt, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("probe sent")?;
    if let Some(count) = probe.socket.unanswered_probes().filter(|count| *count > 0) {
        write!(f, ", {count} before it unanswered")?;
    }
    fmt_failure(probe, f)?;
    fmt_numbers(&probe.socket, f)
}

fn fmt_failure(attempt: &Attempt, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if let Some(result) = attempt.send_result.filter(|result| *result < 0) {
        let errno = Errno::from_raw(result.saturating_neg());
        if errno == Errno::EPERM {
            f.write_str(" (a packet filter of this host refused the segment: EPERM)")?;
        } else if attempt.failed_locally() {
            write!(f, " (the segment could not be sent: {errno:?}, {})", errno.desc())?;
        } else {
            f.write_str(" (not sent again: its earlier copy is still queued on this host)")?;
        }
    }
    Ok(())
}

fn fmt_scanned(socket: &SocketView, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("found waiting")?;
    if let Some(count) = socket.retransmits.filter(|count| *count > 0) {
        write!(f, " after {}", counted(count, "retransmission timeout"))?;
    }
    if let Some(count) = socket.unanswered_probes().filter(|count| *count > 0) {
        write!(f, " with {} unanswered", counted(count, "probe"))?;
    }
    if socket.window_is_shut() {
        f.write_str(" for the peer to open its window")?;
    } else if socket.cannot_send() {
        f.write_str(" to send what the peer's window has room for")?;
    }
    fmt_numbers(socket, f)
}

fn fmt_numbers(socket: &SocketView, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut separator = ": ";
    let unacknowledged = socket.unacknowledged_data().filter(|bytes| *bytes > 0);
    if let Some(bytes) = unacknowledged {
        write!(f, "{separator}{} unacknowledged", counted(bytes, "byte"))?;
        separator = ", ";
    }
    if let Some(bytes) = socket.unsent().filter(|bytes| *bytes > 0) {
        let state = match (socket.packets_out, unacknowledged) {
            (Some(0), _) => "not sent yet",
            (_, Some(1)) => "waiting behind it",
            (_, _) => "waiting behind them",
        };
        write!(f, "{separator}{} {state}", counted(bytes, "byte"))?;
        separator = ", ";
    }
    if let Some(rto) = socket.rto {
        write!(f, "{separator}RTO {}", span(rto))?;
        separator = ", ";
    }
    if let Some(ago) = socket.last_ack_ago {
        write!(f, "{separator}last ACK from the peer {} before", span(ago))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::rules::scene,
        model::{DropPlace, Knowledge},
    };

    #[test]
    fn a_wrong_checksum_that_tcp_drops_for_is_told_once() {
        let checksum = Checksum::Wrong { carried: 0xbad, due: 0xb6c9 };
        let segment = |reason, function: &str| {
            let function = Some(function.to_owned());
            EvidenceKind::SegmentDropped(Box::new(DroppedSegment {
                reason,
                function,
                checksum,
                is_tracked: Some(true),
                ..scene::fin()
            }))
        };
        assert_eq!(
            segment(DropReason::TcpChecksum, "tcp_v4_rcv").to_string(),
            "FIN from the peer dropped in tcp_v4_rcv because its TCP checksum is wrong; it is 0x0bad and should be 0xb6c9"
        );
        assert_eq!(
            segment(DropReason::TcEgress, "sch_handle_egress").to_string(),
            "FIN from the peer dropped in sch_handle_egress by a tc filter on the way out; its TCP checksum is 0x0bad and should be 0xb6c9"
        );
    }

    #[test]
    fn a_place_is_told_by_its_calls_where_it_has_no_name() {
        let place = |functions: &[&str]| {
            let functions = functions.iter().map(|name| (*name).to_owned()).collect();
            EvidenceKind::DropPlace(Box::new(DropPlace { site: None, functions, rules: Knowledge::NotAsked }))
                .to_string()
        };
        let calls = ["sk_skb_reason_drop", "tcp_v4_rcv"];
        assert_eq!(place(&calls), "it was dropped in sk_skb_reason_drop, called by tcp_v4_rcv");
        assert_eq!(place(&[]), "it was dropped at a place that is not known");
    }
}
