//! Where things are in this repository, and small file helpers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::run;

/// The repository this program works on.
pub(crate) struct Project {
    root: PathBuf,
}

impl Project {
    /// Looks upwards from the current folder, so that the commands work in every folder of the repository.
    pub(crate) fn find() -> Result<Self> {
        let here = std::env::current_dir().context("cannot tell the current folder")?;
        let root = here
            .ancestors()
            .find(|folder| folder.join("xtask/Cargo.toml").is_file() && folder.join("Cargo.toml").is_file())
            .context("run this inside the connprobe repository")?;
        Self::at(root)
    }

    /// The project whose root is known.
    pub(crate) fn at(root: &Path) -> Result<Self> {
        let root = root.canonicalize().with_context(|| format!("cannot resolve {}", root.display()))?;
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The folder of build products: cargo's own rule for where that is.
    pub(crate) fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), |folder| self.root.join(folder))
    }

    /// Builds connprobe and the programs of the tests for debugging, and returns the folder that they are in.
    pub(crate) fn build_programs(&self) -> Result<PathBuf> {
        let mut cargo = run::cargo();
        cargo.args(["build", "-p", "connprobe", "-p", "connprobe-tests", "--bins"]);
        run::run(cargo.current_dir(&self.root))?;
        Ok(self.target().join("debug"))
    }

    /// Whether these committed files hold the text that `command` makes; if not, says which do not, and what to do.
    pub(crate) fn is_as_made(&self, files: &[(String, String)], command: &str) -> bool {
        let is_other = |(file, text): &&(String, String)| {
            !std::fs::read_to_string(self.path(file)).is_ok_and(|committed| committed == *text)
        };
        let others: Vec<_> = files.iter().filter(is_other).collect();
        for (file, _) in &others {
            println!("{file}: not as `{command}` makes it: run that");
        }
        println!("{} of {} files as `{command}` makes them", files.len() - others.len(), files.len());
        others.is_empty()
    }
}

/// All files below `folder`, sorted by path, so that every machine sees one order. Build products, version control and
/// other hidden folders are left out.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(folder, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let context = || format!("cannot list {}", folder.display());
    for entry in std::fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let kind = entry.file_type().with_context(context)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if kind.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&entry.path(), found)?;
            }
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Writes beside the target and renames: a reader sees the old file or the new one, never half of it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file needs a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut scratch = path.as_os_str().to_owned();
    scratch.push(".new");
    let scratch = PathBuf::from(scratch);
    std::fs::write(&scratch, bytes).with_context(|| format!("cannot write {}", scratch.display()))?;
    std::fs::rename(&scratch, path).with_context(|| format!("cannot replace {}", path.display()))
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_is_printed_in_hexadecimal() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
