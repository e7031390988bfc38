//! The daemon that is soaked: with all that it can do, and settings that change all the time.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::http;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::load::count;
use crate::watcher::Watcher;

use super::quantity::Sample;
use super::traffic;

/// How often it gets other settings.
pub(super) const RELOAD_EVERY: Duration = Duration::from_secs(15);

/// What it gets, in turn: the file that records go to, and more.
const SETTINGS: [(&str, &str); 2] = [
    ("one.ndjson", "lifecycle = true\nscan_every = \"5s\"\nheartbeat_every = \"1s\"\n"),
    (
        "other.ndjson",
        "lifecycle = false\nscan_every = \"2s\"\nheartbeat_every = \"2s\"\n\
         [thresholds]\nretransmits_suspected = 3\nprobes_suspected = 3\n",
    ),
];

/// What it has after so many reloads.
fn settings_after(reloads: usize) -> (&'static str, &'static str) {
    SETTINGS.iter().cycle().nth(reloads).copied().unwrap_or_default()
}

pub(super) struct Daemon {
    watcher: Watcher,
    folder: TempDir,
    metrics: SocketAddr,
    /// How often it got other settings.
    reloads: usize,
    started: Instant,
    /// What had been counted when it was measured last.
    before: Counted,
}

/// What only grows.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at: Instant,
    cpu: Duration,
    written: f64,
}

impl Daemon {
    /// Starts it on the peers of the traffic that is made here, in whichever namespace.
    pub(super) fn start() -> Result<Self> {
        let folder = TempDir::new().context("no temporary folder")?;
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let settings = write_settings(folder.path(), metrics, 0)?;
        let watcher = Watcher::with_settings(&settings)?;
        let now = Instant::now();
        let before = Counted { at: now, cpu: watcher.cpu()?, written: 0.0 };
        Ok(Self { watcher, folder, metrics, reloads: 0, started: now, before })
    }

    /// Where its records can be read.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("events.sock")
    }

    /// Gives it other settings when it is time.
    pub(super) fn reload_when_due(&mut self) -> Result<()> {
        if self.started.elapsed() < RELOAD_EVERY * u32::try_from(self.reloads + 1)? {
            return Ok(());
        }
        self.check_settings()?;
        self.reloads += 1;
        write_settings(self.folder.path(), self.metrics, self.reloads)?;
        self.watcher.signal(Signal::SIGHUP).with_context(|| self.watcher.errors())
    }

    /// Measures everything.
    pub(super) fn sample(&mut self) -> Result<Sample> {
        let (status, text) = http::get(self.metrics, "/metrics").with_context(|| self.watcher.errors())?;
        ensure!(status.ends_with("200 OK"), "/metrics answers {status}");
        let metric = |name: &str, label: &str| {
            let found = http::metric(&text, &format!("connprobe_{name}"), label);
            found.with_context(|| format!("/metrics has no connprobe_{name} of {label:?}"))
        };
        let lost = |place: &str| metric("events_lost_total", &format!("place=\"{place}\""));
        let lost_connections = |place: &str| metric("connections_lost_total", &format!("place=\"{place}\""));
        let written = metric("sink_written_total", "")?;
        let now = Counted { at: Instant::now(), cpu: self.watcher.cpu()?, written };
        let before = std::mem::replace(&mut self.before, now);
        let seconds = now.at.duration_since(before.at).as_secs_f64();
        let values = [
            count(self.watcher.resident()?) / 1e6,
            self.entries("fd")?,
            self.entries("task")?,
            metric("open_cases", "")?,
            // There is none of a kind that has not been found yet.
            metric("open_findings", "").unwrap_or(0.0),
            100.0 * now.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds,
            // A sink that a reload has closed takes its count with it.
            (now.written - before.written).max(0.0) / seconds,
            lost("ring")? + lost_connections("connection_ring")?,
            lost("recursion")? + lost_connections("connection_recursion")?,
            lost("decode")?,
            metric("sink_dropped_total", "")?,
        ];
        Ok(Sample { at: now.at.duration_since(self.started), values })
    }

    /// How many entries a folder of its has in `/proc`.
    fn entries(&self, name: &str) -> Result<f64> {
        let folder = format!("/proc/{}/{name}", self.watcher.pid());
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))?;
        Ok(count(entries.count() as u64))
    }

    /// Whether it works by the settings that it was given last: each has a file of its own.
    fn check_settings(&self) -> Result<()> {
        let path = self.folder.path().join(settings_after(self.reloads).0);
        ensure!(path.exists(), "the daemon has not taken its settings: {}", self.watcher.errors());
        Ok(())
    }

    /// Ends it as a service manager does.
    pub(super) fn stop(self) -> Result<()> {
        self.watcher.stop()
    }
}

/// Writes the settings that are due after so many reloads, and returns where they are.
fn write_settings(folder: &Path, metrics: SocketAddr, reloads: usize) -> Result<PathBuf> {
    let (file, changing) = settings_after(reloads);
    let always = format!(
        "peers = {:?}\nmetrics_listen = \"{metrics}\"\nunix_socket = \"FOLDER/events.sock\"\nstate_dir = \"FOLDER/state\"\n\
         file = \"FOLDER/{file}\"\nfile_max_size = \"20MiB\"\nfile_keep = 2\n",
        traffic::ADDRESSES,
    );
    let path = folder.join("connprobe.toml");
    let text = (always + changing).replace("FOLDER", &folder.display().to_string());
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
