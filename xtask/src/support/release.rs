//! Programs that are measured or shown as they are installed: built for release, and run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};

use crate::project::Project;
use crate::{packages, run};

/// Installs what the harness needs, and builds connprobe and what else is in this package of the workspace, for release. An error for who is
/// not root: `needs` says what for.
pub(crate) fn prepare(project: &Project, package: &str, needs: &str) -> Result<()> {
    ensure!(run::is_root()?, "{needs}: run it as root");
    packages::install_missing(&packages::HARNESS_TOOLS)?;
    build(project, package)
}

/// Builds connprobe and the programs of this package for release.
pub(crate) fn build(project: &Project, package: &str) -> Result<()> {
    let mut build = run::cargo();
    build.args(["build", "--release", "-p", "connprobe", "-p", package, "--bins"]);
    run::run(build.current_dir(project.root()))
}

/// Runs one of these programs with `arguments`; it finds connprobe beside it. Its exit code is the result.
pub(crate) fn start(project: &Project, program: &str, arguments: &[OsString]) -> Result<ExitCode> {
    let mut command = Command::new(self::program(project, program));
    command.args(arguments).env("CONNPROBE_BIN", self::program(project, "connprobe")).current_dir(project.root());
    let status = run::status(&mut command)?;
    // Ended by a signal, there is no code to pass on.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2);
    Ok(ExitCode::from(code))
}

/// Where one of these programs is.
pub(crate) fn program(project: &Project, name: &str) -> PathBuf {
    project.target().join("release").join(name)
}
