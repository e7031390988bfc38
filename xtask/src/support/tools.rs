//! Programs from crates.io: pinned, built below `target/`, and installed for nobody else.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;

/// A program that has the name of its crate.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Options of `cargo install`, such as features.
    pub(crate) options: &'static [&'static str],
}

impl Tool {
    /// The program: the one in `PATH` where that is the pinned version, else one that is built below `folder`.
    pub(crate) fn find_or_build(&self, folder: &Path) -> Result<PathBuf> {
        match run::find(self.name).filter(|program| self.is_pinned(program)) {
            Some(program) => Ok(program),
            None => Ok(self.build(folder)?.join(self.name)),
        }
    }

    /// The folder that holds the program; builds it there if it is missing.
    pub(crate) fn build(&self, folder: &Path) -> Result<PathBuf> {
        let Self { name, version, options } = self;
        let root = folder.join(name);
        let binaries = root.join("bin");
        let program = binaries.join(name);
        if self.is_pinned(&program) {
            return Ok(binaries);
        }
        let mut install = run::cargo();
        install.args(["install", name, "--version", &format!("={version}"), "--locked", "--force"]);
        install.args(*options).arg("--root").arg(&root);
        // It runs on this machine: flags and targets meant for other builds do not concern it.
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
            install.env_remove(name);
        }
        run::run(&mut install).with_context(|| format!("cannot build {name}"))?;
        if !self.is_pinned(&program) {
            bail!("{} does not run or is not version {version}", program.display());
        }
        Ok(binaries)
    }

    fn is_pinned(&self, program: &Path) -> bool {
        run::output(Command::new(program).arg("--version"))
            .is_ok_and(|text| version(&text).is_some_and(|version| version == self.version))
    }
}

/// The version in what a program says of itself: `bpf-linker 0.10.3`, `mdbook v0.5.4`.
fn version(text: &str) -> Option<&str> {
    let word = text.split_whitespace().nth(1)?;
    Some(word.strip_prefix('v').unwrap_or(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_with_and_without_its_letter() {
        assert_eq!(version("bpf-linker 0.10.3\n"), Some("0.10.3"));
        assert_eq!(version("mdbook v0.5.4"), Some("0.5.4"));
        assert_eq!(version("mdbook"), None);
    }
}
