//! `cargo xtask lab`: a failure, or a healthy workload, played in network namespaces, with what connprobe says of it.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::project::Project;
use crate::vm::{self, Series};
use crate::{release, servers};

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Play it on this kernel, in a guest
    #[arg(long)]
    kernel: Option<Series>,
    /// Which, and how: `lab NAME --help` tells; all are listed if there is none
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

const PACKAGE: &str = "connprobe-tests";
const PROGRAM: &str = "connprobe-lab";
const NEEDS: &str = "a lab makes network namespaces and loads kernel programs";

/// Runs the command; its exit code is that of the program that plays.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    match arguments.kernel {
        Some(series) => play_in_guest(project, series, &arguments.rest),
        None => play(project, &arguments.rest),
    }
}

/// Plays what these arguments of the program say.
pub(crate) fn play(project: &Project, arguments: &[OsString]) -> Result<ExitCode> {
    match arguments.iter().any(|argument| !argument.to_string_lossy().starts_with('-')) {
        true => release::prepare(project, PACKAGE, NEEDS)?,
        false => release::build(project, PACKAGE)?,
    }
    if arguments.iter().any(|argument| argument == "real-servers") {
        servers::prepare(project);
    }
    release::start(project, PROGRAM, arguments)
}

/// The same on another kernel; Open vSwitch is only there.
fn play_in_guest(project: &Project, series: Series, arguments: &[OsString]) -> Result<ExitCode> {
    release::prepare(project, PACKAGE, NEEDS)?;
    servers::prepare(project);
    let probe = release::program(project, "connprobe");
    let mut words = vec!["env".to_owned(), format!("CONNPROBE_BIN={}", probe.display())];
    words.push(release::program(project, PROGRAM).display().to_string());
    words.extend(arguments.iter().map(|argument| argument.to_string_lossy().into_owned()));
    let code = vm::run_in(project, series, &words)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
