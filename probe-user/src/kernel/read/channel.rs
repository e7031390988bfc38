//! What a group of programs tells by: a ring for its records, and counters.

use std::{
    fs,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError, PerCpuArray, RingBuf, ring_buf::RingBufItem},
};
use tokio::io::unix::AsyncFd;

use crate::model::{Hook, HookCount, RunCost};

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

/// Ring, counters, and the attached programs that write there.
pub(super) struct Channel {
    ring: RingBuf<MapData>,
    /// A second descriptor of the ring, to wait for it.
    waiter: AsyncFd<OwnedFd>,
    counters: PerCpuArray<MapData, [u64; 4]>,
    /// To ask the kernel how often it did not run them.
    programs: Vec<(Hook, OwnedFd)>,
}

impl Channel {
    /// Takes ring and counters out of the loaded object. Must be called within a tokio runtime.
    pub(super) fn take(ebpf: &mut Ebpf, ring: &'static str, counters: &'static str) -> Result<Self, RingError> {
        let ring: RingBuf<_> = take_map(ebpf, ring)?;
        let counters = take_map(ebpf, counters)?;
        let waiter = wait_for(ring.as_fd().try_clone_to_owned()?)?;
        Ok(Self { ring, waiter, counters, programs: Vec::new() })
    }

    /// Counts what the kernel does not let this hook's program see.
    pub(super) fn count_misses_of(&mut self, hook: Hook, program: OwnedFd) {
        self.programs.push((hook, program));
    }

    /// Waits until the programs ask for the ring to be read. Cancel-safe.
    pub(super) async fn half_full(&self) -> io::Result<()> {
        self.waiter.readable().await?.clear_ready();
        Ok(())
    }

    /// The oldest record on the ring. Its place is free when it is dropped.
    pub(super) fn next_record(&mut self) -> Option<RingBufItem<'_>> {
        self.ring.next()
    }

    /// What this hook did: the counters with this index, summed over the CPUs. Misses are counted from Linux 5.12 on; before, they are 0.
    pub(super) fn totals(&self, index: u32, hook: Hook) -> Result<HookCount, MapError> {
        let mut totals = HookCount::none(hook);
        for [seen, emitted, lost, suppressed] in self.counters.get(&index, 0)?.iter().copied() {
            totals.seen += seen;
            totals.emitted += emitted;
            totals.lost += lost;
            totals.suppressed += suppressed;
        }
        let programs = self.programs.iter().filter(|(this, _)| *this == hook);
        totals.missed = programs.filter_map(|(_, program)| shown(program, "recursion_misses:")).sum();
        Ok(totals)
    }

    /// For how long the programs have run together, as far as the kernel counts it.
    pub(super) fn run_time(&self) -> Duration {
        self.programs.iter().filter_map(|(_, program)| shown(program, "run_time_ns:")).map(Duration::from_nanos).sum()
    }

    /// What each program has cost, with its hook; `None` where the kernel does not count it.
    pub(super) fn costs(&self) -> impl Iterator<Item = (Hook, Option<RunCost>)> {
        self.programs.iter().map(|(hook, program)| (*hook, cost(program)))
    }
}

/// Takes a map out of the loaded object.
pub(super) fn take_map<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, RingError> {
    let map = ebpf.take_map(name).ok_or(RingError::NoMap(name))?;
    T::try_from(map).map_err(|why| RingError::Map { map: name, why })
}

fn wait_for(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "tokio has no safe way to wait for a descriptor that is not its own")]
    // SAFETY: an `OwnedFd` stays the same open descriptor for as long as the `AsyncFd` owns it; nothing closes it.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}

fn cost(program: &OwnedFd) -> Option<RunCost> {
    let (runs, time_ns) = (shown(program, "run_cnt:")?, shown(program, "run_time_ns:")?);
    Some(RunCost { runs, time: Duration::from_nanos(time_ns) })
}

/// A number of a program, as the kernel shows it for its descriptor (`bpf_prog_show_fdinfo`).
fn shown(program: &OwnedFd, name: &str) -> Option<u64> {
    /// The kernel shows some 200 bytes. Asked for every second, so that it should be one read.
    const SHOWN_BYTES: usize = 1_024;
    let mut info = String::with_capacity(SHOWN_BYTES);
    let file = fs::File::open(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    file.take(SHOWN_BYTES as u64).read_to_string(&mut info).ok()?;
    info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
