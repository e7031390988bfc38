//! A daemon on a host where nothing happens.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};
use connprobe_tests::netns::Netns;

use crate::effort::{Effort, progress};
use crate::load::{count, micros};
use crate::population::Population;
use crate::programs::{self, Program};
use crate::table::Table;
use crate::watcher::{Reading, Watcher};

pub(crate) fn measure(netns: &Netns, effort: Effort) -> Result<Table> {
    let connections = if effort.quick { 20_000 } else { 100_000 };
    let duration = Duration::from_secs(if effort.quick { 10 } else { 60 });
    let _population = Population::make(netns, connections)?;
    let (still, ran) = (watch(netns, &["--scan-every", "never"], duration)?, watch(netns, &[], duration)?);
    let per_second =
        |part: &dyn Fn(&Program) -> f64| ran.programs.iter().map(part).sum::<f64>() / duration.as_secs_f64();
    let is_scan = |program: &Program| program.name.starts_with("tcp_sockets");
    let scanned = per_second(&|program| if is_scan(program) { count(program.runs) } else { 0.0 });
    let beside = per_second(&|program| if is_scan(program) { 0.0 } else { micros(program.run_time) });
    Ok(Table {
        title: "An idle daemon",
        how: format!(
            "{connections} idle connections with both ends in one namespace, watched for {} s by a daemon that does not scan, and by one without settings.",
            duration.as_secs()
        ),
        head: vec!["measure", "target", "measured"],
        rows: [
            ("processor time without scans", "≤ 0.2 % of a core", format!("{:.3} %", still.share)),
            ("a scan every 5 s, more than that", "≤ 2 %", format!("{:.3} %", (ran.share - still.share).max(0.0))),
            ("sockets scanned a second", "", format!("{scanned:.0}")),
            ("kernel programs beside the scan", "", format!("{beside:.1} µs a second")),
            (
                "resident memory, without and with scans",
                "≤ 20 MB",
                format!("{:.1}, {:.1} MB", still.megabytes, ran.megabytes),
            ),
        ]
        .map(|(what, target, measured)| vec![what.to_owned(), target.to_owned(), measured])
        .into(),
        notes: Vec::new(),
    })
}

/// What a daemon was seen to take.
struct Taken {
    /// Of one core, percent.
    share: f64,
    megabytes: f64,
    programs: Vec<Program>,
}

fn watch(netns: &Netns, arguments: &[&str], duration: Duration) -> Result<Taken> {
    progress(&format!("idle: {} s {}", duration.as_secs(), arguments.join(" ")));
    let watcher = Watcher::daemon(netns, arguments, Reading::Nobody)?;
    // Attached, and its first scan is over.
    thread::sleep(Duration::from_secs(3));
    let counting = enable_stats(Stats::RunTime).context("the kernel does not count run time of its programs")?;
    let held = programs::held_by(watcher.pid())?;
    let (before, cpu, start) = (programs::look_up(&held), watcher.cpu()?, Instant::now());
    thread::sleep(duration);
    let cpu = watcher.cpu()?.saturating_sub(cpu);
    let share = 100.0 * cpu.as_secs_f64() / start.elapsed().as_secs_f64();
    let programs = programs::between(&before, &programs::look_up(&held));
    drop(counting);
    let megabytes = count(watcher.resident()?) / 1e6;
    watcher.stop()?;
    Ok(Taken { share, megabytes, programs })
}
