//! A child process that does not outlive its handle.

use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::registry;

/// How often the end of a child is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running child. It is killed (SIGKILL) and reaped when dropped, when its lab goes, and when this process is ended by
/// SIGINT, SIGTERM or SIGHUP. Signals go to its pid only while that pid is still its own.
#[derive(Debug)]
pub struct ManagedChild {
    child: Arc<Mutex<Child>>,
    pid: u32,
    program: String,
}

impl ManagedChild {
    /// Starts a command in the network namespace of this process.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(mut command: Command) -> Result<Self> {
        Self::spawn_in(&mut command, None)
    }

    /// Starts a command from a thread that is already in the namespace.
    pub(crate) fn spawn_in(command: &mut Command, namespace: Option<&str>) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut registry = registry::open()?;
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let pid = child.id();
        let child = Arc::new(Mutex::new(child));
        registry.add_child(namespace, &child);
        Ok(Self { child, pid, program })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The writing end of its standard input, if that is a pipe and was not taken before.
    #[must_use]
    pub fn take_stdin(&self) -> Option<ChildStdin> {
        registry::lock(&self.child).stdin.take()
    }

    /// The reading end of its standard output, if that is a pipe and was not taken before.
    #[must_use]
    pub fn take_stdout(&self) -> Option<ChildStdout> {
        registry::lock(&self.child).stdout.take()
    }

    /// The reading end of its standard error, if that is a pipe and was not taken before.
    #[must_use]
    pub fn take_stderr(&self) -> Option<ChildStderr> {
        registry::lock(&self.child).stderr.take()
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the kernel refuses to say.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        registry::lock(&self.child).try_wait().with_context(|| format!("cannot wait for {}", self.program))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `timeout`; it then goes on.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() >= timeout {
                bail!("{} (pid {}) still runs after {timeout:?}", self.program, self.pid);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has already ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut child = registry::lock(&self.child);
        if let Some(status) = child.try_wait()? {
            bail!("{} (pid {}) has already ended: {status}", self.program, self.pid);
        }
        // Not reaped yet, and nobody else can reap it while the lock is held: the pid is still its own.
        let pid = i32::try_from(self.pid).map_err(|_| anyhow!("not a pid: {}", self.pid))?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to {}", self.program))
    }

    /// Ends it with SIGKILL and reaps it; no error if it has already ended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> Result<()> {
        registry::kill_and_reap(&mut registry::lock(&self.child))
            .with_context(|| format!("cannot end {}", self.program))
    }
}

impl Drop for ManagedChild {
    fn drop(&mut self) {
        // A destructor has nobody to tell, and SIGKILL to one's own child is not refused.
        let _ = self.kill();
    }
}
