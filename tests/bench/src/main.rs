//! What connprobe costs a host, measured beside other tools in one interleaved run. `cargo xtask bench` builds and runs it.
//!
//! Everything happens in network namespaces of its own. Nothing here is a test: a figure from a noisy machine is told with its range.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is its result")]

mod connections;
mod counters;
mod document;
mod effort;
mod flood;
mod idle;
mod load;
mod loss;
mod peer;
mod population;
mod programs;
mod scan;
mod soak;
mod stalled;
mod statistics;
mod storm;
mod subject;
mod suspicion;
mod table;
mod watcher;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use connprobe_tests::lab::Lab;

use effort::Effort;
use subject::Subject;
use table::Table;

#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    args_conflicts_with_subcommands = true,
    about = "Measures what connprobe costs a host, beside other tools"
)]
struct Arguments {
    /// Which rows of the table; all if none is named
    #[arg(value_enum)]
    rows: Vec<Row>,
    /// Only these watchers, `none` among them; all if none is named
    #[arg(long, value_name = "WATCHER")]
    only: Vec<String>,
    /// Three minutes for all: fewer and shorter measurements, beside tcplife alone
    #[arg(long)]
    quick: bool,
    /// How many pairs of measurements
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pairs: Option<u16>,
    /// Write the tables into this document, too
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "docs/performance.md", require_equals = true)]
    write: Option<PathBuf>,
    /// Hold so many connections until standard input ends: how this program starts itself
    #[arg(long, hide = true)]
    hold: Option<u64>,
    #[command(subcommand)]
    other: Option<Other>,
}

/// What is measured otherwise than by comparison.
#[derive(Subcommand)]
enum Other {
    #[command(hide = true)]
    Soak(soak::Arguments),
}

/// An experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// What short healthy connections cost more because somebody watches
    Connections,
    /// Records of ended connections that are lost at the highest rate
    Loss,
    /// How long a look at all sockets takes
    Scan,
    /// What a daemon costs where nothing happens
    Idle,
    /// What retransmissions cost and which are told
    Storm,
    /// What a flood of SYNs does
    Flood,
    /// How soon a suspicion is told
    Suspicion,
}

/// Exit codes: 0 measured, 1 a soak did not stay flat, 2 it could not be done.
fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(count) = arguments.hold {
        return population::hold(count).map(|()| ExitCode::SUCCESS);
    }
    if let Some(Other::Soak(arguments)) = &arguments.other {
        return soak::main(arguments);
    }
    if arguments.write.is_some() && (arguments.quick || !arguments.only.is_empty()) {
        bail!("--write with --only or --quick would leave out of the document whom it does not measure");
    }
    let mut effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    effort.pairs = arguments.pairs.map_or(effort.pairs, usize::from);
    let subjects = choose(&arguments.only, effort)?;
    let rows = if arguments.rows.is_empty() { Row::value_variants() } else { &arguments.rows };
    let mut tables = Vec::new();
    for row in rows {
        let machine = document::machine()?;
        let mut table = measure(*row, &subjects, effort).with_context(|| format!("{row:?}"))?;
        table.notes.push(machine);
        println!("\n{}", table.text());
        tables.push(table);
    }
    arguments.write.as_ref().map_or(Ok(()), |path| document::write(path, &tables))?;
    Ok(ExitCode::SUCCESS)
}

fn measure(row: Row, subjects: &[Subject], effort: Effort) -> Result<Table> {
    let lab = Lab::new("bench")?;
    let netns = lab.netns("load")?;
    load::prepare(&netns)?;
    let table = match row {
        Row::Connections => connections::measure(&netns, subjects, effort)?,
        Row::Loss => loss::measure(&netns, effort)?,
        Row::Scan => scan::measure(&netns, effort)?,
        Row::Idle => idle::measure(&netns, effort)?,
        Row::Storm => storm::measure(effort)?,
        Row::Flood => flood::measure(effort)?,
        Row::Suspicion => suspicion::measure(effort)?,
    };
    lab.close()?;
    Ok(table)
}

/// Who has these names; of nobody in particular, all, or what there is time for.
fn choose(names: &[String], effort: Effort) -> Result<Vec<Subject>> {
    let all = Subject::all();
    let known = || all.iter().map(Subject::name).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|subject| subject.name() != *name)) {
        bail!("--only {unknown}: there is no such watcher; there are {}", known());
    }
    let is_chosen = |subject: &Subject| match names {
        [] => !effort.quick || subject.is_quick(),
        names => names.iter().any(|name| name == subject.name()),
    };
    Ok(all.into_iter().filter(is_chosen).collect())
}
