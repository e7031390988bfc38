//! The programs that tell of connections that are over: loaded only when asked for, with a ring, counters and a memory of their own.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError, PerCpuArray, RingBuf},
};

use connprobe_common::connection::{LIFE_BUCKET_WORDS, LIFE_BUCKETS, LIFE_WAYS, LIFE_WORDS};
use tokio::io::unix::AsyncFd;

use super::ring::{HookTotals, RingError, shown, wait_for};
use crate::model::RunCost;

/// Bytes of the ring: 21,000 records, which a host that closes 10,000 connections a second fills in two.
pub(super) const RING_BYTES: u32 = 4 << 20;

/// Some of what is remembered of connections (`Bucket` in `probe-ebpf/src/lives.rs`).
type Bucket = [u64; LIFE_BUCKET_WORDS];

/// What the programs tell.
pub struct Lifecycle {
    ring: RingBuf<MapData>,
    waiter: AsyncFd<OwnedFd>,
    counters: PerCpuArray<MapData, [u64; 4]>,
    lives: Array<MapData, Bucket>,
    programs: Vec<OwnedFd>,
}

impl Lifecycle {
    /// Takes ring, counters and memory out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, RingError> {
        let mut map = |name| ebpf.take_map(name).ok_or(RingError::NoMap(name));
        let ring = RingBuf::try_from(map("CONNECTIONS")?).map_err(|why| RingError::Map { map: "CONNECTIONS", why })?;
        let counters = PerCpuArray::try_from(map("CONNECTION_COUNTERS")?)
            .map_err(|why| RingError::Map { map: "CONNECTION_COUNTERS", why })?;
        let lives = Array::try_from(map("LIVES")?).map_err(|why| RingError::Map { map: "LIVES", why })?;
        let waiter = wait_for(ring.as_fd().try_clone_to_owned()?)?;
        Ok(Self { ring, waiter, counters, lives, programs: Vec::new() })
    }

    /// Counts what the kernel does not let this program see.
    pub(super) fn count_misses_of(&mut self, program: OwnedFd) {
        self.programs.push(program);
    }

    /// As of [`super::Ring::half_full`].
    ///
    /// # Errors
    ///
    /// When the ring can no longer be waited for.
    pub async fn half_full(&self) -> io::Result<()> {
        self.waiter.readable().await?.clear_ready();
        Ok(())
    }

    /// Hands records on the ring to `take`, at most so many, oldest first of each CPU, and frees their places.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(&[u8])) {
        for _ in 0..most {
            let Some(record) = self.ring.next() else { return };
            take(&record);
        }
    }

    /// The counters, summed over the CPUs. Nothing is suppressed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the map look-up.
    pub fn totals(&self) -> Result<HookTotals, MapError> {
        let mut totals = HookTotals::default();
        for [seen, emitted, lost, suppressed] in self.counters.get(&0, 0)?.iter().copied() {
            totals.seen += seen;
            totals.emitted += emitted;
            totals.lost += lost;
            totals.suppressed += suppressed;
        }
        totals.missed = self.programs.iter().filter_map(|program| shown(program, "recursion_misses:")).sum();
        Ok(totals)
    }

    /// What the programs have cost, where the kernel counts it.
    pub fn cost(&self) -> Option<RunCost> {
        let sum = |name| self.programs.iter().map(|program| shown(program, name)).sum::<Option<u64>>();
        Some(RunCost { runs: sum("run_cnt:")?, time: Duration::from_nanos(sum("run_time_ns:")?) })
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
