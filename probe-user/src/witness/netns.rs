//! Finding and entering network namespaces.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{FsType, fstatfs},
};

/// Where `ip netns` keeps named namespaces.
const NAMED: &str = "/run/netns";
/// `NSFS_MAGIC` (`include/uapi/linux/magic.h`).
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
/// Namespaces held open for further questions. A host with more active ones than this opens some again.
const MAX_HELD: usize = 64;

/// Why a namespace cannot be found or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No namespace has this name.
    #[error("no network namespace is named {name:?}: {NAMED} holds {known}")]
    NoSuchName {
        /// What was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// No process and no mount holds a namespace with this inode number.
    #[error("no network namespace with inode {0} was found; `lsns -t net` lists those there are")]
    NoSuchInode(u32),
    /// The path is no network namespace.
    #[error("{path} is not a network namespace", path = .0.display())]
    NotANamespace(PathBuf),
    /// The path cannot be opened.
    #[error("{path}: {why}", path = path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
}

/// An open network namespace: it lives at least as long as this.
#[derive(Debug)]
pub struct Netns {
    /// Its inode number.
    pub inode: u32,
    file: File,
}

impl Netns {
    fn open(path: &Path) -> Result<Self, NetnsError> {
        let failed = |why| NetnsError::Open { path: path.to_owned(), why };
        let file = File::open(path).map_err(failed)?;
        let not_one = || NetnsError::NotANamespace(path.to_owned());
        // Every kind of namespace is a file of nsfs; only the link's target tells the kind.
        if fstatfs(&file).map_err(|errno| failed(errno.into()))?.filesystem_type() != NSFS_MAGIC
            || !is_network_namespace(&file)
        {
            return Err(not_one());
        }
        let inode = file.metadata().map_err(failed)?.ino();
        Ok(Self { inode: u32::try_from(inode).map_err(|_| not_one())?, file })
    }

    /// Runs `work` on a thread of its own that has entered this namespace.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered (it needs `CAP_SYS_ADMIN`) or the work panicked.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the work in the namespace panicked")))
        })
    }
}

/// The name the kernel shows for an open namespace is `net:[INODE]`.
fn is_network_namespace(file: &File) -> bool {
    use std::os::fd::AsRawFd as _;
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).is_ok_and(|target| {
        let target = target.to_string_lossy();
        // A bind mount shows the path it is mounted at; its root in mountinfo shows the kind.
        target.starts_with("net:[") || mount_root(&target).is_some_and(|root| root.starts_with("net:["))
    })
}

/// The root of the nsfs mount at `mount_point`, such as `net:[4026532177]`.
fn mount_root(mount_point: &str) -> Option<String> {
    nsfs_mounts().into_iter().rev().find(|(point, _)| point == Path::new(mount_point)).map(|(_, root)| root)
}

/// Mount point and root of every nsfs mount this process sees.
fn nsfs_mounts() -> Vec<(PathBuf, String)> {
    let Ok(mounts) = procfs::process::Process::myself().and_then(|process| process.mountinfo()) else {
        return Vec::new();
    };
    mounts.into_iter().filter(|mount| mount.fs_type == "nsfs").map(|mount| (mount.mount_point, mount.root)).collect()
}

/// Finds the namespace an operator means: an inode number, a path, or a name under `/run/netns`.
///
/// # Errors
///
/// When there is none, with what to do about it.
pub fn resolve(spec: &str) -> Result<Netns, NetnsError> {
    if let Ok(inode) = spec.parse() {
        return find(inode);
    }
    if spec.contains('/') {
        return Netns::open(Path::new(spec));
    }
    let path = Path::new(NAMED).join(spec);
    if spec.is_empty() || !path.exists() {
        return Err(NetnsError::NoSuchName { name: spec.to_owned(), known: known_names() });
    }
    Netns::open(&path)
}

fn known_names() -> String {
    let mut names: Vec<_> = fs::read_dir(NAMED)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Finds a namespace by its inode number: among those of processes, then among mounts.
fn find(inode: u32) -> Result<Netns, NetnsError> {
    let of_processes = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let is_process = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        is_process.then(|| entry.path().join("ns/net"))
    });
    let mounts = nsfs_mounts();
    let root = format!("net:[{inode}]");
    let of_mounts = mounts.into_iter().filter(|(_, this)| *this == root).map(|(point, _)| point);
    let own = PathBuf::from("/proc/self/ns/net");
    std::iter::once(own)
        .chain(of_processes)
        .chain(of_mounts)
        .filter(|path| fs::metadata(path).is_ok_and(|metadata| metadata.ino() == u64::from(inode)))
        .find_map(|path| Netns::open(&path).ok().filter(|netns| netns.inode == inode))
        .ok_or(NetnsError::NoSuchInode(inode))
}

/// Namespaces held open, so that further questions about them need no search.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    held: HashMap<u32, Netns>,
}

impl Namespaces {
    /// The namespace with this inode number.
    pub(super) fn get(&mut self, inode: u32) -> Result<&Netns, NetnsError> {
        if !self.held.contains_key(&inode) {
            let found = find(inode)?;
            if self.held.len() >= MAX_HELD {
                self.held.clear();
            }
            self.held.insert(inode, found);
        }
        self.held.get(&inode).ok_or(NetnsError::NoSuchInode(inode))
    }

    /// Lets go of namespaces: one that is held open lives on after its last process, with all its sockets.
    pub(super) fn release(&mut self, inode: u32) {
        self.held.remove(&inode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_named() {
        let error = resolve("/etc/hostname").unwrap_err().to_string();
        assert_eq!(error, "/etc/hostname is not a network namespace");
        let error = resolve("/proc/self/ns/mnt").unwrap_err().to_string();
        assert_eq!(error, "/proc/self/ns/mnt is not a network namespace");
        let error = resolve("no-such-namespace").unwrap_err().to_string();
        assert!(error.contains("no-such-namespace") && error.contains("/run/netns holds"), "{error}");
        let error = resolve("1").unwrap_err().to_string();
        assert!(error.contains("inode 1 "), "{error}");
        assert!(matches!(resolve("/no/such/file"), Err(NetnsError::Open { .. })));
    }

    #[test]
    fn this_processs_own_namespace_is_found_by_path_and_by_inode() {
        let own = resolve("/proc/self/ns/net").unwrap();
        assert_eq!(resolve(&own.inode.to_string()).unwrap().inode, own.inode);
    }
}
