use super::{Entry, Held, Place};
use crate::model::{ConnectionKey, MonoTime};

/// Places are made so many at once: a table of a million must not move to grow.
pub(super) const CHUNK: usize = 1_024;

/// Places that keep their numbers, and are made in chunks.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) chunks: Vec<Vec<Place>>,
    first_empty: Option<u32>,
}

impl Places {
    pub(super) fn get(&self, index: u32) -> Option<&Place> {
        let index = usize::try_from(index).ok()?;
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Place> {
        let index = usize::try_from(index).ok()?;
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }

    /// Tells the entry of this connection, which has this hash, from others.
    pub(super) fn is_entry_of(&self, key: &ConnectionKey, hash: u32) -> impl Fn(&Entry) -> bool {
        move |entry| entry.hash == hash && self.get(entry.index).is_some_and(|place| place.key == *key)
    }

    /// An empty place, the one that was emptied last, if any.
    pub(super) fn take_empty(&mut self, key: ConnectionKey) -> u32 {
        if let Some(index) = self.first_empty
            && let Some(Place { held: Held::Empty { next }, .. }) = self.get(index)
        {
            self.first_empty = *next;
            return index;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() >= CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let Some(chunk) = self.chunks.last_mut() else { return u32::MAX };
        chunk.push(Place {
            key,
            held: Held::Empty { next: None },
            wake_at: None,
            touched: MonoTime::default(),
            wake_entry: None,
            touch_entry: None,
        });
        u32::try_from(before + chunk.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn empty(&mut self, index: u32) -> Option<(Held, ConnectionKey, MonoTime, MonoTime)> {
        let next = self.first_empty;
        let place = self.get_mut(index)?;
        let held = std::mem::replace(&mut place.held, Held::Empty { next });
        let wake_at = place.wake_at.take().unwrap_or_default();
        let taken = (held, place.key, wake_at, place.touched);
        self.first_empty = Some(index);
        Some(taken)
    }

    /// Whether there is room for many times as many as there are.
    pub(super) fn are_mostly_empty(&self, length: usize) -> bool {
        const KEPT: usize = 16 * CHUNK;
        self.chunks.len() * CHUNK > KEPT.max(16 * length)
    }

    pub(super) fn into_all(self) -> impl Iterator<Item = Place> {
        self.chunks.into_iter().flatten()
    }
}
