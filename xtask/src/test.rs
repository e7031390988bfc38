//! `cargo xtask test`: every test of the workspace, and one line of totals at the end.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::project::Project;
use crate::vm::{self, CrossTarget};
use crate::{packages, run};

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only the tests whose name contains this
    filter: Option<String>,
}

/// The sums over all test programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

/// Runs the command. Tests that need root or a kernel feature say themselves why they are skipped.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    packages::install_missing(&packages::HARNESS_TOOLS)?;
    // The binary is built first: tests run it as a user would.
    let mut build = run::cargo();
    let built = run::status(build.args(["build", "--workspace"]).current_dir(project.root()))?.success();

    let (mut totals, succeeded) = if built { test(project, arguments)? } else { (Totals::default(), false) };
    if !succeeded && totals.failed == 0 {
        // No test said so, yet something is wrong: the totals must not look like success.
        eprintln!("error: a build failed or a test program died; counted as one failure");
        totals.failed = 1;
    }
    let ran_any = totals != Totals::default();
    if built && arguments.filter.is_none() {
        totals.add(guests(project));
    }
    if let Some(filter) = arguments.filter.as_ref().filter(|_| !ran_any) {
        eprintln!("error: no test has a name that contains `{filter}`");
    }
    println!("{totals}");
    Ok(if totals.failed == 0 && ran_any { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The kernel tests on the kernels of the matrix, where guests can be had.
fn guests(project: &Project) -> Totals {
    match vm::test_all(project) {
        Ok(totals) => totals,
        Err(error) if is_required("vm") => {
            eprintln!("error: {error:#}; {REQUIRE_VARIABLE} names vm: counted as one failure");
            Totals { failed: 1, ..Totals::default() }
        }
        Err(error) => {
            eprintln!("skipped: the kernel tests in guests: {error:#}");
            Totals { skipped: 1, ..Totals::default() }
        }
    }
}

/// Names, separated by commas, what must not be skipped.
const REQUIRE_VARIABLE: &str = "CONNPROBE_REQUIRE";

fn is_required(name: &str) -> bool {
    std::env::var(REQUIRE_VARIABLE).is_ok_and(|names| names.split(',').any(|required| required.trim() == name))
}

fn test(project: &Project, arguments: &Arguments) -> Result<(Totals, bool)> {
    let mut cargo = run::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]).args(&arguments.filter).current_dir(project.root());
    run::announce(&cargo);
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let pipe = child.stdout.take().context("cargo has no stdout")?;

    let mut totals = Totals::default();
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    let mut terminal = std::io::stdout().lock();
    while reader.read_until(b'\n', &mut line).context("cannot read what cargo prints")? > 0 {
        terminal.write_all(&line).and_then(|()| terminal.flush()).context("cannot write to stdout")?;
        totals.count(&String::from_utf8_lossy(&line));
        line.clear();
    }
    let status = child.wait().context("cannot wait for cargo")?;
    Ok((totals, status.success()))
}

impl Totals {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Adds what a line says if it is the last one of a test program.
    pub(crate) fn count(&mut self, line: &str) {
        if let Some(result) = parse_result(line) {
            self.add(result);
        }
    }

    /// Whether something passed and nothing failed.
    pub(crate) fn succeeded(self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Builds the kernel tests with the programs they start, and returns the path of the test program.
pub(crate) fn kernel_test_program(project: &Project, cross: Option<&CrossTarget>) -> Result<PathBuf> {
    let build = |arguments: &[&str]| {
        let mut cargo = run::cargo();
        cargo.args(arguments).current_dir(project.root());
        if let Some(cross) = cross {
            cargo.args(["--target", cross.triple]).arg("--target-dir").arg(&cross.folder);
            cargo.envs(cross.environment.iter().map(|(name, value)| (name, value)));
        }
        cargo
    };
    run::run(&mut build(&["build", "-p", "connprobe", "-p", "connprobe-tests", "--bins"]))?;
    let messages = ["test", "-p", "connprobe-tests", "--test", "kernel", "--no-run", "--message-format=json"];
    let mut cargo = build(&messages);
    run::announce(&cargo);
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the kernel tests do not compile");
    }
    let program = String::from_utf8_lossy(&output.stdout).lines().rev().find_map(test_executable);
    program.context("cargo named no kernel test program")
}

/// The program in one message of `cargo test --no-run --message-format=json`.
fn test_executable(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let is_kernel_test = message.pointer("/target/name")? == "kernel" && message.pointer("/profile/test")? == true;
    message.get("executable")?.as_str().filter(|_| is_kernel_test).map(PathBuf::from)
}

/// The last line of each test program: `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`. Only a line that
/// begins so counts: tests may print such text, too.
fn parse_result(line: &str) -> Option<Totals> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count =
        |name: &str| counts.split(';').find_map(|part| part.trim().strip_suffix(name)?.trim_end().parse::<u64>().ok());
    Some(Totals { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_counted() {
        let line = "test result: ok. 31 passed; 0 failed; 2 ignored; 0 measured; 5 filtered out; finished in 1.20s\n";
        assert_eq!(parse_result(line), Some(Totals { passed: 31, failed: 0, skipped: 2 }));
        let line = "test result: FAILED. 1 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(parse_result(line), Some(Totals { passed: 1, failed: 4, skipped: 0 }));
    }

    #[test]
    fn other_lines_are_not_counted() {
        for line in
            ["running 3 tests", "test parse::result ... ok", "test result: aborted", " test result: ok. 1 passed"]
        {
            assert_eq!(parse_result(line), None, "{line}");
        }
    }

    #[test]
    fn totals_are_summed_over_test_programs() {
        let mut totals = Totals::default();
        totals.add(Totals { passed: 1, failed: 2, skipped: 3 });
        totals.add(Totals { passed: 10, failed: 20, skipped: 30 });
        assert_eq!(totals, Totals { passed: 11, failed: 22, skipped: 33 });
    }
}
