//! Finding and entering network namespaces.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{FsType, fstatfs},
};

/// Where `ip netns` keeps named namespaces.
const NAMED: &str = "/run/netns";
/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";
/// `NSFS_MAGIC` (`include/uapi/linux/magic.h`).
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
/// Places remembered where namespaces were found. A host with more active ones than this searches for some again.
const MAX_REMEMBERED: usize = 256;

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
    /// The namespace was not found, but not every process could be looked at.
    #[error("no network namespace with inode {0} was found among those that may be looked at; run connprobe as root")]
    Hidden(u32),
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

/// An open network namespace. It lives at least as long as this, with all its devices and sockets: do not hold on to one.
#[derive(Debug)]
pub struct Netns {
    /// Its inode number.
    pub inode: u32,
    file: File,
}

impl Netns {
    fn open(path: &Path) -> Result<Self, NetnsError> {
        let failed = |why| NetnsError::Open { path: path.to_owned(), why };
        let not_one = || NetnsError::NotANamespace(path.to_owned());
        // Opening a FIFO would wait for a writer.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(not_one());
        }
        let file = File::open(path).map_err(failed)?;
        // Every kind of namespace is a file of nsfs; only the link's target tells the kind.
        if fstatfs(&file).map_err(|errno| failed(errno.into()))?.filesystem_type() != NSFS_MAGIC
            || !is_network_namespace(&file)
        {
            return Err(not_one());
        }
        let inode = file.metadata().map_err(failed)?.ino();
        Ok(Self { inode: u32::try_from(inode).map_err(|_| not_one())?, file })
    }

    /// A descriptor of it, by which the kernel can be asked about it; it keeps it alive, too.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// Runs `work` on a thread of its own that has entered this namespace, or at once if the calling thread is in it.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered (it needs `CAP_SYS_ADMIN`), the system gives no thread, or the work panicked.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        if fs::metadata(OWN).is_ok_and(|own| own.ino() == u64::from(self.inode)) {
            return Ok(work());
        }
        thread::scope(|scope| {
            thread::Builder::new()
                .spawn_scoped(scope, || {
                    setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                    Ok(work())
                })?
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
        return find(inode).map(|(_, netns)| netns);
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

/// Finds and opens a namespace by its inode number.
fn find(inode: u32) -> Result<(PathBuf, Netns), NetnsError> {
    let open = || {
        let path = locate(inode)?;
        match Netns::open(&path)? {
            netns if netns.inode == inode => Ok((path, netns)),
            // Another has taken its place since.
            _ => Err(NetnsError::NoSuchInode(inode)),
        }
    };
    // The process it was found through may have ended meanwhile, and not have been the only one.
    match open() {
        Err(NetnsError::Open { .. }) => open(),
        result => result,
    }
}

/// Finds where a namespace is to be opened: the calling thread's, then those mounted somewhere, then those of processes.
///
/// Not found are namespaces that only an open descriptor, a single thread or a socket keeps alive.
fn locate(inode: u32) -> Result<PathBuf, NetnsError> {
    let is_it = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino() == u64::from(inode));
    if is_it(Path::new(OWN)).unwrap_or(false) {
        return Ok(PathBuf::from(OWN));
    }
    let root = format!("net:[{inode}]");
    // A mount lasts longer than a process.
    let mounted = nsfs_mounts().into_iter().find(|(point, this)| *this == root && is_it(point).unwrap_or(false));
    if let Some((point, _)) = mounted {
        return Ok(point);
    }
    // With `hidepid` other users' processes are not even listed.
    let mut hidden = !Path::new("/proc/1").exists();
    let failed = |why| NetnsError::Open { path: PathBuf::from("/proc"), why };
    for entry in fs::read_dir("/proc").map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let path = entry.path().join("ns/net");
        match is_it(&path) {
            Ok(true) => return Ok(path),
            Ok(false) => {}
            // A process that ends meanwhile gives this error too (`proc_ns_get_link`, `fs/proc/namespaces.c`).
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden |= entry.path().exists(),
            Err(_) => {}
        }
    }
    Err(if hidden { NetnsError::Hidden(inode) } else { NetnsError::NoSuchInode(inode) })
}

/// Remembers where namespaces were found, so that further questions about them need no search.
///
/// It holds none of them open: a namespace held open would live on after its last process, and keep its devices.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    found: HashMap<u32, PathBuf>,
}

impl Namespaces {
    /// Opens the namespace with this inode number, for one question.
    pub(super) fn open(&mut self, inode: u32) -> Result<Netns, NetnsError> {
        if let Some(path) = self.found.get(&inode)
            && let Ok(netns) = Netns::open(path)
            && netns.inode == inode
        {
            return Ok(netns);
        }
        let (path, netns) = find(inode).map_err(|error| match error {
            // It could be seen, and is to be seen no more: that some processes cannot be looked at no longer matters.
            NetnsError::Hidden(_) if self.found.contains_key(&inode) => NetnsError::NoSuchInode(inode),
            error => error,
        })?;
        if self.found.len() >= MAX_REMEMBERED {
            self.found.clear();
        }
        self.found.insert(inode, path);
        Ok(netns)
    }

    /// Asks about all of these in the namespace with this inode number; `by` is how the kernel is asked. Each gets what is found of it, or why
    /// that cannot be known.
    pub(super) fn ask_about<'a, A: Sync, T, I>(
        &mut self,
        netns: u32,
        by: &str,
        asked: &'a [A],
        look_up: impl FnOnce(&'a [A]) -> io::Result<I> + Send,
    ) -> Vec<Result<T, String>>
    where
        I: IntoIterator<Item = io::Result<T>> + Send,
    {
        let all = |why: String| asked.iter().map(|_| Err(why.clone())).collect();
        if netns == 0 {
            return all("its network namespace is not known".to_owned());
        }
        let failed = |error: io::Error| format!("{by} in network namespace {netns}: {error}");
        match self.open(netns).map(|netns| netns.run(|| look_up(asked)).flatten()) {
            Ok(Ok(found)) => found.into_iter().map(|found| found.map_err(failed)).collect(),
            Ok(Err(error)) => all(failed(error)),
            Err(error) => all(error.to_string()),
        }
    }
}

/// How long a list of all namespaces is good: making one looks at every process.
const ROSTER_GOOD_FOR: Duration = Duration::from_secs(30);

/// Where the namespaces to be scanned are found, each once. None is held open.
#[derive(Debug)]
pub struct Roster {
    only: Option<u32>,
    found: Vec<(u32, PathBuf)>,
    made: Option<Instant>,
}

impl Roster {
    /// Of the namespace with this inode number, or of all there are.
    pub fn new(only: Option<u32>) -> Self {
        Self { only, found: Vec::new(), made: None }
    }

    /// Opens one after the other for `work`. Where one is no longer where it was found, the next call makes a new list.
    pub fn for_each(&mut self, now: Instant, mut work: impl FnMut(&Netns)) {
        if self.made.is_none_or(|made| now.duration_since(made) >= ROSTER_GOOD_FOR) {
            self.found = match self.only {
                Some(inode) => find(inode).map(|(path, _)| vec![(inode, path)]).unwrap_or_default(),
                None => all(),
            };
            self.made = Some(now);
        }
        for (inode, path) in &self.found {
            match Netns::open(path) {
                Ok(netns) if netns.inode == *inode => work(&netns),
                Ok(_) | Err(_) => self.made = None,
            }
        }
    }
}

/// Every namespace that can be seen, by inode: this thread's, those mounted somewhere, and those of processes.
fn all() -> Vec<(u32, PathBuf)> {
    let mounted = nsfs_mounts().into_iter().filter(|(_, root)| root.starts_with("net:[")).map(|(point, _)| point);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_processes = processes
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        .map(|entry| entry.path().join("ns/net"));
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    let mut known = HashSet::new();
    for path in std::iter::once(PathBuf::from(OWN)).chain(mounted).chain(of_processes) {
        if let Some(inode) = fs::metadata(&path).ok().and_then(|metadata| u32::try_from(metadata.ino()).ok())
            && known.insert(inode)
        {
            found.push((inode, path));
        }
    }
    found
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

    #[test]
    fn a_namespace_that_is_no_longer_where_it_was_found_is_searched_again() {
        let mut namespaces = Namespaces::default();
        let own = resolve("/proc/self/ns/net").unwrap().inode;
        namespaces.found.insert(own, PathBuf::from("/run/netns/no-such-namespace"));
        assert_eq!(namespaces.open(own).unwrap().inode, own);
        assert_eq!(namespaces.found.get(&own), Some(&PathBuf::from(OWN)));
        // 1 is no namespace's inode: they are counted from `PROC_DYNAMIC_FIRST`, 0xF0000000.
        assert!(matches!(namespaces.open(1), Err(NetnsError::NoSuchInode(1) | NetnsError::Hidden(1))));
        namespaces.found.insert(1, PathBuf::from("/run/netns/deleted"));
        assert!(matches!(namespaces.open(1), Err(NetnsError::NoSuchInode(1))));
    }
}
