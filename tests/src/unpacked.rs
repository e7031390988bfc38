//! Programs from Debian's packages as `cargo xtask` unpacks them below `target/`: run with their own libraries, so that they run on any
//! distribution, and never installed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What loads the programs of a tree.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// Where the libraries of a tree are.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// Packages that were unpacked together, with all they need.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    /// The folder below `target`.
    name: &'static str,
}

impl Tree {
    /// What is unpacked below `target/NAME`.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name }
    }

    /// A file of the tree, or a folder.
    ///
    /// # Errors
    /// When it is not there.
    pub fn file(self, path: &str) -> Result<PathBuf> {
        let file = target()?.join(self.name).join("root").join(path);
        ensure!(file.exists(), "{path} is not unpacked below target/{}", self.name);
        Ok(file)
    }

    /// A command that runs a program of the tree with the tree's own libraries.
    ///
    /// # Errors
    /// When they are not there.
    pub fn command(self, program: &str) -> Result<Command> {
        let [one, other] = LIBRARIES.map(|folder| self.file(folder));
        let libraries = env::join_paths([one?, other?]).context("a path with a colon")?;
        let mut command = Command::new(self.file(LOADER)?);
        command.arg("--library-path").arg(libraries).arg(self.file(program)?);
        Ok(command)
    }

    /// Whether these programs can be run.
    pub(crate) fn check(self, programs: &[&str]) -> Result<()> {
        programs.iter().try_for_each(|program| self.command(program).map(drop))
    }
}

/// Where all that is built and unpacked is. Cargo puts tests into `deps`, one level below the programs.
pub(crate) fn target() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot tell where this program is")?;
    let mut folders = program.ancestors().skip(1).skip_while(|folder| folder.ends_with("deps"));
    folders.nth(1).map(Path::to_owned).context("this program is in no build folder")
}
