//! Debian's `rustc-web`: the one distribution package of a compiler that comes with the matching sources of `core`. It is
//! unpacked below `target/`, not installed, since it cannot be installed beside `rustc` or `rustup`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::toolchain::{Compiler, Driver, LLVM_MAJOR};
use crate::packages;
use crate::run;

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
    for program in ["apt-get", "apt-cache", "dpkg", "dpkg-query"] {
        if run::find(program).is_none() {
            bail!("{program} is not on this machine");
        }
    }
    let wanted = download(&folder.join("debs"))?;
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

/// A package and its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
}

impl Package {
    /// As apt-get and the stamp want it.
    fn pinned(&self) -> String {
        format!("{}={}", self.name, self.version)
    }

    /// The beginning of the file name apt-get gives it; the architecture follows.
    fn file_prefix(&self) -> String {
        format!("{}_{}_", self.name, self.version.replace(':', "%3a"))
    }
}

/// Downloads what is wanted; apt-get checks files that are there already and keeps the good ones. The package lists are
/// renewed only if they do not know a package or name one that the mirror no longer has.
fn download(debs: &Path) -> Result<Vec<Package>> {
    std::fs::create_dir_all(debs).with_context(|| format!("cannot create {}", debs.display()))?;
    match plan().and_then(|wanted| fetch(debs, &wanted).map(|()| wanted)) {
        Ok(wanted) => Ok(wanted),
        Err(reason) => {
            eprintln!("the package lists may be out of date: {reason:#}");
            packages::update_lists()?;
            let wanted = plan()?;
            fetch(debs, &wanted)?;
            Ok(wanted)
        }
    }
}

fn fetch(debs: &Path, wanted: &[Package]) -> Result<()> {
    let mut apt = Command::new("apt-get");
    apt.arg("download").args(wanted.iter().map(Package::pinned)).current_dir(debs);
    run::run(&mut apt)
}

fn plan() -> Result<Vec<Package>> {
    let mut names: Vec<String> = COMPILER_PACKAGES.iter().map(|&name| name.to_owned()).collect();
    names.push(format!("libllvm{LLVM_MAJOR}"));
    names.push(format!("llvm-{LLVM_MAJOR}"));
    // The library of the compiler has its version in its name.
    let depends = run::output(Command::new("apt-cache").args(["depends", "libstd-rust-web-dev"]))?;
    names.push(standard_library(&depends).context("libstd-rust-web-dev depends on no libstd-rust-web-<version>")?);

    let mut wanted = Vec::new();
    for name in names {
        let policy = run::output(Command::new("apt-cache").args(["policy", &name]))?;
        let version = candidate(&policy).with_context(|| format!("the package lists know no {name}"))?;
        wanted.push(Package { name, version });
    }
    wanted.sort();
    let mut versions = wanted.iter().filter(|package| package.name.contains("rust")).map(|package| &package.version);
    let first = versions.next().context("no compiler package is wanted")?;
    if versions.any(|version| version != first) {
        bail!("the compiler's packages have different versions: {wanted:?}");
    }
    Ok(wanted)
}

fn standard_library(depends: &str) -> Option<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("libstd-rust-web-"))
        .map(str::to_owned)
}

fn candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Unpacks into a new tree and puts it in place when it is complete.
fn unpack(debs: &Path, wanted: &[Package], tree: &Path) -> Result<()> {
    let scratch = tree.with_extension("new");
    remove_tree(&scratch)?;
    std::fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    for package in wanted {
        extract(debs, package, &scratch)?;
    }
    mend_source_link(&scratch)?;
    for package in missing_libraries()? {
        fetch(debs, std::slice::from_ref(&package))?;
        extract(debs, &package, &scratch)?;
    }
    let stamp: Vec<String> = wanted.iter().map(Package::pinned).collect();
    std::fs::write(scratch.join(STAMP), stamp.join("\n") + "\n").context("cannot write the stamp")?;

    let old = tree.with_extension("old");
    remove_tree(&old)?;
    if tree.exists() {
        std::fs::rename(tree, &old).with_context(|| format!("cannot move {} away", tree.display()))?;
    }
    std::fs::rename(&scratch, tree).with_context(|| format!("cannot put {} in place", tree.display()))?;
    remove_tree(&old)
}

fn extract(debs: &Path, package: &Package, tree: &Path) -> Result<()> {
    let prefix = package.file_prefix();
    let file = std::fs::read_dir(debs)
        .with_context(|| format!("cannot list {}", debs.display()))?
        .filter_map(Result::ok)
        .find(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&prefix) && name.ends_with(".deb")
        })
        .with_context(|| format!("apt-get left no file {prefix}*.deb"))?;
    run::run(Command::new("dpkg").arg("-x").arg(file.path()).arg(tree))
}

fn remove_tree(tree: &Path) -> Result<()> {
    if tree.exists() {
        std::fs::remove_dir_all(tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    Ok(())
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
        let policy = run::output(Command::new("apt-cache").args(["policy", &name]))?;
        if let Some(version) = candidate(&policy) {
            missing.push(Package { name, version });
        }
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
    fn the_versioned_standard_library_is_found_among_the_dependencies() {
        let depends = "libstd-rust-web-dev\n  Depends: libstd-rust-web-1.96\n  Conflicts: <rustup>\n";
        assert_eq!(standard_library(depends).unwrap(), "libstd-rust-web-1.96");
        assert_eq!(standard_library("libstd-rust-web-dev\n"), None);
    }

    #[test]
    fn a_package_without_a_candidate_is_unknown() {
        assert_eq!(candidate("x:\n  Installed: (none)\n  Candidate: 1:22.1\n").unwrap(), "1:22.1");
        assert_eq!(candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }

    #[test]
    fn an_epoch_is_escaped_in_the_file_name() {
        let package = Package { name: "libllvm22".to_owned(), version: "1:22.1.8-1".to_owned() };
        assert_eq!(package.file_prefix(), "libllvm22_1%3a22.1.8-1_");
        assert_eq!(package.pinned(), "libllvm22=1:22.1.8-1");
    }

    #[test]
    fn only_package_names_are_taken_from_the_recursive_list() {
        let text = "libllvm22\n  Depends: libc6\n |Depends: debconf\n    cdebconf\nlibc6\n<libc-dev>\n";
        assert_eq!(dependencies(text), ["libllvm22", "libc6"]);
    }
}
