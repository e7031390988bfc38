//! The program itself, run as a user runs it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::child::ManagedChild;
use crate::lines::{Line, Lines, Missed};
use crate::netns::Netns;
use crate::peer::find_beside_executable;

/// Which `connprobe` to run; built or looked for if not set.
pub const PROBE_VARIABLE: &str = "CONNPROBE_BIN";

/// How much longer than a test expects `connprobe` may take to end: detaching each hook waits until no CPU runs its program
/// any more (`tracepoint_synchronize_unregister`, `include/linux/tracepoint.h`), on a starved machine for seconds each.
const DETACHING: Duration = Duration::from_secs(60);

/// A running `connprobe`. Dropping it kills it.
#[derive(Debug)]
pub struct Probe {
    child: ManagedChild,
    stdout: Lines,
    stderr: Lines,
}

/// What a finished `connprobe` has left.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Everything on standard output.
    pub stdout: String,
    /// Everything on standard error.
    pub stderr: String,
    /// The lines of standard output that are JSON objects, in order.
    pub records: Vec<Value>,
}

impl Probe {
    /// Starts `connprobe diagnose` with these arguments, in the namespace of this process.
    ///
    /// # Errors
    /// When the program can be neither found nor built.
    pub fn diagnose(arguments: &[&str]) -> Result<Self> {
        Self::start(&[&["diagnose"], arguments].concat())
    }

    /// Starts `connprobe` with these arguments, in the namespace of this process.
    ///
    /// # Errors
    /// When the program can be neither found nor built.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        Self::watch(ManagedChild::spawn(command(arguments)?)?)
    }

    /// Starts `connprobe` with these arguments inside a namespace.
    ///
    /// # Errors
    /// When the program can be neither found nor built.
    pub fn start_in(netns: &Netns, arguments: &[&str]) -> Result<Self> {
        Self::watch(netns.spawn(command(arguments)?)?)
    }

    /// Starts a prepared command, for another environment or user; see [`program`]. Its output is captured, its input empty.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_command(mut command: Command) -> Result<Self> {
        capture(&mut command);
        Self::watch(ManagedChild::spawn(command)?)
    }

    /// Starts `connprobe` with these arguments and with tracefs, which classic tracepoints need. Where it is not mounted, it
    /// is mounted where only this one process sees it.
    ///
    /// # Errors
    /// When the program can be neither found nor built.
    pub fn start_with_tracefs(arguments: &[&str]) -> Result<Self> {
        if Path::new("/sys/kernel/tracing/events").is_dir() {
            return Self::start(arguments);
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount -t tracefs tracefs /sys/kernel/tracing && exec \"$@\"", "sh"]);
        command.arg(program()?).args(arguments);
        Self::start_command(command)
    }

    /// Runs `connprobe` to its end.
    ///
    /// # Errors
    /// When it cannot be started or has not ended in time; it is then killed.
    pub fn run(arguments: &[&str], timeout: Duration) -> Result<Finished> {
        Self::start(arguments)?.finish(timeout)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The first record that is wanted and was not returned before; waits for it. Other records stay for later calls.
    ///
    /// # Errors
    /// When it has not come in time or the program ended before; the message holds the last output.
    pub fn wait_record(&self, timeout: Duration, mut wanted: impl FnMut(&Value) -> bool) -> Result<Value> {
        let is_wanted = |line: &Line| line.object.as_ref().is_some_and(&mut wanted);
        let line = self.stdout.take(timeout, is_wanted).map_err(|missed| self.explain("record", missed, timeout))?;
        line.object.ok_or_else(|| anyhow!("a record is an object"))
    }

    /// The first record of that `type` that was not returned before; waits for it.
    ///
    /// # Errors
    /// As [`Probe::wait_record`].
    pub fn wait_type(&self, kind: &str, timeout: Duration) -> Result<Value> {
        let wanted = |record: &Value| record.get("type").is_some_and(|is| is == kind);
        self.wait_record(timeout, wanted).with_context(|| format!("waiting for type \"{kind}\""))
    }

    /// The first line of standard error that contains this and was not returned before; waits for it.
    ///
    /// # Errors
    /// When it has not come in time or the program ended before; the message holds the last output.
    pub fn wait_stderr(&self, part: &str, timeout: Duration) -> Result<String> {
        let line = self.stderr.take(timeout, |line| line.text.contains(part));
        line.map(|line| line.text).map_err(|missed| self.explain(part, missed, timeout))
    }

    /// The records so far.
    #[must_use]
    pub fn records(&self) -> Vec<Value> {
        self.stdout.objects()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has already ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.child.signal(signal)
    }

    /// Sends SIGINT, as Ctrl-C does.
    ///
    /// # Errors
    /// When it has already ended.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::SIGINT)
    }

    /// Sends SIGINT and waits for the end.
    ///
    /// # Errors
    /// When it has already ended, or goes on after `timeout`.
    pub fn stop(self, timeout: Duration) -> Result<Finished> {
        self.interrupt()?;
        self.finish(timeout)
    }

    /// Waits for its end and for the end of its output.
    ///
    /// # Errors
    /// When it still runs after `timeout` and the time that detaching may take; it is then killed.
    pub fn finish(self, timeout: Duration) -> Result<Finished> {
        let timeout = timeout + DETACHING;
        let start = Instant::now();
        let status = self.child.wait(timeout).with_context(|| self.story())?;
        for stream in [&self.stdout, &self.stderr] {
            if !stream.wait_end(timeout.saturating_sub(start.elapsed()).max(Duration::from_secs(1))) {
                bail!("a child of connprobe keeps its output open\n{}", self.story());
            }
        }
        let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
        Ok(Finished { code: status.code(), stdout, stderr, records: self.stdout.objects() })
    }

    fn watch(child: ManagedChild) -> Result<Self> {
        let stdout = Lines::collect(child.take_stdout().context("connprobe has no standard output")?)?;
        let stderr = Lines::collect(child.take_stderr().context("connprobe has no standard error")?)?;
        Ok(Self { child, stdout, stderr })
    }

    fn explain(&self, what: &str, missed: Missed, timeout: Duration) -> anyhow::Error {
        match missed {
            Missed::Timeout => anyhow!("no such line ({what}) within {timeout:?}\n{}", self.story()),
            Missed::Ended => anyhow!("connprobe ended without such a line ({what})\n{}", self.story()),
        }
    }

    fn story(&self) -> String {
        format!("its last output:\n{}\nits last errors:\n{}", self.stdout.tail(20), self.stderr.tail(20))
    }
}

/// The `connprobe` to run: that of `CONNPROBE_BIN`; else, under cargo, a fresh build of the profile of this program; else
/// the one beside this program. Decided once.
///
/// # Errors
/// When there is none and it cannot be built.
pub fn program() -> Result<PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let known = PROGRAM.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    known.clone().map_err(|message| anyhow!(message))
}

/// A command that runs the program as root without any capability, to be given arguments.
///
/// # Errors
/// As [`program`].
pub fn unprivileged() -> Result<Command> {
    let mut command = Command::new("setpriv");
    // The program itself must be readable to whom it runs as, so only the capabilities are taken away.
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(program()?);
    Ok(command)
}

fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os(PROBE_VARIABLE) {
        return Ok(PathBuf::from(path));
    }
    // Cargo does not build another package's program for a test; one found lying there may be out of date.
    if let Some(cargo) = env::var_os("CARGO") {
        build(&cargo)?;
    }
    find_beside_executable("connprobe")
        .ok_or_else(|| anyhow!("no connprobe beside this program; build it, or name one in {PROBE_VARIABLE}"))
}

fn build(cargo: &OsString) -> Result<()> {
    let executable = env::current_exe().context("cannot tell where this program is")?;
    let folder = executable.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    let folder = folder.context("this program is in no folder")?;
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "connprobe", "--bin", "connprobe"]);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    if folder.ends_with("release") {
        command.arg("--release");
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cannot build connprobe:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(Path::new(&program()?));
    command.args(arguments);
    capture(&mut command);
    Ok(command)
}

fn capture(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
}
