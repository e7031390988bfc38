//! `connprobe daemon` at work on one namespace, with a folder of its own for its settings and what it writes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    netns::Netns,
    probe::{Probe, program},
    watching::{SOON, attached},
    wire::{self, Body, Heartbeat, Record},
};

/// A running daemon whose programs are attached. It writes its records to standard output, too, and a heartbeat a second.
#[derive(Debug)]
pub struct Daemon {
    /// The program.
    pub probe: Probe,
    /// Where its settings are; gone with this.
    pub folder: TempDir,
    netns: Netns,
}

impl Daemon {
    /// Starts one on a namespace, with more settings as [`write_settings`] takes them, and waits until its programs are attached.
    ///
    /// # Errors
    /// When it does not start, a hook is broken, or the programs are not attached in time.
    pub fn start(netns: &Netns, settings: &str) -> Result<Self> {
        Self::start_by(command()?, netns, settings)
    }

    /// The same by another command, to which the place of the settings is added.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_by(command: Command, netns: &Netns, settings: &str) -> Result<Self> {
        Self::start_at(tempfile::tempdir()?, command, netns, settings)
    }

    /// The same in the folder of one that has ended.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_in(folder: TempDir, netns: &Netns, settings: &str) -> Result<Self> {
        Self::start_at(folder, command()?, netns, settings)
    }

    fn start_at(folder: TempDir, mut command: Command, netns: &Netns, settings: &str) -> Result<Self> {
        let path = write_settings(folder.path(), netns, settings)?;
        command.arg("--config").arg(path);
        let probe = Probe::start_command(command)?;
        attached(&probe)?;
        Ok(Self { probe, folder, netns: netns.clone() })
    }

    /// A file in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has already ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.probe.signal(signal)
    }

    /// Writes other settings in place of those it has, which it does not hear of.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_settings(&self, settings: &str) -> Result<()> {
        write_settings(self.folder.path(), &self.netns, settings).map(drop)
    }

    /// Gives it other settings. With those that concern its programs, [`attached`] waits until it has taken them.
    ///
    /// # Errors
    /// When they cannot be written, or it has already ended.
    pub fn reload(&self, settings: &str) -> Result<()> {
        self.write_settings(settings)?;
        self.signal(Signal::SIGHUP)
    }

    /// Waits for a heartbeat that is wanted.
    ///
    /// # Errors
    /// When none has come in time.
    pub fn heartbeat(&self, wanted: impl Fn(&Heartbeat) -> bool) -> Result<Heartbeat> {
        let start = Instant::now();
        while start.elapsed() < SOON {
            let record = wire::read(&self.probe.wait_type("heartbeat", SOON)?)?;
            let Body::Heartbeat(heartbeat) = record.body else { bail!("no heartbeat") };
            if wanted(&heartbeat) {
                return Ok(heartbeat);
            }
        }
        bail!("no such heartbeat has come")
    }

    /// Ends it as a service manager does. Its records, its folder and what it has complained of are left.
    ///
    /// # Errors
    /// When it does not end, or not well, or a record is not as the contract says.
    pub fn stop(self) -> Result<(Vec<Record>, TempDir, String)> {
        self.signal(Signal::SIGTERM)?;
        let finished = self.probe.finish(SOON)?;
        ensure!(finished.code == Some(0), "exit code {:?}\n{}", finished.code, finished.stderr);
        Ok((wire::read_all(&finished.records)?, self.folder, finished.stderr))
    }
}

/// A command that starts a daemon, without the place of its settings.
///
/// # Errors
/// When the program can be neither found nor built.
pub fn command() -> Result<Command> {
    let mut command = Command::new(program()?);
    command.arg("daemon");
    Ok(command)
}

/// Writes the settings of a daemon on a namespace into a folder, whose name stands for FOLDER in them, and returns where they are.
///
/// # Errors
/// When they cannot be written.
pub fn write_settings(folder: &Path, netns: &Netns, settings: &str) -> Result<PathBuf> {
    // Daemons run side by side: each has a lock of its own, and nobody a port that another may have.
    let always = [
        ("netns", format!("\"{}\"", netns.inode())),
        ("lock", "\"FOLDER/lock\"".to_owned()),
        ("heartbeat_every", "\"1s\"".to_owned()),
        ("stdout", "true".to_owned()),
        ("metrics_listen", "\"none\"".to_owned()),
    ];
    let is_set = |name: &str| settings.lines().any(|line| line.split(' ').next() == Some(name));
    let unset = always.iter().filter(|(name, _)| !is_set(name));
    let text: String = unset.map(|(name, value)| format!("{name} = {value}\n")).chain([settings.to_owned()]).collect();
    let path = folder.join("connprobe.toml");
    fs::write(&path, text.replace("FOLDER", &folder.display().to_string()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The records in a file that a daemon has written, each whole.
///
/// # Errors
/// When one is not.
pub fn records_in(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    ensure!(text.is_empty() || text.ends_with('\n'), "the last line of {} is not whole", path.display());
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}
