//! What watches while the load runs: connprobe itself, or another tool.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use connprobe_tests::{child::ManagedChild, clocks::now_wall_seconds, netns::Netns, probe};
use nix::sys::signal::Signal;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::peer::{self, Kind, Peer};
use crate::programs;

/// How long a watcher may take to attach, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// For how long a tool has loaded nothing more when it is taken to be attached.
const SETTLED: Duration = Duration::from_millis(500);

/// A process that watches. Dropping it ends it.
pub(crate) struct Watcher {
    child: ManagedChild,
    output: Option<Output>,
    folder: TempDir,
}

/// The file that standard error goes to.
const ERRORS: &str = "errors";

/// What becomes of the records that a watcher writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// They go to the null device.
    Nobody,
    /// They are counted by type; the latest of each is kept.
    Counted,
    /// Lines of another tool that name the load's addresses are counted.
    Lines,
}

/// The records of one type.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    pub(crate) count: u64,
    /// When the latest came, and the record.
    pub(crate) latest: Option<(Instant, String)>,
    /// Of findings, those that open one and those that close one: when each was read, in seconds since 1970, and the record.
    kept: Vec<(f64, String)>,
}

/// Types of records whose number is wanted. Lines of other tools are of the type that is none.
const TYPES: [&str; 4] = ["connection", "finding", "heartbeat", LINE];
/// What a line of another tool is counted as.
pub(crate) const LINE: &str = "a line";
/// How the load's addresses begin (`load::run`).
const LOAD: &[u8] = b"127.77.1.";

type Counts = Mutex<[Records; TYPES.len()]>;

/// What records that open or close a finding hold.
const OPENED: &str = "\"state\":\"opened\"";
const CLOSED: &str = "\"state\":\"closed\"";

struct Output {
    records: Arc<Counts>,
    reader: JoinHandle<()>,
}

impl Watcher {
    /// `connprobe daemon` that watches one namespace, attached when this returns.
    pub(crate) fn daemon(netns: &Netns, arguments: &[&str], reading: Reading) -> Result<Self> {
        let mut command = Command::new(probe::program()?);
        command.args(["daemon", "--metrics-listen", "none", "--stdout", "true", "--netns"]).arg(netns.path());
        command.args(arguments);
        Self::start(command, reading)
    }

    /// The same with settings in a file, and none but those.
    pub(crate) fn with_settings(path: &Path) -> Result<Self> {
        let mut command = Command::new(probe::program()?);
        command.args(["daemon", "--config"]).arg(path);
        Self::start(command, Reading::Nobody)
    }

    fn start(mut command: Command, reading: Reading) -> Result<Self> {
        let folder = TempDir::new().context("no temporary folder")?;
        let ready = folder.path().join("notify");
        let socket = UnixDatagram::bind(&ready).context("cannot listen for readiness")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        command.arg("--lock").arg(folder.path().join("lock")).env("NOTIFY_SOCKET", &ready);
        // How long scans take is told to whoever debugs.
        command.env("CONNPROBE_LOG", "warn,connprobe::app::scan=debug").env("NO_COLOR", "1");
        command.stdin(Stdio::null());
        let errors = folder.path().join(ERRORS);
        command.stderr(fs::File::create(&errors).context("cannot write to the temporary folder")?);
        command.stdout(match reading {
            Reading::Nobody => Stdio::null(),
            Reading::Counted | Reading::Lines => Stdio::piped(),
        });
        let child = ManagedChild::spawn(command)?;
        let output = (reading == Reading::Counted).then(|| Output::read(&child, count_line)).transpose()?;
        let said = socket.recv(&mut [0; 4096]).map(drop);
        said.with_context(|| {
            format!("connprobe did not become ready: {}", fs::read_to_string(&errors).unwrap_or_default())
        })?;
        Ok(Self { child, output, folder })
    }

    /// Another tool, attached when this returns.
    pub(crate) fn peer(netns: &Netns, peer: &Peer, reading: Reading) -> Result<Option<Self>> {
        let Some(mut command) = peer.command()? else { return Ok(None) };
        let folder = TempDir::new().context("no temporary folder")?;
        let errors = folder.path().join(ERRORS);
        command.stdin(Stdio::null());
        command.stdout(if reading == Reading::Nobody { Stdio::null() } else { Stdio::piped() });
        command.stderr(fs::File::create(&errors).context("cannot write to the temporary folder")?);
        let child = match peer.kind() {
            Kind::Tracing | Kind::Python => ManagedChild::spawn(command)?,
            Kind::Listening | Kind::ListeningTracked | Kind::Tracked => netns.spawn(command)?,
        };
        let output = (reading != Reading::Nobody).then(|| Output::read(&child, count_lines_of_load)).transpose()?;
        let watcher = Self { child, output, folder };
        if let Err(error) = watcher.wait_attached(peer.kind()) {
            let errors = fs::read_to_string(&errors).unwrap_or_default();
            bail!("{} ({error:#})", peer::reason(&errors));
        }
        Ok(Some(watcher))
    }

    /// Until it holds kernel programs, and no more come.
    fn wait_attached(&self, kind: Kind) -> Result<()> {
        let start = Instant::now();
        let (mut held, mut since) = (BTreeSet::new(), start);
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                bail!("it has ended: {status}");
            }
            let now = programs::held_by(self.pid())?;
            if now != held {
                (held, since) = (now, Instant::now());
            }
            if since.elapsed() > SETTLED
                && (!held.is_empty() || kind == Kind::Listening || kind == Kind::ListeningTracked)
            {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("it loads no kernel program")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Processor time of the process until now, its ended threads included, without that of its kernel programs.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(self.pid())?))?;
        Ok(clock_gettime(clock)?.into())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.child.signal(signal)
    }

    /// What it has written to standard error.
    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(self.folder.path().join(ERRORS)).unwrap_or_default()
    }

    /// What it has in memory, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
        Ok(kilobytes.context("the kernel tells no VmRSS")?.trim().parse::<u64>()? * 1024)
    }

    /// The records of a type so far.
    pub(crate) fn records(&self, kind: &str) -> Records {
        let Some(output) = &self.output else { return Records::default() };
        let records = output.records.lock().unwrap_or_else(PoisonError::into_inner);
        TYPES
            .iter()
            .zip(records.iter())
            .find(|(name, _)| **name == kind)
            .map(|(_, found)| found.clone())
            .unwrap_or_default()
    }

    /// Records that opened a finding, and when each was read.
    pub(crate) fn opened(&self) -> Vec<(f64, String)> {
        let mut kept = self.records("finding").kept;
        kept.retain(|(_, line)| line.contains(OPENED));
        kept
    }

    /// Whether a finding is over.
    pub(crate) fn is_closed(&self, finding_id: &str) -> bool {
        self.outcome(finding_id).is_some()
    }

    /// How a finding ended, once it has.
    pub(crate) fn outcome(&self, finding_id: &str) -> Option<String> {
        let kept = self.records("finding").kept;
        let (_, line) = kept.iter().find(|(_, line)| line.contains(CLOSED) && line.contains(finding_id))?;
        let record: Value = serde_json::from_str(line).ok()?;
        Some(record.get("outcome")?.as_str()?.to_owned())
    }

    /// The first heartbeat from now on whose count of events began after this call.
    pub(crate) fn next_heartbeat(&self) -> Result<Value> {
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if let Some((at, line)) = self.records("heartbeat").latest
                && at > asked
            {
                return serde_json::from_str(&line).context("a heartbeat is no JSON");
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("no heartbeat came within {PATIENCE:?}")
    }

    /// Ends it as an operator does, and waits until it is detached and all that it has written is read.
    pub(crate) fn stop(self) -> Result<()> {
        self.stop_and_count("").map(drop)
    }

    /// The same; returns how many records of a type there were.
    pub(crate) fn stop_and_count(self, kind: &str) -> Result<u64> {
        // Those that catch it print what they have counted, and end.
        self.child.signal(Signal::SIGINT)?;
        if self.child.wait(PATIENCE).is_err() {
            self.child.kill()?;
        }
        let Some(output) = self.output else { return Ok(0) };
        let _ = output.reader.join();
        let records = output.records.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(TYPES.iter().zip(records.iter()).find(|(name, _)| **name == kind).map_or(0, |(_, found)| found.count))
    }
}

impl Output {
    fn read(child: &ManagedChild, count: fn(&[u8], &Counts)) -> Result<Self> {
        let stdout = child.take_stdout().context("it has no standard output")?;
        let records = Arc::new(Counts::default());
        let counted = Arc::clone(&records);
        let reader = thread::spawn(move || {
            let mut lines = BufReader::with_capacity(1 << 18, stdout);
            let mut line = Vec::new();
            while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
                count(&line, &counted);
                line.clear();
            }
        });
        Ok(Self { records, reader })
    }
}

/// Records begin with schema and type: no more of a line is looked at.
fn count_line(line: &[u8], counted: &Counts) {
    const BEFORE: &[u8] = b"{\"schema\":\"connprobe/1\",\"type\":\"";
    let Some(kind) = line.strip_prefix(BEFORE) else { return };
    for (name, records) in TYPES.iter().zip(counted.lock().unwrap_or_else(PoisonError::into_inner).iter_mut()) {
        if kind.starts_with(name.as_bytes()) {
            records.count += 1;
            // Those come by the thousand, and none is looked at.
            if *name != "connection" {
                let line = String::from_utf8_lossy(line).into_owned();
                if *name == "finding" && (line.contains(OPENED) || line.contains(CLOSED)) {
                    records.kept.push((now_wall_seconds().unwrap_or(f64::NAN), line.clone()));
                }
                records.latest = Some((Instant::now(), line));
            }
        }
    }
}

fn count_lines_of_load(line: &[u8], counted: &Counts) {
    if line.windows(LOAD.len()).any(|part| part == LOAD)
        && let Some(lines) = counted.lock().unwrap_or_else(PoisonError::into_inner).last_mut()
    {
        lines.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_by_what_they_begin_with() {
        let counted = Mutex::default();
        for kind in ["connection", "heartbeat", "coverage", "connection"] {
            count_line(format!("{{\"schema\":\"connprobe/1\",\"type\":\"{kind}\",\"time\":1}}\n").as_bytes(), &counted);
        }
        count_line(b"not a record\n", &counted);
        let counts = counted.lock().unwrap().each_ref().map(|records| records.count);
        assert_eq!(counts, [2, 0, 1, 0]);
    }
}
