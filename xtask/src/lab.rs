//! `cargo xtask lab`: a failure, or a healthy workload, played in network namespaces, with what connprobe says of it.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::project::Project;
use crate::release;

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which, and how: `--help` tells; all are listed if there is none
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Runs the command; its exit code is that of the program that plays.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    play(project, &arguments.rest)
}

/// Plays what these arguments of the program say.
pub(crate) fn play(project: &Project, arguments: &[OsString]) -> Result<ExitCode> {
    match arguments.iter().any(|argument| !argument.to_string_lossy().starts_with('-')) {
        true => release::prepare(project, PACKAGE, "a lab makes network namespaces and loads kernel programs")?,
        false => release::build(project, PACKAGE)?,
    }
    release::start(project, "connprobe-lab", arguments)
}

const PACKAGE: &str = "connprobe-tests";
