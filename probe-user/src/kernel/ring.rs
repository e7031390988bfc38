//! What comes out of the programs: records and counters.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError, PerCpuArray, RingBuf},
    sys::{Stats, SyscallError, enable_stats},
};
use connprobe_common::abi::hook;
use tokio::io::unix::AsyncFd;

use crate::model::{Hook, RunCost};

/// Why ring and counters could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The object has no such map: it is another version's.
    #[error("the kernel object has no map {0}")]
    NoMap(&'static str),
    /// A map is not of the expected kind.
    #[error("map {map}: {why}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        why: MapError,
    },
    /// The ring cannot be waited for.
    #[error("the ring cannot be waited for: {0}")]
    Wait(#[from] io::Error),
}

/// What one hook did on all CPUs together. `seen == emitted + lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookTotals {
    /// Suspicious events that asked for a place on the ring.
    pub seen: u64,
    /// Those that got it.
    pub emitted: u64,
    /// Those that found the ring full.
    pub lost: u64,
    /// Suspicious events held back by a limit.
    pub suppressed: u64,
    /// Firings at which the kernel did not run the program, because it was running on that CPU already.
    pub missed: u64,
}

/// The totals of every hook, in the order of [`Hook::ALL`].
pub type Totals = [(Hook, HookTotals); hook::COUNT];

/// So long without a record, and the reader sleeps.
const QUIET_FOR: Duration = Duration::from_secs(1);

/// The ring buffer and the counters.
pub struct Ring {
    ring: RingBuf<MapData>,
    /// Tells the programs that the reader sleeps, and they wake it.
    sleeps: Array<MapData, u32>,
    is_asleep: bool,
    /// When a record was last there.
    busy_at: Instant,
    /// A second descriptor of the ring, to wait for it.
    waiter: AsyncFd<OwnedFd>,
    counters: PerCpuArray<MapData, [u64; 4]>,
    /// The attached programs, to ask the kernel how often it did not run them.
    programs: Vec<(Hook, OwnedFd)>,
}

impl Ring {
    /// Takes them out of the loaded object. Must be called within a tokio runtime.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, RingError> {
        let ring = ebpf.take_map("EVENTS").ok_or(RingError::NoMap("EVENTS"))?;
        let ring = RingBuf::try_from(ring).map_err(|why| RingError::Map { map: "EVENTS", why })?;
        let sleeps = ebpf.take_map("READER_SLEEPS").ok_or(RingError::NoMap("READER_SLEEPS"))?;
        let sleeps = Array::try_from(sleeps).map_err(|why| RingError::Map { map: "READER_SLEEPS", why })?;
        let counters = ebpf.take_map("COUNTERS").ok_or(RingError::NoMap("COUNTERS"))?;
        let counters = PerCpuArray::try_from(counters).map_err(|why| RingError::Map { map: "COUNTERS", why })?;
        let descriptor = ring.as_fd().try_clone_to_owned()?;
        let waiter = wait_for(descriptor)?;
        Ok(Self { ring, sleeps, is_asleep: false, busy_at: Instant::now(), waiter, counters, programs: Vec::new() })
    }

    /// Counts what the kernel does not let this hook's program see.
    pub(super) fn count_misses_of(&mut self, hook: Hook, program: OwnedFd) {
        self.programs.push((hook, program));
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
        self.waiter.readable().await?.clear_ready();
        Ok(())
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
        while let Some(record) = self.ring.next() {
            take(&record);
            records += 1;
        }
        records
    }

    /// For how long the programs have run together; `None` where the kernel does not count it (`kernel.bpf_stats_enabled`).
    pub fn run_time(&self) -> Option<Duration> {
        let times = self.programs.iter().filter_map(|(_, program)| shown(program, "run_time_ns:"));
        Some(times.sum()).filter(|ns| *ns > 0).map(Duration::from_nanos)
    }

    /// Reads the counters of every hook, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the map look-up. Misses are counted from Linux 5.12 on; before, they are 0.
    pub fn totals(&self) -> Result<Totals, MapError> {
        let mut totals = Hook::ALL.map(|hook| (hook, HookTotals::default()));
        for (index, (_, sum)) in (0u32..).zip(&mut totals) {
            for [seen, emitted, lost, suppressed] in self.counters.get(&index, 0)?.iter().copied() {
                sum.seen += seen;
                sum.emitted += emitted;
                sum.lost += lost;
                sum.suppressed += suppressed;
            }
        }
        for (hook, program) in &self.programs {
            // From Linux 5.12.
            let misses = shown(program, "recursion_misses:").unwrap_or(0);
            for (_, sum) in totals.iter_mut().filter(|(this, _)| this == hook) {
                sum.missed += misses;
            }
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
        for (hook, program) in &ring.programs {
            let (runs, time_ns) = (shown(program, "run_cnt:"), shown(program, "run_time_ns:"));
            if let (Some(runs), Some(time_ns)) = (runs, time_ns) {
                let cost = costs.entry(*hook).or_default();
                cost.runs += runs;
                cost.time += Duration::from_nanos(time_ns);
            }
        }
        costs
    }
}

/// To wait until a ring is to be read.
pub(super) fn wait_for(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "tokio has no safe way to wait for a descriptor that is not its own")]
    // SAFETY: an `OwnedFd` stays the same open descriptor for as long as the `AsyncFd` owns it; nothing closes it.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}

/// A number of a program, as the kernel shows it for its descriptor (`bpf_prog_show_fdinfo`).
pub(super) fn shown(program: &OwnedFd, name: &str) -> Option<u64> {
    /// The kernel shows some 200 bytes. Asked for every second, so that it should be one read.
    const SHOWN_BYTES: usize = 1_024;
    let mut info = String::with_capacity(SHOWN_BYTES);
    let file = fs::File::open(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    file.take(SHOWN_BYTES as u64).read_to_string(&mut info).ok()?;
    info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
