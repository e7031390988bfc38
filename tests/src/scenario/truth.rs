//! What plays of the catalogue come to: a row for each scenario and each seat from which it is watched.

use std::{
    collections::BTreeSet,
    io::Write,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::Result;
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

use super::{
    Scenario, View,
    play::{Watch, Watched, play},
};
use crate::{registry::lock, require};

/// What was measured on one kernel.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truth {
    /// As `uname -r` prints it.
    pub release: String,
    /// How often each scenario was played.
    pub times: usize,
    /// In the order of the catalogue.
    pub rows: Vec<Row>,
}

/// One scenario, seen from one seat.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its name.
    pub scenario: String,
    /// What happens.
    pub summary: String,
    /// From where.
    pub seat: String,
    /// `verdict/cause` that must be told; absent where nothing may be.
    pub expected: Option<String>,
    /// Why it was not played.
    pub skipped: Option<String>,
    /// How often it was played to its end.
    pub plays: usize,
    /// Connections that had to be told, each by a watch that was there and, where that is possible, by one that came late.
    pub due: usize,
    /// Of these, told rightly: cause, confidence, connection, owner and deadline.
    pub told: usize,
    /// `verdict/cause` of each record about a finding that is none.
    pub false_findings: Vec<String>,
    /// From what happened to the first word, of watches that were there, in seconds.
    pub told_seconds: Vec<f64>,
    /// From what happened to a word as sure as it must become, likewise.
    pub sure_seconds: Vec<f64>,
    /// How much later than stated the kernel gave up, in seconds.
    pub off_deadline_seconds: Vec<f64>,
    /// What was wrong, each once.
    pub problems: BTreeSet<String>,
}

/// How one play went: what was told, or why it could not be played.
type Played = Result<Vec<Watched>, String>;

/// Plays these scenarios so many times, up to `at_once` of them at once, and tells of each play in a line of `progress`, a comment of TOML.
///
/// # Errors
/// When the kernel's release is not to be had.
pub fn measure(
    scenarios: &[Scenario],
    times: usize,
    at_once: usize,
    progress: &mut (dyn Write + Send),
) -> Result<Truth> {
    let release = uname()?.release().to_string_lossy().into_owned();
    let can_be_played = |scenario: &&Scenario| require::check(&scenario.needs).is_ok();
    let (alone, others): (Vec<_>, Vec<_>) =
        scenarios.iter().filter(can_be_played).partition(|scenario| scenario.is_alone);
    let (progress, plays) = (Mutex::new(progress), Mutex::new(Vec::new()));
    for (scenarios, at_once) in [(others, at_once), (alone, 1)] {
        let waiting = Mutex::new((0..times).flat_map(|_| scenarios.iter().copied()).rev().collect::<Vec<_>>());
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some(scenario) = next(&waiting) {
                        let played = play(scenario).map_err(|error| format!("{error:#}"));
                        // What was measured counts, whoever reads along.
                        let _ = writeln!(lock(&progress), "# {}", line(scenario, &played));
                        lock(&plays).push((scenario.name, played));
                    }
                });
            }
        });
    }
    let plays = plays.into_inner().unwrap_or_else(PoisonError::into_inner);
    let row = |scenario: &Scenario, view: &View| {
        let plays = plays.iter().filter(|(name, _)| *name == scenario.name).map(|(_, played)| played);
        Row::of(scenario, view, plays)
    };
    let rows = scenarios.iter().flat_map(|scenario| scenario.views.iter().map(move |view| (scenario, view)));
    Ok(Truth { release, times, rows: rows.map(|(scenario, view)| row(scenario, view)).collect() })
}

/// Apart, so that nothing is locked while it is played.
fn next<'a>(waiting: &Mutex<Vec<&'a Scenario>>) -> Option<&'a Scenario> {
    lock(waiting).pop()
}

/// One play in a line.
fn line(scenario: &Scenario, played: &Played) -> String {
    let name = scenario.name;
    match played {
        Ok(watched) => {
            let connections = || watched.iter().flat_map(|watched| &watched.connections);
            let (due, told) = (connections().count(), connections().flatten().count());
            let false_findings: usize = watched.iter().map(|watched| watched.false_findings.len()).sum();
            format!("{name}: {told} of {due} told, {false_findings} told that are none")
        }
        Err(error) => format!("{name}: could not be played: {}", one_line(error)),
    }
}

/// Its beginning, without what follows in detail.
fn one_line(text: &str) -> String {
    const MOST_CHARS: usize = 300;
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MOST_CHARS).collect()
}

impl Row {
    fn of<'a>(scenario: &Scenario, view: &View, plays: impl Iterator<Item = &'a Played>) -> Self {
        let mut row = Self {
            scenario: scenario.name.to_owned(),
            summary: scenario.summary.to_owned(),
            seat: view.seat.name().to_owned(),
            expected: view.expected.as_ref().map(|expected| format!("{}/{}", expected.verdict, expected.cause)),
            skipped: require::check(&scenario.needs).err().map(|missing| missing.requirement.sentence().to_owned()),
            plays: 0,
            due: 0,
            told: 0,
            false_findings: Vec::new(),
            told_seconds: Vec::new(),
            sure_seconds: Vec::new(),
            off_deadline_seconds: Vec::new(),
            problems: BTreeSet::new(),
        };
        for played in plays {
            match played {
                Ok(watched) => {
                    row.plays += 1;
                    watched.iter().filter(|watched| watched.seat == view.seat).for_each(|watched| row.take(watched));
                }
                Err(error) => {
                    row.problems.insert(one_line(error));
                }
            }
        }
        row
    }

    fn take(&mut self, watched: &Watched) {
        self.due += watched.connections.len();
        self.false_findings.extend(watched.false_findings.iter().map(|told| told.cause.clone()));
        for outcome in &watched.connections {
            match outcome {
                Ok(outcome) => {
                    self.told += 1;
                    self.off_deadline_seconds.extend(outcome.off_deadline_seconds.map(milliseconds));
                    if watched.watch == Watch::On {
                        self.told_seconds.push(milliseconds(outcome.told_seconds));
                        self.sure_seconds.push(milliseconds(outcome.sure_seconds));
                    }
                }
                Err(error) => {
                    self.problems.insert(one_line(&error.root_cause().to_string()));
                }
            }
        }
    }
}

/// Seconds, to a millisecond.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}
