//! A soak: one daemon with all that it can do, in the middle of everything that may happen, for as long as wanted. What it holds may go up
//! and down with what happens, but must not grow.

mod daemon;
mod failures;
mod picture;
mod quantity;
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::document;
use crate::effort::progress;
use crate::stalled::allow_descriptors;
use crate::table::Table;

use daemon::Daemon;
use quantity::{Sample, Trend};
use traffic::Traffic;

/// How often everything is measured.
const EVERY: Duration = Duration::from_secs(1);
/// What is said on the way.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// Which part of the time is left out at the beginning: tables, caches and the allocator fill.
const WARM_UP: f64 = 0.2;

/// Options of the command.
#[derive(clap::Args)]
#[command(
    about = "A daemon in the middle of churn, losses, failures, namespaces that come and go, and SIGHUPs: what it holds must not grow",
    override_usage = "cargo xtask soak [OPTIONS]"
)]
pub(crate) struct Arguments {
    /// For how long; each kind of failure comes once a minute
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(10..))]
    minutes: u32,
    /// Where the picture goes
    #[arg(long, value_name = "FILE", default_value = "target/soak.svg")]
    picture: PathBuf,
    /// Write the table into this document, too, and the picture beside it
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "docs/performance.md", require_equals = true)]
    write: Option<PathBuf>,
}

/// Exit codes: 0 flat, 1 something grew or was lost.
#[expect(clippy::print_stdout, reason = "what it prints is its result")]
pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    allow_descriptors()?;
    let machine = document::machine()?;
    // What cannot be written is said at the beginning.
    draw(&[], &arguments.picture)?;
    let mut samples = Vec::new();
    let ended = run(Duration::from_secs(60) * arguments.minutes, &mut samples);
    draw(&samples, &arguments.picture)?;
    println!("picture: {}", arguments.picture.display());
    ended?;
    let trends = quantity::trends(&samples, WARM_UP).context("too short for anything to be said")?;
    let mut table = table(&trends, arguments.minutes);
    table.notes.push(machine);
    println!("\n{}", table.text());
    if let Some(path) = &arguments.write {
        let picture = path.with_file_name("soak.svg");
        draw(&samples, &picture)?;
        table.notes.insert(0, "![What the daemon held, over time](soak.svg)".to_owned());
        document::write(path, &[table])?;
    }
    Ok(if trends.iter().all(|trend| trend.is_kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn draw(samples: &[Sample], path: &Path) -> Result<()> {
    let svg = picture::draw(samples, WARM_UP)?;
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
}

/// Measures while everything happens. What was measured before an error is kept.
fn run(duration: Duration, samples: &mut Vec<Sample>) -> Result<()> {
    let mut daemon = Daemon::start()?;
    let traffic = Traffic::start(daemon.socket());
    let (start, mut said) = (Instant::now(), Duration::ZERO);
    // What has gone wrong is said at once, not at the end of a night: first of the daemon, whose end the traffic feels, too.
    while start.elapsed() < duration {
        thread::sleep(EVERY);
        daemon.reload_when_due()?;
        let sample = daemon.sample()?;
        if start.elapsed().saturating_sub(said) >= SAID_EVERY {
            said = start.elapsed();
            progress(&format!("{} min: {sample}", said.as_secs() / 60));
        }
        samples.push(sample);
        if !traffic.goes_on() {
            break;
        }
    }
    traffic.stop()?;
    daemon.stop()
}

fn table(trends: &[Trend], minutes: u32) -> Table {
    Table {
        title: "Soak",
        how: format!(
            "A daemon with its sinks, lifecycle records and kept findings for {minutes} minutes, among short connections by the thousand, transfers that lose segments, connections that \
             are cut off (and recover, are given up, or closed by their program), windows that stay shut, a new network namespace each second that goes five seconds later with whatever \
             waits in it, and a SIGHUP every {} s that changes most settings. Compared are medians (ranges) of the first third and of the last after a fifth to warm up.",
            daemon::RELOAD_EVERY.as_secs(),
        ),
        head: vec!["what", "allowed", "first third", "last third", "kept"],
        rows: trends.iter().map(Trend::cells).collect(),
        notes: Vec::new(),
    }
}
