//! When a case wakes up, and what for.

use std::time::Duration;

use super::open_case::Case;
use crate::{
    judge::Evidence,
    model::{ConnectionEvent, EventKind, MonoTime},
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
/// How often what still waits for a segment that was dropped is looked at: the longer it has waited, the less often.
const MOST_OFTEN: Duration = Duration::from_secs(1);
const LEAST_OFTEN: Duration = Duration::from_secs(15);

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

impl Wake {
    const ALL: [Self; 7] =
        [Self::LookForAnswer, Self::Judge, Self::LookAtReceiver, Self::Overdue, Self::Forget, Self::Gone, Self::End];

    /// As a number that [`from_byte`](Self::from_byte) knows.
    pub(super) const fn to_byte(self) -> u8 {
        self as u8
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

impl Case {
    /// When to wake up after an event, and what for.
    pub(super) fn next_wake(&self, event: &ConnectionEvent) -> Option<(MonoTime, Wake)> {
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
            | EventKind::SegmentInvalid(_)
            | EventKind::SocketError => match self.wake {
                Some((at, wake)) if at > event.at => Some((at, wake)),
                Some(_) | None => Some((event.at + LINGER, Wake::Forget)),
            },
        }
    }

    /// The wait before the pending timer fires: where it has just fired, after the kernel has doubled the RTO.
    pub(super) fn next_timeout_in(&self) -> Duration {
        if let Some(sight) = Evidence::latest_sight(self.evidence.as_slice()).filter(|sight| !sight.timer_fired) {
            let keepalive = sight.socket.keepalive.filter(|keepalive| keepalive.enabled);
            let due_in = sight.socket.timer.map(|timer| timer.due_in);
            if let Some(due_in) = due_in.or(keepalive.and(sight.socket.keepalive_due_in)) {
                return due_in;
            }
        }
        let max = self.socket.longest_rto();
        self.socket.rto.map_or(max, |rto| rto.saturating_mul(2).min(max))
    }

    /// When to look for the first time at one that is reported: from then on a recovery matters.
    pub(super) fn first_look(&self, at: MonoTime) -> (MonoTime, Wake) {
        (at + (self.next_timeout_in() / 4).clamp(EARLIEST_LOOK, LATEST_LOOK), Wake::LookForAnswer)
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
        let forget = (now + with_slack(self.next_timeout_in()).max(linger), Wake::Forget);
        // A receiver that waits for what was not seen to be dropped is judged when it has waited for longer.
        self.wake = self.look_again(now).or(Some(forget));
    }
}

/// After how long a kernel timer that was set for `wait` has fired, and been told of.
pub(super) fn with_slack(wait: Duration) -> Duration {
    wait.saturating_add(wait / 8).saturating_add(TIMER_SLACK)
}

/// When to look again at what has waited since then for a segment that was dropped.
pub(super) fn next_look_at_waiting(since: MonoTime, now: MonoTime) -> MonoTime {
    now + (now.since(since) / 2).clamp(MOST_OFTEN, LEAST_OFTEN)
}
