//! The programs that tell of connections that are over: loaded only when asked for, with a ring, counters and a memory of their own.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, PerCpuArray, RingBuf},
};

use tokio::io::unix::AsyncFd;

use super::ring::{HookTotals, RingError, shown, wait_for};
use crate::model::RunCost;

/// Connections that are remembered at once: of others it is not known when they were opened. About 9 MB of kernel memory.
pub(super) const MAX_LIVES: u32 = 65_536;
/// Bytes of the ring: 22,000 records, which a host that closes 10,000 connections a second fills in two.
pub(super) const RING_BYTES: u32 = 4 << 20;

/// Bytes of what is remembered of a connection (`Life` in `probe-ebpf/src/emit/connection.rs`).
type Life = [u8; 40];

/// What the programs tell.
pub struct Lifecycle {
    ring: RingBuf<MapData>,
    waiter: AsyncFd<OwnedFd>,
    counters: PerCpuArray<MapData, [u64; 4]>,
    lives: HashMap<MapData, u64, Life>,
    programs: Vec<OwnedFd>,
}

impl Lifecycle {
    /// Takes ring, counters and memory out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, RingError> {
        let mut map = |name| ebpf.take_map(name).ok_or(RingError::NoMap(name));
        let ring = RingBuf::try_from(map("CONNECTIONS")?).map_err(|why| RingError::Map { map: "CONNECTIONS", why })?;
        let counters = PerCpuArray::try_from(map("CONNECTION_COUNTERS")?)
            .map_err(|why| RingError::Map { map: "CONNECTION_COUNTERS", why })?;
        let lives = HashMap::try_from(map("LIVES")?).map_err(|why| RingError::Map { map: "LIVES", why })?;
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
        // A walk begins anew where it meets an entry that has just gone: on a busy host it need not come to an end.
        for (socket, life) in from.lives.iter().flatten().take(2 * MAX_LIVES as usize) {
            let copied = self.lives.insert(socket, life, 0);
            // What has changed meanwhile was changed here, too, and was overwritten just now.
            match from.lives.get(&socket, 0) {
                Ok(now) if copied.is_ok() && now != life => drop(self.lives.insert(socket, now, 0)),
                Ok(_) => {}
                Err(_) => drop(self.lives.remove(&socket)),
            }
        }
    }
}
