//! One network namespace: how it is made, entered and removed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::child::ManagedChild;
use crate::netlink;

/// Where named namespaces are mounted; `ip netns` uses the same place.
pub const RUN_DIR: &str = "/run/netns";

/// Handle of a network namespace that a [`crate::lab::Lab`] owns. Cloning copies the handle.
#[derive(Clone, Debug)]
pub struct Netns {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
    inode: u32,
}

impl Netns {
    /// Its full name, as in `ip netns list`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Its inode number: what the kernel calls `ns.inum` and records call `netns`.
    #[must_use]
    pub fn inode(&self) -> u32 {
        self.inner.inode
    }

    /// Runs the closure on a thread of its own inside the namespace and returns what it returns. Sockets opened there
    /// stay in the namespace; only the network namespace differs from the caller's. A panic goes on in the caller.
    ///
    /// # Errors
    /// When the namespace is gone or may not be entered.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> Result<T> {
        in_fresh_thread(|| {
            let file = File::open(self.path()).with_context(|| format!("namespace {} is gone", self.name()))?;
            setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", self.name()))?;
            Ok(task())
        })
    }

    /// Starts a command inside the namespace, in which it then stays. Standard streams are as the command says.
    ///
    /// # Errors
    /// When the namespace is gone or the program cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<ManagedChild> {
        // A child is born into the namespace of the thread that starts it.
        self.run(move || ManagedChild::spawn_in(&mut command, Some(self.name())))?
    }

    /// Runs a short command inside the namespace, writes `input` to it and waits for its end.
    ///
    /// # Errors
    /// When the program cannot be started. Its exit status is for the caller to judge.
    pub fn output(&self, mut command: Command, input: &str) -> Result<Output> {
        self.run(move || {
            let program = command.get_program().to_string_lossy().into_owned();
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
            if let Some(mut stdin) = child.stdin.take()
                && let Err(error) = stdin.write_all(input.as_bytes())
                && error.kind() != ErrorKind::BrokenPipe
            {
                return Err(error).with_context(|| format!("cannot write to {program}"));
            }
            child.wait_with_output().with_context(|| format!("cannot wait for {program}"))
        })?
    }

    /// As [`Netns::output`], for commands whose failure is the caller's failure; returns standard output.
    ///
    /// # Errors
    /// When the program cannot be started or fails; the message holds its standard error.
    pub fn check_output(&self, command: Command, input: &str) -> Result<String> {
        let line = format!("{command:?}");
        let output = self.output(command, input)?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{line} in {}: {}: {}", self.name(), output.status, stderr.trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Makes a namespace, mounts it under its name and brings its loopback device up.
pub(crate) fn create(name: &str) -> Result<Netns> {
    prepare_run_dir()?;
    let path = Path::new(RUN_DIR).join(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o444);
    options.open(&path).with_context(|| format!("cannot create {}", path.display()))?;

    let inode = in_fresh_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot unshare the network namespace")?;
        // A mount, unlike an open file, survives this thread under a name others can use.
        let own = Some("/proc/thread-self/ns/net");
        mount(own, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("cannot mount on {}", path.display()))?;
        netlink::set_link("lo", true)?;
        Ok(fs::metadata(&path)?.ino())
    })?;
    let inode = u32::try_from(inode).context("the kernel numbers namespaces with 32 bits")?;
    Ok(Netns { inner: Arc::new(Inner { name: name.to_owned(), path, inode }) })
}

/// Unmounts and unlinks a name; no error if it is not there.
pub(crate) fn remove(name: &str) -> Result<()> {
    let path = Path::new(RUN_DIR).join(name);
    loop {
        match umount2(&path, MntFlags::MNT_DETACH) {
            // Several mounts may lie on each other.
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", path.display())),
        }
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// As iproute2 does (`create_netns_dir`, `netns_add` in ip/ipnetns.c): a mount of its own, shared, so that an unmount
/// in one mount namespace reaches the others and no namespace is kept alive out of sight.
fn prepare_run_dir() -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(RUN_DIR);
    made.with_context(|| format!("cannot create {RUN_DIR}"))?;
    let directory = File::open(RUN_DIR).with_context(|| format!("cannot open {RUN_DIR}"))?;
    // iproute2 takes the same lock: two processes would each put a mount on the directory and hide one's names.
    directory.lock().with_context(|| format!("cannot lock {RUN_DIR}"))?;
    let share = || mount(None::<&str>, RUN_DIR, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Ok(()) => return Ok(()),
        Err(Errno::EINVAL) => {} // not yet a mount point
        Err(error) => return Err(error).with_context(|| format!("cannot share {RUN_DIR}")),
    }
    mount(Some(RUN_DIR), RUN_DIR, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("cannot mount {RUN_DIR}"))?;
    share().with_context(|| format!("cannot share {RUN_DIR}"))
}

/// Namespaces belong to threads: one that has changed its own must not be used for anything else.
fn in_fresh_thread<T: Send>(task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, task).map_err(|error| anyhow!(error))?;
        thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}
