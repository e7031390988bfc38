//! A forwarded connection of which a FIN or a RST was thrown away, or what completes its handshake. It has no socket here: who waits is told by connection tracking, by
//! further copies, and by the sockets of other network namespaces of this host.

mod answers;
mod progress;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::{net::SocketAddr, time::Duration};

pub(super) use progress::Progress;
pub(super) use table::{FlowTuple, Flows};
pub use view::FlowView;

use super::{
    dropped::add_missing_rule,
    evidence_log::EvidenceLog,
    finding::{Finding, FindingId, FindingState, Outcome, differs},
    open_case::Case,
    standards::Standards,
    wakes::next_look_at_waiting,
};
use crate::{
    judge::{Evidence, EvidenceKind, History, Ruling, Verdict, judge},
    model::{
        ConnectionEvent, ConnectionKey, ConntrackStatus, DroppedSegment, EventKind, FlowConntrack, FlowEnds, FlowKey,
        ForwardPath, InvalidSegment, Knowledge, MonoTime, Origin, OwnerKnowledge, PathStatus, SocketView, TrackedFlow,
        Translation, Vantage,
    },
};

/// One of which nothing proves that it is missed waits so long for another copy. The gaps between copies double, so that this covers
/// senders that have tried for half a minute already.
const WAIT_FOR_A_COPY: Duration = Duration::from_secs(60);

/// What a flow's timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlowWake {
    /// The answers have taken too long: judge without them.
    Judge,
    /// Look whether what was dropped has got through.
    Look,
    /// No copy has come.
    Forget,
}

/// What is asked and not answered yet.
#[derive(Clone, Copy, Debug, Default)]
struct Awaited {
    path: bool,
    conntrack: bool,
    /// Since when.
    ends: Option<MonoTime>,
    function: bool,
    place: bool,
    owner: bool,
}

/// A finding as last reported.
#[derive(Clone, Debug)]
struct Reported {
    id: FindingId,
    ruling: Ruling,
    known: Known,
}

/// What a finding names that answers tell: late ones are told, too.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    path: bool,
    direction: bool,
    place: bool,
    receiver_owner: OwnerKnowledge,
}

/// One forwarded connection under suspicion.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    number: u64,
    /// Named as the receiver of the segment that was dropped first would.
    pub(super) asked_as: ConnectionKey,
    key: FlowKey,
    is_direction_known: bool,
    translation: Option<Translation>,
    evidence: EvidenceLog,
    path: Knowledge<ForwardPath>,
    conntrack: Knowledge<FlowConntrack>,
    /// What connection tracking said first: what has moved since shows what got through.
    first_conntrack: Option<FlowConntrack>,
    status: Knowledge<ConntrackStatus>,
    /// By the names of `asked_as`.
    ends: FlowEnds,
    awaited: Awaited,
    function_asked: Option<u64>,
    has_asked_place: bool,
    /// Why the place could not be told.
    place_unknown: Option<String>,
    /// The receiver's socket, by its inode, and who holds it.
    receiver_owner: (u64, OwnerKnowledge),
    /// Until when a first judgment waits for answers.
    held_until: Option<MonoTime>,
    pub(super) wake: Option<(MonoTime, FlowWake)>,
    pub(super) touched: MonoTime,
    lost_before: u64,
    reported: Option<Reported>,
    /// Whether it was reported by a run before, and not yet by this one.
    is_resumed: bool,
    /// Whether all of connection tracking's table may be gone through for it.
    may_search: bool,
}

impl Flow {
    /// Of a case whose segment was for no socket of its network namespace. What was seen until now is evidence.
    pub(super) fn from_case(case: &Case, may_search: bool, now: MonoTime) -> Self {
        let mut flow = Self { may_search, ..Self::new(case.number, case.key, now, case.lost_before) };
        flow.take_evidence_of(case);
        flow
    }

    /// One of which nothing is known yet.
    fn new(number: u64, asked_as: ConnectionKey, now: MonoTime, lost_before: u64) -> Self {
        Self {
            number,
            asked_as,
            key: FlowKey::of_packet(&asked_as),
            is_direction_known: false,
            translation: None,
            evidence: EvidenceLog::default(),
            path: Knowledge::NotAsked,
            conntrack: Knowledge::NotAsked,
            first_conntrack: None,
            status: Knowledge::NotAsked,
            ends: FlowEnds::default(),
            awaited: Awaited::default(),
            function_asked: None,
            has_asked_place: false,
            place_unknown: None,
            receiver_owner: (0, OwnerKnowledge::NotAsked),
            held_until: None,
            wake: None,
            touched: now,
            lost_before,
            reported: None,
            is_resumed: false,
            may_search: true,
        }
    }

    /// As a run before has left it, in this tracker the `number`th; `None` where it is about no forwarded connection.
    pub(super) fn resume(number: u64, finding: Finding, now: MonoTime, lost_before: u64) -> Option<Self> {
        let Finding { id, flow, ruling, evidence, evidence_left_out, .. } = finding;
        let FlowView { key, is_direction_known, packet, translation, path, ends, receiver_owner } = *flow?;
        let (sender, receiver) = packet;
        let has_place = Evidence::place(&evidence).is_some();
        let inode = ends.receiver.as_ref().map_or(0, |end| u64::from(end.status.inode));
        let asked_as = ConnectionKey { netns: key.netns, local: receiver, remote: sender };
        let mut flow = Self {
            key,
            is_direction_known,
            translation,
            evidence: EvidenceLog::kept(evidence, evidence_left_out),
            path,
            ends,
            has_asked_place: has_place,
            receiver_owner: (inode, receiver_owner),
            is_resumed: true,
            ..Self::new(number, asked_as, now, lost_before)
        };
        flow.reported = Some(Reported { id, ruling, known: flow.known() });
        Some(flow)
    }

    /// Takes in what an endpoint case of the same packets has seen.
    pub(super) fn take_evidence_of(&mut self, case: &Case) {
        for evidence in case.evidence.as_slice() {
            if let EvidenceKind::SegmentDropped(segment) = &evidence.kind {
                self.note_dropped(evidence.at, &case.key, segment);
            } else if let EvidenceKind::SegmentInvalid(invalid) = &evidence.kind {
                self.note_invalid(evidence.at, &case.key, invalid);
            }
        }
    }

    fn note_dropped(&mut self, at: MonoTime, key: &ConnectionKey, segment: &DroppedSegment) {
        self.note(at, EvidenceKind::SegmentDropped(Box::new(forwarded(segment, key))));
    }

    fn note_invalid(&mut self, at: MonoTime, key: &ConnectionKey, invalid: &InvalidSegment) {
        let invalid = InvalidSegment { segment: forwarded(&invalid.segment, key), ..invalid.clone() };
        self.note(at, EvidenceKind::SegmentInvalid(Box::new(invalid)));
    }

    /// Takes in another segment that was dropped, or is held for invalid.
    pub(super) fn take_event(&mut self, event: &ConnectionEvent) {
        if let EventKind::SegmentDropped(segment) = &event.kind {
            self.note_dropped(event.at, &event.key, segment);
        } else if let EventKind::SegmentInvalid(invalid) = &event.kind {
            self.note_invalid(event.at, &event.key, invalid);
        }
        self.touched = self.touched.max(event.at);
    }

    pub(super) fn note(&mut self, at: MonoTime, kind: EvidenceKind) {
        self.evidence.add(Evidence { at, kind });
    }

    pub(super) const fn has_finding(&self) -> bool {
        self.reported.is_some()
    }

    /// What it was last reported as, if it was.
    fn verdict(&self) -> Option<Verdict> {
        self.reported.as_ref().map(|reported| reported.ruling.verdict)
    }

    /// Its ends as those of what this one sends.
    fn ends_from(&self, sender: SocketAddr) -> FlowEnds {
        let ends = self.ends.clone();
        if sender == self.asked_as.remote { ends } else { FlowEnds { receiver: ends.sender, sender: ends.receiver } }
    }

    /// Whether it is more than a stray, as far as is known: then it is the last to be evicted.
    fn is_serious(&self) -> bool {
        self.has_finding() || self.is_ending() && self.is_repeated()
    }

    pub(super) fn tuple(&self) -> FlowTuple {
        FlowTuple::of(&self.asked_as)
    }

    fn entries(&self) -> &[TrackedFlow] {
        match &self.conntrack {
            Knowledge::Known(conntrack) => conntrack.entries(),
            Knowledge::NotAsked | Knowledge::Unavailable(_) => &[],
        }
    }

    const fn awaits_answers(&self) -> bool {
        let Awaited { path, conntrack, ends, function, place, owner } = self.awaited;
        path || conntrack || ends.is_some() || function || place || owner
    }

    /// Whether a first judgment is to wait, now that something was asked or answered.
    pub(super) fn is_held(&mut self, now: MonoTime, hold: Duration) -> bool {
        if self.has_finding() && !self.is_resumed || !self.awaits_answers() {
            return false;
        }
        let until = *self.held_until.get_or_insert(now + hold);
        if now < until {
            self.wake = Some((until, FlowWake::Judge));
        }
        now < until
    }

    /// The latest segment that was dropped, when, and who sent it.
    fn latest_dropped(&self) -> Option<(MonoTime, SocketAddr, DroppedSegment)> {
        self.evidence.as_slice().iter().rev().find_map(|evidence| {
            let segment = evidence.segment()?;
            Some((evidence.at, segment.origin.forwarded_sender()?, segment.clone()))
        })
    }

    /// Whose segments the case is about: those of the ruling, else the latest.
    fn sender(&self) -> Option<SocketAddr> {
        let since = self.reported.as_ref().map(|reported| reported.ruling.since);
        let of_ruling = self.evidence.as_slice().iter().find_map(|evidence| {
            let sender = evidence.segment()?.origin.forwarded_sender()?;
            (Some(evidence.at) == since).then_some(sender)
        });
        // Of what ends a connection the other end's segments are no copies.
        let of_ending = self.evidence.as_slice().iter().rev().find_map(|evidence| {
            let segment = evidence.segment().filter(|segment| segment.message.is_ending())?;
            segment.origin.forwarded_sender()
        });
        of_ruling.or(of_ending).or_else(|| self.latest_dropped().map(|(_, sender, _)| sender))
    }

    /// When to look again, or how long to wait for a copy.
    pub(super) fn rest(&mut self, now: MonoTime) {
        let is_waited_for = |last: &Evidence| matches!(last.kind, EvidenceKind::EndWaits(_));
        let waits = self.is_ending() && self.evidence.as_slice().last().is_some_and(is_waited_for);
        self.wake = Some(if self.has_finding() || waits {
            let since = self.evidence.as_slice().first().map_or(now, |first| first.at);
            (next_look_at_waiting(since, now), FlowWake::Look)
        } else {
            (self.touched + WAIT_FOR_A_COPY, FlowWake::Forget)
        });
    }

    /// Judges the flow as it stands. `Some` when there is something new to report.
    pub(super) fn judge(&mut self, at: MonoTime, standards: &Standards) -> Option<Finding> {
        let mut ruling = judge(&History {
            key: &self.asked_as,
            vantage: Vantage::Forwarder,
            socket: &SocketView::default(),
            evidence: self.evidence.as_slice(),
            path: &Knowledge::<PathStatus>::NotAsked,
            conntrack: &self.status,
            service: &Knowledge::NotAsked,
            thresholds: &standards.thresholds,
            events_lost: standards.events_lost.saturating_sub(self.lost_before),
        })?;
        add_missing_rule(&mut ruling, self.evidence.as_slice(), self.place_unknown.as_deref());
        let (id, state) = match &self.reported {
            None => {
                let FlowKey { netns, initiator, responder, .. } = self.key;
                let key = ConnectionKey { netns, local: initiator, remote: responder };
                (FindingId { key, cookie: None, opened_at: at, case: self.number }, FindingState::Opened)
            }
            Some(reported)
                if self.is_resumed || reported.known != self.known() || differs(&reported.ruling, &ruling) =>
            {
                (reported.id, FindingState::Updated)
            }
            Some(_) => return None,
        };
        self.is_resumed = false;
        self.reported = Some(Reported { id, ruling: ruling.clone(), known: self.known() });
        self.finding(id, state, at, ruling)
    }

    fn known(&self) -> Known {
        Known {
            path: matches!(self.path, Knowledge::Known(_)),
            direction: self.is_direction_known,
            place: Evidence::place(self.evidence.as_slice()).is_some(),
            receiver_owner: self.receiver_owner.1.clone(),
        }
    }

    /// Ends the flow. `Some` when it had a finding.
    pub(super) fn close(self, at: MonoTime, outcome: Outcome) -> Option<Finding> {
        let Reported { id, ruling, known: _ } = self.reported.clone()?;
        self.finding(id, FindingState::Closed(outcome), at, ruling)
    }

    fn finding(&self, id: FindingId, state: FindingState, at: MonoTime, ruling: Ruling) -> Option<Finding> {
        let sender = self.sender()?;
        let ConnectionKey { local, remote, .. } = self.asked_as;
        Some(Finding {
            id,
            state,
            at,
            flow: Some(Box::new(FlowView {
                key: self.key,
                is_direction_known: self.is_direction_known,
                packet: (sender, if sender == remote { local } else { remote }),
                translation: self.translation,
                path: self.path.clone(),
                ends: self.ends_from(sender),
                receiver_owner: self.receiver_owner.1.clone(),
            })),
            socket: SocketView::default(),
            path: Knowledge::NotAsked,
            ruling,
            owner: OwnerKnowledge::NotAsked,
            evidence: self.evidence.as_slice().to_vec(),
            evidence_left_out: self.evidence.left_out(),
        })
    }
}

/// The same, as who forwards it sees it.
fn forwarded(segment: &DroppedSegment, key: &ConnectionKey) -> DroppedSegment {
    let ifindex = segment.ingress_ifindex().unwrap_or(0);
    DroppedSegment { origin: Origin::Forwarded { ifindex, sender: key.remote }, ..segment.clone() }
}
