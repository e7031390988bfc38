//! Who is alive, and what the dead left behind.
//!
//! A process that makes namespaces holds a lock on a file named by its pid as long as it lives; the kernel releases the
//! lock however the process ends. A pid alone would not do: it may belong to another program by now.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result};

use crate::lab::PREFIX;
use crate::netns::{self, RUN_DIR};

/// Where the lock files are.
const LOCK_DIR: &str = "/run/connprobe-tests";

/// The lock of a live process, released when dropped.
pub(crate) struct Claim {
    _locked: File,
}

/// Marks this process as alive. Waits while another process clears what an earlier holder of the same pid left.
pub(crate) fn claim_own_pid() -> Result<Claim> {
    fs::create_dir_all(LOCK_DIR).with_context(|| format!("cannot create {LOCK_DIR}"))?;
    let path = lock_path(process::id());
    loop {
        let file = open_lock(&path)?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        // Whoever cleared the file away may have done so between open and lock.
        if is_still_at(&file, &path)? {
            return Ok(Claim { _locked: file });
        }
    }
}

/// Removes the namespaces and lock files of processes that no longer live; returns the names of the namespaces.
/// `own_too`: also those that carry this process's pid, to be used before this process has made any.
pub(crate) fn remove(own_too: bool) -> Result<Vec<String>> {
    fs::create_dir_all(LOCK_DIR).with_context(|| format!("cannot create {LOCK_DIR}"))?;
    // One at a time: else a lock that another is just clearing away would look like that of a live process.
    let turn = File::open(LOCK_DIR).with_context(|| format!("cannot open {LOCK_DIR}"))?;
    turn.lock().with_context(|| format!("cannot lock {LOCK_DIR}"))?;
    let mut pids: BTreeSet<u32> = entries(RUN_DIR)?.iter().filter_map(|name| maker(name)).collect();
    pids.extend(entries(LOCK_DIR)?.iter().filter_map(|name| name.parse::<u32>().ok()));
    let mut removed = Vec::new();
    for pid in pids {
        if pid == process::id() {
            if own_too {
                removed.extend(remove_all_of(pid)?);
            }
            continue;
        }
        let path = lock_path(pid);
        let file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        if is_still_at(&file, &path)? {
            // Under the lock: a new process with this pid waits in `claim_own_pid` until this is done.
            removed.extend(remove_all_of(pid)?);
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(removed)
}

fn remove_all_of(pid: u32) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for name in entries(RUN_DIR)?.into_iter().filter(|name| maker(name) == Some(pid)) {
        netns::remove(&name)?;
        removed.push(name);
    }
    Ok(removed)
}

/// The pid in a namespace's name, if a harness gave that name.
fn maker(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
    let pid = parts.next()?.parse().ok()?;
    let _number: u64 = parts.next()?.parse().ok()?;
    parts.next().map(|_| pid)
}

fn lock_path(pid: u32) -> PathBuf {
    Path::new(LOCK_DIR).join(pid.to_string())
}

fn open_lock(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    opened.with_context(|| format!("cannot open {}", path.display()))
}

fn is_still_at(file: &File, path: &Path) -> Result<bool> {
    let held = file.metadata().with_context(|| format!("cannot stat {}", path.display()))?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot stat {}", path.display())),
    }
}

/// The names in a directory; none if it does not exist.
fn entries(directory: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {directory}")),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {directory}"))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_given_by_a_harness_have_a_maker() {
        assert_eq!(maker("cpt-812-3-client"), Some(812));
        assert_eq!(maker("cpt-812-3-left-host"), Some(812));
        for foreign in ["client", "cpt-", "cpt-812", "cpt-812-client", "cpt-x-1-client", "xcpt-1-1-a", "cpt-1-1"] {
            assert_eq!(maker(foreign), None, "{foreign}");
        }
    }
}
