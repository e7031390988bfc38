//! The programs that tell of connections that are over: loaded only when asked for, with a ring, counters and a memory of their own.

use std::{io, os::fd::OwnedFd};

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError},
};
use connprobe_common::connection::{LIFE_BUCKET_WORDS, LIFE_BUCKETS, LIFE_WAYS, LIFE_WORDS};

use super::channel::{Channel, RingError, take_map};
use crate::model::{Hook, HookCount, RunCost};

/// Bytes of the ring: 21,000 records, which a host that closes 10,000 connections a second fills in two.
pub(in crate::kernel) const RING_BYTES: u32 = 4 << 20;

/// The programs stand where those of state changes do.
const HOOK: Hook = Hook::InetSockSetState;

/// Some of what is remembered of connections (`Bucket` in `probe-ebpf/src/lives.rs`).
type Bucket = [u64; LIFE_BUCKET_WORDS];

/// What the programs tell.
pub struct Lifecycle {
    channel: Channel,
    lives: Array<MapData, Bucket>,
}

impl Lifecycle {
    /// Takes ring, counters and memory out of the loaded object.
    pub(in crate::kernel) fn take(ebpf: &mut Ebpf) -> Result<Self, RingError> {
        let channel = Channel::take(ebpf, "CONNECTIONS", "CONNECTION_COUNTERS")?;
        Ok(Self { channel, lives: take_map(ebpf, "LIVES")? })
    }

    /// Counts what the kernel does not let this program see.
    pub(in crate::kernel) fn count_misses_of(&mut self, program: OwnedFd) {
        self.channel.count_misses_of(HOOK, program);
    }

    /// As of [`super::Ring::half_full`].
    ///
    /// # Errors
    ///
    /// When the ring can no longer be waited for.
    pub async fn half_full(&self) -> io::Result<()> {
        self.channel.half_full().await
    }

    /// Hands records on the ring to `take`, at most so many, oldest first of each CPU, and frees their places.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(&[u8])) {
        for _ in 0..most {
            let Some(record) = self.channel.next_record() else { return };
            take(&record);
        }
    }

    /// The counters, summed over the CPUs. Nothing is suppressed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the map look-up.
    pub fn totals(&self) -> Result<HookCount, MapError> {
        self.channel.totals(0, HOOK)
    }

    /// What the programs have cost, where the kernel counts it.
    pub fn cost(&self) -> Option<RunCost> {
        self.channel.costs().try_fold(RunCost::default(), |sum, (_, cost)| {
            let RunCost { runs, time } = cost?;
            Some(RunCost { runs: sum.runs + runs, time: sum.time + time })
        })
    }

    /// Takes over what programs remember that go. Both are attached, and those that go have seen all that these have, and what was
    /// before.
    pub fn take_over(&mut self, from: &Self) {
        /// A connection that comes or goes meanwhile does so in both tables, and shows in the one that goes.
        const ATTEMPTS: usize = 4;
        for index in 0..LIFE_BUCKETS {
            let Ok(mut known) = from.lives.get(&index, 0) else { return };
            if places(&known).all(|(socket, _)| socket == 0) {
                continue;
            }
            let mut gone = known;
            for _ in 0..ATTEMPTS {
                let Ok(mut bucket) = self.lives.get(&index, 0) else { return };
                if !put_right(&mut bucket, &known, &gone) || self.lives.set(index, bucket, 0).is_err() {
                    break;
                }
                let Ok(now) = from.lives.get(&index, 0) else { return };
                if now == known {
                    break;
                }
                (gone, known) = (known, now);
            }
        }
    }
}

/// A socket, 0 for none, and what is remembered of it.
type Place<'a> = (u64, &'a [u64]);

fn places(bucket: &Bucket) -> impl Iterator<Item = Place<'_>> {
    let (sockets, lives) = bucket.split_at(LIFE_WAYS);
    sockets.iter().copied().zip(lives.chunks_exact(LIFE_WORDS))
}

/// Writes into a bucket what is known, and strikes out what was known and is so no more; whether anything is another.
fn put_right(bucket: &mut Bucket, known: &Bucket, before: &Bucket) -> bool {
    let unchanged = *bucket;
    let is_known = |socket: u64| places(known).any(|(other, _)| other == socket);
    let (sockets, lives) = bucket.split_at_mut(LIFE_WAYS);
    for place in sockets.iter_mut().filter(|place| places(before).any(|(socket, _)| socket == **place)) {
        if !is_known(*place) {
            *place = 0;
        }
    }
    for (socket, life) in places(known).filter(|(socket, _)| *socket != 0) {
        let at = |wanted: u64, sockets: &[u64]| sockets.iter().position(|owner| *owner == wanted);
        let Some(way) = at(socket, sockets).or_else(|| at(0, sockets)) else { continue };
        if let (Some(owner), Some(place)) = (sockets.get_mut(way), lives.chunks_exact_mut(LIFE_WORDS).nth(way)) {
            *owner = socket;
            place.copy_from_slice(life);
        }
    }
    *bucket != unchanged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(sockets: &[(u64, u64)]) -> Bucket {
        let mut bucket = [0; LIFE_BUCKET_WORDS];
        for (way, (socket, life)) in sockets.iter().enumerate() {
            bucket[way] = *socket;
            bucket[LIFE_WAYS + way * LIFE_WORDS..][..LIFE_WORDS].fill(*life);
        }
        bucket
    }

    fn held(bucket: &Bucket) -> Vec<(u64, u64)> {
        places(bucket).filter(|(socket, _)| *socket != 0).map(|(socket, life)| (socket, life[LIFE_WORDS - 1])).collect()
    }

    #[test]
    fn what_was_seen_before_is_put_beside_what_is_new_and_over_what_is_less() {
        let mut here = bucket(&[(5, 50), (7, 1)]);
        let known = bucket(&[(0, 0), (7, 70), (9, 90)]);
        assert!(put_right(&mut here, &known, &known));
        assert_eq!(held(&here), [(5, 50), (7, 70), (9, 90)]);
        assert!(!put_right(&mut here, &known, &known), "nothing is left to do");
    }

    #[test]
    fn what_goes_meanwhile_goes_here_too() {
        let (before, now) = (bucket(&[(7, 70), (9, 90)]), bucket(&[(7, 71)]));
        let mut here = before;
        assert!(put_right(&mut here, &now, &before));
        assert_eq!(held(&here), [(7, 71)]);
    }

    #[test]
    fn a_full_bucket_keeps_what_it_has() {
        let full: Vec<_> = (1..=LIFE_WAYS as u64).map(|socket| (socket, socket)).collect();
        let mut here = bucket(&full);
        assert!(!put_right(&mut here, &bucket(&[(99, 1)]), &bucket(&[])));
        assert_eq!(held(&here), full);
    }
}
