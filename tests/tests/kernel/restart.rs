//! A daemon that keeps its findings, and is started again.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    daemon::Daemon,
    findings::{all as findings, wait as finding},
    labs::routed::Routed,
    peer::Options,
    probe::Probe,
    runner::{Test, TestContext},
    watching::{SOON, WATCHING, connect, cut_and_write},
    wire::{Finding, Record, read_all},
};
use nix::sys::signal::Signal;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("a daemon that is started again goes on with its findings", WATCHING, goes_on),
        Test::new("a daemon that was killed leaves its findings, too, and each to its own end", WATCHING, killed)
            .not_shared(),
    ]
}

const SETTINGS: &str = "state_dir = \"FOLDER/state\"";

/// The files of the findings that are kept.
fn kept(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for boot in fs::read_dir(folder.join("state"))? {
        let boot = boot?.path();
        if boot.is_dir() {
            files.extend(fs::read_dir(boot)?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?);
        }
    }
    Ok(files)
}

fn goes_on(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let daemon = Daemon::start(&lab.client, SETTINGS)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    let opened = finding(&daemon.probe, "opened", SOON)?;
    let other = Probe::run(&["daemon", "--state-dir", &daemon.path("state").display().to_string()], SOON)?;
    ensure!(other.code == Some(2) && other.stderr.contains("another daemon"), "{other:?}");
    let (first, folder, _) = daemon.stop()?;
    let before = findings(&first).pop().context("no finding")?;
    ensure!(before.state == "left_open" && before.finding_id == opened.finding_id, "{before:?}");
    ensure!(kept(folder.path())?.len() == 1);

    let daemon = Daemon::start_in(folder, &lab.client, SETTINGS)?;
    let again = finding(&daemon.probe, "updated", SOON)?;
    ensure!(again.finding_id == before.finding_id, "{again:?}");
    // Each run compares the clocks anew, a little apart.
    let since = |finding: &Finding| finding.since.parse::<jiff::Timestamp>();
    ensure!(since(&again)?.duration_since(since(&before)?).abs().as_millis() < 100, "{again:?}");
    ensure!(again.cause == before.cause, "{again:?}");
    ensure!(again.owner.as_ref().map(|owner| owner.pid) == Some(client.pid()), "{:?}", again.owner);
    again.evidence_of("watch_resumed")?;
    ensure!(again.evidence.first().map(|first| &first.text) == before.evidence.first().map(|first| &first.text));
    lab.heal()?;
    let closed = finding(&daemon.probe, "closed", SOON)?;
    ensure!(closed.finding_id == before.finding_id && closed.outcome.as_deref() == Some("recovered"), "{closed:?}");
    let (second, folder, stderr) = daemon.stop()?;
    ensure!(stderr.is_empty(), "{stderr}");
    ensure!(kept(folder.path())?.is_empty(), "nothing is open");
    ensure!(findings(&second).iter().all(|finding| finding.finding_id == before.finding_id), "{second:?}");
    let run_ids = |run: &[Record]| run.iter().map(|record| record.run_id.clone()).collect::<BTreeSet<_>>();
    let (one, other) = (run_ids(&first), run_ids(&second));
    ensure!(one.len() == 1 && other.len() == 1 && one != other, "{one:?} {other:?}");
    Ok(())
}

fn killed(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let daemon = Daemon::start(&lab.client, SETTINGS)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    let opened = finding(&daemon.probe, "opened", SOON)?;
    let opened_at = Instant::now();
    while kept(daemon.folder.path())?.is_empty() {
        ensure!(opened_at.elapsed() < SOON, "nothing is kept");
        sleep(Duration::from_millis(100));
    }
    daemon.signal(Signal::SIGKILL)?;
    let Daemon { probe, folder, .. } = daemon;
    let ended = probe.finish(SOON)?;
    ensure!(!findings(&read_all(&ended.records)?).iter().any(|finding| finding.state == "left_open"), "it was killed");
    // Its owner gives it up while nobody watches. (The kernel would go on for its orphan: nothing is left of it.)
    client.command("abort")?;
    client.finish(SOON)?;
    let [file] = kept(folder.path())?.try_into().ok().context("one finding is kept")?;
    fs::write(file.with_file_name("1-1.json"), "{\"format\":\"connprobe-state/1\",\"find")?;

    let daemon = Daemon::start_in(folder, &lab.client, SETTINGS)?;
    daemon.probe.wait_stderr("1-1.json", SOON)?;
    let closed = finding(&daemon.probe, "closed", SOON)?;
    ensure!(closed.finding_id == opened.finding_id, "{closed:?}");
    ensure!(closed.outcome.as_deref() == Some("unobserved"), "{closed:?}");
    let (records, folder, _) = daemon.stop()?;
    ensure!(findings(&records).len() == 1, "{records:?}");
    ensure!(kept(folder.path())?.is_empty(), "nothing is open");
    Ok(())
}
