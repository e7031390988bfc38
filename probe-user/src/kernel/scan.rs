//! The scan over all sockets of one namespace, by a BPF iterator.

use std::{
    fs::File,
    io::{self, Read as _},
    sync::{Arc, Mutex, PoisonError},
};

use aya::{Btf, Ebpf, programs::Iter};

/// The program's name in the object.
const PROGRAM: &str = "tcp_sockets";
/// What it iterates over (`bpf_iter_tcp`).
const TARGET: &str = "tcp";

/// Scans namespaces for sockets that wait; usable from any thread.
#[derive(Clone)]
pub struct Scanner {
    ebpf: Arc<Mutex<Ebpf>>,
}

impl Scanner {
    /// Loads the iterator.
    pub(super) fn load(ebpf: &Arc<Mutex<Ebpf>>, btf: Option<&Btf>) -> Result<Self, String> {
        let scanner = Self { ebpf: Arc::clone(ebpf) };
        let btf = btf.ok_or("the kernel has no BTF, which iterators attach by")?;
        scanner.with_program(|program| program.load(TARGET, btf).map_err(|error| error.to_string()))?;
        Ok(scanner)
    }

    /// Reads the records of every waiting socket in the namespace that the calling thread is in, one after the other as
    /// [`connprobe_common::abi::SocketRecord`]s.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the iterator.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let link = self.with_program(|program| {
            let link = program.attach().map_err(|error| error.to_string())?;
            program.take_link(link).map_err(|error| error.to_string())
        });
        // The namespace is that of the thread that opens the iterator.
        let mut file: File = link.map_err(io::Error::other)?.into_file().map_err(io::Error::other)?;
        let mut records = Vec::new();
        file.read_to_end(&mut records)?;
        Ok(records)
    }

    fn with_program<T>(&self, work: impl FnOnce(&mut Iter) -> Result<T, String>) -> Result<T, String> {
        let mut ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        let program = ebpf.program_mut(PROGRAM).ok_or_else(|| format!("the object has no program {PROGRAM}"))?;
        work(program.try_into().map_err(|error: aya::programs::ProgramError| error.to_string())?)
    }
}
