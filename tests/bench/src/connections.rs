//! What short healthy connections cost more because somebody watches.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};
use connprobe_tests::netns::Netns;

use crate::effort::{Effort, progress};
use crate::load::{self, count, micros};
use crate::programs::{self, Program};
use crate::statistics::{Spread, ratio};
use crate::subject::Subject;
use crate::table::Table;
use crate::watcher::Watcher;

/// How long the kernel takes down what a watcher leaves: maps and programs go after a grace period.
const SETTLES: Duration = Duration::from_secs(1);

/// What was measured of one subject.
#[derive(Debug, Default)]
struct Measured {
    /// Processor time that the load took a connection, with the subject by without it.
    ratios: Vec<f64>,
    /// The same in microseconds: before the subject, with it, and after it.
    before: Vec<f64>,
    with: Vec<f64>,
    after: Vec<f64>,
    /// Processor time of the subject's own process, microseconds a connection.
    own: Vec<f64>,
    /// What that process had in memory afterwards, megabytes.
    resident: Vec<f64>,
    /// Run time of its kernel programs, microseconds a connection.
    bpf: Vec<f64>,
    /// Of its kernel programs: microseconds and runs a connection.
    programs: BTreeMap<String, (f64, f64)>,
    /// Why it could not be run.
    refused: Option<String>,
}

/// Runs all subjects in turn, as often as the effort says, so that each sees the same minutes of the machine.
pub(crate) fn measure(netns: &Netns, subjects: &[Subject], effort: Effort) -> Result<Table> {
    let mut measured: Vec<Measured> = subjects.iter().map(|_| Measured::default()).collect();
    for round in 1..=effort.pairs {
        for (subject, measured) in subjects.iter().zip(&mut measured) {
            if measured.refused.is_some() {
                continue;
            }
            progress(&format!("connections: {}, pair {round} of {}", subject.name(), effort.pairs));
            let before = load::run(netns, 1, effort.slice)?.cpu_us();
            let watched = watched(netns, subject, effort.slice, measured);
            // What is left of it is taken down by the kernel a little later.
            thread::sleep(SETTLES);
            match watched {
                Ok(with) => {
                    let after = load::run(netns, 1, effort.slice)?.cpu_us();
                    measured.ratios.push(ratio(before, with, after));
                    measured.before.push(before);
                    measured.with.push(with);
                    measured.after.push(after);
                }
                Err(error) => measured.refused = Some(format!("{error:#}")),
            }
        }
    }
    for (subject, measured) in subjects.iter().zip(&mut measured).filter(|(_, measured)| measured.refused.is_none()) {
        progress(&format!("connections: {}, its kernel programs", subject.name()));
        for _ in 0..if effort.quick { 1 } else { 3 } {
            kernel_programs(netns, subject, effort.slice, measured)?;
        }
    }
    Ok(table(subjects, &measured, effort))
}

/// Microseconds of processor time of a connection while the subject watches.
fn watched(netns: &Netns, subject: &Subject, slice: Duration, measured: &mut Measured) -> Result<f64> {
    let running = subject.start(netns)?;
    let before = running.watcher.as_ref().map(Watcher::cpu).transpose()?;
    let made = load::run(netns, 1, slice)?;
    if let (Some(watcher), Some(before)) = (&running.watcher, before) {
        let own = watcher.cpu()?.saturating_sub(before);
        measured.own.push(micros(own) / count(made.all()));
        measured.resident.push(count(watcher.resident()?) / 1e6);
    }
    running.stop()?;
    Ok(made.cpu_us())
}

/// In runs of their own: reading the clock twice for each program is not free.
fn kernel_programs(netns: &Netns, subject: &Subject, slice: Duration, measured: &mut Measured) -> Result<()> {
    let running = subject.start(netns)?;
    let held =
        running.watcher.as_ref().map(|watcher| programs::held_by(watcher.pid())).transpose()?.unwrap_or_default();
    if held.is_empty() {
        return running.stop();
    }
    let counting = enable_stats(Stats::RunTime).context("the kernel does not count run time of its programs")?;
    let before = programs::look_up(&held);
    let made = load::run(netns, 1, slice)?;
    let ran = programs::between(&before, &programs::look_up(&held));
    drop(counting);
    running.stop()?;
    measured.bpf.push(ran.iter().map(|program| micros(program.run_time)).sum::<f64>() / count(made.all()));
    measured.programs = ran
        .into_iter()
        .map(|Program { name, run_time, runs }| {
            (name, (micros(run_time) / count(made.all()), count(runs) / count(made.all())))
        })
        .collect();
    Ok(())
}

fn table(subjects: &[Subject], measured: &[Measured], effort: Effort) -> Table {
    let least_of = |values: &[f64]| Spread::of(values.iter().copied()).map(|spread| spread.least);
    let alone = measured.iter().flat_map(|measured| measured.before.iter().chain(&measured.after)).copied();
    let alone = Spread::of(alone).map_or("?".to_owned(), |alone| format!("{alone:.1}"));
    let spread = |values: &[f64], digits: usize| {
        Spread::of(values.iter().copied()).map_or("–".to_owned(), |spread| format!("{spread:.digits$}"))
    };
    let row = |(subject, measured): (&Subject, &Measured)| {
        let first = [subject.name().to_owned(), subject.targets().to_owned()];
        // Of as many measurements each: of more, the least is less.
        let least =
            least_of(&measured.with).zip(least_of(&measured.before)).map_or(0.0, |(with, before)| with / before);
        let rest = [
            spread(&measured.ratios, 3),
            format!("{least:.3}"),
            spread(&measured.bpf, 2),
            spread(&measured.own, 2),
            spread(&measured.resident, 0),
        ];
        first.into_iter().chain(rest).collect()
    };
    let each = || subjects.iter().zip(measured);
    let ran = each().filter(|(_, measured)| !measured.programs.is_empty()).map(programs_note);
    let refused = each().filter_map(|(subject, measured)| {
        measured.refused.as_ref().map(|why| format!("{} does not run here: {why}", subject.name()))
    });
    Table {
        title: "Short healthy connections",
        how: format!(
            "One thread makes connections over loopback, one after the other, both ends in that thread; alone a connection takes it {alone} µs of \
             processor time. Medians (and ranges) of {} measurements of {} s each with the watcher, by the mean of those right before and after it; of the least: \
             the least of all with it by the least of all before it, to which what else runs on the machine adds least. A kernel program's run time \
             from runs of their own.",
            effort.pairs,
            effort.slice.as_secs_f64(),
        ),
        head: vec![
            "watcher",
            "target",
            "load's CPU, with / without",
            "of the least",
            "kernel programs, µs",
            "watcher's own CPU, µs",
            "its memory, MB",
        ],
        rows: each().filter(|(_, measured)| measured.refused.is_none()).map(row).collect(),
        notes: ran.chain(refused).collect(),
    }
}

fn programs_note((subject, measured): (&Subject, &Measured)) -> String {
    let mut programs: Vec<_> = measured.programs.iter().collect();
    programs.sort_by(|(_, (one, _)), (_, (other, _))| other.total_cmp(one));
    let each: Vec<String> =
        programs.iter().map(|(name, (time, runs))| format!("{name} {time:.3} µs in {runs:.2} runs")).collect();
    format!("{}, a connection: {}", subject.name(), each.join(", "))
}
