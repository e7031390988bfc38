//! `cargo xtask demo`: a connection dies in network namespaces, connprobe says which and why.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::project::Project;
use crate::release;

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Handed to the demo as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Runs the command; the demo's exit code is this one's.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    release::prepare(project, "connprobe-tests", "the demo makes network namespaces and loads kernel programs")?;
    release::start(project, "connprobe-demo", &arguments.rest)
}
