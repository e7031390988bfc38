//! Debian's `rustc-web`: the one distribution package of a compiler that comes with the matching sources of `core`. It is
//! unpacked below `target/`, not installed, since it cannot be installed beside `rustc` or `rustup`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::toolchain::{Compiler, Driver, LLVM_MAJOR};
use crate::debs::{self, Package, Source};
use crate::{packages, run};

/// Written into the unpacked tree last, one `name=version` a line: a tree without it is incomplete.
const STAMP: &str = "connprobe-packages";

/// Packages built from one source: a mixture of versions does not compile.
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "libstd-rust-web-dev", "rust-web-src"];

/// The tree of unpacked packages, made if it is missing. An existing one stays as it is, also when newer packages appear:
/// the object should not change because a mirror did.
pub(crate) fn prepare(folder: &Path) -> Result<Compiler> {
    let tree = folder.join("sysroot");
    if let Ok(stamp) = std::fs::read_to_string(tree.join(STAMP)) {
        return compiler(&tree, &stamp);
    }
    let wanted = debs::download(&Source::host(), &folder.join("debs"), plan)?;
    unpack(&folder.join("debs"), &wanted, &tree)?;
    let stamp = std::fs::read_to_string(tree.join(STAMP)).context("cannot read the stamp just written")?;
    compiler(&tree, &stamp)
}

fn compiler(tree: &Path, stamp: &str) -> Result<Compiler> {
    let sysroot = tree.join("usr");
    let library_folders: Vec<PathBuf> = library_folders(tree).into_iter().filter(|folder| folder.is_dir()).collect();
    let library_path: OsString = std::env::join_paths(library_folders)?;
    let compiler = Compiler {
        driver: Driver::Compiler(sysroot.join("bin/rustc")),
        strip: sysroot.join(format!("lib/llvm-{LLVM_MAJOR}/bin/llvm-strip")),
        library_path,
        packages: stamp.lines().map(str::to_owned).collect(),
        sysroot,
    };
    if !compiler.sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
        bail!("the packages hold no sources of core; remove {} and try again", tree.display());
    }
    Ok(compiler)
}

/// Where Debian's packages put shared libraries, inside the unpacked tree.
fn library_folders(tree: &Path) -> Vec<PathBuf> {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    ["usr/lib", "lib"].iter().map(|folder| tree.join(folder).join(&triple)).collect()
}

fn plan() -> Result<Vec<Package>> {
    let mut names: Vec<String> = COMPILER_PACKAGES.iter().map(|&name| name.to_owned()).collect();
    names.push(format!("libllvm{LLVM_MAJOR}"));
    names.push(format!("llvm-{LLVM_MAJOR}"));
    // The library of the compiler has its version in its name.
    let depends = debs::depends(&Source::host(), "libstd-rust-web-dev")?;
    let library = depends.into_iter().find(|name| name.starts_with("libstd-rust-web-"));
    names.push(library.context("libstd-rust-web-dev depends on no libstd-rust-web-<version>")?);

    let mut wanted = names.iter().map(|name| Package::candidate(&Source::host(), name)).collect::<Result<Vec<_>>>()?;
    wanted.sort();
    let mut versions = wanted.iter().filter(|package| package.name.contains("rust")).map(|package| &package.version);
    let first = versions.next().context("no compiler package is wanted")?;
    if versions.any(|version| version != first) {
        bail!("the compiler's packages have different versions: {wanted:?}");
    }
    Ok(wanted)
}

/// Unpacks into a new tree and puts it in place when it is complete.
fn unpack(debs: &Path, wanted: &[Package], tree: &Path) -> Result<()> {
    debs::replace_tree(tree, |scratch| {
        for package in wanted {
            package.extract(debs, scratch)?;
        }
        mend_source_link(scratch)?;
        for package in missing_libraries()? {
            debs::fetch(&Source::host(), debs, std::slice::from_ref(&package))?;
            package.extract(debs, scratch)?;
        }
        let stamp: Vec<String> = wanted.iter().map(Package::pinned).collect();
        std::fs::write(scratch.join(STAMP), stamp.join("\n") + "\n").context("cannot write the stamp")
    })
}

/// The package links `rustlib/src/rust` to an absolute path below `/usr/src`, which is not where it was unpacked.
fn mend_source_link(tree: &Path) -> Result<()> {
    let link = tree.join("usr/lib/rustlib/src/rust");
    let target = std::fs::read_link(&link).with_context(|| format!("{} is no link", link.display()))?;
    let Ok(below_root) = target.strip_prefix("/usr") else {
        return Ok(());
    };
    let relative = Path::new("../../..").join(below_root);
    std::fs::remove_file(&link).context("cannot replace the link to the sources")?;
    std::os::unix::fs::symlink(relative, &link).context("cannot replace the link to the sources")
}

/// Libraries that libLLVM needs and this host has not installed. They are unpacked too, but do not count as a part of the
/// toolchain: they do not show in the object.
fn missing_libraries() -> Result<Vec<Package>> {
    let mut query = Command::new("apt-cache");
    query.args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks"]);
    query.args(["--no-replaces", "--no-enhances", &format!("libllvm{LLVM_MAJOR}")]);
    let mut missing = Vec::new();
    for name in dependencies(&run::output(&mut query)?) {
        if name == format!("libllvm{LLVM_MAJOR}") || packages::is_installed(&name) {
            continue;
        }
        // A name without a candidate is virtual: another package provides it.
        missing.extend(Package::candidate(&Source::host(), &name).ok());
    }
    Ok(missing)
}

/// The package names in `apt-cache depends --recurse`: lines that are not indented and not `<virtual>`.
fn dependencies(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.starts_with([' ', '|', '<'])).map(|line| line.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_package_names_are_taken_from_the_recursive_list() {
        let text = "libllvm22\n  Depends: libc6\n |Depends: debconf\n    cdebconf\nlibc6\n<libc-dev>\n";
        assert_eq!(dependencies(text), ["libllvm22", "libc6"]);
    }
}
