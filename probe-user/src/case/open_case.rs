use std::time::Duration;

use super::{
    evidence_log::EvidenceLog,
    finding::{Finding, FindingId, FindingState, Outcome, OwnerKnowledge, differs},
    recovery::has_recovered,
    surroundings::Surroundings,
};
use crate::{
    judge::{Attempt, Evidence, EvidenceKind, History, MissingEvidence, Ruling, SynAckRepeat, Verdict, judge},
    model::{
        ConnectionEvent, ConnectionKey, EventKind, MonoTime, Question, SocketCookie, SocketStatus, SocketView, TcpState,
    },
};

/// A case without a finding is kept so long after its last event, when no timer of the connection says more.
const LINGER: Duration = Duration::from_secs(1);
/// How much later than computed a kernel timer may fire: the wheel rounds up by at most an eighth
/// (`kernel/time/timer.c`, "the maximum granularity error is 12.5%"), and events reach the tracker in batches.
const TIMER_SLACK: Duration = Duration::from_millis(300);
/// What a scan has found is kept until the next scans have come by.
const SCAN_LINGER: Duration = Duration::from_secs(12);
/// A client repeats its SYN after 1 s, and again after 1 to 2 s.
const SYN_LINGER: Duration = Duration::from_secs(4);
/// After a retransmission an answer takes a round trip: look for it after a quarter of the next wait, within these bounds.
const EARLIEST_LOOK: Duration = Duration::from_millis(200);
const LATEST_LOOK: Duration = Duration::from_secs(1);
/// `TCP_RTO_MAX` where the socket does not tell its own.
const RTO_MAX: Duration = Duration::from_secs(120);

/// Timer steps without an event and without an answer about the socket after which a finding is closed as unobserved.
const MOST_UNKNOWN_IN_A_ROW: u8 = 3;

/// What the case's timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// The retransmission may have been answered: look.
    LookForAnswer,
    /// The answers have taken too long: judge without them.
    Judge,
    /// Its sender has had time to send again what was dropped: look whether it has got through.
    LookAtReceiver,
    /// The next timeout should have come: look whether the connection has recovered.
    Overdue,
    /// Nothing more is expected: forget the case.
    Forget,
    /// The socket is gone, and no event has told how.
    Gone,
    /// The socket has closed, and its owner has not been found in time.
    End,
}

/// A finding as last reported, to tell what has changed.
#[derive(Clone, Debug)]
struct Reported {
    id: FindingId,
    ruling: Ruling,
    owner: OwnerKnowledge,
}

/// One connection under suspicion.
#[derive(Clone, Debug)]
pub(super) struct Case {
    number: u64,
    pub(super) key: ConnectionKey,
    pub(super) cookie: Option<SocketCookie>,
    /// Since when a socket question is on its way.
    pub(super) asked_socket: Option<MonoTime>,
    pub(super) owner: OwnerKnowledge,
    /// When to wake up, and what for.
    pub(super) wake: Option<(MonoTime, Wake)>,
    /// Whether a question about the owner is on its way.
    pub(super) asked_owner: bool,
    /// Whether the socket has closed: only its owner is still waited for.
    pub(super) has_ended: bool,
    /// Until when judging is put off for the first answers.
    pub(super) held_until: Option<MonoTime>,
    /// The last event, answer or timer: the least recently touched case is the first to be evicted.
    pub(super) touched: MonoTime,
    pub(super) socket: SocketView,
    pub(super) evidence: EvidenceLog,
    lost_before: u64,
    pub(super) surroundings: Surroundings,
    socket_unknown: Option<String>,
    unknown_in_a_row: u8,
    reported: Option<Reported>,
}

impl Case {
    /// The tracker's `number`th case; `lost_before` is how many events had been lost by then.
    pub(super) fn open(number: u64, event: &ConnectionEvent, lost_before: u64) -> Self {
        Self {
            number,
            key: event.key,
            cookie: event.socket.cookie,
            asked_socket: None,
            asked_owner: false,
            held_until: None,
            has_ended: false,
            owner: OwnerKnowledge::NotAsked,
            wake: None,
            touched: event.at,
            socket: event.socket.clone(),
            evidence: EvidenceLog::default(),
            lost_before,
            surroundings: Surroundings::default(),
            socket_unknown: None,
            unknown_in_a_row: 0,
            reported: None,
        }
    }

    pub(super) fn has_finding(&self) -> bool {
        self.reported.is_some()
    }

    /// What it was last reported as, if it was.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.reported.as_ref().map(|reported| reported.ruling.verdict)
    }

    /// Whether `event` is about another socket on the same tuple.
    pub(super) fn is_other_socket(&self, event: &ConnectionEvent) -> bool {
        matches!((self.cookie, event.socket.cookie), (Some(ours), Some(theirs)) if ours != theirs)
    }

    /// Whether `event` shows that new data was acknowledged since the last timeout.
    pub(super) fn shows_progress(&self, event: &ConnectionEvent) -> bool {
        let shows_counts = matches!(
            event.kind,
            EventKind::RetransmissionTimeout { .. } | EventKind::ProbeSent { .. } | EventKind::Scanned
        );
        if !shows_counts || self.socket.sequence_is_relative != event.socket.sequence_is_relative {
            return false;
        }
        match (self.socket.snd_una, event.socket.snd_una, self.socket.retransmits, event.socket.retransmits) {
            // SND.UNA moves only forward, and the count of timeouts starts again with it.
            (Some(before), Some(now), Some(counted), Some(count)) => before != now && count <= counted,
            (_, _, _, _) => false,
        }
    }

    /// Takes an event in as evidence.
    pub(super) fn take(&mut self, event: &ConnectionEvent) {
        self.cookie = self.cookie.or(event.socket.cookie);
        // Of a packet alone nothing is learnt about the socket.
        if event.socket.state.is_some() {
            self.socket = event.socket.clone();
        }
        self.unknown_in_a_row = 0;
        let kind = match event.kind.clone() {
            EventKind::RetransmissionTimeout { send_result } => {
                EvidenceKind::RetransmissionTimeout(Box::new(Attempt { send_result, socket: event.socket.clone() }))
            }
            EventKind::ProbeSent { send_result } => {
                EvidenceKind::ProbeSent(Box::new(Attempt { send_result, socket: event.socket.clone() }))
            }
            EventKind::SynReceived => EvidenceKind::SynReceived,
            EventKind::Scanned => {
                self.take_scanned(event);
                self.wake = self.next_wake(event);
                return;
            }
            EventKind::SynAckRetransmission => EvidenceKind::SynAckRetransmission(SynAckRepeat::of(&event.socket)),
            EventKind::SynAckReceived => EvidenceKind::SynAckReceived(Box::new(event.socket.clone())),
            EventKind::StateChange { from, to } => EvidenceKind::StateChange { from, to, error: event.socket.error },
            EventKind::ResetReceived => EvidenceKind::ResetReceived(Box::new(event.socket.clone())),
            EventKind::ResetSent => EvidenceKind::ResetSent,
            EventKind::SegmentDropped(segment) => EvidenceKind::SegmentDropped(segment),
            EventKind::SocketError => EvidenceKind::SocketError { error: event.socket.error },
        };
        if !self.repeats_latest_syn_ack(&kind) {
            self.note(event.at, kind);
        }
        self.wake = self.next_wake(event);
    }

    /// A scan repeats itself: only what has changed since the latest sight is new evidence, and what has not makes the latest
    /// scan newer.
    fn take_scanned(&mut self, event: &ConnectionEvent) {
        let counts = |socket: &SocketView| {
            let unanswered = socket.unanswered_probes();
            (socket.retransmits, unanswered, socket.backoff, socket.window_is_shut(), socket.cannot_send())
        };
        let evidence = Evidence { at: event.at, kind: EvidenceKind::Scanned(Box::new(event.socket.clone())) };
        match Evidence::latest_sight(self.evidence.as_slice()) {
            Some(sight) if sight.timer_fired && sight.socket.retransmits == event.socket.retransmits => {}
            Some(sight) if !sight.timer_fired && counts(sight.socket) == counts(&event.socket) => {
                if matches!(self.evidence.as_slice().last().map(|last| &last.kind), Some(EvidenceKind::Scanned(_))) {
                    self.evidence.replace_latest(evidence);
                }
            }
            Some(_) | None => self.evidence.add(evidence),
        }
    }

    /// The inode number of the socket's file, where an event has told it.
    pub(super) fn inode(&self) -> Option<u64> {
        self.socket.inode
    }

    /// Whether something that was asked is not answered yet.
    pub(super) fn awaits_answers(&self) -> bool {
        self.asked_socket.is_some() || self.asked_owner || self.surroundings.awaits_answers()
    }

    /// Whether the connection waits long enough, or in such a way, that its owner and the way to its peer are of interest.
    pub(super) fn is_serious(&self) -> bool {
        /// The next timeout or probe may make a finding, which then can name the owner at once.
        const SERIOUS_AT_RETRANSMITS: u8 = 3;
        const SERIOUS_AT_PROBES: u8 = 2;
        const SERIOUS_AT_BACKOFF: u8 = 3;
        self.has_finding()
            || self.socket.retransmits.is_some_and(|count| count >= SERIOUS_AT_RETRANSMITS)
            || self.socket.probes_out.is_some_and(|count| count >= SERIOUS_AT_PROBES)
            || self.socket.window_is_shut() && self.socket.backoff.is_some_and(|count| count >= SERIOUS_AT_BACKOFF)
            || self.cannot_leave_this_host()
    }

    /// Whether it looks as if segments did not leave this host.
    pub(super) fn cannot_leave_this_host(&self) -> bool {
        self.socket.cannot_send()
            || Evidence::latest_attempt(self.evidence.as_slice()).is_some_and(Attempt::failed_locally)
    }

    /// What to ask about the host around the connection.
    pub(super) fn questions(&mut self) -> Vec<Question> {
        let ingress_ifindex = self.socket.ingress_ifindex.filter(|index| *index > 0).or(self.handshake_ingress());
        self.surroundings.questions(&self.key, &self.socket, ingress_ifindex)
    }

    /// Adds evidence that is not an event.
    pub(super) fn note(&mut self, at: MonoTime, kind: EvidenceKind) {
        self.evidence.add(Evidence { at, kind });
    }

    /// What a look at the socket tells of its state, where no event has: of a packet alone nothing is learnt about the socket.
    pub(super) fn learn_state(&mut self, state: TcpState) {
        self.socket.state.get_or_insert(state);
    }

    /// Remembers that the socket could be looked up.
    pub(super) fn set_socket_known(&mut self) {
        self.socket_unknown = None;
        self.unknown_in_a_row = 0;
    }

    /// Remembers that the socket could not be looked up, and why. `true` when that has been so for long, and no event has
    /// come either: a socket that were still retransmitting would have raised one at every step.
    pub(super) fn set_socket_unknown(&mut self, why: String) -> bool {
        self.socket_unknown = Some(why);
        self.unknown_in_a_row += 1;
        self.unknown_in_a_row >= MOST_UNKNOWN_IN_A_ROW
    }

    /// Whether a look at the socket, asked for at `asked_at`, shows that what was reported is over.
    pub(super) fn has_recovered(&self, asked_at: MonoTime, status: &SocketStatus) -> bool {
        let ruling = self.reported.as_ref().map(|reported| &reported.ruling);
        ruling.is_some_and(|ruling| has_recovered(ruling, self.evidence.as_slice(), asked_at, status))
    }

    fn next_wake(&self, event: &ConnectionEvent) -> Option<(MonoTime, Wake)> {
        if let Some(look) = self.next_look(event.at).or_else(|| self.handshake_wake(event)) {
            return Some(look);
        }
        match event.kind {
            EventKind::RetransmissionTimeout { .. } => {
                let next = self.next_timeout_in();
                Some(if self.has_finding() {
                    (event.at + (next / 4).clamp(EARLIEST_LOOK, LATEST_LOOK), Wake::LookForAnswer)
                } else {
                    (event.at + with_slack(next), Wake::Forget)
                })
            }
            EventKind::Scanned | EventKind::ProbeSent { .. } if self.has_finding() => {
                self.wake.or_else(|| Some((event.at + with_slack(self.next_timeout_in()), Wake::Overdue)))
            }
            EventKind::SynReceived if !self.has_finding() => Some((event.at + SYN_LINGER, Wake::Forget)),
            EventKind::Scanned | EventKind::ProbeSent { .. } => {
                Some((event.at + with_slack(self.next_timeout_in()).max(SCAN_LINGER), Wake::Forget))
            }
            EventKind::SynReceived
            | EventKind::SynAckRetransmission
            | EventKind::SynAckReceived
            | EventKind::StateChange { .. }
            | EventKind::ResetReceived
            | EventKind::ResetSent
            | EventKind::SegmentDropped(_)
            | EventKind::SocketError => match self.wake {
                Some((at, wake)) if at > event.at => Some((at, wake)),
                Some(_) | None => Some((event.at + LINGER, Wake::Forget)),
            },
        }
    }

    /// The wait before the pending timer fires: where it has just fired, after the kernel has doubled the RTO.
    fn next_timeout_in(&self) -> Duration {
        if let Some(sight) = Evidence::latest_sight(self.evidence.as_slice()).filter(|sight| !sight.timer_fired) {
            let keepalive = sight.socket.keepalive.filter(|keepalive| keepalive.enabled);
            let due_in = sight.socket.timer.map(|timer| timer.due_in);
            if let Some(due_in) = due_in.or(keepalive.and(sight.socket.keepalive_due_in)) {
                return due_in;
            }
        }
        let max = self.socket.rto_max.filter(|max| !max.is_zero()).unwrap_or(RTO_MAX);
        self.socket.rto.map_or(max, |rto| rto.saturating_mul(2).min(max))
    }

    /// Looks again after the next timeout is due: `pending` is the wait the kernel told, when it did.
    pub(super) fn look_when_overdue(&mut self, now: MonoTime, pending: Option<Duration>) {
        let wait = pending.unwrap_or_else(|| self.next_timeout_in());
        self.wake = self.look_again(now).or_else(|| Some((now + with_slack(wait), Wake::Overdue)));
    }

    /// Without a finding, the case is forgotten when nothing has come by the next timer.
    pub(super) fn forget_when_overdue(&mut self, now: MonoTime) {
        let scanned = Evidence::latest_sight(self.evidence.as_slice()).is_some_and(|sight| !sight.timer_fired);
        let linger = if scanned { SCAN_LINGER } else { Duration::ZERO };
        self.wake = Some((now + with_slack(self.next_timeout_in()).max(linger), Wake::Forget));
    }

    /// Whether a rule applies as the case stands.
    pub(super) fn has_ruling(&self, events_lost: u64) -> bool {
        judge(&self.history(events_lost)).is_some()
    }

    fn history(&self, events_lost: u64) -> History<'_> {
        History {
            key: &self.key,
            socket: &self.socket,
            evidence: self.evidence.as_slice(),
            path: &self.surroundings.path,
            conntrack: &self.surroundings.conntrack,
            service: &self.surroundings.service,
            events_lost: events_lost.saturating_sub(self.lost_before),
        }
    }

    /// Judges the case as it stands. `Some` when there is something new to report.
    pub(super) fn judge(&mut self, at: MonoTime, events_lost: u64) -> Option<Finding> {
        let mut ruling = judge(&self.history(events_lost))?;
        if let Some(why) = &self.socket_unknown {
            ruling.missing.push(MissingEvidence::Socket { why: why.clone() });
        }
        let state = match &self.reported {
            None => FindingState::Opened,
            Some(reported) if reported.owner != self.owner || differs(&reported.ruling, &ruling) => {
                FindingState::Updated
            }
            Some(_) => return None,
        };
        let id =
            self.reported.as_ref().map_or(
                FindingId { key: self.key, cookie: self.cookie, opened_at: at, case: self.number },
                |reported| reported.id,
            );
        if state == FindingState::Opened {
            // From now on a recovery matters: look for it.
            let look = (self.next_timeout_in() / 4).clamp(EARLIEST_LOOK, LATEST_LOOK);
            self.wake = Some((at + look, Wake::LookForAnswer));
        }
        self.reported = Some(Reported { id, ruling: ruling.clone(), owner: self.owner.clone() });
        Some(self.finding(id, state, at, ruling))
    }

    /// How the socket ended, which has gone to CLOSE.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::of_closed(self.evidence.as_slice())
    }

    /// Ends the case. `Some` when it had a finding.
    pub(super) fn close(self, at: MonoTime, outcome: Outcome) -> Option<Finding> {
        let reported = self.reported.clone()?;
        Some(self.finding(reported.id, FindingState::Closed(outcome), at, reported.ruling))
    }

    fn finding(&self, id: FindingId, state: FindingState, at: MonoTime, ruling: Ruling) -> Finding {
        Finding {
            id,
            state,
            at,
            socket: self.socket.clone(),
            path: self.surroundings.path.clone(),
            ruling,
            owner: self.owner.clone(),
            evidence: self.evidence.as_slice().to_vec(),
            evidence_left_out: self.evidence.left_out(),
        }
    }
}

fn with_slack(wait: Duration) -> Duration {
    wait.saturating_add(wait / 8).saturating_add(TIMER_SLACK)
}

/// Whether the event says that the socket is closed.
pub(super) fn is_closing(event: &ConnectionEvent) -> bool {
    event.socket.state == Some(TcpState::Close)
}
