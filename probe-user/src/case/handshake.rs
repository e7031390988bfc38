//! What becomes of a connection whose handshake is not seen through.

use std::time::Duration;

use super::{finding::Outcome, open_case::Case, standards::Standards, wakes::Wake};
use crate::{
    judge::{Evidence, EvidenceKind, Step, SynAckRepeat, Verdict},
    model::{ConnectionEvent, EventKind, Knowledge, MonoTime, Origin, Question, ServiceStatus, SocketStatus, TcpState},
};

/// The first wait for an answer to a SYN or a SYN-ACK (RFC 6298 section 2); each is twice as long as the one before
/// (`tcp_reqsk_timeout`, `include/net/tcp.h`; of SYNs the first are alike, `net.ipv4.tcp_syn_linear_timeouts`).
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The wait after the sixth of them; the next is not expected: by then both ends have given up (`tcp_synack_retries`,
/// `tcp_syn_retries`).
const LONGEST_WAIT: Duration = Duration::from_secs(64);
/// A step that was dropped is tried again within that time.
const STEP_LINGER: Duration = Duration::from_secs(8);
/// A socket of this host is looked for so long after the first word: another event may tell that there is one.
const BEFORE_A_LOOK: Duration = Duration::from_millis(200);
/// How often the socket of a finding is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Timer firings of a request socket before it is given up with the default `tcp_synack_retries`.
const LAST_TIMEOUT: u8 = 4;

/// What a client does of whom nothing else is known, and who may be forged: so many of each kind are looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// It does not complete its handshake, or its SYNs are dropped.
    Silent,
    /// It repeats its SYN.
    Repeating,
}

impl Case {
    /// Whether what was reported is about the handshake itself.
    fn is_about_handshake(&self) -> bool {
        self.verdict() == Some(Verdict::AsymmetricHandshake)
    }

    /// Whether it is about a connection that is not established on this host.
    pub(super) fn is_embryonic(&self) -> bool {
        self.socket.state.map_or_else(|| self.awaited_step().is_some(), TcpState::is_embryonic)
    }

    /// The step that the case is about, where it is known of no socket: a SYN that got no request socket, or a SYN-ACK that could not
    /// leave, after which it has none any more.
    fn awaited_step(&self) -> Option<MonoTime> {
        let (at, segment) = Evidence::latest_dropped_step(self.evidence.as_slice())?;
        matches!(Step::of(segment), Some(Step::SynReceived | Step::SynAckReceived | Step::SynAckSent)).then_some(at)
    }

    /// Whether segments of a handshake, or data, were dropped that may be of a connection that this host only forwards. The kernel
    /// programs tell of an ACK and of data from the second on; SYN-ACKs that come once are backscatter.
    pub(super) fn may_forward_handshake(&self) -> bool {
        let of = |step| Evidence::dropped_steps(self.evidence.as_slice(), step);
        self.socket.state.is_none()
            && (of(Step::AckReceived).next().is_some() || of(Step::SynAckReceived).nth(1).is_some())
    }

    /// Whether this is a repeated SYN-ACK that is known already: a scan finds the same request again and again.
    pub(super) fn repeats_latest_syn_ack(&self, kind: &EvidenceKind) -> bool {
        let EvidenceKind::SynAckRetransmission(repeat) = kind else { return false };
        let latest = Evidence::syn_ack_repeats(self.evidence.as_slice()).next_back();
        repeat.repeats.is_some() && latest.is_some_and(|(_, latest)| latest == repeat)
    }

    /// Whether the event shows that the handshake is complete.
    pub(super) fn completes_handshake(&self, event: &ConnectionEvent) -> bool {
        match event.kind {
            EventKind::StateChange { from, to } => {
                matches!(from, TcpState::SynSent | TcpState::SynReceived) && to == TcpState::Established
            }
            EventKind::SegmentDropped(_)
            | EventKind::SegmentInvalid(_)
            | EventKind::RetransmissionTimeout { .. }
            | EventKind::ProbeSent { .. }
            | EventKind::SynAckRetransmission
            | EventKind::ResetReceived
            | EventKind::ResetSent
            | EventKind::Scanned
            | EventKind::SynReceived
            | EventKind::SynAckReceived
            | EventKind::SocketError => false,
        }
    }

    /// Whether a look at the socket shows that.
    pub(super) fn has_completed_handshake(&self, status: &SocketStatus) -> bool {
        self.is_embryonic() && status.state.is_synchronized()
    }

    /// When to look at the case next after an event of a handshake; `None` for other events.
    pub(super) fn handshake_wake(&self, event: &ConnectionEvent) -> Option<(MonoTime, Wake)> {
        if matches!(event.kind, EventKind::SegmentDropped(_)) && !self.has_finding() && self.may_forward_handshake() {
            let planned = self.wake.filter(|(_, wake)| *wake == Wake::LookAtReceiver);
            return Some(planned.unwrap_or((event.at + BEFORE_A_LOOK, Wake::LookAtReceiver)));
        }
        let wait = match &event.kind {
            EventKind::SynAckRetransmission => {
                let timeouts = event.socket.retransmits.unwrap_or(0);
                (FIRST_WAIT * 2).saturating_mul(1 << u32::from(timeouts).min(6))
            }
            EventKind::SynAckReceived => {
                // The peer's waits double: the next is as long as all before it together, and a second more.
                let (first, _) = Evidence::syn_acks_received(self.evidence.as_slice()).next()?;
                event.at.since(first) + FIRST_WAIT * 2
            }
            EventKind::SegmentDropped(segment) if !segment.message.is_ending() => STEP_LINGER,
            EventKind::SegmentDropped(_)
            | EventKind::SegmentInvalid(_)
            | EventKind::RetransmissionTimeout { .. }
            | EventKind::ProbeSent { .. }
            | EventKind::ResetReceived
            | EventKind::ResetSent
            | EventKind::Scanned
            | EventKind::SynReceived
            | EventKind::StateChange { .. }
            | EventKind::SocketError => return None,
        };
        let wait = wait.min(LONGEST_WAIT);
        let planned = self.wake.filter(|(at, _)| *at > event.at);
        Some(match planned {
            Some((at, wake)) if self.has_finding() || wake != Wake::Forget => (at, wake),
            _ if self.has_finding() => (event.at + LOOK_EVERY, Wake::LookForAnswer),
            Some((at, _)) => (at.max(event.at + wait + wait / 4), Wake::Forget),
            None => (event.at + wait + wait / 4, Wake::Forget),
        })
    }

    /// After how long to look again at one that is not complete: no event tells of an ACK that comes.
    pub(super) fn next_handshake_look(&self) -> Option<Duration> {
        self.is_embryonic().then_some(LOOK_EVERY)
    }

    /// By which interface the segments of the handshake come in, as far as what was dropped of them tells.
    pub(super) fn handshake_ingress(&self) -> Option<u32> {
        match Evidence::latest_dropped_step(self.evidence.as_slice())?.1.origin {
            Origin::Received { ifindex } => Some(ifindex),
            Origin::Forwarded { .. } | Origin::Sent => None,
        }
    }

    /// Whether it is about a request that no rule has found anything wrong with: a flood makes any number of them.
    pub(super) fn is_mere_request(&self) -> bool {
        self.socket.state == Some(TcpState::NewSynReceived) && !self.has_finding()
    }

    /// Asks once what this host serves there, when that may decide and `may_guess` says that it may be asked for that, or to tell who
    /// waits for the connection.
    pub(super) fn ask_service(
        &mut self,
        standards: &Standards,
        may_guess: impl FnOnce(Stranger) -> bool,
    ) -> Option<Question> {
        if self.surroundings.has_asked_service() {
            return None;
        }
        let is_server = self.socket.state == Some(TcpState::NewSynReceived)
            || Evidence::dropped_steps(self.evidence.as_slice(), Step::SynAckSent).next().is_some();
        let is_asked = is_server && self.ruling(standards).is_some() || self.stranger().is_some_and(may_guess);
        (is_asked && self.surroundings.asks_service()).then_some(Question::Service { key: self.key })
    }

    /// What the client does, where what this host serves may decide.
    fn stranger(&self) -> Option<Stranger> {
        /// Before, there may be others who tell whether the client is real.
        const TIMEOUTS: u8 = 2;
        let evidence = self.evidence.as_slice();
        let latest = Evidence::syn_ack_repeats(evidence).next_back().map(|(_, repeat)| repeat);
        if latest.is_some_and(SynAckRepeat::is_asked_for_again) {
            return Some(Stranger::Repeating);
        }
        let is_missed = latest.is_some_and(|repeat| repeat.timeouts.is_some_and(|timeouts| timeouts >= TIMEOUTS));
        let is_unreached = Evidence::dropped_steps(evidence, Step::SynReceived).nth(1).is_some();
        (is_missed || is_unreached).then_some(Stranger::Silent)
    }

    /// Takes in what this host serves. `Some` is the inode of the socket that would accept the connection.
    pub(super) fn take_service(&mut self, at: MonoTime, service: Result<ServiceStatus, String>) -> Option<u64> {
        self.surroundings.take_service(service.into());
        let Knowledge::Known(service) = self.surroundings.service else { return None };
        if service.connections_with_peer > 0 {
            self.note(at, EvidenceKind::PeerConnected { count: service.connections_with_peer });
        }
        service.listener_inode.map(u64::from).filter(|_| self.is_embryonic())
    }

    /// Whether there is a socket no longer, or never was one, while the client may still try: then when to look again.
    pub(super) fn awaits_another_try(&self, now: MonoTime) -> Option<MonoTime> {
        if !self.is_about_handshake() {
            return None;
        }
        let latest = self.awaited_step()?;
        let first = self.evidence.as_slice().first()?.at;
        let until = latest + (latest.since(first) + FIRST_WAIT * 4).min(LONGEST_WAIT);
        (now < until).then_some(now + LOOK_EVERY)
    }

    /// How a connection ended whose socket is gone.
    pub(super) fn outcome_when_gone(&self) -> Outcome {
        let latest = Evidence::syn_ack_repeats(self.evidence.as_slice()).next_back();
        let was_given_up = latest.is_some_and(|(_, repeat)| repeat.timeouts.is_some_and(|count| count >= LAST_TIMEOUT));
        if was_given_up && self.is_embryonic() { Outcome::TimedOut } else { Outcome::Unobserved }
    }
}

#[cfg(test)]
mod tests;
