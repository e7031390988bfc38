//! What becomes of a connection of which a FIN or a RST was thrown away.

use std::time::Duration;

use super::{
    open_case::Case,
    wakes::{Wake, next_look_at_waiting},
};
use crate::{
    judge::{Cause, Evidence, EvidenceKind, MissingEvidence, Ruling, Verdict},
    model::{
        ConnectionEvent, ControlMessage, DropPlace, DropReason, DropTrace, DroppedSegment, EventKind, Knowledge,
        MonoTime, Origin, Question, Stack, TcpState,
    },
};

/// How long the sender is given to send it again before the receiver is looked at. A retransmission comes after 0.2 s at the
/// earliest (`TCP_RTO_MIN`), and on most paths well within this.
const TIME_FOR_A_COPY: Duration = Duration::from_secs(1);

impl Case {
    /// The latest segment that was dropped and has not got through, where that is what the case is about.
    pub(super) fn dropped(&self) -> Option<&DroppedSegment> {
        let is_about_it = self.verdict().is_none_or(|verdict| verdict == Verdict::SilentlyDroppedFin);
        Evidence::dropped(self.evidence.as_slice()).filter(|_| is_about_it).map(|[_, (_, latest)]| latest)
    }

    /// Whether a FIN is among what was dropped.
    pub(super) fn has_dropped_fin(&self) -> bool {
        let mut segments = self.evidence.as_slice().iter().filter_map(Evidence::segment);
        segments.any(|segment| segment.message == ControlMessage::Fin)
    }

    /// Whether nothing but received packets was ever seen of it: no socket of this network namespace.
    pub(super) fn is_of_no_socket(&self) -> bool {
        let is_received = |segment: &DroppedSegment| matches!(segment.origin, Origin::Received { .. });
        let is_forwarded = self.dropped().is_some_and(is_received) || self.may_forward_handshake();
        !self.has_finding() && self.socket.state.is_none() && is_forwarded
    }

    /// Whether the event shows that the receiver, or the peer, has got what was dropped.
    pub(super) fn got_through(&self, event: &ConnectionEvent) -> bool {
        match event.kind {
            EventKind::StateChange { to, .. } => {
                to != TcpState::Close && self.dropped().is_some_and(|segment| !segment.is_missed_in(to))
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

    /// The socket was looked up and is still open.
    pub(super) fn note_still_open(&mut self, at: MonoTime, state: TcpState) {
        self.socket.state = Some(state);
        let kind = EvidenceKind::StillOpen { state };
        if self.evidence.as_slice().last().is_some_and(|last| last.kind == kind) {
            self.evidence.replace_latest(Evidence { at, kind });
        } else {
            self.note(at, kind);
        }
    }

    /// When to look at the receiver next, after something has happened at `at`; `None` where nothing was dropped.
    pub(super) fn next_look(&self, at: MonoTime) -> Option<(MonoTime, Wake)> {
        self.dropped()?;
        let planned = self.wake.filter(|(due, wake)| *due > at && *wake != Wake::Forget);
        Some(planned.unwrap_or((at + TIME_FOR_A_COPY, self.look())))
    }

    /// When to look again at one that still waits.
    pub(super) fn look_again(&self, now: MonoTime) -> Option<(MonoTime, Wake)> {
        self.dropped()?;
        let [(since, _), _] = Evidence::dropped(self.evidence.as_slice())?;
        Some((next_look_at_waiting(since, now), self.look()))
    }

    fn look(&self) -> Wake {
        if self.has_finding() { Wake::Overdue } else { Wake::LookAtReceiver }
    }

    /// Asks once which function dropped it.
    pub(super) fn ask_function(&mut self) -> Option<Question> {
        let step = || Evidence::latest_dropped_step(self.evidence.as_slice()).map(|(_, segment)| segment);
        let segment = self.dropped().or_else(step)?;
        let address = segment.location;
        let is_known = address == 0 || segment.function.is_some();
        let is_new = !is_known && self.surroundings.asks_function(address);
        is_new.then_some(Question::Function { key: self.key, address })
    }

    /// Asks once where it was dropped.
    pub(super) fn ask_place(&mut self) -> Option<Question> {
        let [_, (at, segment)] = Evidence::dropped(self.evidence.as_slice()).filter(|_| self.dropped().is_some())?;
        let trace = trace(self.evidence.as_slice(), at, segment).filter(|_| !self.surroundings.has_asked_place)?;
        (self.surroundings.has_asked_place, self.surroundings.awaits_place) = (true, true);
        Some(Question::DropPlace { key: self.key, trace })
    }

    /// Takes in where it was dropped.
    pub(super) fn take_place(&mut self, at: MonoTime, place: Result<DropPlace, String>) {
        self.surroundings.awaits_place = false;
        match place {
            Ok(place) => self.note(at, EvidenceKind::DropPlace(Box::new(place))),
            Err(why) => self.surroundings.place_unknown = Some(why),
        }
    }

    /// Takes in which function is at an address.
    pub(super) fn take_function(&mut self, address: u64, name: Option<&str>) {
        self.surroundings.awaits_function = false;
        self.evidence.name_function(address, name);
    }
}

/// Adds to a ruling about what a rule dropped why it is not known which, where that is so. What is proven stays so without.
pub(super) fn add_missing_rule(ruling: &mut Ruling, evidence: &[Evidence], place_unknown: Option<&str>) {
    if !matches!(ruling.cause, Cause::ConntrackBadChecksum | Cause::ConntrackInvalid | Cause::FirewallDrop) {
        return;
    }
    let why = match Evidence::place(evidence).map(|place| &place.rules) {
        Some(Knowledge::Unavailable(why)) => Some(why.as_str()),
        Some(Knowledge::Known(_) | Knowledge::NotAsked) => None,
        None => place_unknown,
    };
    ruling.missing.extend(why.map(|why| MissingEvidence::DropRule { why: why.to_owned() }));
}

/// What is known of where the segment was dropped; `None` where the kernel's calls are not.
pub(super) fn trace(evidence: &[Evidence], at: MonoTime, segment: &DroppedSegment) -> Option<DropTrace> {
    let is_held = Evidence::why_invalid(evidence, at, segment).map(|_| true);
    (segment.stack != Stack::default()).then(|| DropTrace {
        stack: segment.stack,
        is_by_filter: segment.reason == DropReason::NetfilterDrop,
        // To a rule, a packet without a connection is invalid (`nft_ct_get_eval`).
        is_invalid: segment.is_tracked.map(|is_tracked| !is_tracked).or(is_held),
        is_sent: segment.origin == Origin::Sent,
        is_reset: segment.message == ControlMessage::Reset,
    })
}

#[cfg(test)]
mod tests;
