//! `cargo xtask ci`: every check, from the cheap to the expensive. All run, also after one failed.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::project::Project;
use crate::{generate, kernels, run, tidy, truth};

/// Runs the command.
pub(crate) fn main(project: &Project) -> Result<ExitCode> {
    let mut failed = Vec::new();
    println!("== tidy");
    if !tidy::check(project)? {
        failed.push("tidy");
    }
    println!("== kernels");
    if !kernels::is_up_to_date(project)? {
        failed.push("kernels");
    }
    println!("== truth table");
    if !truth::is_up_to_date(project)? {
        failed.push("truth table");
    }
    println!("== generated files");
    if !generate::is_up_to_date(project)? {
        failed.push("generated files");
    }
    for (name, mut command) in checks()? {
        println!("== {name}");
        if !run::status(command.current_dir(project.root()))?.success() {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("ci: all checks passed");
        return Ok(ExitCode::SUCCESS);
    }
    println!("ci: failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn checks() -> Result<Vec<(&'static str, Command)>> {
    let cargo = |arguments: &[&str]| {
        let mut command = run::cargo();
        command.args(arguments);
        command
    };
    let mut documentation = cargo(&["doc", "--workspace", "--no-deps"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    // Processes of their own: their output is what the same command prints, and none that cannot be done keeps the others from running.
    let xtask = std::env::current_exe()?;
    let own = |arguments: &[&str]| {
        let mut command = Command::new(&xtask);
        command.args(arguments);
        command
    };
    Ok(vec![
        ("handbook", own(&["book"])),
        ("format", cargo(&["fmt", "--all", "--check"])),
        ("format of the kernel programs", cargo(&["fmt", "--manifest-path", "probe-ebpf/Cargo.toml", "--check"])),
        ("clippy", cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        ("documentation", documentation),
        ("kernel object", own(&["ebpf", "--check"])),
    ])
}
