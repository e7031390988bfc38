use std::{cmp::Reverse, collections::BinaryHeap};

use crate::model::MonoTime;

/// When what is due, by places in a table. Moving something to a later time costs nothing: its entry is a reminder to look, at
/// the earliest, and the table knows the time itself.
#[derive(Debug, Default)]
pub(super) struct Due {
    entries: BinaryHeap<Reverse<(MonoTime, u32)>>,
}

/// What a table says of an entry that has come up.
pub(super) enum Look {
    /// It is as the entry says.
    Due,
    /// Not before that time.
    Later(MonoTime),
    /// The place is empty, or another entry stands for it.
    Stale,
}

/// Entries that nobody means any more are swept out when there are more of them than of others, and at least so many.
const FEWEST_SWEPT: usize = 1_024;

impl Due {
    pub(super) fn add(&mut self, at: MonoTime, place: u32) {
        self.entries.push(Reverse((at, place)));
    }

    /// The first entry that `look` does not deny, which then stands at the front.
    pub(super) fn first(&mut self, mut look: impl FnMut(MonoTime, u32) -> Look) -> Option<(MonoTime, u32)> {
        while let Some(Reverse((at, place))) = self.entries.peek().copied() {
            match look(at, place) {
                Look::Due => return Some((at, place)),
                Look::Later(later) => {
                    self.entries.pop();
                    self.add(later, place);
                }
                Look::Stale => {
                    self.entries.pop();
                }
            }
        }
        None
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What stands at the front.
    pub(super) fn peek(&self) -> Option<MonoTime> {
        self.entries.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the front away, if it is due by `now`.
    pub(super) fn pop_by(&mut self, now: MonoTime) -> Option<(MonoTime, u32)> {
        self.peek().filter(|at| *at <= now)?;
        self.entries.pop().map(|Reverse(entry)| entry)
    }

    /// Bounds the entries by what `is_meant`, of which there are `meant` at most.
    pub(super) fn sweep(&mut self, meant: usize, mut is_meant: impl FnMut(MonoTime, u32) -> bool) {
        if self.entries.len() > 2 * meant + FEWEST_SWEPT {
            self.entries.retain(|Reverse((at, place))| is_meant(*at, *place));
            self.entries.shrink_to(meant);
        }
    }
}
