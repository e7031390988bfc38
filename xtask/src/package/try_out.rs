//! The package in a fresh Debian system: installed, run, upgraded, removed and purged; and its unit where systemd is process 1.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::debs::{self, Package, Source};
use crate::project::Project;
use crate::run;

/// Runs as root of the fresh system.
const SCRIPT: &str = include_str!("try_out.sh");

/// Runs in a guest.
const BOOT_SCRIPT: &str = include_str!("boot.sh");

/// The guest's kernel.
const KERNEL: &str = "6.12";

/// Says what does not hold; `upgrade` is a later package with other settings.
pub(super) fn main(project: &Project, package: &Path, upgrade: &Path) -> Result<()> {
    if !run::is_root()? {
        bail!("a Debian system is made and entered by root only: run it as root");
    }
    let folder = super::folder(project);
    let script = folder.join("try_out.sh");
    super::write(&script, SCRIPT.as_bytes())?;
    let system = system(&folder)?;
    // What it mounts is gone with its namespace.
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--propagation", "private", "sh"]).arg(&script).arg("outside");
    run::run(inside.arg(&system).arg(package).arg(upgrade)).context("the package does not behave in a fresh system")?;
    boot(&folder, package)
}

/// Starts the unit as systemd does, in a guest that sees this machine's systemd.
fn boot(folder: &Path, package: &Path) -> Result<()> {
    if !Path::new("/lib/systemd/systemd").exists() {
        eprintln!("skipped: the unit, for this machine has no systemd to boot a guest with");
        return Ok(());
    }
    let script = folder.join("boot.sh");
    super::write(&script, BOOT_SCRIPT.as_bytes())?;
    // A process of its own, so that its output is what `cargo xtask vm` prints.
    let mut guest = Command::new(std::env::current_exe()?);
    guest.args(["vm", "--kernel", KERNEL, "--limit", "10", "--run", "sh"]).arg(&script).arg("prepare");
    run::run(guest.arg(package)).context("the unit does not behave under systemd")
}

/// A minimal system of this machine's release, made once: packages are put into a layer above it.
fn system(folder: &Path) -> Result<PathBuf> {
    let codename = debs::codename()?;
    let system = folder.join(&codename);
    if system.is_dir() {
        return Ok(system);
    }
    let (source, store, tools) = (Source::host(), folder.join("debs"), folder.join("tools"));
    let wanted = debs::download(&source, &store, || Ok(vec![Package::candidate(&source, "debootstrap")?]))?;
    debs::replace_tree(&tools, |scratch| wanted.iter().try_for_each(|package| package.extract(&store, scratch)))?;
    debs::replace_tree(&system, |scratch| {
        let mut debootstrap = Command::new(tools.join("usr/sbin/debootstrap"));
        debootstrap.env("DEBOOTSTRAP_DIR", tools.join("usr/share/debootstrap"));
        run::run(debootstrap.args(["--variant=minbase", &codename]).arg(scratch))
    })?;
    Ok(system)
}
