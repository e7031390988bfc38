//! The ordinary recipe: a nightly of rustup with the component `rust-src`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::toolchain::{self, Compiler, Driver, LLVM_MAJOR};
use crate::run;

/// A tool of rustup's toolchain with the given name, for example `nightly`.
pub(crate) fn command(toolchain: &str, tool: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, tool]);
    // These would name the compiler of the cargo that runs this program.
    command.env_remove("RUSTC").env_remove("RUSTDOC").env_remove("CARGO");
    command
}

/// The first nightly that has the sources of `core`, the right LLVM, and a tool that strips.
pub(crate) fn find() -> Result<Compiler> {
    if run::find("rustup").is_none() {
        bail!("rustup is not installed");
    }
    let list = run::output(Command::new("rustup").args(["toolchain", "list"]))?;
    let nightlies = nightlies(&list);
    if nightlies.is_empty() {
        bail!("no nightly is installed (`rustup toolchain install nightly --component rust-src`)");
    }
    let mut reasons = Vec::new();
    for name in nightlies {
        match usable(&name) {
            Ok(compiler) => return Ok(compiler),
            Err(reason) => reasons.push(format!("{name}: {reason:#}")),
        }
    }
    bail!("{}", reasons.join("; "))
}

fn usable(name: &str) -> Result<Compiler> {
    let sysroot = PathBuf::from(run::output(command(name, "rustc").args(["--print", "sysroot"]))?.trim());
    if !sysroot.join("lib/rustlib/src/rust/library").is_dir() {
        bail!("has no rust-src (`rustup component add rust-src --toolchain {name}`)");
    }
    let version = toolchain::compiler_version(&mut command(name, "rustc"))?;
    if toolchain::major(&version.llvm) != LLVM_MAJOR {
        bail!("has LLVM {}, not {LLVM_MAJOR}", version.llvm);
    }
    let strip =
        strip_tool(&sysroot, &version.host).context("has no tool that strips (`rustup component add llvm-tools`)")?;
    Ok(Compiler {
        library_path: sysroot.join("lib").into(),
        sysroot,
        driver: Driver::Rustup(name.to_owned()),
        strip,
        packages: Vec::new(),
    })
}

/// `rust-objcopy` comes with the compiler, `llvm-strip` with the component `llvm-tools`: one program, and both names
/// understand `--strip-debug`.
fn strip_tool(sysroot: &Path, host: &str) -> Option<PathBuf> {
    let folder = sysroot.join("lib/rustlib").join(host).join("bin");
    ["rust-objcopy", "llvm-strip", "llvm-objcopy"].iter().map(|name| folder.join(name)).find(|tool| tool.is_file())
}

/// The nightlies in a `rustup toolchain list`, the undated ones first: those are the ones a user keeps up to date.
fn nightlies(list: &str) -> Vec<String> {
    let mut names: Vec<String> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"))
        .map(str::to_owned)
        .collect();
    names.sort_by_key(|name| name.starts_with("nightly-2"));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undated_nightlies_come_first() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\nnightly-2026-05-19-x86_64-unknown-linux-gnu\n\
                    nightly-x86_64-unknown-linux-gnu\n";
        assert_eq!(
            nightlies(list),
            ["nightly-x86_64-unknown-linux-gnu", "nightly-2026-05-19-x86_64-unknown-linux-gnu"]
        );
        assert!(nightlies("no installed toolchains\n").is_empty());
    }
}
