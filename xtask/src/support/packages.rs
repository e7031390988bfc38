//! Packages of the distribution that tests, guests and the demo need.

use std::process::Command;

use anyhow::{Result, bail};

use crate::run;

/// A command, and the Debian package that brings it.
pub(crate) type Tool = (&'static str, &'static str);

/// What the test harness starts.
pub(crate) const HARNESS_TOOLS: [Tool; 3] = [("ip", "iproute2"), ("nft", "nftables"), ("iptables-legacy", "iptables")];

/// What the tests of this machine start beside: judges the unit, and brings the journal.
pub(crate) const UNIT_TOOLS: [Tool; 1] = [("systemd-analyze", "systemd")];

/// Installs the packages of those commands that are missing, and says which. With nothing missing, nothing is run.
pub(crate) fn install_missing(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&str> =
        tools.iter().filter(|(command, _)| run::find(command).is_none()).map(|&(_, package)| package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if run::find("apt-get").is_none() {
        bail!("missing: {names}; install them with this system's package manager");
    }
    if !run::is_root()? {
        bail!("missing: {names}; run as root, or run `apt-get install {names}` first");
    }
    eprintln!("installing what is missing: {names}");
    update_lists()?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "--yes", "--no-install-recommends"]);
    run::run(install.args(&missing))
}

/// Renews the package lists.
pub(crate) fn update_lists() -> Result<()> {
    if !run::is_root()? {
        bail!("the package lists must be renewed; run as root, or run `apt-get update` first");
    }
    run::run(Command::new("apt-get").arg("update"))
}

/// Whether a package is installed here.
pub(crate) fn is_installed(package: &str) -> bool {
    run::output(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}\n", package]))
        .is_ok_and(|status| status.lines().any(|line| line.trim() == "installed"))
}
