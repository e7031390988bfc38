use super::{
    dropped::add_missing_rule,
    evidence_log::EvidenceLog,
    finding::{Finding, FindingId, FindingState, Outcome, differs},
    recovery::has_recovered,
    standards::Standards,
    surroundings::Surroundings,
    wakes::Wake,
};
use crate::{
    judge::{Attempt, Evidence, EvidenceKind, History, MissingEvidence, Ruling, SynAckRepeat, Verdict, judge},
    model::{
        ConnectionEvent, ConnectionKey, EventKind, MonoTime, OwnerKnowledge, Question, SocketCookie, SocketStatus,
        SocketView, TcpState, Vantage,
    },
};

/// Timer steps without an event and without an answer about the socket after which a finding is closed as unobserved.
const MOST_UNKNOWN_IN_A_ROW: u8 = 3;

/// A finding as last reported, to tell what has changed.
#[derive(Clone, Debug)]
pub(super) struct Reported {
    id: FindingId,
    ruling: Ruling,
    owner: OwnerKnowledge,
    has_place: bool,
}

/// One connection under suspicion.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) number: u64,
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
    pub(super) lost_before: u64,
    pub(super) surroundings: Surroundings,
    pub(super) socket_unknown: Option<String>,
    pub(super) unknown_in_a_row: u8,
    pub(super) reported: Option<Reported>,
    /// Whether it was reported by a run before, and not yet by this one.
    pub(super) is_resumed: bool,
}

impl Case {
    /// The tracker's `number`th case; `lost_before` is how many events had been lost by then, and `evidence` is still empty.
    pub(super) fn open(number: u64, event: &ConnectionEvent, lost_before: u64, evidence: EvidenceLog) -> Self {
        let mut case = Self::new(number, event.key, event.socket.cookie, event.socket.clone());
        (case.touched, case.lost_before, case.evidence) = (event.at, lost_before, evidence);
        case
    }

    /// One of which nothing is known yet.
    pub(super) fn new(number: u64, key: ConnectionKey, cookie: Option<SocketCookie>, socket: SocketView) -> Self {
        Self {
            number,
            key,
            cookie,
            asked_socket: None,
            asked_owner: false,
            held_until: None,
            has_ended: false,
            owner: OwnerKnowledge::NotAsked,
            wake: None,
            touched: MonoTime::default(),
            socket,
            evidence: EvidenceLog::default(),
            lost_before: 0,
            surroundings: Surroundings::default(),
            socket_unknown: None,
            unknown_in_a_row: 0,
            reported: None,
            is_resumed: false,
        }
    }

    /// As a run before has left it, in this tracker the `number`th; what was lost meanwhile nobody knows.
    pub(super) fn resume(number: u64, finding: Finding, now: MonoTime, lost_before: u64) -> Self {
        let Finding { id, socket, path, ruling, owner, evidence, evidence_left_out, .. } = finding;
        let has_place = Evidence::place(&evidence).is_some();
        Self {
            owner: owner.clone(),
            touched: now,
            evidence: EvidenceLog::kept(evidence, evidence_left_out),
            lost_before,
            surroundings: Surroundings::resume(path, has_place),
            reported: Some(Reported { id, ruling, owner, has_place }),
            is_resumed: true,
            ..Self::new(number, id.key, socket.cookie.or(id.cookie), socket)
        }
    }

    /// Whether this run has reported it, and so corrects itself by every answer; a first word waits for all.
    pub(super) fn has_told(&self) -> bool {
        self.has_finding() && !self.is_resumed
    }

    /// Whether it was reported by a run before, and its socket has gone before this one has said a word.
    pub(super) fn is_gone_before_a_word(&self) -> bool {
        self.is_resumed && matches!(self.wake, Some((_, Wake::Gone)))
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
                EvidenceKind::RetransmissionTimeout(Attempt { send_result, socket: event.socket.clone() })
            }
            EventKind::ProbeSent { send_result } => {
                EvidenceKind::ProbeSent(Attempt { send_result, socket: event.socket.clone() })
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
            EventKind::SegmentInvalid(segment) => EvidenceKind::SegmentInvalid(segment),
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

    /// What the rules say of the case as it stands.
    pub(super) fn ruling(&self, standards: &Standards) -> Option<Ruling> {
        judge(&self.history(standards))
    }

    fn history<'a>(&'a self, standards: &'a Standards) -> History<'a> {
        History {
            key: &self.key,
            vantage: Vantage::Endpoint,
            socket: &self.socket,
            evidence: self.evidence.as_slice(),
            path: &self.surroundings.path,
            conntrack: &self.surroundings.conntrack,
            service: &self.surroundings.service,
            thresholds: &standards.thresholds,
            events_lost: standards.events_lost.saturating_sub(self.lost_before),
        }
    }

    /// Judges the case as it stands. `Some` when there is something new to report.
    pub(super) fn judge(&mut self, at: MonoTime, standards: &Standards) -> Option<Finding> {
        let ruling = self.ruling(standards)?;
        self.rule(at, ruling)
    }

    /// The same when it was [judged](Self::ruling) just now.
    pub(super) fn rule(&mut self, at: MonoTime, mut ruling: Ruling) -> Option<Finding> {
        self.surroundings.lower_while_unanswered(&mut ruling);
        if let Some(why) = &self.socket_unknown {
            ruling.missing.push(MissingEvidence::Socket { why: why.clone() });
        }
        add_missing_rule(&mut ruling, self.evidence.as_slice(), self.surroundings.place_unknown.as_deref());
        let has_place = Evidence::place(self.evidence.as_slice()).is_some();
        let state = match &self.reported {
            None => FindingState::Opened,
            Some(_) if self.is_resumed => FindingState::Updated,
            Some(reported)
                if reported.owner != self.owner
                    || reported.has_place != has_place
                    || differs(&reported.ruling, &ruling) =>
            {
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
            self.wake = Some(self.first_look(at));
        }
        self.is_resumed = false;
        self.reported = Some(Reported { id, ruling: ruling.clone(), owner: self.owner.clone(), has_place });
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
            flow: None,
            socket: self.socket.clone(),
            path: self.surroundings.path.clone(),
            ruling,
            owner: self.owner.clone(),
            evidence: self.evidence.as_slice().to_vec(),
            evidence_left_out: self.evidence.left_out(),
        }
    }
}

/// Whether the event says that the socket is closed.
pub(super) fn is_closing(event: &ConnectionEvent) -> bool {
    event.socket.state == Some(TcpState::Close)
}
