//! Connections that this host only forwards.

use super::{HOLD, Tracker};
use crate::{
    case::{
        finding::Outcome,
        flow::{Flow, FlowWake, Progress},
        open_case::Case,
    },
    judge::EvidenceKind,
    model::{
        ConnectionEvent, ConnectionKey, ControlMessage, DropPlace, EventKind, FlowConntrack, FlowEnds, ForwardPath,
        MonoTime, Origin, Owner,
    },
};

/// Of so many connections whose ACKs, data or SYN-ACKs are dropped all zones of connection tracking are searched in a while, and of as
/// many of which only a RST is: that goes through its whole table. Of the others, the default zone is looked into, or the one that
/// connection tracking has named.
const MOST_SEARCHES: u32 = 4;

impl Tracker {
    /// A segment was dropped, and no socket of its network namespace waits for it: this host only forwards it.
    pub(super) fn begin_flow(&mut self, case: &Case) {
        let mut flow = match self.flows.take(&case.key) {
            // The other direction was there first.
            Some(mut flow) => {
                flow.take_evidence_of(case);
                flow
            }
            None => Flow::from_case(case, self.may_search(case), self.now),
        };
        flow.touched = self.now;
        self.ask_about_flow(&mut flow);
        self.judge_flow(flow);
    }

    /// Whether all zones of connection tracking may be searched for it. Of a FIN, which is asked about when it has come again, they may.
    fn may_search(&mut self, case: &Case) -> bool {
        if case.may_forward_handshake() {
            self.searches.take(self.now, MOST_SEARCHES)
        } else {
            case.has_dropped_fin() || self.reset_searches.take(self.now, MOST_SEARCHES)
        }
    }

    /// Takes an event in that is about a flow; `false` for another.
    pub(super) fn take_flow_event(&mut self, event: &ConnectionEvent) -> bool {
        let is_forwarded = match &event.kind {
            EventKind::SegmentDropped(segment) => {
                matches!(segment.origin, Origin::Received { .. }) && segment.message != ControlMessage::Syn
            }
            EventKind::SegmentInvalid(invalid) => invalid.segment.origin != Origin::Sent,
            EventKind::RetransmissionTimeout { .. }
            | EventKind::SynAckRetransmission
            | EventKind::StateChange { .. }
            | EventKind::ResetReceived
            | EventKind::ResetSent
            | EventKind::Scanned
            | EventKind::ProbeSent { .. }
            | EventKind::SynReceived
            | EventKind::SynAckReceived
            | EventKind::SocketError => false,
        };
        if !is_forwarded {
            return false;
        }
        let Some(mut flow) = self.flows.take(&event.key) else { return false };
        flow.take_event(event);
        if !flow.has_finding() {
            self.ask_about_flow(&mut flow);
        }
        self.judge_flow(flow);
        true
    }

    /// Takes in which way it goes.
    pub(super) fn take_flow_path(&mut self, key: &ConnectionKey, path: Result<ForwardPath, String>) {
        let Some(mut flow) = self.flows.take(key) else { return };
        flow.take_path(path.into());
        self.judge_flow(flow);
    }

    /// Takes in what connection tracking knows.
    pub(super) fn take_flow_conntrack(&mut self, key: &ConnectionKey, conntrack: Result<FlowConntrack, String>) {
        let Some(mut flow) = self.flows.take(key) else { return };
        flow.take_conntrack(self.now, conntrack.into()).into_iter().for_each(|question| self.ask(question));
        self.judge_flow(flow);
    }

    /// Takes in which sockets of this host are its ends.
    pub(super) fn take_flow_ends(&mut self, key: &ConnectionKey, ends: FlowEnds) {
        let Some(mut flow) = self.flows.take(key) else { return };
        if let Some(question) = flow.take_ends(self.now, ends) {
            self.ask(question);
        }
        self.judge_flow(flow);
    }

    /// Takes in who holds a flow's receiving socket; gives it back when no flow has asked.
    pub(super) fn take_flow_owner(
        &mut self,
        key: &ConnectionKey,
        owner: Result<Option<Owner>, String>,
    ) -> Option<Result<Option<Owner>, String>> {
        let Some(mut flow) = self.flows.take(key) else { return Some(owner) };
        let not_asked = (!flow.awaits_owner()).then(|| owner.clone());
        flow.take_owner(owner);
        self.judge_flow(flow);
        not_asked
    }

    /// Takes in which function is at an address.
    pub(super) fn take_flow_function(&mut self, key: &ConnectionKey, address: u64, name: Option<&str>) {
        let Some(mut flow) = self.flows.take(key) else { return };
        flow.take_function(address, name);
        self.judge_flow(flow);
    }

    /// Takes in where it was dropped.
    pub(super) fn take_flow_place(&mut self, key: &ConnectionKey, place: Result<DropPlace, String>) {
        let Some(mut flow) = self.flows.take(key) else { return };
        flow.take_place(self.now, place);
        self.judge_flow(flow);
    }

    /// Does what is due for flows.
    pub(super) fn handle_flow_timeouts(&mut self, now: MonoTime) {
        while let Some((mut flow, wake)) = self.flows.wake(now) {
            match wake {
                Some(FlowWake::Look) => {
                    self.ask_about_flow(&mut flow);
                    self.judge_flow(flow);
                }
                Some(FlowWake::Judge) => self.judge_flow(flow),
                Some(FlowWake::Forget) | None => self.close_flow(flow, Outcome::Unobserved),
            }
        }
    }

    pub(super) fn ask_about_flow(&mut self, flow: &mut Flow) {
        flow.questions(self.now).into_iter().for_each(|question| self.ask(question));
    }

    /// Judges a flow that is taken out of its table, and puts it back, unless it is over.
    pub(super) fn judge_flow(&mut self, mut flow: Flow) {
        match flow.progress(self.now) {
            Progress::GotThrough => {
                let is_about_handshake = flow.is_about_handshake();
                flow.note(
                    self.now,
                    if is_about_handshake { EvidenceKind::HandshakeCompleted } else { EvidenceKind::SegmentGotThrough },
                );
                self.close_flow(flow, Outcome::Recovered);
                return;
            }
            Progress::NoEnd => {
                self.close_flow(flow, Outcome::Recovered);
                return;
            }
            Progress::Over => {
                self.close_flow(flow, Outcome::Unobserved);
                return;
            }
            Progress::None => {}
        }
        if !flow.is_held(self.now, HOLD) {
            if flow.ends_here() {
                self.close_flow(flow, Outcome::Unobserved);
                return;
            }
            self.findings.extend(flow.judge(self.now, &self.standards));
            flow.rest(self.now);
        }
        self.keep_flow(flow);
    }

    fn keep_flow(&mut self, flow: Flow) {
        if let Some(mut evicted) = self.flows.keep(flow) {
            // What was still waiting for answers is judged without them.
            self.findings.extend(evicted.judge(self.now, &self.standards));
            self.close_flow(evicted, Outcome::Evicted);
        }
    }

    fn close_flow(&mut self, flow: Flow, outcome: Outcome) {
        self.findings.extend(flow.close(self.now, outcome));
    }
}
