use std::{net::SocketAddr, time::Duration};

use super::Flow;
use crate::{
    case::wakes::with_slack,
    judge::{Evidence, EvidenceKind, Verdict},
    model::{
        ConntrackState, ControlMessage, Direction, FlowConntrack, FlowEnds, HostEnd, Knowledge, MonoTime, RTO_MAX,
        RTO_MIN, TcpState, TrackedFlow, may_be_timed,
    },
};

/// A handshake's segments come from two timers, which may fire together.
const SHORTEST_SILENCE: Duration = Duration::from_secs(5);

/// What has become of what was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::case) enum Progress {
    /// Nothing shows that a copy got through.
    None,
    /// A copy got through.
    GotThrough,
    /// Its sender goes on talking: it was no end.
    NoEnd,
    /// The connection is over, or its sender has given up: how it ended was not seen.
    Over,
}

impl Flow {
    /// What has become of it, as of `now`.
    pub(in crate::case) fn progress(&self, now: MonoTime) -> Progress {
        let Some(sender) = self.sender() else { return Progress::Over };
        if self.is_about_handshake() {
            return self.handshake_progress(now, sender);
        }
        let dropped = Evidence::dropped_from(self.evidence.as_slice(), sender);
        let Some((latest_at, latest)) = dropped.last().copied() else { return Progress::Over };
        let goes_on = |evidence: &Evidence| evidence.kind == EvidenceKind::AcknowledgmentsResumed;
        if self.evidence.as_slice().iter().any(|evidence| evidence.at >= latest_at && goes_on(evidence)) {
            return Progress::NoEnd;
        }
        let FlowEnds { receiver, sender: its_sender } = self.ends_from(sender);
        if let Some(end) = receiver {
            return if latest.is_missed_in(end.status.state) { Progress::None } else { Progress::GotThrough };
        }
        if latest.message == ControlMessage::Fin && its_sender.as_ref().is_some_and(is_acknowledged) {
            return Progress::GotThrough;
        }
        // A segment that connection tracking accepts moves its entry on, and a rule may drop it then; one that it holds for invalid
        // does not, and may yet be let pass.
        let follows = latest.is_tracked == Some(false) && latest.reason.is_seen();
        let moved = if follows { self.conntrack_moved(sender) } else { Progress::None };
        if moved != Progress::None {
            return moved;
        }
        let is_gone = self.evidence.as_slice().iter().any(|evidence| evidence.kind == EvidenceKind::SocketGone);
        match latest.message {
            ControlMessage::Reset if is_gone => Progress::Over,
            ControlMessage::Reset => Progress::None,
            ControlMessage::Syn | ControlMessage::SynAck | ControlMessage::Ack | ControlMessage::Data => Progress::None,
            ControlMessage::Fin => {
                let times: Vec<_> = dropped.iter().map(|(at, _)| *at).collect();
                let is_silent = now > latest_at + time_for_two_more(&times);
                // A FIN that may be forged was sent by nobody who waits.
                let is_told_open = follows && may_be_timed(&times) && self.is_known_open() && !is_gone;
                match (is_silent, is_told_open) {
                    (false, _) | (true, true) => Progress::None,
                    // Who waits may yet be told.
                    (true, false) if self.awaited.ends.is_some() || self.awaited.conntrack => Progress::None,
                    // It got through, it took another way, or its sender has given up.
                    (true, false) => Progress::Over,
                }
            }
        }
    }

    /// Whether the case is about what completes the handshake.
    pub(in crate::case) fn is_about_handshake(&self) -> bool {
        self.verdict().map_or_else(|| !self.is_ending(), |verdict| verdict == Verdict::AsymmetricHandshake)
    }

    /// The same of a handshake: connection tracking, or the end that waits for its last step, tells that it is complete.
    fn handshake_progress(&self, now: MonoTime, sender: SocketAddr) -> Progress {
        let dropped: Vec<_> = Evidence::segments_from(self.evidence.as_slice(), sender).collect();
        let Some((latest_at, latest)) = dropped.last().copied() else { return Progress::Over };
        let is_embryonic = |flow: &TrackedFlow| flow.entry.state.is_some_and(ConntrackState::is_embryonic);
        let was_embryonic = self.first_conntrack.as_ref().is_some_and(|first| first.entries().iter().any(is_embryonic));
        let entries = self.entries();
        let waited_for = |evidence: &Evidence| matches!(evidence.kind, EvidenceKind::EndWaits(end) if end.sender == sender && end.state.is_embryonic());
        let waits = self.ends_from(sender).receiver.map(|end| end.status.state);
        let is_answered = waits.is_some_and(TcpState::is_synchronized)
            && (latest.message == ControlMessage::SynAck || self.evidence.as_slice().iter().any(waited_for));
        if is_answered {
            return Progress::GotThrough;
        }
        if self.evidence.as_slice().iter().any(|evidence| evidence.kind == EvidenceKind::SocketGone) {
            return Progress::Over;
        }
        // What connection tracking accepts a later rule may drop.
        if waits.is_some_and(TcpState::is_embryonic) {
            return Progress::None;
        }
        if was_embryonic && !entries.is_empty() && !entries.iter().any(is_embryonic) {
            let is_closed = |flow: &TrackedFlow| flow.entry.state == Some(ConntrackState::Close);
            // A RST has ended what never began.
            return if entries.iter().all(is_closed) { Progress::Over } else { Progress::GotThrough };
        }
        let times: Vec<_> = dropped.iter().map(|(at, _)| *at).collect();
        // It takes another way, its sender has given up, or it is let pass and connection tracking follows nothing of it.
        let wait = time_for_two_more(&rounds(&times)).max(SHORTEST_SILENCE);
        if now > latest_at + wait { Progress::Over } else { Progress::None }
    }

    /// Whether connection tracking still says that the connection is open.
    fn is_known_open(&self) -> bool {
        self.entries().iter().any(|flow| flow.entry.state.is_some_and(is_open))
    }

    /// What the entries' states say of a segment that was invalid to connection tracking: one that it accepts moves them on.
    fn conntrack_moved(&self, sender: SocketAddr) -> Progress {
        let (Some(first), Knowledge::Known(now)) = (&self.first_conntrack, &self.conntrack) else {
            return Progress::None;
        };
        if !first.entries().is_empty() && now.entries().is_empty() {
            return Progress::Over;
        }
        let has_moved = |flow: &TrackedFlow| {
            let before = entry_of(first, flow);
            before.is_some_and(|before| has_followed(before, flow, flow.direction_from(sender)))
        };
        // In every zone: the one that held it for invalid is among them.
        let all_moved = !now.entries().is_empty() && now.entries().iter().all(has_moved);
        if all_moved { Progress::GotThrough } else { Progress::None }
    }
}

fn entry_of<'a>(conntrack: &'a FlowConntrack, flow: &TrackedFlow) -> Option<&'a TrackedFlow> {
    conntrack.entries().iter().find(|before| before.entry.zone == flow.entry.zone)
}

/// Whether a FIN from this direction, or what ends the connection, has passed between the two.
fn has_followed(before: &TrackedFlow, now: &TrackedFlow, direction: Direction) -> bool {
    let is_ended = |flow: &TrackedFlow| flow.entry.state.is_some_and(|state| state > ConntrackState::CloseWait);
    now.closed_by == Some(direction) && before.closed_by != Some(direction) || is_ended(now) && !is_ended(before)
}

fn is_open(state: ConntrackState) -> bool {
    state <= ConntrackState::CloseWait
}

/// Whether the FIN that this end has sent is acknowledged.
const fn is_acknowledged(end: &HostEnd) -> bool {
    matches!(end.status.state, TcpState::FinWait2 | TcpState::TimeWait)
}

/// When each round of segments began: those that come closer together than the shortest RTO are no copies of each other.
fn rounds(times: &[MonoTime]) -> Vec<MonoTime> {
    let mut rounds: Vec<MonoTime> = Vec::new();
    for at in times {
        if rounds.last().is_none_or(|before| at.since(*before) >= RTO_MIN) {
            rounds.push(*at);
        }
    }
    rounds
}

/// How long after the latest copy two more are due: the gaps double (RFC 6298 section 5.5).
fn time_for_two_more(copies: &[MonoTime]) -> Duration {
    let gap = match copies {
        [.., before, latest] => latest.since(*before),
        _ => return super::WAIT_FOR_A_COPY,
    };
    let next = gap.saturating_mul(2).min(RTO_MAX);
    let both = next.saturating_add(next.saturating_mul(2).min(RTO_MAX));
    with_slack(both)
}
