//! Every open case, and which is next: to wake up, and to be evicted.

mod places;

use std::{fmt, hash::BuildHasher as _};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use places::Places;

use super::{
    at_rest::MOST_BYTES,
    due::{Due, Look},
    evidence_log::EvidenceLog,
    open_case::Case,
};
use crate::model::{ConnectionEvent, ConnectionKey, MonoTime};

/// Cases open at once of which no more is known than a few events have told. At about 370 bytes each this bounds them at 0.4
/// GB; the kernel spends 2 kB and more on each of their sockets, and what it has queued in them.
pub const MAX_CASES: usize = 1 << 20;
/// Cases of which more is known, at up to ten kilobytes each with sixteen pieces of evidence and all answers: some hundred
/// megabytes. A host with more connections in limbo than this has one cause, not 16,384.
pub const MAX_SERIOUS_CASES: usize = 16_384;

/// In the order of eviction, where there are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    AtRest,
    Serious,
    Finding,
}

#[derive(Debug)]
enum Held {
    Empty { next: Option<u32> },
    AtRest(Box<[u8]>),
    Whole(Box<Case>, Class),
}

#[derive(Debug)]
struct Place {
    key: ConnectionKey,
    held: Held,
    wake_at: Option<MonoTime>,
    touched: MonoTime,
    /// The earliest entry that reminds of it in the queue of wakes. Entries are of places: one outlasts the case it was made for.
    wake_entry: Option<MonoTime>,
    /// The entry that reminds of it in the queue of this class.
    touch_entry: Option<(Class, MonoTime)>,
}

impl Place {
    fn class(&self) -> Option<Class> {
        match self.held {
            Held::Empty { .. } => None,
            Held::AtRest(_) => Some(Class::AtRest),
            Held::Whole(_, class) => Some(class),
        }
    }

    /// Whether an entry in the queue of this class is still of use. Where nothing is left to remind of, the place forgets it, too.
    fn means_touch(&mut self, class: Class, entry: MonoTime) -> bool {
        if self.touch_entry != Some((class, entry)) {
            return false;
        }
        let is_meant = self.class() == Some(class);
        self.touch_entry = self.touch_entry.filter(|_| is_meant);
        is_meant
    }

    /// The same in the queue of wakes.
    fn means_wake(&mut self, entry: MonoTime) -> bool {
        if self.wake_entry != Some(entry) {
            return false;
        }
        self.wake_entry = self.wake_entry.filter(|_| self.wake_at.is_some());
        self.wake_entry.is_some()
    }

    fn look_at_wake(&mut self, entry: MonoTime) -> Look {
        match self.wake_at {
            Some(at) if at <= entry => return Look::Due,
            Some(later) if self.wake_entry == Some(entry) => {
                self.wake_entry = Some(later);
                return Look::Later(later);
            }
            Some(_) | None => {}
        }
        self.wake_entry = self.wake_entry.filter(|at| *at != entry);
        Look::Stale
    }

    fn look_at_touch(&mut self, class: Class, entry: MonoTime) -> Look {
        if self.touch_entry != Some((class, entry)) {
            return Look::Stale;
        }
        let is_of_class = self.class() == Some(class);
        self.touch_entry = is_of_class.then_some((class, self.touched));
        match is_of_class {
            true if self.touched <= entry => Look::Due,
            true => Look::Later(self.touched),
            false => Look::Stale,
        }
    }
}

/// The table. Its hash is keyed by random numbers: who makes connections cannot choose them to collide.
#[derive(Default)]
pub(super) struct Cases {
    by_key: HashTable<Entry>,
    hasher: RandomState,
    places: Places,
    wakes: Due,
    queues: Queues,
    most: Most,
    /// Where a case is written to before it is known how long it is.
    room: Room,
    /// What the case that went to rest last was in, for the next one that is woken or opened.
    spare: Option<Box<Case>>,
}

/// An entry of the table. With its hash the table grows, and passes over others, without a look at the places.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    index: u32,
}

impl Entry {
    /// As the table wants it: it takes the place from the low bits, and a tag from the highest.
    fn wide_hash(&self) -> u64 {
        u64::from(self.hash) << 32 | u64::from(self.hash)
    }
}

struct Room(Box<[u8; MOST_BYTES]>);

impl Default for Room {
    fn default() -> Self {
        Self(Box::new([0; MOST_BYTES]))
    }
}

impl fmt::Debug for Cases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cases").field("open", &self.by_key.len()).finish_non_exhaustive()
    }
}

/// Those of one class, the least recently touched first.
#[derive(Debug, Default)]
struct Queue {
    order: Due,
    length: usize,
}

/// Which of each class is the next to be evicted.
#[derive(Debug, Default)]
struct Queues {
    at_rest: Queue,
    serious: Queue,
    findings: Queue,
}

impl Queues {
    fn of(&mut self, class: Class) -> &mut Queue {
        match class {
            Class::AtRest => &mut self.at_rest,
            Class::Serious => &mut self.serious,
            Class::Finding => &mut self.findings,
        }
    }
}

/// How many of which.
#[derive(Clone, Copy, Debug)]
struct Most {
    at_rest: usize,
    serious: usize,
}

impl Default for Most {
    fn default() -> Self {
        Self { at_rest: MAX_CASES, serious: MAX_SERIOUS_CASES }
    }
}

impl Cases {
    #[cfg(test)]
    pub(super) fn with_room(at_rest: usize, serious: usize) -> Self {
        Self { most: Most { at_rest, serious }, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn contains(&self, key: &ConnectionKey) -> bool {
        let sought = self.entry(key, 0);
        self.by_key.find(sought.wide_hash(), self.places.is_entry_of(key, sought.hash)).is_some()
    }

    /// When the next one wakes up, as of the latest [`settle`](Self::settle).
    pub(super) fn next_wake(&self) -> Option<MonoTime> {
        self.wakes.peek()
    }

    /// Brings the time of the next wake up to date.
    pub(super) fn settle(&mut self) {
        let places = &mut self.places;
        self.wakes.first(|entry, index| places.get_mut(index).map_or(Look::Stale, |place| place.look_at_wake(entry)));
    }

    /// Takes out one that was to wake up by `now`.
    pub(super) fn take_due(&mut self, now: MonoTime) -> Option<Box<Case>> {
        self.settle();
        let (_, index) = self.wakes.pop_by(now)?;
        let place = self.places.get_mut(index)?;
        place.wake_entry = None;
        self.take_at(index)
    }

    /// Takes out the case of this connection; [`keep`](Self::keep) puts it back.
    pub(super) fn take(&mut self, key: &ConnectionKey) -> Option<Box<Case>> {
        let sought = self.entry(key, 0);
        let is_it = self.places.is_entry_of(key, sought.hash);
        let (entry, _) = self.by_key.find_entry(sought.wide_hash(), is_it).ok()?.remove();
        self.take_out(entry.index)
    }

    /// One that is not in, at its first event.
    pub(super) fn open(&mut self, number: u64, event: &ConnectionEvent, lost_before: u64) -> Box<Case> {
        let (place, evidence) = self.spare();
        let case = Case::open(number, event, lost_before, evidence);
        put_into(place, case)
    }

    /// Puts one in that is not in. What is returned had to make room for it.
    pub(super) fn keep(&mut self, case: Box<Case>) -> Option<Box<Case>> {
        let (key, wake_at, touched) = (case.key, case.wake.map(|(at, _)| at), case.touched);
        let held = match case.to_rest(&mut self.room.0) {
            Some(bytes) => {
                let held = Held::AtRest(bytes.into());
                self.spare = Some(case);
                held
            }
            None if case.has_finding() => Held::Whole(case, Class::Finding),
            None => Held::Whole(case, Class::Serious),
        };
        let evicted = match held {
            Held::AtRest(_) if self.queues.at_rest.length >= self.most.at_rest => self.evict(Class::AtRest),
            Held::Whole(..) if self.queues.serious.length + self.queues.findings.length >= self.most.serious => {
                self.evict(Class::Serious).or_else(|| self.evict(Class::Finding))
            }
            Held::AtRest(_) | Held::Whole(..) | Held::Empty { .. } => None,
        };
        self.put(key, held, wake_at, touched);
        evicted
    }

    fn put(&mut self, key: ConnectionKey, held: Held, wake_at: Option<MonoTime>, touched: MonoTime) {
        let index = self.places.take_empty(key);
        let entry = self.entry(&key, index);
        self.by_key.insert_unique(entry.wide_hash(), entry, Entry::wide_hash);
        let Some(place) = self.places.get_mut(index) else { return };
        (place.key, place.held, place.wake_at, place.touched) = (key, held, wake_at, touched);
        if let Some(at) = wake_at
            && place.wake_entry.is_none_or(|entry| entry > at)
        {
            place.wake_entry = Some(at);
            self.wakes.add(at, index);
        }
        let Some(class) = place.class() else { return };
        let queue = self.queues.of(class);
        queue.length += 1;
        // An earlier one reminds of it, too.
        if place.touch_entry.is_none_or(|(of, entry)| of != class || entry > touched) {
            place.touch_entry = Some((class, touched));
            queue.order.add(touched, index);
        }
        let places = &mut self.places;
        queue
            .order
            .sweep(queue.length, |at, index| places.get_mut(index).is_some_and(|place| place.means_touch(class, at)));
        self.wakes
            .sweep(self.by_key.len(), |at, index| places.get_mut(index).is_some_and(|place| place.means_wake(at)));
    }

    fn evict(&mut self, class: Class) -> Option<Box<Case>> {
        let places = &mut self.places;
        let queue = self.queues.of(class);
        let look = |entry, index| places.get_mut(index).map_or(Look::Stale, |place| place.look_at_touch(class, entry));
        let (_, index) = queue.order.first(look)?;
        self.take_at(index)
    }

    fn take_at(&mut self, index: u32) -> Option<Box<Case>> {
        let entry = self.entry(&self.places.get(index)?.key, index);
        if let Ok(found) = self.by_key.find_entry(entry.wide_hash(), |other| other.index == index) {
            found.remove();
        }
        self.take_out(index)
    }

    /// Takes the case out of a place that is no longer in the table.
    fn take_out(&mut self, index: u32) -> Option<Box<Case>> {
        let (held, key, wake_at, touched) = self.places.empty(index)?;
        let (case, class) = match held {
            Held::Empty { .. } => return None,
            Held::AtRest(bytes) => {
                let (place, evidence) = self.spare();
                let case = Case::from_rest(key, wake_at, touched, &bytes, evidence);
                (case.map(|case| put_into(place, case)), Class::AtRest)
            }
            Held::Whole(case, class) => (Some(case), class),
        };
        self.queues.of(class).length -= 1;
        if self.places.are_mostly_empty(self.by_key.len()) {
            self.gather();
        }
        case
    }

    /// Moves what is left of many into a table of its size: after a storm its memory goes back.
    fn gather(&mut self) {
        let fresh = Self { most: self.most, hasher: self.hasher.clone(), ..Self::default() };
        let old = std::mem::replace(self, fresh);
        for place in old.places.into_all() {
            if !matches!(place.held, Held::Empty { .. }) {
                self.put(place.key, place.held, place.wake_at, place.touched);
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one, too")]
    fn entry(&self, key: &ConnectionKey, index: u32) -> Entry {
        Entry { hash: self.hasher.hash_one(key) as u32, index }
    }

    /// A box for a case, if there is one, and an empty log.
    fn spare(&mut self) -> (Option<Box<Case>>, EvidenceLog) {
        let mut spare = self.spare.take();
        let evidence = spare.as_mut().map(|case| std::mem::take(&mut case.evidence));
        (spare, evidence.unwrap_or_default().emptied())
    }
}

fn put_into(place: Option<Box<Case>>, case: Case) -> Box<Case> {
    match place {
        Some(mut place) => {
            *place = case;
            place
        }
        None => Box::new(case),
    }
}

#[cfg(test)]
mod tests;
