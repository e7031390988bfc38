//! What becomes of a connection whose handshake is not seen through.

use std::time::Duration;

use super::{finding::Outcome, open_case::Case, standards::Standards, wakes::Wake};
use crate::{
    judge::{Evidence, EvidenceKind, Step, Verdict},
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
    pub(super) fn ask_service(&mut self, standards: &Standards, may_guess: impl FnOnce() -> bool) -> Option<Question> {
        /// Before, there may be others who tell whether the client is real.
        const TIMEOUTS: u8 = 2;
        let evidence = self.evidence.as_slice();
        let is_missed = Evidence::syn_ack_repeats(evidence)
            .next_back()
            .is_some_and(|(_, repeat)| repeat.timeouts.is_some_and(|timeouts| timeouts >= TIMEOUTS));
        let is_unreached = Evidence::dropped_steps(evidence, Step::SynReceived).nth(1).is_some();
        let is_server = self.socket.state == Some(TcpState::NewSynReceived)
            || Evidence::dropped_steps(evidence, Step::SynAckSent).next().is_some();
        if self.surroundings.has_asked_service() {
            return None;
        }
        let is_asked = is_server && self.ruling(standards).is_some() || (is_missed || is_unreached) && may_guess();
        (is_asked && self.surroundings.asks_service()).then_some(Question::Service { key: self.key })
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
mod tests {
    use super::*;
    use crate::{
        case::{Finding, FindingState, Output, Tracker, dropped::tests::dropped_fin, tracker::MOST_GUESSES},
        judge::{Cause, Confidence},
        model::{
            Answer, ConnectionKey, ConntrackStatus, ControlMessage, DropReason, DroppedSegment, Event, SocketLookup,
            SocketView,
        },
    };

    fn key() -> ConnectionKey {
        ConnectionKey { netns: 1, local: ([10, 0, 0, 1], 5672).into(), remote: ([10, 0, 0, 2], 40_000).into() }
    }

    fn at(ms: u64) -> MonoTime {
        MonoTime::from_ns(1_000_000_000_000 + ms * 1_000_000)
    }

    fn event(ms: u64, socket: SocketView, kind: EventKind) -> Event {
        Event::Connection(ConnectionEvent { at: at(ms), key: key(), socket, kind })
    }

    fn repeat(ms: u64, timeouts: u8, repeats: u32) -> Event {
        let socket = SocketView {
            state: Some(TcpState::NewSynReceived),
            retransmits: Some(timeouts),
            total_retransmits: Some(repeats),
            ..SocketView::default()
        };
        event(ms, socket, EventKind::SynAckRetransmission)
    }

    fn dropped(ms: u64, message: ControlMessage, origin: Origin, reason: DropReason) -> Event {
        let segment = DroppedSegment { message, reason, ..dropped_fin(origin) };
        event(ms, SocketView::default(), EventKind::SegmentDropped(Box::new(segment)))
    }

    const RECEIVED: Origin = Origin::Received { ifindex: 2 };

    fn found(state: TcpState) -> Answer {
        let status =
            SocketStatus { state, inode: 0, retransmits: 0, probes: 0, timer: None, heard_ago: Duration::ZERO };
        Answer::Socket { key: key(), lookup: SocketLookup::Found(status) }
    }

    /// Answers everything that is asked, with this about the socket, as time goes on until `until`; gives what was found.
    fn run(tracker: &mut Tracker, until: u64, socket: &Answer) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut now = at(0);
        loop {
            while let Some(output) = tracker.poll_output() {
                let answer = match output {
                    Output::Finding(finding) => {
                        findings.push(*finding);
                        continue;
                    }
                    Output::Question(Question::Socket { .. }) => socket.clone(),
                    Output::Question(Question::Path { .. }) => Answer::Path { key: key(), path: Err(String::new()) },
                    Output::Question(Question::Conntrack { .. }) => {
                        Answer::Conntrack { key: key(), conntrack: Ok(ConntrackStatus::Inactive) }
                    }
                    Output::Question(Question::Service { .. }) => Answer::Service {
                        key: key(),
                        service: Ok(ServiceStatus { listener_inode: Some(7), connections_with_peer: 0 }),
                    },
                    Output::Question(
                        Question::DropPlace { .. }
                        | Question::ForwardPath { .. }
                        | Question::FlowConntrack { .. }
                        | Question::FlowEnds { .. },
                    ) => panic!("not of a handshake"),
                    Output::Question(Question::Owner { .. }) => Answer::Owner { key: key(), owner: Ok(None) },
                    Output::Question(Question::Function { address, .. }) => {
                        Answer::Function { key: key(), address, function: Ok(None) }
                    }
                };
                tracker.handle_answer(now, answer);
            }
            match tracker.poll_timeout() {
                Some(due) if due <= at(until) => {
                    now = due;
                    tracker.handle_timeout(due);
                }
                Some(_) | None => return findings,
            }
        }
    }

    fn gone() -> Answer {
        Answer::Socket { key: key(), lookup: SocketLookup::Gone }
    }

    fn told(findings: &[Finding]) -> Vec<(FindingState, Cause, Confidence)> {
        findings.iter().map(|finding| (finding.state, finding.ruling.cause, finding.ruling.confidence)).collect()
    }

    #[test]
    fn a_request_whose_ack_is_dropped_is_told_and_recovers_when_it_is_established() {
        let mut tracker = Tracker::new();
        tracker.handle_event(repeat(1_000, 0, 0));
        assert_eq!(run(&mut tracker, 1_000, &found(TcpState::NewSynReceived)), []);
        tracker.handle_event(dropped(1_001, ControlMessage::Ack, RECEIVED, DropReason::NetfilterDrop));
        let findings = run(&mut tracker, 2_000, &found(TcpState::NewSynReceived));
        assert_eq!(told(&findings)[0], (FindingState::Opened, Cause::FinalAckLost, Confidence::Suspected));
        tracker.handle_event(repeat(3_000, 1, 1));
        let findings = run(&mut tracker, 5_000, &found(TcpState::NewSynReceived));
        assert_eq!(told(&findings), [(FindingState::Updated, Cause::FinalAckLost, Confidence::Confirmed)]);
        let findings = run(&mut tracker, 9_000, &found(TcpState::Established));
        assert_eq!(findings[0].state, FindingState::Closed(Outcome::Recovered));
        assert_eq!(tracker.open_cases(), 0);
    }

    #[test]
    fn a_request_that_is_given_up_has_timed_out_and_one_that_just_goes_was_not_seen_to_end() {
        for (timeouts, outcome) in [(4, Outcome::TimedOut), (2, Outcome::Unobserved)] {
            let mut tracker = Tracker::new();
            for count in 0..=timeouts {
                tracker.handle_event(repeat(1_000 * ((2 << count) - 1), count, count.into()));
                tracker.handle_event(dropped(
                    1_000 * ((2 << count) - 1) + 1,
                    ControlMessage::Ack,
                    RECEIVED,
                    DropReason::NetfilterDrop,
                ));
                run(&mut tracker, 1_000 * ((2 << count) - 1) + 10, &found(TcpState::NewSynReceived));
            }
            let findings = run(&mut tracker, 70_000, &gone());
            assert_eq!(findings.last().unwrap().state, FindingState::Closed(outcome));
        }
    }

    #[test]
    fn of_a_flood_only_so_many_requests_are_looked_into() {
        let mut tracker = Tracker::new();
        for count in 0..=3 {
            for port in 0..500u16 {
                let Event::Connection(event) = repeat(1_000 * ((2 << count) - 1), count, count.into()) else {
                    panic!()
                };
                let key = ConnectionKey { remote: ([10, 0, 0, 2], port).into(), ..key() };
                tracker.handle_event(Event::Connection(ConnectionEvent { key, ..event }));
            }
        }
        let questions = std::iter::from_fn(|| tracker.poll_output()).collect::<Vec<_>>();
        assert!(questions.iter().all(|output| matches!(output, Output::Question(Question::Service { .. }))));
        assert_eq!(questions.len(), usize::try_from(MOST_GUESSES).unwrap());
    }

    #[test]
    fn syn_ack_repeats_of_an_unknown_client_are_forgotten() {
        let mut tracker = Tracker::new();
        for count in 0..5 {
            tracker.handle_event(repeat(1_000 * ((2 << count) - 1), count, count.into()));
            assert_eq!(run(&mut tracker, 1_000 * ((2 << count) - 1) + 10, &found(TcpState::NewSynReceived)), []);
            assert_eq!(tracker.open_cases(), 1, "it is kept until the next repeat");
        }
        assert_eq!(run(&mut tracker, 200_000, &gone()), []);
        assert_eq!(tracker.open_cases(), 0);
    }

    #[test]
    fn syns_that_come_the_wrong_way_are_told_without_a_socket_until_they_stop() {
        let mut tracker = Tracker::new();
        let syn = |ms| dropped(ms, ControlMessage::Syn, RECEIVED, DropReason::IpRpfilter);
        tracker.handle_event(syn(0));
        assert_eq!(run(&mut tracker, 500, &gone()), []);
        tracker.handle_event(syn(1_000));
        let findings = run(&mut tracker, 3_500, &gone());
        assert_eq!(told(&findings), [(FindingState::Opened, Cause::ReversePathFiltered, Confidence::Confirmed)]);
        tracker.handle_event(syn(3_600));
        assert_eq!(run(&mut tracker, 8_000, &gone()), [], "the client may try again");
        let findings = run(&mut tracker, 30_000, &gone());
        assert_eq!(findings[0].state, FindingState::Closed(Outcome::Unobserved));
        assert_eq!(tracker.open_cases(), 0);
    }

    #[test]
    fn a_connection_attempt_that_gets_through_after_all_has_recovered() {
        let mut tracker = Tracker::new();
        let socket = SocketView { state: Some(TcpState::SynSent), retransmits: Some(1), ..SocketView::default() };
        let syn_ack = |ms| dropped(ms, ControlMessage::SynAck, RECEIVED, DropReason::NetfilterDrop);
        tracker.handle_event(syn_ack(0));
        let timeout = EventKind::RetransmissionTimeout { send_result: Some(0) };
        tracker.handle_event(event(1_000, socket.clone(), timeout));
        tracker.handle_event(syn_ack(1_001));
        let findings = run(&mut tracker, 1_900, &found(TcpState::SynSent));
        assert_eq!(told(&findings), [(FindingState::Opened, Cause::SynackLost, Confidence::Confirmed)]);
        let (from, to) = (TcpState::SynSent, TcpState::Established);
        tracker.handle_event(event(2_000, socket, EventKind::StateChange { from, to }));
        let findings = run(&mut tracker, 2_100, &found(TcpState::Established));
        assert_eq!(findings[0].state, FindingState::Closed(Outcome::Recovered));
        assert_eq!(tracker.open_cases(), 0);
    }
}
