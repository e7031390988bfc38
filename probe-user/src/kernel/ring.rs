//! What comes out of the programs: records and counters.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuArray, RingBuf},
};
use connprobe_common::abi::hook;
use tokio::io::unix::AsyncFd;

use crate::model::Hook;

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

/// The ring buffer and the counters.
pub struct Ring {
    ring: RingBuf<MapData>,
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
        let counters = ebpf.take_map("COUNTERS").ok_or(RingError::NoMap("COUNTERS"))?;
        let counters = PerCpuArray::try_from(counters).map_err(|why| RingError::Map { map: "COUNTERS", why })?;
        let descriptor = ring.as_fd().try_clone_to_owned()?;
        #[expect(unsafe_code, reason = "tokio has no safe way to wait for a descriptor that is not its own")]
        // SAFETY: an `OwnedFd` stays the same open descriptor for as long as the `AsyncFd` owns it; nothing closes it.
        let waiter = unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)?;
        Ok(Self { ring, waiter, counters, programs: Vec::new() })
    }

    /// Counts what the kernel does not let this hook's program see.
    pub(super) fn count_misses_of(&mut self, hook: Hook, program: OwnedFd) {
        self.programs.push((hook, program));
    }

    /// Waits until the programs ask to be read, which they do when the ring is half full. Cancel-safe.
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
        while let Some(record) = self.ring.next() {
            take(&record);
        }
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
            let misses = recursion_misses(program).unwrap_or(0);
            for (_, sum) in totals.iter_mut().filter(|(this, _)| this == hook) {
                sum.missed += misses;
            }
        }
        Ok(totals)
    }
}

/// `recursion_misses` of a program, as the kernel shows it for its descriptor (`bpf_prog_show_fdinfo`, from Linux 5.12).
fn recursion_misses(program: &OwnedFd) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse().ok())
}
