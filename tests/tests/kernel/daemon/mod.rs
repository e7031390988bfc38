//! The daemon: its sinks, its settings and its life.

mod life;
mod settings;
mod sinks;

use std::process::Command;

use anyhow::{Result, ensure};
use connprobe_tests::{
    daemon::Daemon,
    findings::wait as finding,
    labs::routed::Routed,
    peer::Options,
    require::Requirement::{Promtool, SystemdAnalyze},
    runner::{Test, TestContext},
    watching::{SOON, WATCHING, connect, cut_and_write},
    wire::{Body, Record},
};

use life::{left_open, notifies, unit};
use settings::{refusals, reload, thresholds};
use sinks::{alerts, bad_readers, full_disk, metrics, three_failures};

pub(crate) fn tests() -> Vec<Test> {
    let on_any = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    // What they are about is the same on every kernel.
    let test = |name: &str, function| on_any(name, function).not_shared();
    vec![
        test("a daemon writes each failure and its recovery once, while its file is turned over", three_failures),
        on_any("a daemon takes new settings and keeps its cases", reload),
        test("what counts as a stall can be set, also on the way", thresholds),
        test("a daemon survives a full disk and says what it could not write", full_disk),
        test("a reader that stops reading, and one that is killed, keep nobody waiting", bad_readers),
        test("Prometheus is told what is found and how the daemon does", metrics),
        Test::new("the alerts that are handed out fire when they should, and not before", &[Promtool], alerts)
            .not_shared(),
        test(
            "the service manager is told when the programs are attached, that the daemon lives, and that it ends",
            notifies,
        ),
        Test::new("the unit for systemd is right, and leaves the daemon little", &[SystemdAnalyze], unit).not_shared(),
        test("findings that are open when a daemon is stopped are left open", left_open),
        test("settings that are wrong are named, and a second daemon is told of the first", refusals),
    ]
}

/// What became of each finding: its states in order, by cause.
fn stories(records: &[Record]) -> Vec<(String, Vec<String>)> {
    let mut stories: Vec<(String, String, Vec<String>)> = Vec::new();
    for record in records {
        let Body::Finding(finding) = &record.body else { continue };
        let state = finding.outcome.clone().unwrap_or_else(|| finding.state.clone());
        match stories.iter_mut().find(|(id, ..)| *id == finding.finding_id) {
            Some((_, _, states)) => states.push(state),
            None => stories.push((finding.finding_id.clone(), finding.cause.clone(), vec![state])),
        }
    }
    stories.into_iter().map(|(_, cause, states)| (cause, states)).collect()
}

/// A connection stalls, is found, and recovers.
fn stall_and_recover(daemon: &Daemon, lab: &Routed) -> Result<()> {
    let (_server, client) = connect(lab, &Options::default())?;
    cut_and_write(lab, &client)?;
    finding(&daemon.probe, "opened", SOON)?;
    lab.heal()?;
    let closed = finding(&daemon.probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("recovered"), "{closed:?}");
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
