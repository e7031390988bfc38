//! The scan over all sockets of one namespace, and the look for idle ones, by BPF iterators.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, Read as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aya::{Btf, Ebpf, maps::Array, programs::Iter};
use connprobe_common::abi::SocketRecord;

/// The programs' names in the object.
const SCAN: &str = "tcp_sockets";
const IDLE: &str = "tcp_idle_sockets";
/// The map that tells the second how long is idle, in milliseconds.
const IDLE_FOR_MS: &str = "IDLE_FOR_MS";
/// What it iterates over (`bpf_iter_tcp`).
const TARGET: &str = "tcp";

/// Scans namespaces for sockets that wait; usable from any thread.
#[derive(Clone)]
pub struct Scanner(SocketProgram);

impl Scanner {
    /// Loads the iterator.
    pub(in crate::kernel) fn load(ebpf: &Arc<Mutex<Ebpf>>, btf: Option<&Btf>) -> Result<Self, String> {
        SocketProgram::load(ebpf, SCAN, btf).map(Self)
    }

    /// Reads the records of every waiting socket in the namespace that the calling thread is in, one after the other as
    /// [`SocketRecord`]s.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the iterator.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut records = Vec::new();
        ReadThroughPauses(self.0.open()?).read_to_end(&mut records)?;
        Ok(records)
    }
}

/// Looks in namespaces for idle connections; usable from any thread.
#[derive(Clone)]
pub struct IdleScanner(SocketProgram);

impl IdleScanner {
    /// Loads the iterator.
    pub(in crate::kernel) fn load(ebpf: &Arc<Mutex<Ebpf>>, btf: Option<&Btf>) -> Result<Self, String> {
        SocketProgram::load(ebpf, IDLE, btf).map(Self)
    }

    /// Hands over the record of every connection, in the namespace that the calling thread is in, that has been idle for so long.
    /// There may be a million: they are not collected. Looks must come one after the other.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the iterator.
    pub fn each(&self, idle_for: Duration, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let idle_for_ms = u32::try_from(idle_for.as_millis()).unwrap_or(u32::MAX);
        self.0.set(IDLE_FOR_MS, idle_for_ms).map_err(io::Error::other)?;
        let mut records = BufReader::new(ReadThroughPauses(self.0.open()?));
        let mut record = [0; size_of::<SocketRecord>()];
        loop {
            match records.read_exact(&mut record) {
                Ok(()) => each(&record),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads on where the kernel pauses: after a million sockets of which the program has written nothing a read gives EAGAIN (`bpf_seq_read`,
/// `kernel/bpf/bpf_iter.c`), and the next one goes on there.
struct ReadThroughPauses<R>(R);

impl<R: io::Read> io::Read for ReadThroughPauses<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

/// An iterator's program, which the kernel runs for each socket of a namespace.
#[derive(Clone)]
struct SocketProgram {
    ebpf: Arc<Mutex<Ebpf>>,
    program: &'static str,
}

impl SocketProgram {
    fn load(ebpf: &Arc<Mutex<Ebpf>>, program: &'static str, btf: Option<&Btf>) -> Result<Self, String> {
        let iterator = Self { ebpf: Arc::clone(ebpf), program };
        let btf = btf.ok_or("the kernel has no BTF, which iterators attach by")?;
        iterator.with_program(|program| program.load(TARGET, btf).map_err(|error| error.to_string()))?;
        Ok(iterator)
    }

    /// What it writes of the namespace that the calling thread is in: that of the thread that opens the iterator.
    fn open(&self) -> io::Result<File> {
        let link = self.with_program(|program| {
            let link = program.attach().map_err(|error| error.to_string())?;
            program.take_link(link).map_err(|error| error.to_string())
        });
        link.map_err(io::Error::other)?.into_file().map_err(io::Error::other)
    }

    fn set(&self, map: &str, value: u32) -> Result<(), String> {
        let mut ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ebpf.map_mut(map).ok_or_else(|| format!("the object has no map {map}"))?;
        let mut array: Array<_, u32> = found.try_into().map_err(|error: aya::maps::MapError| error.to_string())?;
        array.set(0, value, 0).map_err(|error| error.to_string())
    }

    fn with_program<T>(&self, work: impl FnOnce(&mut Iter) -> Result<T, String>) -> Result<T, String> {
        let mut ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        let program =
            ebpf.program_mut(self.program).ok_or_else(|| format!("the object has no program {}", self.program))?;
        work(program.try_into().map_err(|error: aya::programs::ProgramError| error.to_string())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pauses before each byte.
    struct Pauses(Vec<u8>, bool);

    impl io::Read for Pauses {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::WouldBlock.into());
            }
            let Some(next) = self.0.pop() else { return Ok(0) };
            into[0] = next;
            Ok(1)
        }
    }

    #[test]
    fn a_scan_of_more_than_a_million_sockets_goes_on_after_each_pause() {
        let mut records = Vec::new();
        ReadThroughPauses(Pauses(vec![3, 2, 1], false)).read_to_end(&mut records).unwrap();
        assert_eq!(records, [1, 2, 3]);
    }
}
