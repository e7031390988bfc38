//! `cargo xtask kernels`: which kernel offers what, as a document made from committed facts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::project::{Project, write_whole};
use crate::vm::{self, Series};
use crate::{packages, run};

/// Where the facts of each kernel are, a file a kernel, written by `connprobe-facts`.
const FOLDER: &str = "docs/kernels";
/// The document made from them.
const DOCUMENT: &str = "docs/kernels.md";
/// The mechanisms in the order of the document, and what the program takes by itself.
const MECHANISMS: [&str; 5] = ["tp_btf", "fentry", "kprobe", "tracepoint", "chosen"];

/// Options of the command. Without any, the document is made anew from the committed facts.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only compare the document with the facts
    #[arg(long, conflicts_with_all = ["update", "host"])]
    check: bool,
    /// Renew the facts of every kernel of the matrix, in guests
    #[arg(long)]
    update: bool,
    /// Renew the facts of the running kernel, under this name
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
}

/// Runs the command.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    let facts_of = |name: &str| project.path(FOLDER).join(format!("{name}.toml"));
    if arguments.update {
        let program = build(project)?;
        let command = [program.to_string_lossy().into_owned()];
        for series in Series::ALL {
            let text = vm::output(project, series, &command, vm::SHORT)?;
            write_whole(&facts_of(series.name()), text.as_bytes())?;
        }
    }
    if let Some(name) = &arguments.host {
        packages::install_missing(&packages::HARNESS_TOOLS)?;
        let text = run::output(&mut Command::new(build(project)?))?;
        write_whole(&facts_of(name), text.as_bytes())?;
    }
    if arguments.check {
        return Ok(if is_up_to_date(project)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    write_whole(&project.path(DOCUMENT), document(&read(project)?).as_bytes())?;
    println!("{DOCUMENT} is made from {FOLDER}");
    Ok(ExitCode::SUCCESS)
}

/// Whether the document is what the facts say; if not, says what to do.
pub(crate) fn is_up_to_date(project: &Project) -> Result<bool> {
    let document = document(&read(project)?);
    Ok(project.is_as_made(&[(DOCUMENT.to_owned(), document)], "cargo xtask kernels"))
}

fn build(project: &Project) -> Result<PathBuf> {
    Ok(project.build_programs()?.join("connprobe-facts"))
}

/// One kernel's facts, as `tests/src/facts.rs` writes them.
#[derive(Debug, Deserialize)]
struct Facts {
    release: String,
    hooks: BTreeMap<String, BTreeMap<String, String>>,
    self_test: BTreeMap<String, String>,
    missing_fields: BTreeMap<String, String>,
}

/// The facts of all kernels, the oldest kernel first.
fn read(project: &Project) -> Result<Vec<(String, Facts)>> {
    let folder = project.path(FOLDER);
    let mut kernels = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().context("a file without a name")?.to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        kernels.push((name, toml::from_str(&text).with_context(|| format!("in {}", path.display()))?));
    }
    if kernels.is_empty() {
        bail!("no facts in {}; `cargo xtask kernels --update` makes them", folder.display());
    }
    kernels.sort_by_key(|(name, _)| (version(name), name.clone()));
    Ok(kernels)
}

/// The numbers of a version: 6.12 comes after 6.1.
pub(crate) fn version(name: &str) -> Vec<u32> {
    name.split(['.', '-']).map_while(|part| part.parse().ok()).collect()
}

fn document(kernels: &[(String, Facts)]) -> String {
    let mut out = String::from(
        "# Kernels\n\nMade by `cargo xtask kernels` from the facts in `docs/kernels`, which `connprobe check` has found on each \
         kernel by each\nmechanism. The guests of the kernel matrix (`cargo xtask vm`) hold them against what they find.\n\n\
         `ok`: attached. `unsupported`: this kernel has no such hook, or its record does not say which connection it is about. \
         `broken`:\nit should have worked. `–`: nothing at all can be attached this way. `chosen`: what the program takes by itself.\n",
    );
    for (name, facts) in kernels {
        let _ = writeln!(out, "\n## {name} ({})\n", facts.release);
        let _ = writeln!(out, "| hook | {} |", MECHANISMS.join(" | "));
        let _ = writeln!(out, "|---|{}", "---|".repeat(MECHANISMS.len()));
        let hooks: BTreeSet<&String> = facts.hooks.values().flat_map(BTreeMap::keys).collect();
        for hook in hooks {
            let cell = |mechanism: &&str| facts.hooks.get(*mechanism).and_then(|hooks| hooks.get(hook));
            row(&mut out, &format!("`{hook}`"), MECHANISMS.iter().map(cell));
        }
        row(&mut out, "self-test", MECHANISMS.iter().map(|mechanism| facts.self_test.get(*mechanism)));
        if !facts.missing_fields.is_empty() {
            let fields: Vec<String> = facts.missing_fields.keys().map(|field| format!("`{field}`")).collect();
            let _ = writeln!(out, "\nNot in this kernel: {}.", fields.join(", "));
        }
    }
    out
}

fn row<'a>(out: &mut String, name: &str, cells: impl Iterator<Item = Option<&'a String>>) {
    let cells: Vec<&str> = cells.map(|cell| cell.map_or("–", String::as_str)).collect();
    let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_ordered_by_their_numbers() {
        let mut names = ["6.18-microvm", "6.1-arm64", "6.12", "6.1"];
        names.sort_by_key(|name| (version(name), *name));
        assert_eq!(names, ["6.1", "6.1-arm64", "6.12", "6.18-microvm"]);
    }

    #[test]
    fn what_cannot_be_attached_at_all_is_a_dash() {
        let facts: Facts = toml::from_str(
            "release = '6.1.0'\n[hooks.tp_btf]\ntcp_reset = 'ok'\n[self_test]\ntp_btf = 'ok'\n[missing_fields]\n'a.b' = 'x'\n",
        )
        .unwrap();
        let text = document(&[("6.1".to_owned(), facts)]);
        assert!(text.contains("## 6.1 (6.1.0)"), "{text}");
        assert!(text.contains("| `tcp_reset` | ok | – | – | – | – |"), "{text}");
        assert!(text.contains("Not in this kernel: `a.b`."), "{text}");
    }
}
