//! `cargo xtask test`: every test of the workspace, and one line of totals at the end.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::project::Project;
use crate::results::{Results, Totals};
use crate::vm::{self, CrossTarget};
use crate::{packages, run, servers, store};

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only the tests whose name contains this
    filter: Option<String>,
}

/// Runs the command. Tests that need root or a kernel feature say themselves why they are skipped.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    packages::install_missing(&[&packages::HARNESS_TOOLS[..], &packages::UNIT_TOOLS].concat())?;
    servers::prepare(project);
    store::prepare(project);
    // The binary is built first: tests run it as a user would.
    let mut build = run::cargo();
    let built = run::status(build.args(["build", "--workspace"]).current_dir(project.root()))?.success();

    let (mut results, succeeded) = if built { test(project, arguments)? } else { (Results::default(), false) };
    if !succeeded && results.totals.failed == 0 {
        // No test said so, yet something is wrong: the totals must not look like success.
        eprintln!("error: a build failed or a test program died; counted as one failure");
        results.totals.failed = 1;
    }
    let ran_any = results.totals != Totals::default();
    if built && arguments.filter.is_none() {
        add_guests(project, &mut results);
    }
    if let Some(filter) = arguments.filter.as_ref().filter(|_| !ran_any) {
        eprintln!("error: no test has a name that contains `{filter}`");
    }
    println!("{results}");
    Ok(if results.totals.failed == 0 && ran_any { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the kernel tests on the kernels of the matrix, where guests can be had; each test on one of them at least.
fn add_guests(project: &Project, results: &mut Results) {
    match vm::test_shared(project) {
        Ok(guests) => results.add("in a guest", &guests),
        Err(error) if is_required("vm") => {
            eprintln!("error: {error:#}; {REQUIRE_VARIABLE} names vm: counted as one failure");
            results.totals.failed += 1;
        }
        Err(error) => {
            eprintln!("skipped: the kernel tests in guests: {error:#}");
            results.totals.skipped += 1;
        }
    }
}

/// Names, separated by commas, what must not be skipped.
const REQUIRE_VARIABLE: &str = "CONNPROBE_REQUIRE";

fn is_required(name: &str) -> bool {
    std::env::var(REQUIRE_VARIABLE).is_ok_and(|names| names.split(',').any(|required| required.trim() == name))
}

fn test(project: &Project, arguments: &Arguments) -> Result<(Results, bool)> {
    let mut cargo = run::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]).args(&arguments.filter).current_dir(project.root());
    run::announce(&cargo);
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let pipe = child.stdout.take().context("cargo has no stdout")?;

    let mut results = Results::default();
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    let mut terminal = std::io::stdout().lock();
    while reader.read_until(b'\n', &mut line).context("cannot read what cargo prints")? > 0 {
        terminal.write_all(&line).and_then(|()| terminal.flush()).context("cannot write to stdout")?;
        results.take(&String::from_utf8_lossy(&line));
        line.clear();
    }
    let status = child.wait().context("cannot wait for cargo")?;
    Ok((results, status.success()))
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
