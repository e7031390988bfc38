//! What tells of ends is attached only where that is asked for, and can be by each mechanism.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    daemon::Daemon,
    probe::Probe,
    programs::held_by,
    runner::TestContext,
    watching::{SOON, attached},
    wire::{self, Body},
};

use super::{TELLING, at};

pub(super) fn off(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let netns = own.netns("off")?;
    let daemon = Daemon::start(&netns, "")?;
    let without = held_by(daemon.probe.pid())?.len();
    let heartbeat = daemon.probe.wait_type("heartbeat", SOON)?;
    ensure!(at(&heartbeat, "/connections").is_null(), "{heartbeat}");
    daemon.reload(TELLING)?;
    attached(&daemon.probe)?;
    wait_programs(&daemon, without + 1)?;
    daemon.reload("lifecycle = false")?;
    attached(&daemon.probe)?;
    wait_programs(&daemon, without)?;
    let (records, ..) = daemon.stop()?;
    let told: Vec<_> =
        records
            .iter()
            .filter_map(|record| {
                if let Body::Coverage(coverage) = &record.body { Some(coverage.lifecycle.is_some()) } else { None }
            })
            .collect();
    ensure!(told == [false, true, false], "{told:?}");
    Ok(())
}

pub(super) fn by_tracepoint() -> Result<()> {
    judged(Probe::start_with_tracefs(&["check", "--lifecycle", "--format", "json", "--force-mechanism", "tracepoint"])?)
}

pub(super) fn check(test: &TestContext, mechanism: &str) -> Result<()> {
    judged(Probe::start(&["check", "--lifecycle", "--format", "json", "--force-mechanism", mechanism])?)?;
    with_every_filter(test, mechanism)
}

/// Waits until a daemon holds so many programs: those of before go when their last scan is over.
fn wait_programs(daemon: &Daemon, wanted: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        let held = held_by(daemon.probe.pid())?.len();
        if held == wanted {
            return Ok(());
        }
        ensure!(start.elapsed() < SOON, "{held} programs are held, not {wanted}");
        sleep(Duration::from_millis(100));
    }
}

/// What a filter looks at is code that the kernel's verifier does not see without it.
fn with_every_filter(test: &TestContext, mechanism: &str) -> Result<()> {
    let (folder, own) = (tempfile::tempdir()?, test.lab()?);
    let (lock, netns) = (folder.path().join("lock").display().to_string(), own.netns("own")?.inode().to_string());
    let settings = [
        "--netns",
        &netns,
        "--lifecycle",
        "--port",
        "5672",
        "--peer",
        "10.77.2.0/24",
        "--peer",
        "fd00::/8",
        "--lock",
        &lock,
    ];
    let arguments = [&["daemon", "--metrics-listen", "none", "--force-mechanism", mechanism], &settings[..]].concat();
    let probe = Probe::start(&arguments)?;
    let Body::Coverage(coverage) = wire::read(&probe.wait_type("coverage", Duration::from_secs(90))?)?.body else {
        anyhow::bail!("no coverage")
    };
    ensure!(coverage.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.status == "ok"), "{:?}", coverage.lifecycle);
    ensure!(coverage.hooks.iter().all(|hook| hook.status != "broken"), "{:?}", coverage.hooks);
    probe.stop(SOON).map(drop)
}

/// The self-test resets a connection: its end must have been told.
fn judged(probe: Probe) -> Result<()> {
    let finished = probe.finish(Duration::from_secs(90))?;
    let record = finished.records.first().with_context(|| finished.stderr.clone())?;
    let Body::Coverage(coverage) = wire::read(record)?.body else { anyhow::bail!("{record}") };
    let lifecycle = coverage.lifecycle.context("not attached")?;
    ensure!(lifecycle.status == "ok", "{lifecycle:?}");
    ensure!(coverage.self_test.as_ref().is_some_and(|test| test.status == "ok"), "{:?}", coverage.self_test);
    Ok(())
}
