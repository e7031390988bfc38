//! Kernels of the matrix: Debian's packages, unpacked below `target/` and kept there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::architecture::Architecture;
use crate::debs::{self, Package, Source};
use crate::run;

/// A kernel series that our users run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Series {
    /// Debian 12's own kernel
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's kernel, as Debian 12 offers it
    #[value(name = "6.12")]
    V6_12,
}

impl Series {
    /// Every kernel of the matrix, the oldest first.
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// The beginning of its releases.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// The package that depends on the newest kernel of the series.
    fn meta_package(self, architecture: Architecture) -> String {
        let debian = architecture.debian_name();
        match self {
            Self::V6_1 => format!("linux-image-{debian}"),
            Self::V6_12 => format!("linux-image-6.12-{debian}"),
        }
    }
}

/// An unpacked kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` prints it there.
    pub(crate) release: String,
    /// The compressed kernel that QEMU boots.
    pub(crate) image: PathBuf,
    /// The folder that is `/lib/modules/RELEASE` in the guest, with the lists `depmod` makes.
    pub(crate) modules: PathBuf,
}

/// The newest unpacked kernel of the series, or a new one. An unpacked one stays as it is, also when a newer one appears:
/// a test run should not change because a mirror did. Remove `target/vm` to renew it.
pub(crate) fn prepare(folder: &Path, series: Series, architecture: Architecture) -> Result<Kernel> {
    let tree = folder.join("kernels").join(architecture.label(series));
    if !tree.is_dir() {
        let debs = folder.join("debs");
        let source = architecture.source(folder)?;
        let meta_package = series.meta_package(architecture);
        let wanted = debs::download(&source, &debs, || plan(&source, series, &meta_package))
            .with_context(|| format!("kernel {} is taken from Debian's package {meta_package}", series.name()))?;
        debs::replace_tree(&tree, |scratch| {
            for package in &wanted {
                package.extract(&debs, scratch)?;
            }
            index_modules(scratch)
        })?;
    }
    find(&tree)
}

fn plan(source: &Source, series: Series, meta_package: &str) -> Result<Vec<Package>> {
    let depends = debs::depends(source, meta_package)?;
    let name = depends.into_iter().find(|name| belongs_to(name, series));
    let name = name.with_context(|| format!("{meta_package} depends on no kernel {}", series.name()))?;
    Ok(vec![Package::candidate(source, &name)?])
}

/// Whether `linux-image-6.1.0-56-amd64` is of the series 6.1: 6.12 is not.
fn belongs_to(package: &str, series: Series) -> bool {
    let version = package.strip_prefix("linux-image-").and_then(|rest| rest.strip_prefix(series.name()));
    version.is_some_and(|rest| rest.starts_with('.'))
}

/// The package leaves this to its installation script.
fn index_modules(tree: &Path) -> Result<()> {
    let kernel = find(tree)?;
    let depmod = run::find("depmod").context("depmod (package kmod) is not on this machine")?;
    // `-b` wants the folder that contains `lib/modules`.
    let base = kernel.modules.ancestors().nth(3).context("modules are not below lib/modules")?;
    run::run(Command::new(depmod).arg("-b").arg(base).arg(&kernel.release))
}

fn find(tree: &Path) -> Result<Kernel> {
    let image = only_entry(&tree.join("boot"), "vmlinuz-")?;
    let name = image.file_name().context("a kernel without a name")?.to_string_lossy().into_owned();
    let release = name.trim_start_matches("vmlinuz-").to_owned();
    let candidates = ["lib/modules", "usr/lib/modules"].map(|folder| tree.join(folder).join(&release));
    let modules = candidates.into_iter().find(|folder| folder.is_dir());
    let modules = modules.with_context(|| format!("the package of {release} holds no modules"))?;
    Ok(Kernel { release, image, modules })
}

fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut found = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path());
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        (None, _) => bail!("no {prefix}* in {}; remove that tree and try again", folder.display()),
        (Some(_), Some(_)) => bail!("more than one {prefix}* in {}", folder.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_not_the_beginning_of_another() {
        assert!(belongs_to("linux-image-6.1.0-56-amd64", Series::V6_1));
        assert!(!belongs_to("linux-image-6.12.117+deb12-amd64", Series::V6_1));
        assert!(belongs_to("linux-image-6.12.117+deb12-amd64", Series::V6_12));
        assert!(!belongs_to("linux-headers-6.12.117+deb12-amd64", Series::V6_12));
    }
}
