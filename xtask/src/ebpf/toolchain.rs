//! A compiler that can build the kernel programs: it needs the sources of `core`, an unstable option, and a linker that
//! speaks the same LLVM.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::provenance::Identity;
use super::{debian, rustup};
use crate::run;
use crate::tools::Tool;

/// Pinned: two versions of it write different bytes from the same bitcode. Its default features load the compiler's own libLLVM at run
/// time: no LLVM headers are needed.
const LINKER: Tool = Tool { name: "bpf-linker", version: "0.10.3", options: &[] };

/// The LLVM that [`LINKER`] is made for. A compiler with another one writes bitcode the linker cannot read.
pub(crate) const LLVM_MAJOR: &str = "22";

/// Which toolchain to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// The first that is usable: rustup, then Debian
    Auto,
    /// A nightly of rustup that has the component rust-src
    Rustup,
    /// Debian's rustc-web and rust-web-src, unpacked below target/, not installed
    Debian,
}

/// A toolchain that is complete and whose tools run.
pub(crate) struct Toolchain {
    /// What the provenance file says of it.
    pub(crate) identity: Identity,
    /// Its root, which must not show in the object.
    pub(crate) sysroot: PathBuf,
    /// Starts cargo with this toolchain's compiler.
    pub(crate) driver: Driver,
    /// Where the linker and the strip tool find libLLVM, and nothing else: the first library named `libLLVM*` in
    /// `LD_LIBRARY_PATH` is taken, and the host's own is usually too old to read this compiler's bitcode.
    pub(crate) library_path: OsString,
    /// The linker's folder.
    pub(crate) linker_folder: PathBuf,
    /// Removes debug information.
    pub(crate) strip: PathBuf,
}

/// How cargo is made to use the toolchain's compiler.
pub(crate) enum Driver {
    /// `rustup run <toolchain> cargo`
    Rustup(String),
    /// The ordinary cargo, with `RUSTC` set to this path
    Compiler(PathBuf),
}

/// The compiler's and the tools' part of a toolchain, before the linker is known.
pub(crate) struct Compiler {
    pub(crate) sysroot: PathBuf,
    pub(crate) driver: Driver,
    pub(crate) library_path: OsString,
    pub(crate) strip: PathBuf,
    pub(crate) packages: Vec<String>,
}

/// What `rustc -vV` says, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CompilerVersion {
    /// The first line.
    pub(crate) line: String,
    /// The triple it runs on.
    pub(crate) host: String,
    /// Its LLVM.
    pub(crate) llvm: String,
}

/// Finds or makes the toolchain asked for in `folder`, where the linker (and Debian's packages, if used) are kept.
pub(crate) fn prepare(choice: Choice, folder: &Path) -> Result<Toolchain> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let folder = folder.canonicalize().with_context(|| format!("cannot resolve {}", folder.display()))?;
    // Two builds at once must not unpack into one folder. The lock ends with the file handle.
    let lock = File::create(folder.join("lock")).context("cannot create the toolchain's lock")?;
    lock.lock().context("cannot lock the toolchain's folder")?;

    let compiler = match choice {
        Choice::Rustup => rustup::find()?,
        Choice::Debian => debian::prepare(&folder)?,
        Choice::Auto => match rustup::find() {
            Ok(compiler) => compiler,
            Err(no_rustup) => debian::prepare(&folder).map_err(|no_debian| {
                no_debian.context(format!("no usable toolchain: rustup: {no_rustup:#}; Debian's packages"))
            })?,
        },
    };
    let linker_folder = LINKER.build(&folder)?;
    complete(compiler, linker_folder)
}

fn complete(compiler: Compiler, linker_folder: PathBuf) -> Result<Toolchain> {
    let mut rustc = match &compiler.driver {
        Driver::Rustup(name) => rustup::command(name, "rustc"),
        Driver::Compiler(path) => Command::new(path),
    };
    rustc.env("LD_LIBRARY_PATH", &compiler.library_path);
    let version = compiler_version(&mut rustc)?;
    if major(&version.llvm) != LLVM_MAJOR {
        bail!("{} has LLVM {}, but bpf-linker {} needs LLVM {LLVM_MAJOR}", version.line, version.llvm, LINKER.version);
    }
    let mut strip = Command::new(&compiler.strip);
    let strip_text = run::output(strip.arg("--version").env("LD_LIBRARY_PATH", &compiler.library_path))?;
    let strip_version = strip_version(&compiler.strip, &strip_text)
        .with_context(|| format!("{} does not say its LLVM version", compiler.strip.display()))?;

    let mut toolchain = Toolchain {
        identity: Identity {
            compiler: version.line,
            host: version.host,
            llvm: version.llvm,
            cargo: String::new(),
            linker: format!("bpf-linker {}", LINKER.version),
            strip: strip_version,
            packages: compiler.packages,
        },
        sysroot: compiler.sysroot,
        driver: compiler.driver,
        library_path: compiler.library_path,
        linker_folder,
        strip: compiler.strip,
    };
    toolchain.identity.cargo = run::output(toolchain.cargo()?.arg("-V"))?.trim().to_owned();
    Ok(toolchain)
}

impl Toolchain {
    /// Cargo with this toolchain's compiler and linker, free of what the caller's environment would change in the object.
    pub(crate) fn cargo(&self) -> Result<Command> {
        let mut cargo = match &self.driver {
            Driver::Rustup(name) => rustup::command(name, "cargo"),
            Driver::Compiler(rustc) => {
                let mut cargo = run::cargo();
                cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
        };
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            let foreign = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_UNSTABLE_"]
                .iter()
                .any(|prefix| name.starts_with(prefix));
            if foreign || ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS"].contains(&name.as_ref()) {
                cargo.env_remove(name.as_ref());
            }
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.linker_folder.clone()).chain(std::env::split_paths(&path));
        cargo.env("PATH", std::env::join_paths(folders)?).env("LD_LIBRARY_PATH", &self.library_path);
        Ok(cargo)
    }
}

/// Asks a compiler for its version.
pub(crate) fn compiler_version(rustc: &mut Command) -> Result<CompilerVersion> {
    let text = run::output(rustc.arg("-vV"))?;
    parse_compiler_version(&text).with_context(|| format!("cannot understand the compiler's version: {text}"))
}

fn parse_compiler_version(text: &str) -> Option<CompilerVersion> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
    Some(CompilerVersion {
        line: text.lines().next()?.to_owned(),
        host: field("host:")?,
        llvm: field("LLVM version:")?,
    })
}

/// `LLVM version 22.1.8` stands on a line of its own, with the vendor before it.
fn strip_version(tool: &Path, text: &str) -> Option<String> {
    let version = text.lines().find_map(|line| line.split_once("LLVM version "))?.1.trim();
    Some(format!("{} {version}", tool.file_name()?.to_string_lossy()))
}

/// The part before the first point.
pub(crate) fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compilers_version_is_read_from_its_verbose_form() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                    host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let version = parse_compiler_version(text).unwrap();
        assert_eq!(version.line, "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)");
        assert_eq!(version.host, "x86_64-unknown-linux-gnu");
        assert_eq!(major(&version.llvm), "22");
        assert_eq!(parse_compiler_version("rustc 1.96.0\n"), None);
    }

    #[test]
    fn a_strip_tools_version_is_read_behind_its_vendor() {
        let text = "llvm-strip, compatible with GNU strip\nDebian LLVM version 22.1.8\n  Optimized build.\n";
        assert_eq!(strip_version(Path::new("/x/llvm-strip"), text).unwrap(), "llvm-strip 22.1.8");
        assert_eq!(strip_version(Path::new("/x/strip"), "GNU strip 2.40\n"), None);
    }
}
