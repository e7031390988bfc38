//! Debian's rsyslog, unpacked by `cargo xtask test` below `target/servers`, with the settings that are shipped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::{child::ManagedChild, netns::Netns, server::SERVERS, store::SHIPPED};

const DAEMON: &str = "usr/sbin/rsyslogd";
const MODULES: &str = "usr/lib/x86_64-linux-gnu/rsyslog";

/// It gives its queues ten seconds each.
const STOPPING: Duration = Duration::from_secs(60);

/// Whether it is there, with what Debian packs apart.
pub(crate) fn check() -> Result<()> {
    SERVERS.check(&[DAEMON])?;
    SERVERS.file(&format!("{MODULES}/omrelp.so")).map(drop)
}

/// One at work. Dropping it kills it.
#[derive(Debug)]
pub struct Rsyslog {
    netns: Netns,
    folder: PathBuf,
    child: ManagedChild,
}

impl Rsyslog {
    /// Starts one in a namespace with one of the files that are shipped, in which each of `replace` is put in place of what stands there. Its own
    /// files are in `folder`.
    ///
    /// # Errors
    /// When it is not there, or the file has nothing of that kind.
    pub fn start(netns: &Netns, folder: &Path, file: &str, replace: &[(&str, &str)]) -> Result<Self> {
        let mut text = fs::read_to_string(Path::new(SHIPPED).join(file))?;
        for (from, to) in replace {
            ensure!(text.contains(from), "{file} has no {from}");
            text = text.replace(from, to);
        }
        fs::create_dir_all(folder)?;
        let text = format!("global(workDirectory=\"{}\")\n{text}", folder.display());
        fs::write(folder.join("rsyslog.conf"), text)?;
        Ok(Self { netns: netns.clone(), folder: folder.to_owned(), child: spawn(netns, folder)? })
    }

    /// Ends it as a service manager does, and starts it again.
    ///
    /// # Errors
    /// When it does not end.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.child = spawn(&self.netns, &self.folder)?;
        Ok(())
    }

    /// Ends it as a service manager does.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self) -> Result<()> {
        self.child.signal(Signal::SIGTERM)?;
        self.child.wait(STOPPING).map(drop)
    }

    /// What it has complained of.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn complaints(&self) -> Result<String> {
        fs::read_to_string(self.folder.join("stderr")).context("rsyslog's errors")
    }
}

fn spawn(netns: &Netns, folder: &Path) -> Result<ManagedChild> {
    let mut command = SERVERS.command(DAEMON)?;
    command.args(["-n", "-i", "NONE", "-M"]).arg(SERVERS.file(MODULES)?).arg("-f").arg(folder.join("rsyslog.conf"));
    let errors = fs::OpenOptions::new().create(true).append(true).open(folder.join("stderr"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    netns.spawn(command)
}
