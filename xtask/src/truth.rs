//! `cargo xtask truth`: which failures are told on which kernel, when and how rightly, and what is told that is none.
//!
//! `connprobe-truth` plays the catalogue of scenarios and writes what came of it, a file a kernel; the document is made from these files.

use std::fmt::Write as _;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::project::{Project, write_whole};
use crate::vm::{self, Series};
use crate::{release, run, servers};

mod document;

/// Where what was measured on each kernel is, a file a kernel.
const FOLDER: &str = "docs/truth";
/// The document made from them.
const DOCUMENT: &str = "docs/truth.md";
/// How a guest is named to what runs in it (`tests/src/require.rs`).
const GUEST_VARIABLE: &str = "CONNPROBE_GUEST";

/// Options of the command. Without any, the document is made anew from what was measured.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Measure on the running kernel
    #[arg(long)]
    host: bool,
    /// Measure in a guest with each kernel of the matrix, which takes about an hour a time
    #[arg(long)]
    guests: bool,
    /// How often each scenario is played
    #[arg(long, default_value_t = NonZero::<u32>::MIN, value_name = "COUNT")]
    times: NonZero<u32>,
    /// Play only those whose names contain one of these; the others' rows stay as they were measured
    parts: Vec<String>,
}

/// What was measured on one kernel: what `connprobe-truth` prints (`tests/src/scenario/truth.rs` says what each field means).
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Truth {
    release: String,
    times: usize,
    rows: Vec<Row>,
}

impl Truth {
    /// With the rows of another run in place of those of the same scenarios.
    fn renewed(mut self, newer: Self) -> Self {
        for row in newer.rows {
            let is_it = |old: &&mut Row| (&old.scenario, &old.seat) == (&row.scenario, &row.seat);
            match self.rows.iter_mut().find(is_it) {
                Some(old) => *old = row,
                None => self.rows.push(row),
            }
        }
        self
    }
}

/// One scenario, seen from one seat.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    scenario: String,
    summary: String,
    seat: String,
    expected: Option<String>,
    skipped: Option<String>,
    plays: usize,
    due: usize,
    told: usize,
    false_findings: Vec<String>,
    told_seconds: Vec<f64>,
    sure_seconds: Vec<f64>,
    off_deadline_seconds: Vec<f64>,
    problems: Vec<String>,
}

/// Runs the command.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    ensure!(arguments.parts.is_empty() || arguments.host || arguments.guests, "where to play them: --host, --guests");
    if arguments.host || arguments.guests {
        release::prepare(project, "connprobe-tests", "scenarios make network namespaces and load kernel programs")?;
        servers::prepare(project);
    }
    let mut measured = Vec::new();
    if arguments.host {
        measured.push(on_host(project, arguments)?);
    }
    if arguments.guests {
        measured.extend(in_guests(project, arguments)?);
    }
    for (name, text) in measured {
        let truth: Truth = toml::from_str(&text).with_context(|| format!("of kernel {name}: {text}"))?;
        let file = project.path(FOLDER).join(format!("{name}.toml"));
        let truth = if arguments.parts.is_empty() { truth } else { read(&file)?.renewed(truth) };
        write_whole(&file, toml::to_string(&truth)?.as_bytes())?;
    }
    write_whole(&project.path(DOCUMENT), document(project)?.as_bytes())?;
    println!("{DOCUMENT} is made from {FOLDER}");
    Ok(ExitCode::SUCCESS)
}

/// Whether the document is what was measured; if not, says what to do.
pub(crate) fn is_up_to_date(project: &Project) -> Result<bool> {
    // Where nothing was measured there is no document to compare with.
    let made = document(project).unwrap_or_default();
    Ok(project.is_as_made(&[(DOCUMENT.to_owned(), made)], "cargo xtask truth"))
}

/// What `connprobe-truth` prints of the running kernel, and the kernel's name.
fn on_host(project: &Project, arguments: &Arguments) -> Result<(String, String)> {
    // Scenarios mostly wait.
    const AT_ONCE: &str = "4";
    let mut command = Command::new(program(project));
    command.args(words(arguments, AT_ONCE)).env("CONNPROBE_BIN", probe(project));
    run::announce(&command);
    let output =
        command.stderr(std::process::Stdio::inherit()).output().context("connprobe-truth cannot be started")?;
    ensure!(output.status.success(), "connprobe-truth failed ({})", output.status);
    let release = run::output(Command::new("uname").arg("-r"))?;
    let series: Vec<&str> = release.trim().split('.').take(2).collect();
    Ok((series.join("."), String::from_utf8(output.stdout)?))
}

/// The same of each kernel of the matrix.
fn in_guests(project: &Project, arguments: &Arguments) -> Result<Vec<(String, String)>> {
    // Of a guest's one emulated processor two watches that begin at once take all there is.
    const AT_ONCE: &str = "1";
    const LIMIT_OF_ONE: Duration = Duration::from_secs(90 * 60);
    thread::scope(|scope| {
        let guests = Series::ALL.map(|series| {
            let variables =
                [format!("{GUEST_VARIABLE}={}", series.name()), format!("CONNPROBE_BIN={}", probe(project).display())];
            let command = [vec!["env".to_owned()], variables.to_vec(), vec![program(project).display().to_string()]];
            let command = [command.concat(), words(arguments, AT_ONCE)].concat();
            let limit = LIMIT_OF_ONE * arguments.times.get();
            let run = move || Ok((series.name().to_owned(), vm::output(project, series, &command, limit)?));
            scope.spawn(run)
        });
        guests.into_iter().map(|guest| guest.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

fn words(arguments: &Arguments, at_once: &str) -> Vec<String> {
    let options = ["--times".to_owned(), arguments.times.to_string(), "--at-once".to_owned(), at_once.to_owned()];
    options.into_iter().chain(arguments.parts.iter().cloned()).collect()
}

fn program(project: &Project) -> PathBuf {
    release::program(project, "connprobe-truth")
}

fn probe(project: &Project) -> PathBuf {
    release::program(project, "connprobe")
}

fn read(path: &Path) -> Result<Truth> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("in {}", path.display()))
}

/// The whole document.
fn document(project: &Project) -> Result<String> {
    let folder = project.path(FOLDER);
    let mut kernels = Vec::new();
    for path in crate::project::files_below(&folder)? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        kernels.push((name, read(&path)?));
    }
    kernels.sort_by_key(|(name, _)| crate::kernels::version(name));
    let mut text = document::introduction(&kernels);
    for (name, truth) in &kernels {
        let _ = write!(text, "\n{}", document::section(name, truth));
    }
    Ok(text)
}
