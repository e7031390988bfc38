//! `cargo xtask bench`: what connprobe costs a host, measured in network namespaces beside other tools.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::project::Project;
use crate::{packages, run, servers};

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
    if !run::is_root()? {
        eprintln!("error: measuring needs network namespaces and kernel programs: run it as root");
        return Ok(ExitCode::from(2));
    }
    packages::install_missing(&packages::HARNESS_TOOLS)?;
    let mut build = run::cargo();
    build.args(["build", "--release", "-p", "connprobe", "-p", "connprobe-bench", "--bins"]);
    run::run(build.current_dir(project.root()))?;
    if let Err(error) = servers::unpack(project, "peers", &PEERS) {
        eprintln!("without the other tools: {error:#}");
    }

    let binaries = project.target().join("release");
    let mut bench = Command::new(binaries.join("connprobe-bench"));
    bench.args(&arguments.rest).env("CONNPROBE_BIN", binaries.join("connprobe")).current_dir(project.root());
    let status = run::status(&mut bench)?;
    // Ended by a signal, there is no code to pass on.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2);
    Ok(ExitCode::from(code))
}
