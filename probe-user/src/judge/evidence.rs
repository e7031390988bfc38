use std::{fmt, time::Duration};

use nix::errno::Errno;

use crate::model::{MonoTime, SocketView, TcpState};

/// One thing that was seen on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// When.
    pub at: MonoTime,
    /// What.
    pub kind: EvidenceKind,
}

impl Evidence {
    /// The latest retransmission timeout among `evidence`, and when it was.
    pub fn latest_timeout(evidence: &[Self]) -> Option<(MonoTime, &Timeout)> {
        evidence.iter().rev().find_map(|evidence| match &evidence.kind {
            EvidenceKind::RetransmissionTimeout(timeout) => Some((evidence.at, &**timeout)),
            EvidenceKind::SynAckRetransmission
            | EvidenceKind::StateChange { .. }
            | EvidenceKind::ResetReceived
            | EvidenceKind::ResetSent
            | EvidenceKind::SocketError { .. }
            | EvidenceKind::AcknowledgmentsResumed
            | EvidenceKind::SocketGone => None,
        })
    }
}

/// What was seen. Each has one name in records ([`EvidenceKind::name`]) and one sentence for people (`Display`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvidenceKind {
    /// The retransmission timer fired.
    RetransmissionTimeout(Box<Timeout>),
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
    /// A reset came in.
    ResetReceived,
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

/// A retransmission timeout, with what the judge needs of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// What sending returned, a negative errno or at least 0, where the kernel tells.
    pub send_result: Option<i32>,
    /// The socket at that moment.
    pub socket: SocketView,
}

impl Timeout {
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
            Self::SynAckRetransmission => "syn_ack_retransmission",
            Self::StateChange { .. } => "state_change",
            Self::ResetReceived => "reset_received",
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
            | Self::SynAckRetransmission
            | Self::ResetReceived
            | Self::ResetSent
            | Self::AcknowledgmentsResumed
            | Self::SocketGone => None,
        }
    }
}

impl fmt::Display for EvidenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RetransmissionTimeout(timeout) => fmt_timeout(timeout, f),
            Self::SynAckRetransmission => f.write_str("SYN-ACK sent again"),
            Self::StateChange { from, to, error } => {
                write!(f, "state changed from {} to {}", from.name(), to.name())?;
                fmt_error(*error, f)
            }
            Self::ResetReceived => f.write_str("RST received"),
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

fn fmt_error(error: Option<i32>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        None | Some(0) => Ok(()),
        Some(number) => {
            let errno = Errno::from_raw(number);
            write!(f, " with {errno:?} ({})", errno.desc())
        }
    }
}

fn fmt_timeout(timeout: &Timeout, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let socket = &timeout.socket;
    f.write_str("retransmission timeout")?;
    if let Some(count) = socket.retransmits {
        write!(f, " {count}")?;
    }
    if let Some(result) = timeout.send_result.filter(|result| *result < 0) {
        let errno = Errno::from_raw(result.saturating_neg());
        if timeout.failed_locally() {
            write!(f, " (the segment could not be sent: {errno:?}, {})", errno.desc())?;
        } else {
            f.write_str(" (not sent again: its earlier copy is still queued on this host)")?;
        }
    }
    let mut separator = ": ";
    if let Some(bytes) = socket.unacknowledged_data() {
        write!(f, "{separator}{bytes} bytes unacknowledged")?;
        separator = ", ";
    }
    if let Some(bytes) = socket.unsent().filter(|bytes| *bytes > 0) {
        write!(f, "{separator}{bytes} bytes waiting behind them")?;
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
        let timeout = |send_result| Timeout { send_result, socket: SocketView::default() };
        assert!(!timeout(None).failed_locally());
        assert!(!timeout(Some(0)).failed_locally());
        assert!(!timeout(Some(-16)).failed_locally());
        assert!(timeout(Some(-113)).failed_locally());
        assert!(timeout(Some(i32::MIN + 1)).failed_locally());
    }

    #[test]
    fn sentences_leave_out_what_is_unavailable() {
        let timeout = Timeout { send_result: None, socket: SocketView::default() };
        assert_eq!(EvidenceKind::RetransmissionTimeout(Box::new(timeout)).to_string(), "retransmission timeout");
    }

    #[test]
    fn errors_are_named_and_explained() {
        let kind = EvidenceKind::StateChange { from: TcpState::Established, to: TcpState::Close, error: Some(110) };
        assert_eq!(kind.to_string(), "state changed from established to close with ETIMEDOUT (Connection timed out)");
        assert_eq!(kind.error(), Some(Errno::ETIMEDOUT));
    }
}
