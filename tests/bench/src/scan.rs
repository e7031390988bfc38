//! A look at every socket of a host on which nothing is suspicious.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::netns::Netns;
use connprobe_tests::probe;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use crate::effort::{Effort, progress};
use crate::load::micros;
use crate::peer::TREE;
use crate::population::Population;
use crate::statistics::Spread;
use crate::table::Table;
use crate::watcher::{Reading, Watcher};

/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who looks.
enum Way {
    /// The scan of `connprobe daemon` at its start.
    Daemon,
    /// A command that looks once and ends: name, program and arguments.
    Once(&'static str, &'static [&'static str]),
}

/// Elapsed and processor time, milliseconds.
#[derive(Default)]
struct Times {
    wall: Vec<f64>,
    cpu: Vec<f64>,
    refused: Option<String>,
}

pub(crate) fn measure(netns: &Netns, effort: Effort) -> Result<Table> {
    let connections = if effort.quick { 20_000 } else { 100_000 };
    let _population = Population::make(netns, connections)?;
    let ways = [
        Way::Daemon,
        Way::Once("connprobe snapshot", &[]),
        Way::Once("ss -tin", &["bin/ss", "-tin"]),
        Way::Once("ss -tn", &["bin/ss", "-tn"]),
    ];
    let mut times: Vec<Times> = ways.iter().map(|_| Times::default()).collect();
    let rounds = if effort.quick { 3 } else { 7 };
    for round in 1..=rounds {
        progress(&format!("scan: round {round} of {rounds}"));
        for (way, times) in ways.iter().zip(&mut times).filter(|(_, times)| times.refused.is_none()).collect::<Vec<_>>()
        {
            match look(netns, way) {
                Ok((wall, cpu)) => {
                    times.wall.push(micros(wall) / 1e3);
                    times.cpu.push(micros(cpu) / 1e3);
                }
                Err(error) => times.refused = Some(format!("{error:#}")),
            }
        }
    }
    let text =
        |values: &[f64]| Spread::of(values.iter().copied()).map_or("–".to_owned(), |spread| format!("{spread:.0}"));
    let name = |way: &Way| match way {
        Way::Daemon => "connprobe's scan",
        Way::Once(name, _) => name,
    };
    let row = |(way, times): (&Way, &Times)| {
        let target = if matches!(way, Way::Daemon) && !effort.quick { "≤ 150 ms" } else { "" };
        vec![name(way).to_owned(), target.to_owned(), text(&times.wall), text(&times.cpu)]
    };
    let refused =
        ways.iter().zip(&times).filter_map(|(way, times)| Some(format!("{}: {}", name(way), times.refused.as_ref()?)));
    Ok(Table {
        title: "A look at all sockets",
        how: format!(
            "{connections} idle connections with both ends in one namespace are {} sockets, nothing suspicious among them. What others print goes to the null device. \
             `connprobe snapshot` looks several times within three seconds; the processor time of the scan is that of the whole daemon meanwhile.",
            2 * connections
        ),
        head: vec!["who", "target", "elapsed, ms", "processor time, ms"],
        rows: ways.iter().zip(&times).map(row).collect(),
        notes: refused.collect(),
    })
}

fn look(netns: &Netns, way: &Way) -> Result<(Duration, Duration)> {
    match way {
        Way::Daemon => scan(netns),
        Way::Once(_, arguments) => {
            let command = match arguments.split_first() {
                None => {
                    let mut command = Command::new(probe::program()?);
                    command.args(["snapshot", "--fail-on", "never", "--netns"]).arg(netns.path());
                    command
                }
                Some((program, arguments)) => {
                    let mut command = TREE.command(program)?;
                    command.args(arguments);
                    command
                }
            };
            once(netns, command)
        }
    }
}

/// The first scan of a daemon, as its own log tells.
fn scan(netns: &Netns) -> Result<(Duration, Duration)> {
    let watcher = Watcher::daemon(netns, &["--scan-every", "1h"], Reading::Nobody)?;
    let (start, before) = (Instant::now(), watcher.cpu()?);
    let took = loop {
        if let Some(took) = watcher.errors().lines().find_map(scan_took) {
            break took;
        }
        ensure!(start.elapsed() < PATIENCE, "connprobe tells of no scan");
        thread::sleep(Duration::from_millis(20));
    };
    let cpu = watcher.cpu()?.saturating_sub(before);
    watcher.stop()?;
    Ok((took, cpu))
}

/// Of a line such as `… DEBUG connprobe::app::scan: scan namespaces=1 took=41.2ms`.
fn scan_took(line: &str) -> Option<Duration> {
    let (_, took) = line.split_once(" scan namespaces=")?.1.split_once("took=")?;
    let digits = took.find(|character: char| !character.is_ascii_digit() && character != '.')?;
    let (number, unit) = took.split_at(digits);
    let seconds = match unit.trim() {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        _ => return None,
    };
    Some(Duration::from_secs_f64(number.parse::<f64>().ok()? * seconds))
}

fn once(netns: &Netns, mut command: Command) -> Result<(Duration, Duration)> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (start, before) = (Instant::now(), children_time()?);
    let status = netns.run(|| command.status())?.context("it cannot be started")?;
    ensure!(status.success(), "it failed: {status}");
    Ok((start.elapsed(), children_time()?.saturating_sub(before)))
}

/// Processor time of the children that have ended.
fn children_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(microseconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_scan_is_read_in_each_of_its_units() {
        let line =
            |took: &str| format!("2026-11-22T03:00:00Z DEBUG connprobe::app::scan: scan namespaces=1 took={took}");
        assert_eq!(scan_took(&line("41.25ms")), Some(Duration::from_micros(41_250)));
        assert_eq!(scan_took(&line("1.5s")), Some(Duration::from_millis(1_500)));
        assert_eq!(scan_took(&line("900µs")), Some(Duration::from_micros(900)));
        assert_eq!(scan_took("something else"), None);
    }
}
