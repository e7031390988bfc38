//! What comes out of the programs that tell of suspicions: records and counters.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError},
    sys::{Stats, SyscallError, enable_stats},
};
use connprobe_common::abi::hook;

use super::channel::{Channel, RingError, take_map};
use crate::model::{Hook, HookCount, RunCost};

/// The totals of every hook, in the order of [`Hook::ALL`].
pub type Totals = [HookCount; hook::COUNT];

/// So long without a record, and the reader sleeps.
const QUIET_FOR: Duration = Duration::from_secs(1);

/// The ring buffer and the counters.
pub struct Ring {
    channel: Channel,
    /// Tells the programs that the reader sleeps, and they wake it.
    sleeps: Array<MapData, u32>,
    is_asleep: bool,
    /// When a record was last there.
    busy_at: Instant,
}

impl Ring {
    /// Takes them out of the loaded object. Must be called within a tokio runtime.
    pub(in crate::kernel) fn take(ebpf: &mut Ebpf) -> Result<Self, RingError> {
        let channel = Channel::take(ebpf, "EVENTS", "COUNTERS")?;
        let sleeps = take_map(ebpf, "READER_SLEEPS")?;
        Ok(Self { channel, sleeps, is_asleep: false, busy_at: Instant::now() })
    }

    /// Counts what the kernel does not let this hook's program see.
    pub(in crate::kernel) fn count_misses_of(&mut self, hook: Hook, program: OwnedFd) {
        self.channel.count_misses_of(hook, program);
    }

    /// Whether nothing has come for so long that reading by a timer is not worth it: the programs wake who waits for
    /// [`half_full`](Self::half_full) at the next record.
    pub const fn is_asleep(&self) -> bool {
        self.is_asleep
    }

    /// Waits until the programs ask to be read, which they do when the ring is half full, or the reader is asleep. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When the ring can no longer be waited for.
    pub async fn half_full(&self) -> io::Result<()> {
        self.channel.half_full().await
    }

    /// Hands every record now on the ring to `take`, oldest first, and frees its place.
    pub fn drain(&mut self, mut take: impl FnMut(&[u8])) {
        let mut records = self.drain_once(&mut take);
        if records > 0 {
            self.busy_at = Instant::now();
        }
        let may_sleep = self.busy_at.elapsed() >= QUIET_FOR;
        if may_sleep == self.is_asleep || self.sleeps.set(0, u32::from(may_sleep), 0).is_err() {
            return;
        }
        self.is_asleep = may_sleep;
        // What was written before the programs could know.
        records = self.drain_once(&mut take);
        if records > 0 && self.sleeps.set(0, 0, 0).is_ok() {
            (self.is_asleep, self.busy_at) = (false, Instant::now());
        }
    }

    fn drain_once(&mut self, take: &mut impl FnMut(&[u8])) -> usize {
        let mut records = 0;
        while let Some(record) = self.channel.next_record() {
            take(&record);
            records += 1;
        }
        records
    }

    /// For how long the programs have run together; `None` where the kernel does not count it (`kernel.bpf_stats_enabled`).
    pub fn run_time(&self) -> Option<Duration> {
        Some(self.channel.run_time()).filter(|time| !time.is_zero())
    }

    /// Reads the counters of every hook, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the map look-up. Misses are counted from Linux 5.12 on; before, they are 0.
    pub fn totals(&self) -> Result<Totals, MapError> {
        let mut totals = Hook::ALL.map(HookCount::none);
        for (index, count) in (0u32..).zip(&mut totals) {
            *count = self.channel.totals(index, count.hook)?;
        }
        Ok(totals)
    }
}

/// The kernel counts and times the runs of every BPF program of the host as long as this lives (`BPF_ENABLE_STATS`, from Linux 5.8).
pub struct Statistics {
    _until_closed: OwnedFd,
}

impl Statistics {
    /// Lets the kernel begin.
    ///
    /// # Errors
    ///
    /// When it refuses, or cannot.
    pub fn take() -> Result<Self, SyscallError> {
        enable_stats(Stats::RunTime).map(|descriptor| Self { _until_closed: descriptor })
    }

    /// What the attached programs have cost since.
    pub fn costs(&self, ring: &Ring) -> BTreeMap<Hook, RunCost> {
        let mut costs: BTreeMap<Hook, RunCost> = BTreeMap::new();
        for (hook, cost) in ring.channel.costs() {
            if let Some(RunCost { runs, time }) = cost {
                let sum = costs.entry(hook).or_default();
                sum.runs += runs;
                sum.time += time;
            }
        }
        costs
    }
}
