//! One daemon a host: two would tell everything twice. And one a folder of kept findings.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, anyhow};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Held as long as this lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock of a host, or says who has it.
    pub(super) fn take(path: &Path) -> anyhow::Result<Self> {
        Self::take_or(path, |holder| {
            anyhow!(
                "another daemon is at work on this host (pid {holder}): stop that one first, or give this one a lock of its own by --lock; \
                 `connprobe diagnose` may run beside it"
            )
        })
    }

    /// Takes the lock of a folder in which findings are kept.
    pub(super) fn take_folder(folder: &Path) -> anyhow::Result<Self> {
        Self::take_or(&folder.join("lock"), |holder| {
            let folder = folder.display();
            anyhow!(
                "another daemon keeps its findings in {folder} (pid {holder}): give this one a folder of its own by --state-dir"
            )
        })
    }

    fn take_or(path: &Path, is_taken: impl Fn(&str) -> anyhow::Error) -> anyhow::Result<Self> {
        let cannot = || format!("the lock {} cannot be taken", path.display());
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(folder).with_context(cannot)?;
        }
        // Whoever may read the file may hold the lock; and it is written to, so that no link is followed.
        let mut open = OpenOptions::new();
        open.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let mut file = open.open(path).with_context(cannot)?;
        file.set_permissions(Permissions::from_mode(0o600)).with_context(cannot)?;
        let mut holder = String::new();
        // Whatever is in it, it is only shown.
        let _ = file.read_to_string(&mut holder);
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => return Err(is_taken(holder.trim())),
            Err((_, error)) => return Err(error).with_context(cannot),
        };
        file.set_len(0).and_then(|()| file.rewind()).with_context(cannot)?;
        writeln!(file, "{}", std::process::id()).with_context(cannot)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_told_who_is_there_and_comes_in_when_that_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/daemon.lock");
        let first = Lock::take(&path).unwrap();
        let error = Lock::take(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        Lock::take(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Lock::take(&link).is_err(), "what is behind a link is not written over");
    }
}
