//! bpf-linker, pinned: two versions of it write different bytes from the same bitcode.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;

/// The version in use. Its default features load the compiler's own libLLVM at run time: no LLVM headers are needed.
pub(crate) const VERSION: &str = "0.10.3";

/// The folder that holds the linker; builds it there if it is missing.
pub(crate) fn prepare(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("bpf-linker");
    let binaries = root.join("bin");
    let program = binaries.join("bpf-linker");
    if is_pinned(&program) {
        return Ok(binaries);
    }
    let mut install = run::cargo();
    install.args(["install", "bpf-linker", "--version", &format!("={VERSION}"), "--locked", "--force"]);
    install.arg("--root").arg(&root);
    // It runs on this machine: flags and targets meant for other builds do not concern it.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
        install.env_remove(name);
    }
    run::run(&mut install).context("cannot build bpf-linker")?;
    if !is_pinned(&program) {
        bail!("{} does not run or is not version {VERSION}", program.display());
    }
    Ok(binaries)
}

fn is_pinned(program: &Path) -> bool {
    run::output(Command::new(program).arg("--version"))
        .is_ok_and(|text| text.split_whitespace().nth(1) == Some(VERSION))
}
