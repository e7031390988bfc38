use crate::{
    kernel::Totals,
    model::{Event, HookCount, LossPlace, MonoTime},
};

/// Tells new losses from those already told: the kernel's counters only grow.
#[derive(Debug, Default)]
pub(super) struct Losses {
    told: Vec<HookCount>,
    /// What programs did that are no longer attached.
    before: Vec<HookCount>,
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
        self.before.append(&mut self.told);
    }

    /// What the hooks did since the watch began, now that the counters stand there; nothing where no program is attached.
    pub(super) fn hook_counts(&self, totals: Option<Totals>) -> Vec<HookCount> {
        let with_before =
            |now: HookCount| self.before.iter().filter(|before| before.hook == now.hook).fold(now, HookCount::with);
        totals.into_iter().flatten().map(with_before).collect()
    }

    /// What has been lost since the last call.
    pub(super) fn new_since(&mut self, at: MonoTime, totals: &Totals) -> Vec<Event> {
        let mut events = Vec::new();
        for now in totals {
            let (lost, missed) = now.lost_since(self.told.iter().find(|told| told.hook == now.hook));
            for (place, count) in [(LossPlace::Ring(now.hook), lost), (LossPlace::Recursion(now.hook), missed)] {
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
    use crate::model::Hook;

    #[test]
    fn each_loss_is_told_once() {
        let mut losses = Losses::default();
        let at = MonoTime::from_ns(1);
        let mut totals = Hook::ALL.map(HookCount::none);
        assert_eq!(losses.new_since(at, &totals), []);
        totals[1].lost = 3;
        losses.undecodable();
        let expected = [
            Event::Lost { at, place: LossPlace::Ring(Hook::TcpRetransmitSkb), count: 3 },
            Event::Lost { at, place: LossPlace::Decode, count: 1 },
        ];
        assert_eq!(losses.new_since(at, &totals), expected);
        assert_eq!(losses.new_since(at, &totals), []);
        totals[1].lost = 5;
        totals[0].missed = 1;
        let expected = [
            Event::Lost { at, place: LossPlace::Recursion(Hook::InetSockSetState), count: 1 },
            Event::Lost { at, place: LossPlace::Ring(Hook::TcpRetransmitSkb), count: 2 },
        ];
        assert_eq!(losses.new_since(at, &totals), expected);
    }

    #[test]
    fn what_was_counted_before_programs_were_attached_anew_still_counts() {
        let mut losses = Losses::default();
        let mut totals = Hook::ALL.map(HookCount::none);
        let hook = totals[0].hook;
        totals[0] = HookCount { hook, seen: 5, emitted: 3, lost: 2, suppressed: 1, missed: 4 };
        losses.new_since(MonoTime::from_ns(1), &totals);
        losses.begin_anew();
        totals[0] = HookCount { hook, seen: 1, emitted: 1, lost: 0, suppressed: 0, missed: 0 };
        assert_eq!(losses.new_since(MonoTime::from_ns(2), &totals), []);
        let [first, ..] = losses.hook_counts(Some(totals))[..] else { panic!("no hooks") };
        assert_eq!((first.seen, first.emitted, first.lost, first.suppressed, first.missed), (6, 4, 2, 1, 4));
        assert_eq!(losses.hook_counts(None), []);
    }
}
