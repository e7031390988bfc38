use std::{fmt, time::Duration};

use nix::errno::Errno;

use crate::model::{ConntrackEntry, ConntrackSettings, MonoTime, Route, SocketView, TcpState};

/// One thing that was seen on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// When.
    pub at: MonoTime,
    /// What.
    pub kind: EvidenceKind,
}

/// The socket as it was seen at some moment.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// When.
    pub at: MonoTime,
    /// The socket.
    pub socket: &'a SocketView,
    /// Whether its retransmission timer was just firing: then the RTO is not doubled yet, and no timer is pending.
    pub timer_fired: bool,
}

impl Evidence {
    /// The latest sight of the socket among `evidence`.
    pub fn latest_sight(evidence: &[Self]) -> Option<Sight<'_>> {
        Self::sights_back(evidence).next()
    }

    /// Every sight of the socket among `evidence`, the latest first.
    pub fn sights_back(evidence: &[Self]) -> impl Iterator<Item = Sight<'_>> {
        evidence.iter().rev().filter_map(Self::sight)
    }

    /// The reset that came in, if one has, and when.
    pub fn reset_received(evidence: &[Self]) -> Option<Sight<'_>> {
        evidence.iter().rev().find_map(|evidence| {
            if let EvidenceKind::ResetReceived(socket) = &evidence.kind {
                Some(Sight { at: evidence.at, socket, timer_fired: false })
            } else {
                None
            }
        })
    }

    /// The latest attempt to send something among `evidence`.
    pub fn latest_attempt(evidence: &[Self]) -> Option<&Attempt> {
        evidence.iter().rev().find_map(|evidence| {
            if let EvidenceKind::RetransmissionTimeout(attempt) | EvidenceKind::ProbeSent(attempt) = &evidence.kind {
                Some(&**attempt)
            } else {
                None
            }
        })
    }

    fn sight(&self) -> Option<Sight<'_>> {
        let sight = |socket, timer_fired| Some(Sight { at: self.at, socket, timer_fired });
        if let EvidenceKind::RetransmissionTimeout(attempt) = &self.kind {
            sight(&attempt.socket, true)
        } else if let EvidenceKind::ProbeSent(attempt) = &self.kind {
            sight(&attempt.socket, false)
        } else if let EvidenceKind::Scanned(socket) = &self.kind {
            sight(socket, false)
        } else {
            None
        }
    }
}

/// What was seen. Each has one name in records ([`EvidenceKind::name`]) and one sentence for people (`Display`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvidenceKind {
    /// The retransmission timer fired.
    RetransmissionTimeout(Box<Attempt>),
    /// A probe was sent, and the one before was not answered, or sending failed.
    ProbeSent(Box<Attempt>),
    /// The scan found it waiting.
    Scanned(Box<SocketView>),
    /// The local address is on no interface of the namespace any more.
    LocalAddressGone,
    /// The namespace has no route to the peer.
    NoRoute {
        /// What looking it up gave, a positive errno.
        errno: i32,
    },
    /// The next hop to the peer does not answer ARP or neighbour discovery.
    NextHopSilent(Route),
    /// This host's connection tracking has an entry for the connection.
    ConntrackEntry(ConntrackEntry),
    /// This host's connection tracking has entries, and none for this connection.
    ConntrackEntryMissing(ConntrackSettings),
    /// A SYN-ACK was sent again.
    SynAckRetransmission,
    /// The socket's state changed.
    StateChange {
        /// State before.
        from: TcpState,
        /// State after.
        to: TcpState,
        /// The socket's pending error, a positive errno; `Some(0)` for none.
        error: Option<i32>,
    },
    /// A SYN came in for this connection.
    SynReceived,
    /// A reset came in; the socket as it was then.
    ResetReceived(Box<SocketView>),
    /// This host sent a reset.
    ResetSent,
    /// The kernel reported an error to the application.
    SocketError {
        /// A positive errno.
        error: Option<i32>,
    },
    /// The socket was looked up: the peer has acknowledged new data since the last timeout.
    AcknowledgmentsResumed,
    /// The socket was looked up and is no more.
    SocketGone,
}

/// An attempt to send something again, or a probe, with what the judge needs of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What sending returned, a negative errno or at least 0, where the kernel tells.
    pub send_result: Option<i32>,
    /// The socket at that moment.
    pub socket: SocketView,
}

impl Attempt {
    /// Whether the attempt failed for good within this host. EBUSY is the host's own queue being full: the kernel tries
    /// again half a second later (`tcp_retransmit_timer`), and it says nothing about the connection.
    pub fn failed_locally(&self) -> bool {
        self.send_result.is_some_and(|result| result < 0 && Errno::from_raw(result.saturating_neg()) != Errno::EBUSY)
    }
}

impl EvidenceKind {
    /// The name in records.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RetransmissionTimeout(_) => "retransmission_timeout",
            Self::ProbeSent(_) => "probe_sent",
            Self::SynReceived => "syn_received",
            Self::Scanned(_) => "scanned",
            Self::LocalAddressGone => "local_address_gone",
            Self::NoRoute { .. } => "no_route",
            Self::NextHopSilent(_) => "next_hop_silent",
            Self::ConntrackEntry(_) => "conntrack_entry",
            Self::ConntrackEntryMissing(_) => "conntrack_entry_missing",
            Self::SynAckRetransmission => "syn_ack_retransmission",
            Self::StateChange { .. } => "state_change",
            Self::ResetReceived(_) => "reset_received",
            Self::ResetSent => "reset_sent",
            Self::SocketError { .. } => "socket_error",
            Self::AcknowledgmentsResumed => "acknowledgments_resumed",
            Self::SocketGone => "socket_gone",
        }
    }

    /// The error it carries, if it carries one.
    pub fn error(&self) -> Option<Errno> {
        match self {
            Self::StateChange { error: Some(error), .. } | Self::SocketError { error: Some(error) } => {
                (*error > 0).then(|| Errno::from_raw(*error))
            }
            Self::StateChange { error: None, .. }
            | Self::SocketError { error: None }
            | Self::RetransmissionTimeout(_)
            | Self::ProbeSent(_)
            | Self::SynReceived
            | Self::Scanned(_)
            | Self::LocalAddressGone
            | Self::NoRoute { .. }
            | Self::NextHopSilent(_)
            | Self::ConntrackEntry(_)
            | Self::ConntrackEntryMissing(_)
            | Self::SynAckRetransmission
            | Self::ResetReceived(_)
            | Self::ResetSent
            | Self::AcknowledgmentsResumed
            | Self::SocketGone => None,
        }
    }
}

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
                    Some(timeout) => write!(f, "; it forgets an idle one after {}", seconds(timeout)),
                    None => Ok(()),
                }
            }
            Self::SynAckRetransmission => f.write_str("SYN-ACK sent again"),
            Self::StateChange { from, to, error } => {
                write!(f, "state changed from {} to {}", from.name(), to.name())?;
                fmt_error(*error, f)
            }
            Self::ResetReceived(socket) => {
                f.write_str("RST received")?;
                match socket.last_ack_ago {
                    Some(ago) => write!(f, ", {} after the last ACK from the peer", seconds(ago)),
                    None => Ok(()),
                }
            }
            Self::ResetSent => f.write_str("RST sent by this host"),
            Self::SocketError { error } => {
                f.write_str("the kernel reported an error to the application")?;
                fmt_error(*error, f)
            }
            Self::AcknowledgmentsResumed => f.write_str("the peer acknowledges data again"),
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
        Some(time) => write!(f, ", for another {}", seconds(time)),
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
        write!(f, " after {count} retransmission timeouts")?;
    }
    if let Some(count) = socket.unanswered_probes().filter(|count| *count > 0) {
        write!(f, " with {count} probes unanswered")?;
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
    if let Some(bytes) = socket.unacknowledged_data().filter(|bytes| *bytes > 0) {
        write!(f, "{separator}{bytes} bytes unacknowledged")?;
        separator = ", ";
    }
    if let Some(bytes) = socket.unsent().filter(|bytes| *bytes > 0) {
        let behind = if socket.packets_out == Some(0) { "not sent yet" } else { "waiting behind them" };
        write!(f, "{separator}{bytes} bytes {behind}")?;
        separator = ", ";
    }
    if let Some(rto) = socket.rto {
        write!(f, "{separator}RTO {}", seconds(rto))?;
        separator = ", ";
    }
    if let Some(ago) = socket.last_ack_ago {
        write!(f, "{separator}last ACK from the peer {} before", seconds(ago))?;
    }
    Ok(())
}

/// A duration in seconds with as many digits as help a reader.
pub(super) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 100.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_host_queue_is_no_local_failure() {
        let timeout = |send_result| Attempt { send_result, socket: SocketView::default() };
        assert!(!timeout(None).failed_locally());
        assert!(!timeout(Some(0)).failed_locally());
        assert!(!timeout(Some(-16)).failed_locally());
        assert!(timeout(Some(-113)).failed_locally());
        assert!(timeout(Some(i32::MIN + 1)).failed_locally());
    }

    #[test]
    fn sentences_leave_out_what_is_unavailable() {
        let timeout = Attempt { send_result: None, socket: SocketView::default() };
        assert_eq!(EvidenceKind::RetransmissionTimeout(Box::new(timeout)).to_string(), "retransmission timeout");
    }

    #[test]
    fn errors_are_named_and_explained() {
        let kind = EvidenceKind::StateChange { from: TcpState::Established, to: TcpState::Close, error: Some(110) };
        assert_eq!(kind.to_string(), "state changed from established to close with ETIMEDOUT (Connection timed out)");
        assert_eq!(kind.error(), Some(Errno::ETIMEDOUT));
    }
}
