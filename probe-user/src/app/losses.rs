use crate::{
    kernel::{HookTotals, Totals},
    model::{Event, Hook, LossPlace, MonoTime},
    report::HookCount,
};

/// What the hooks did, for people and records.
pub(super) fn hook_counts(totals: Option<Totals>) -> Vec<HookCount> {
    let count = |(hook, HookTotals { seen, emitted, lost, suppressed, missed })| HookCount {
        hook,
        seen,
        emitted,
        lost,
        suppressed,
        missed,
    };
    totals.into_iter().flatten().map(count).collect()
}

/// Tells new losses from those already told: the kernel's counters only grow.
#[derive(Debug, Default)]
pub(super) struct Losses {
    told: Vec<(Hook, HookTotals)>,
    undecodable: u64,
    undecodable_told: u64,
}

impl Losses {
    /// Counts a record that could not be decoded.
    pub(super) fn undecodable(&mut self) {
        self.undecodable += 1;
    }

    pub(super) fn undecodable_total(&self) -> u64 {
        self.undecodable
    }

    /// The kernel's counters begin anew, with new programs.
    pub(super) fn begin_anew(&mut self) {
        self.told.clear();
    }

    /// What has been lost since the last call.
    pub(super) fn new_since(&mut self, at: MonoTime, totals: &Totals) -> Vec<Event> {
        let mut events = Vec::new();
        for (hook, now) in totals {
            let told = self.told.iter().find(|(this, _)| this == hook).map(|(_, told)| *told).unwrap_or_default();
            for (place, count) in [
                (LossPlace::Ring(*hook), now.lost.saturating_sub(told.lost)),
                (LossPlace::Recursion(*hook), now.missed.saturating_sub(told.missed)),
            ] {
                if count > 0 {
                    events.push(Event::Lost { at, place, count });
                }
            }
        }
        self.told = totals.to_vec();
        if self.undecodable > self.undecodable_told {
            let count = self.undecodable - self.undecodable_told;
            events.push(Event::Lost { at, place: LossPlace::Decode, count });
            self.undecodable_told = self.undecodable;
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loss_is_told_once() {
        let mut losses = Losses::default();
        let at = MonoTime::from_ns(1);
        let mut totals = Hook::ALL.map(|hook| (hook, HookTotals::default()));
        assert_eq!(losses.new_since(at, &totals), []);
        totals[1].1.lost = 3;
        losses.undecodable();
        let expected = [
            Event::Lost { at, place: LossPlace::Ring(Hook::TcpRetransmitSkb), count: 3 },
            Event::Lost { at, place: LossPlace::Decode, count: 1 },
        ];
        assert_eq!(losses.new_since(at, &totals), expected);
        assert_eq!(losses.new_since(at, &totals), []);
        totals[1].1.lost = 5;
        totals[0].1.missed = 1;
        let expected = [
            Event::Lost { at, place: LossPlace::Recursion(Hook::InetSockSetState), count: 1 },
            Event::Lost { at, place: LossPlace::Ring(Hook::TcpRetransmitSkb), count: 2 },
        ];
        assert_eq!(losses.new_since(at, &totals), expected);
    }
}
