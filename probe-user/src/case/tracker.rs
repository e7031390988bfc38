mod answers;
mod flows;
mod resume;

use std::{collections::VecDeque, time::Duration};

use super::{
    allowance::Allowance,
    cases::Cases,
    finding::{Finding, Outcome},
    flow::Flows,
    handshake::Stranger,
    open_case::{Case, is_closing},
    questions::Questions,
    standards::Standards,
    wakes::Wake,
};
use crate::{
    judge::{EvidenceKind, Thresholds},
    model::{ConnectionEvent, ConnectionKey, Event, EventKind, MonoTime, OwnerKnowledge, Question},
};

/// How long a first judgment waits for answers. They mostly take some milliseconds, on a starved host a second; without them the
/// first word would be about another cause than the next.
const HOLD: Duration = Duration::from_secs(2);
/// An event that tells how a socket ended may still be on the ring when a witness finds the socket gone.
const GRACE_FOR_LAST_EVENT: Duration = Duration::from_millis(500);
/// How many connections of unknown clients may be looked into in a while: beyond that it is a flood.
pub(super) const MOST_GUESSES: u32 = 32;

/// What the tracker has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask a witness and hand the answer to [`Tracker::handle_answer`], or the question back by [`Tracker::put_back`]. At most one
    /// question of a kind is open per case.
    Question(Question),
    /// A finding was opened, changed or closed.
    Finding(Box<Finding>),
}

/// Follows every connection under suspicion from its first suspicious event to its end.
///
/// The tracker does no IO and has no clock. To drive it:
///
/// 1. Hand in what happens, each with its time: [`handle_event`](Self::handle_event) for what the kernel tells,
///    [`handle_answer`](Self::handle_answer) for what a witness says, [`handle_timeout`](Self::handle_timeout) when the time
///    of [`poll_timeout`](Self::poll_timeout) has come.
/// 2. After each, take what it has to say by [`poll_output`](Self::poll_output) until that gives `None`: first findings to be
///    reported, then questions to be put to witnesses, in the order they came up. When the witnesses have no room for a
///    question, hand it back by [`put_back`](Self::put_back) and go on: after the next answer it comes again.
/// 3. Then wait until [`poll_timeout`](Self::poll_timeout), or for the next event or answer.
///
/// Rules:
///
/// - Time never goes back: a `now` or an event's time before the latest one counts as the latest one. Events may come a
///   little out of order (each CPU writes its own); evidence is kept in the order of their times.
/// - A timeout handed in early or twice does nothing. A question may stay unanswered for ever, and an answer may come for a
///   case that is closed: neither does harm.
/// - No sequence of inputs panics. At most [`MAX_CASES`](super::MAX_CASES) cases are open of which little is known, and
///   [`MAX_SERIOUS_CASES`](super::MAX_SERIOUS_CASES) others; one more evicts the least recently touched of its kind, first of those without a
///   finding. An evicted finding is reported as closed with [`Outcome::Evicted`].
#[derive(Debug, Default)]
pub struct Tracker {
    now: MonoTime,
    cases: Cases,
    /// Connections that this host only forwards.
    flows: Flows,
    findings: VecDeque<Finding>,
    questions: Questions,
    /// Questions for what this host serves, for clients of whom nothing else is known: for those that are silent, and for those that
    /// repeat their SYN.
    guesses: Allowance,
    repeating: Allowance,
    /// Connections looked into of which nothing is known but that ACKs, data or SYN-ACKs are dropped.
    strays: Allowance,
    /// Searches for them through all zones of connection tracking.
    searches: Allowance,
    /// The same for connections of which only a RST is dropped.
    reset_searches: Allowance,
    standards: Standards,
    cases_opened: u64,
}

impl Tracker {
    /// A tracker that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    #[cfg(test)]
    pub(super) fn with_room(at_rest: usize, serious: usize) -> Self {
        Self { cases: Cases::with_room(at_rest, serious), ..Self::default() }
    }

    /// Judges by these from now on.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.standards.thresholds = thresholds;
    }

    /// How many cases are open.
    pub fn open_cases(&self) -> usize {
        self.cases.len() + self.flows.len()
    }

    /// The next thing to say; `None` when there is nothing more.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(finding) = self.findings.pop_front() {
            return Some(Output::Finding(Box::new(finding)));
        }
        while let Some(question) = self.questions.next() {
            // Of a case that is closed nobody wants to know any more.
            if self.cases.contains(question.key()) || self.flows.contains(question.key()) {
                return Some(Output::Question(question));
            }
        }
        None
    }

    /// Takes back a question for which there is no room now. It is the first of those that
    /// [`poll_output`](Self::poll_output) gives next time.
    pub fn put_back(&mut self, question: Question) {
        self.questions.put_back(question);
    }

    /// How many questions wait to be asked.
    pub fn questions_waiting(&self) -> usize {
        self.questions.len()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next; `None` when no case waits for anything.
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        let of_cases = self.cases.next_wake();
        of_cases.into_iter().chain(self.flows.next_wake()).min()
    }

    /// Takes in what the kernel tells.
    pub fn handle_event(&mut self, event: Event) {
        match event {
            Event::Connection(event) => self.handle_connection_event(event),
            Event::Lost { at, place: _, count } => {
                self.advance(at);
                self.standards.events_lost = self.standards.events_lost.saturating_add(count);
            }
        }
        self.cases.settle();
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: MonoTime) {
        self.advance(now);
        self.handle_flow_timeouts(self.now);
        while let Some(mut case) = self.cases.take_due(self.now) {
            let wake = case.wake.take();
            match wake.map(|(_, wake)| wake) {
                Some(wake @ (Wake::LookForAnswer | Wake::Overdue)) if case.has_finding() => {
                    // A whole backoff step without an answer: the question or the answer was lost.
                    case.asked_socket = case.asked_socket.filter(|_| wake != Wake::Overdue);
                    self.ask_socket(&mut case);
                    case.look_when_overdue(self.now, None);
                    self.keep(case);
                }
                // Firewalls drop any number of strays: of more than that, a sample is looked into.
                Some(Wake::LookAtReceiver)
                    if case.may_forward_handshake()
                        && case.dropped().is_none()
                        && !self.strays.take(self.now, MOST_GUESSES) => {}
                Some(Wake::LookAtReceiver) => {
                    case.asked_socket = None;
                    self.ask_socket(&mut case);
                    case.wake = Some((self.now + HOLD, Wake::Forget));
                    self.keep(case);
                }
                Some(Wake::Judge) => {
                    case.forget_when_overdue(self.now);
                    self.judge_and_keep(case);
                }
                Some(Wake::End) => self.end(case),
                Some(Wake::Gone) => {
                    case.note(self.now, EvidenceKind::SocketGone);
                    let outcome = case.outcome_when_gone();
                    self.close(case, outcome);
                }
                Some(Wake::LookForAnswer | Wake::Overdue | Wake::Forget) | None if !case.has_finding() => {}
                Some(Wake::LookForAnswer | Wake::Overdue | Wake::Forget) | None => {
                    case.look_when_overdue(self.now, None);
                    self.keep(case);
                }
            }
        }
    }

    fn advance(&mut self, now: MonoTime) {
        self.now = self.now.max(now);
    }

    fn handle_connection_event(&mut self, event: ConnectionEvent) {
        self.advance(event.at);
        if matches!(&event.kind, EventKind::SegmentInvalid(segment) if !segment.is_verdict()) {
            return;
        }
        if self.take_flow_event(&event) {
            return;
        }
        let known = match self.take_case(&event.key) {
            Some(case) if case.has_ended && (case.is_other_socket(&event) || !is_closing(&event)) => {
                self.end(case);
                None
            }
            Some(mut case) if case.is_other_socket(&event) => {
                case.note(self.now, EvidenceKind::SocketGone);
                self.close(case, Outcome::Unobserved);
                None
            }
            Some(mut case) if case.got_through(&event) => {
                case.note(event.at, EvidenceKind::SegmentGotThrough);
                self.close(case, Outcome::Recovered);
                return;
            }
            Some(mut case) if case.completes_handshake(&event) => {
                case.note(event.at, EvidenceKind::HandshakeCompleted);
                self.close(case, Outcome::Recovered);
                return;
            }
            Some(mut case) if case.shows_progress(&event) => {
                case.note(event.at, EvidenceKind::AcknowledgmentsResumed);
                self.close(case, Outcome::Recovered);
                None
            }
            Some(case) => Some(case),
            None => None,
        };
        let mut case = match known {
            Some(case) => case,
            // The end of a connection that was never suspected, or the second word about one that is over.
            None if is_closing(&event) => return,
            None => {
                let number = self.cases_opened;
                self.cases_opened += 1;
                self.cases.open(number, &event, self.standards.events_lost)
            }
        };
        case.take(&event);
        case.touched = self.now;
        if is_closing(&event) {
            self.has_closed(case);
            return;
        }
        self.consider(case);
        // Whatever RST the kernel takes closes its socket (`tcp_reset`, `net/ipv4/tcp_input.c`, 4.15 to 6.18), at once and mostly before
        // changes of its state are looked at.
        if matches!(event.kind, EventKind::ResetReceived)
            && let Some(case) = self.take_case(&event.key)
        {
            self.has_closed(case);
        }
    }

    /// The socket has gone to CLOSE: only its owner is still waited for.
    fn has_closed(&mut self, mut case: Box<Case>) {
        case.has_ended = true;
        if case.asked_owner {
            case.wake = Some((self.now + HOLD, Wake::End));
            self.keep(case);
        } else {
            self.end(case);
        }
    }

    /// Asks about a case what is worth asking, and judges it, or waits for the answers.
    fn consider(&mut self, mut case: Box<Case>) {
        let may_guess = |stranger| match stranger {
            Stranger::Silent => self.guesses.take(self.now, MOST_GUESSES),
            Stranger::Repeating => self.repeating.take(self.now, MOST_GUESSES),
        };
        if let Some(question) = case.ask_service(&self.standards, may_guess) {
            self.ask(question);
        }
        let ruling = case.ruling(&self.standards);
        if !case.is_mere_request() && case.is_serious() || ruling.is_some() {
            self.ask_owner(&mut case);
            case.questions().into_iter().chain(case.ask_function()).for_each(|question| self.ask(question));
            // A finding that is opened with the answers needs no correction a moment later.
            let may_wait = case.held_until.is_none_or(|until| self.now < until);
            if !case.has_told() && case.awaits_answers() && may_wait {
                self.hold(case);
                return;
            }
        }
        self.findings.extend(ruling.and_then(|ruling| case.rule(self.now, ruling)));
        self.keep(case);
    }

    /// Puts judging a case off until its first answers are in, or have taken too long.
    fn hold(&mut self, mut case: Box<Case>) {
        let until = *case.held_until.get_or_insert(self.now + HOLD);
        case.wake = Some((until, Wake::Judge));
        self.keep(case);
    }

    /// Lets a question about a case wait that is taken out of the tables, or about one that is in them.
    fn ask(&mut self, question: Question) {
        let (cases, flows) = (&self.cases, &self.flows);
        let is_open = |key: &ConnectionKey| key == question.key() || cases.contains(key) || flows.contains(key);
        self.questions.add(question, is_open);
    }

    fn ask_socket(&mut self, case: &mut Case) {
        if case.asked_socket.is_none() {
            case.asked_socket = Some(self.now);
            self.ask(Question::Socket { key: case.key, cookie: case.cookie });
        }
    }

    /// Asks who holds the socket, if that is not known yet.
    fn ask_owner(&mut self, case: &mut Case) {
        match case.inode() {
            Some(inode) => self.ask_owner_of(case, inode),
            // The socket's inode comes first.
            None if case.owner == OwnerKnowledge::NotAsked => self.ask_socket(case),
            None => {}
        }
    }

    fn ask_owner_of(&mut self, case: &mut Case, inode: u64) {
        if case.owner != OwnerKnowledge::NotAsked || case.asked_owner {
            return;
        }
        if inode == 0 {
            case.owner = OwnerKnowledge::NoProcess;
        } else {
            case.asked_owner = true;
            self.ask(Question::Owner { key: case.key, inode });
        }
    }

    fn judge_and_keep(&mut self, mut case: Box<Case>) {
        if let Some(finding) = case.judge(self.now, &self.standards) {
            self.findings.push_back(finding);
        }
        self.keep(case);
    }

    /// Judges a case whose socket has closed for the last time, and closes it.
    fn end(&mut self, mut case: Box<Case>) {
        if let Some(finding) = case.judge(self.now, &self.standards) {
            self.findings.push_back(finding);
        }
        let outcome = case.outcome();
        self.close(case, outcome);
    }

    fn close(&mut self, case: Box<Case>, outcome: Outcome) {
        if let Some(finding) = case.close(self.now, outcome) {
            self.findings.push_back(finding);
        }
    }

    fn take_case(&mut self, key: &ConnectionKey) -> Option<Box<Case>> {
        self.cases.take(key)
    }

    fn keep(&mut self, case: Box<Case>) {
        if let Some(mut evicted) = self.cases.keep(case) {
            // What was still waiting for answers is judged without them.
            if let Some(finding) = evicted.judge(self.now, &self.standards) {
                self.findings.push_back(finding);
            }
            self.close(evicted, Outcome::Evicted);
        }
    }
}
