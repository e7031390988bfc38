//! `cargo xtask tidy`: rules of this repository that no compiler and no lint knows.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::project::{self, Project};

mod code;
mod links;
mod named_files;
mod paths;
mod purity;
mod size;
mod unsafety;
mod words;

/// Folders of the packages.
const PACKAGES: [&str; 5] = ["probe-common", "probe-ebpf", "probe-user", "tests", "xtask"];

/// What breaks a rule, and where.
#[derive(Debug, PartialEq, Eq)]
struct Offence {
    /// Relative to the repository.
    path: String,
    /// Counted from one.
    line: usize,
    text: String,
}

/// A file and what is in it.
struct Source {
    /// Relative to the repository.
    path: String,
    text: String,
    /// For Rust: the text with comments and the contents of literals blanked out, line for line; else empty.
    code: String,
}

impl Source {
    fn new(path: &str, text: String) -> Self {
        let code = if path.ends_with(".rs") { code::without_comments_and_literals(&text) } else { String::new() };
        Self { path: path.to_owned(), text, code }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The lines of code before the test module. Files that hold only tests have none.
    fn production_code(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.code).take(self.production_lines())
    }

    /// How many lines stand before the test module.
    fn production_lines(&self) -> usize {
        if is_test_file(&self.path) { 0 } else { code::lines_before_tests(&self.code) }
    }

    fn offence(&self, line: usize, text: impl Into<String>) -> Offence {
        Offence { path: self.path.clone(), line, text: text.into() }
    }
}

/// Integration tests, and modules of tests that are files of their own.
fn is_test_file(path: &str) -> bool {
    let mut parts = path.split('/');
    let package = parts.next();
    // The package `tests` is the harness: its `src` is production, its `tests` is not.
    let _ = package;
    parts.any(|part| matches!(part, "tests" | "tests.rs" | "benches"))
}

/// Lines, counted from one.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Runs the command.
pub(crate) fn main(project: &Project) -> Result<ExitCode> {
    Ok(if check(project)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints each check with its result; true if all hold.
pub(crate) fn check(project: &Project) -> Result<bool> {
    let sources = read(project)?;
    let exists = |path: &Path| project.root().join(path).exists();
    let checks = [
        ("file size", size::check(&sources)),
        ("pure rooms", purity::check(&sources)),
        ("leftover words", words::check(&sources)),
        ("unsafe code", unsafety::check(&sources)),
        ("links in documents", links::check(&sources, exists)),
        ("files named as code", named_files::check(&sources)),
    ];
    let mut all_hold = true;
    for (name, offences) in checks {
        println!("{name}: {}", if offences.is_empty() { "ok" } else { "failed" });
        all_hold &= offences.is_empty();
        for Offence { path, line, text } in offences {
            println!("  {path}:{line}: {text}");
        }
    }
    Ok(all_hold)
}

fn read(project: &Project) -> Result<Vec<Source>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for folder in PACKAGES.into_iter().chain(["docs", ".ci"]) {
        if project.path(folder).is_dir() {
            paths.extend(project::files_below(&project.path(folder))?);
        }
    }
    paths.extend(["Cargo.toml", "README.md", "CHANGELOG.md"].map(|name| project.path(name)));
    let mut sources = Vec::new();
    for path in paths {
        let relative = path.strip_prefix(project.root()).unwrap_or(&path).to_string_lossy().into_owned();
        let is_read = [".rs", ".md", "Cargo.toml", ".sh"].iter().any(|end| relative.ends_with(end))
            || relative.starts_with(".ci/");
        if is_read && path.is_file() {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            sources.push(Source::new(&relative, text));
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_is_production_and_its_tests_are_not() {
        assert!(!is_test_file("tests/src/namespace.rs"));
        assert!(is_test_file("tests/tests/replay.rs"));
        assert!(is_test_file("probe-user/src/case/tests.rs"));
        assert!(is_test_file("probe-user/src/case/tests/lifecycle.rs"));
        assert!(!is_test_file("xtask/src/test.rs"));
    }

    #[test]
    fn production_code_ends_where_tests_begin() {
        let text = "fn one() {}\n\n#[cfg(test)]\nmod tests {\n    fn two() {}\n}\n";
        let source = Source::new("xtask/src/one.rs", text.to_owned());
        assert_eq!(source.production_lines(), 2);
        assert_eq!(source.production_code().count(), 2);
        let source = Source::new("tests/tests/one.rs", text.to_owned());
        assert_eq!(source.production_lines(), 0);
    }
}
