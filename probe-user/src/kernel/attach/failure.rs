//! Why a program could not be attached, and what that says of this kernel.

use aya::programs::ProgramError;

use crate::error::chain;

#[derive(Debug)]
pub(super) enum TryError {
    /// The object has no such program, or BTF went missing between planning and attaching.
    Internal(String),
    Program(ProgramError),
}

impl TryError {
    /// ENOENT says that this kernel has no such hook; anything else says that something is wrong.
    pub(super) fn is_unsupported(&self) -> bool {
        match self {
            Self::Internal(_) => false,
            Self::Program(error) => errno_of(error) == Some(nix::errno::Errno::ENOENT as i32),
        }
    }

    /// Loading was refused before anything was verified, though programs of other kinds were not: some hosts allow no trampolines.
    pub(super) fn is_policy(&self) -> bool {
        match self {
            Self::Internal(_) => false,
            Self::Program(ProgramError::LoadError { io_error, verifier_log }) => {
                io_error.raw_os_error() == Some(nix::errno::Errno::EPERM as i32)
                    && last_verdict(&verifier_log.to_string()).is_none()
            }
            Self::Program(_) => false,
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Internal(text) => text.clone(),
            Self::Program(ProgramError::LoadError { io_error, verifier_log }) => {
                match last_verdict(&verifier_log.to_string()) {
                    // Nothing was verified: a policy of this host, or a want of privileges.
                    None => format!("loading the program was refused: {io_error}"),
                    Some(verdict) => format!("the kernel's verifier refused the program: {verdict}"),
                }
            }
            Self::Program(error) => chain(error),
        }
    }
}

fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        current = error.source();
    }
    None
}

/// The reason in a verifier's log: its last line but for the statistics.
fn last_verdict(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 3] = ["verification time ", "stack depth ", "processed "];
    let mut lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.rfind(|line| !STATISTICS.iter().any(|start| line.starts_with(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_reason_is_found_above_its_statistics() {
        let log = "63: (63) *(u32 *)(r10 -104) = r3\nR3 !read_ok\nverification time 7731 usec\nstack depth 368\n\
            processed 3142 insns (limit 1000000)\n\n";
        assert_eq!(last_verdict(log), Some("R3 !read_ok"));
        assert_eq!(last_verdict("processed 0 insns\n"), None);
        assert_eq!(last_verdict(""), None);
    }
}
