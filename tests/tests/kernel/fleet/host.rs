//! A host of the fleet.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use connprobe_tests::{
    child::ManagedChild, daemon::write_settings, netns::Netns, probe::program, rsyslog::Rsyslog, watching::SOON,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::spooled;

/// A host: a daemon that takes a namespace for its host and writes a file, and an rsyslog that sends it on.
pub(super) struct Host {
    pub(super) name: &'static str,
    pub(super) folder: PathBuf,
    daemon: ManagedChild,
    pub(super) rsyslog: Rsyslog,
}

impl Host {
    pub(super) fn start(name: &'static str, netns: &Netns, collector: &str, folder: &Path) -> Result<Self> {
        let folder = folder.join(name);
        fs::create_dir(&folder)?;
        let settings = write_settings(&folder, netns, "stdout = false\nfile = \"FOLDER/events.ndjson\"\n")?;
        // Hosts are told apart by their names; in a UTS namespace of its own each has one.
        let mut command = Command::new("unshare");
        command.args(["--uts", "sh", "-c", "hostname \"$0\" && exec \"$@\"", name]).arg(program()?);
        command.arg("daemon").arg("--config").arg(settings).stderr(fs::File::create(folder.join("daemon.stderr"))?);
        let daemon = ManagedChild::spawn(command)?;
        let own = folder.display().to_string();
        let replace = [
            ("/var/log/connprobe", own.as_str()),
            ("/var/spool/rsyslog", own.as_str()),
            ("collector.example", collector),
        ];
        let rsyslog = Rsyslog::start(netns, &folder, "rsyslog.conf", &replace)?;
        Ok(Self { name, folder, daemon, rsyslog })
    }

    /// All that the daemon has written, line by line.
    pub(super) fn lines(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for file in ["events.ndjson.1", "events.ndjson"] {
            let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
            // One that is being written is not whole yet.
            lines.extend(text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned));
        }
        Ok(lines)
    }

    pub(super) fn records(&self) -> Result<Vec<Value>> {
        self.lines()?.iter().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    pub(super) fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let end = Instant::now() + SOON;
        loop {
            let records = self.records()?;
            if records.iter().any(&wanted) {
                return Ok(());
            }
            let errors = fs::read_to_string(self.folder.join("daemon.stderr"))?;
            let told: Vec<_> =
                records.iter().filter_map(|record| Some((record.get("verdict")?, record.get("cause")?))).collect();
            ensure!(Instant::now() < end, "{} tells of no {what}, but of {told:?}\n{errors}", self.name);
            sleep(Duration::from_millis(100));
        }
    }

    pub(super) fn wait_verdict(&self, verdict: &str, port: u16) -> Result<()> {
        let port = Value::from(port);
        self.wait(&format!("{verdict} at port {port}"), |record| {
            let has_port = |end: &str| record.pointer(&format!("/connection/{end}/port")) == Some(&port);
            record.get("verdict").is_some_and(|is| is == verdict)
                && ["local", "remote", "initiator", "responder"].into_iter().any(has_port)
        })
    }

    /// Where a segment is dropped comes after that it is, on a starved host.
    pub(super) fn wait_drop_place(&self, verdict: &str) -> Result<()> {
        self.wait(&format!("place of a drop of {verdict}"), |record| {
            record.get("verdict").is_some_and(|is| is == verdict)
                && record.get("evidence").is_some_and(|evidence| evidence.to_string().contains("\"drop_place\""))
        })
    }

    /// As logrotate does, while rsyslog reads; until what is in the new file arrives, for rsyslog leaves the older one then.
    pub(super) fn turn_over(&self, spool: &Path) -> Result<()> {
        let file = self.folder.join("events.ndjson");
        fs::rename(&file, self.folder.join("events.ndjson.1"))?;
        self.daemon.signal(Signal::SIGHUP)?;
        let end = Instant::now() + SOON;
        loop {
            let text = fs::read_to_string(&file).unwrap_or_default();
            if let Some((line, _)) = text.split_once('\n')
                && spooled(spool)?.iter().any(|arrived| arrived == line)
            {
                return Ok(());
            }
            ensure!(Instant::now() < end, "nothing of the new file of {} arrives", self.name);
            sleep(Duration::from_millis(100));
        }
    }

    pub(super) fn stop(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGTERM)?;
        let status = self.daemon.wait(SOON)?;
        ensure!(status.success(), "the daemon of {} ended with {status}", self.name);
        Ok(())
    }
}
