//! `cargo xtask bench`: what connprobe costs a host, measured in network namespaces beside other tools.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::project::Project;
use crate::{release, servers};

/// Whom connprobe is measured beside: unpacked below `target/peers`, never installed.
const PEERS: [&str; 6] = ["bpfcc-tools", "bpftrace", "conntrack", "iproute2", "libbpf-tools", "python3"];

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Handed to the measuring program as they are: rows, `--quick`, `--only WATCHER`, `--help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Runs the command; the measuring program's exit code is this one's.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    release::prepare(project, "connprobe-bench", "measuring needs network namespaces and kernel programs")?;
    if let Err(error) = servers::unpack(project, "peers", &PEERS) {
        eprintln!("without the other tools: {error:#}");
    }
    release::start(project, "connprobe-bench", &arguments.rest)
}
