//! Its beginning, its end, and who looks after it.

use std::{fs, os::unix::net::UnixDatagram, process::Command};

use anyhow::{Result, bail, ensure};
use connprobe_tests::{
    daemon::{Daemon, command, write_settings},
    findings::wait as finding,
    labs::routed::Routed,
    peer::Options,
    probe::{Probe, program},
    runner::TestContext,
    watching::{SOON, attached, connect, cut_and_write},
    wire::Body,
};

use super::{run, stories};

pub(super) fn notifies(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let folder = tempfile::tempdir()?;
    let manager = UnixDatagram::bind(folder.path().join("notify"))?;
    manager.set_read_timeout(Some(SOON))?;
    let mut command = command()?;
    command.arg("--config").arg(write_settings(folder.path(), &lab.client, "")?);
    command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("WATCHDOG_USEC", "30000000");
    let probe = Probe::start_command(command)?;
    let said = || -> Result<String> {
        let mut buffer = [0; 1024];
        let bytes = manager.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(buffer.get(..bytes).unwrap_or_default()).trim().to_owned())
    };
    let first = said()?;
    ensure!(first == "READY=1", "{first}");
    attached(&probe)?;
    ensure!(said()? == "WATCHDOG=1" && said()? == "WATCHDOG=1", "it lives");
    probe.interrupt()?;
    while said()? != "STOPPING=1" {}
    ensure!(probe.finish(SOON)?.code == Some(0), "it ends");
    Ok(())
}

pub(super) fn unit(_: &TestContext) -> Result<()> {
    /// In tenths: systemd's own scale, of which 10 is what has no limits at all. Root with these capabilities has 3 by itself.
    const MOST_EXPOSED: &str = "34";
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("connprobe.service");
    let text = include_str!("../../../../probe-user/service/connprobe.service");
    ensure!(text.contains("ExecStart=/usr/bin/connprobe daemon"), "where packages put it");
    // systemd-analyze counts groups, and does not tell of single calls.
    ensure!(text.contains("SystemCallFilter=~process_vm_readv process_vm_writev"), "what writes to other processes");
    fs::write(&path, text.replace("/usr/bin/connprobe", &program()?.display().to_string()))?;
    run(Command::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]).arg(&path))?;
    let threshold = format!("--threshold={MOST_EXPOSED}");
    run(Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager", &threshold]).arg(&path))?;
    let settings = concat!(env!("CARGO_MANIFEST_DIR"), "/../probe-user/service/connprobe.toml");
    let checked = Probe::run(&["daemon", "--config", settings, "--check-config"], SOON)?;
    ensure!(checked.code == Some(0) && checked.stdout.contains("/var/log/connprobe/events.ndjson"), "{checked:?}");
    Ok(())
}

pub(super) fn left_open(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let daemon = Daemon::start(&lab.client, "")?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    finding(&daemon.probe, "opened", SOON)?;
    let heartbeat = daemon.heartbeat(|heartbeat| heartbeat.open_findings == 1)?;
    ensure!(heartbeat.findings == 1 && heartbeat.open_cases == 1, "{heartbeat:?}");
    ensure!(heartbeat.cost.rss_bytes.is_some_and(|bytes| bytes > 1 << 20), "{:?}", heartbeat.cost);
    let (records, ..) = daemon.stop()?;
    let stories = stories(&records);
    let [(_, states)] = stories.as_slice() else { bail!("{stories:?}") };
    ensure!(states.last().is_some_and(|state| state == "left_open"), "{states:?}");
    let Some(Body::Summary(summary)) = records.last().map(|record| &record.body) else { bail!("no summary") };
    ensure!((summary.findings, summary.unresolved) == (1, 1), "{summary:?}");
    Ok(())
}
