//! Its settings, and how they change while it runs.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    daemon::{Daemon, records_in},
    findings::wait as finding,
    labs::routed::Routed,
    peer::Options,
    probe::Probe,
    runner::TestContext,
    watching::{SOON, attached, connect, cut_and_write},
};

use super::stories;

pub(super) fn reload(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let daemon = Daemon::start(&lab.client, "ports = [1]")?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    sleep(Duration::from_secs(6));
    // Wrong settings change nothing.
    daemon.reload("ports = [5672]\nprots = [1]")?;
    daemon.probe.wait_stderr("unknown field `prots`", SOON)?;
    daemon.reload("ports = [5672]\nfile = \"FOLDER/events\"")?;
    attached(&daemon.probe)?;
    // It is found although it began to wait before the filter let it through.
    finding(&daemon.probe, "opened", SOON)?;
    daemon.reload("ports = [5672, 1]\nfile = \"FOLDER/events\"")?;
    attached(&daemon.probe)?;
    lab.heal()?;
    let closed = finding(&daemon.probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("recovered"), "the case was kept: {closed:?}");
    let (records, folder, _) = daemon.stop()?;
    ensure!(stories(&records).len() == 1, "{:?}", stories(&records));
    let written = records_in(&folder.path().join("events"))?;
    ensure!(written.len() > 3 && written.len() < records.len(), "it writes from its first settings on");
    Ok(())
}

pub(super) fn thresholds(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let late = "[thresholds]\nretransmits_suspected = 9\nretransmits_confirmed = 10\n";
    let daemon = Daemon::start(&lab.client, late)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    // The default would have told of it after 3 s.
    sleep(Duration::from_secs(7));
    let heartbeat = daemon.heartbeat(|heartbeat| heartbeat.watched_seconds > 7.0)?;
    ensure!((heartbeat.findings, heartbeat.open_cases) == (0, 1), "{heartbeat:?}");
    daemon.reload("")?;
    let found = finding(&daemon.probe, "opened", SOON)?;
    ensure!(found.cause == "peer_silent", "{found:?}");
    daemon.stop()?;
    Ok(())
}

pub(super) fn refusals(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let daemon = Daemon::start(&lab.client, "")?;
    let config = daemon.path("connprobe.toml");
    let config = config.to_str().context("a path that is no text")?;
    let second = Probe::run(&["daemon", "--config", config], SOON)?;
    let first = format!("another daemon is at work on this host (pid {})", daemon.probe.pid());
    ensure!(second.code == Some(2) && second.stderr.contains(&first), "{second:?}");
    let checked = Probe::run(&["daemon", "--config", config, "--check-config", "--port", "443"], SOON)?;
    ensure!(checked.code == Some(0) && checked.stdout.contains("443"), "{checked:?}");
    daemon.write_settings("scan_every = \"fast\"")?;
    let wrong = Probe::run(&["daemon", "--config", config, "--check-config"], SOON)?;
    ensure!(wrong.code == Some(2) && wrong.stderr.contains("line 6"), "{wrong:?}");
    let nowhere = Probe::run(&["daemon", "--file", "/nowhere/at/all", "--lock", &format!("{config}.lock")], SOON)?;
    ensure!(nowhere.code == Some(2) && nowhere.stderr.contains("/nowhere/at/all"), "{nowhere:?}");
    daemon.stop()?;
    Ok(())
}
