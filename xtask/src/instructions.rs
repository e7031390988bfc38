//! `cargo xtask instructions`: how many instructions an event costs in user space, counted by callgrind.
//!
//! The same binary gives the same numbers whatever else the machine does, so that a regression shows that a stopwatch on a shared
//! machine would miss. They are compared with committed ones. No part of continuous integration: it needs an optimized build, which takes
//! minutes, and the C library copies memory by other instructions on other processors.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::project::Project;
use crate::run;

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write the numbers that are found in place of the committed ones
    #[arg(long)]
    write: bool,
}

/// What may differ, in percent: another version of the compiler or of the C library makes less of a difference.
const TOLERANCE_PERCENT: u64 = 10;
/// The paths that the bench runs, and how many events of each: enough that what is done once does not count.
const PATHS: [(&str, u64); 5] =
    [("decode", 2_000), ("judge", 2_000), ("open", 16_000), ("mixed", 16_000), ("to_finding", 6_000)];
const COMMITTED: &str = "probe-user/benches/instructions.toml";
const HEADING: &str = "\
# Instructions an event, by `cargo xtask instructions --write`: `decode` of a record, `judge` of six timeouts; in the tracker an event that
# opens a case (`open`), half of those and half on open ones (`mixed`), and a connection's way to its finding (`to_finding`).
";

/// Runs the command: 1 where a path has become dearer than the tolerance allows.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    if run::find("valgrind").is_none() {
        bail!("valgrind is missing: install it (Debian's package valgrind)");
    }
    let bench = build(project)?;
    let found = PATHS.into_iter().map(|(path, events)| Ok((path.to_owned(), count(&bench, path, events)? / events)));
    let found: BTreeMap<String, u64> = found.collect::<Result<_>>()?;
    let file = project.root().join(COMMITTED);
    if arguments.write {
        let numbers = toml::to_string(&found).context("the numbers cannot be written as TOML")?;
        std::fs::write(&file, format!("{HEADING}{numbers}"))
            .with_context(|| format!("{COMMITTED} cannot be written"))?;
        println!("{COMMITTED}: written");
        return Ok(ExitCode::SUCCESS);
    }
    let committed = std::fs::read_to_string(&file).with_context(|| format!("{COMMITTED} cannot be read"))?;
    let committed: BTreeMap<String, u64> = toml::from_str(&committed).with_context(|| COMMITTED.to_owned())?;
    let (table, is_dearer) = compare(&committed, &found);
    print!("{table}");
    if is_dearer {
        println!(
            "dearer than {COMMITTED} by more than {TOLERANCE_PERCENT} %; if that is meant: cargo xtask instructions --write"
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn build(project: &Project) -> Result<PathBuf> {
    let mut build = run::cargo();
    build.args(["bench", "-p", "connprobe", "--bench", "hot_paths", "--no-run", "--message-format", "json"]);
    run::announce(build.current_dir(project.root()));
    let messages = run::output(&mut build)?;
    let executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_bench = message.pointer("/target/name").is_some_and(|name| name == "hot_paths");
        message.get("executable")?.as_str().filter(|_| is_bench).map(PathBuf::from)
    });
    executables.collect::<Vec<_>>().pop().context("cargo has not said where the bench is")
}

/// Instructions of so many events on this path.
fn count(bench: &Path, path: &str, events: u64) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    valgrind.args(["--toggle-collect=hot_paths::counted*"]).arg(bench).args(["--run", path, &events.to_string()]);
    run::announce(&valgrind);
    let output = valgrind.output().context("cannot start valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected {
        Some(instructions) if output.status.success() && instructions > 0 => Ok(instructions),
        _ => bail!("callgrind has counted nothing for {path} ({}):\n{said}", output.status),
    }
}

/// The table, and whether a path has become dearer.
fn compare(committed: &BTreeMap<String, u64>, found: &BTreeMap<String, u64>) -> (String, bool) {
    let mut table = format!("{:<12} {:>10} {:>10}\n", "path", "committed", "now");
    let mut is_dearer = false;
    for (path, now) in found {
        let before = committed.get(path).copied();
        let limit = before.map(|before| before + before * TOLERANCE_PERCENT / 100);
        is_dearer |= limit.is_none_or(|limit| *now > limit);
        let before = before.map_or_else(|| "-".to_owned(), |before| before.to_string());
        let _ = writeln!(table, "{path:<12} {before:>10} {now:>10}");
    }
    (table, is_dearer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_dearer_by_more_than_the_tolerance_fails() {
        let numbers = |judge| BTreeMap::from([("judge".to_owned(), judge)]);
        assert!(!compare(&numbers(1_000), &numbers(1_100)).1);
        assert!(!compare(&numbers(1_000), &numbers(10)).1);
        assert!(compare(&numbers(1_000), &numbers(1_101)).1);
        assert!(compare(&BTreeMap::new(), &numbers(1)).1);
    }
}
