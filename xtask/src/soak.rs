//! `cargo xtask soak`: whether a daemon stays as it is when everything happens for long.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::project::Project;
use crate::release;

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Handed to the measuring program as they are: `--minutes N`, `--picture FILE`, `--write`, `--help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Runs the command; the measuring program's exit code is this one's.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    release::prepare(project, "connprobe-bench", "a soak needs network namespaces and kernel programs")?;
    let arguments: Vec<OsString> = std::iter::once("soak".into()).chain(arguments.rest.iter().cloned()).collect();
    release::start(project, "connprobe-bench", &arguments)
}
