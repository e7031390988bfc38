//! What the tests share: the program at work on one namespace, and a connection that dies before its eyes.

use std::{thread::sleep, time::Duration};

use crate::{
    labs::routed::Routed,
    netns::Netns,
    peer::{Options, Peer},
    probe::{Finished, Probe},
    require::Requirement::{self, Bpf, Btf, Netns as Namespaces, Nft, Root, Veth},
    runner::FalseAlarm,
    wire::{self, Body, Record, Summary},
};
use anyhow::{Result, ensure};

/// What every test needs that watches a routed connection.
pub const WATCHING: &[Requirement] = &[Root, Bpf, Btf, Namespaces, Veth, Nft];

/// Long enough for anything that happens at once, also in a slow guest.
pub const SOON: Duration = Duration::from_secs(30);

/// How long loading and attaching may take: in a guest whose one processor has traffic to carry, the verifier takes its time.
const ATTACHING: Duration = Duration::from_secs(90);

/// Where the tests' servers listen.
pub const PORT: u16 = 5672;

/// Starts the program on one namespace, and waits until its programs are attached.
///
/// # Errors
/// When they are not attached in time, or a hook is broken.
pub fn watch(netns: &Netns, more: &[&str]) -> Result<Probe> {
    let inode = netns.inode().to_string();
    let arguments = [&["--netns", &inode, "--follow", "--format", "ndjson"], more].concat();
    let probe = Probe::diagnose(&arguments)?;
    attached(&probe)?;
    Ok(probe)
}

/// A connection that has carried some data, with a listener that has taken it.
///
/// # Errors
/// When it does not come about.
pub fn connect(lab: &Routed, options: &Options) -> Result<(Peer, Peer)> {
    let server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), options)?;
    client.command("write 1000")?;
    client.wait_event("written", SOON)?;
    // Its acknowledgment is in before the path is cut.
    sleep(Duration::from_millis(300));
    Ok((server, client))
}

/// Cuts the path and writes into the void.
///
/// # Errors
/// With the message of `nft`, or when the peer has ended.
pub fn cut_and_write(lab: &Routed, client: &Peer) -> Result<()> {
    lab.cut()?;
    client.command("write 100")?;
    client.wait_event("written", SOON).map(drop)
}

/// Waits until the program has attached its programs.
///
/// # Errors
/// When it has not in time, or a hook is broken.
pub fn attached(probe: &Probe) -> Result<()> {
    let record = wire::read(&probe.wait_type("coverage", ATTACHING)?)?;
    let Body::Coverage(coverage) = record.body else { anyhow::bail!("no coverage") };
    ensure!(coverage.hooks.iter().all(|hook| hook.status != "broken"), "a hook is broken: {coverage:?}");
    Ok(())
}

/// Ends the watch. Every record of it must be as the contract says.
///
/// # Errors
/// With the record that is not, or what the program has complained of.
pub fn stop(probe: Probe) -> Result<(Finished, Vec<Record>)> {
    let finished = probe.stop(SOON)?;
    ensure!(finished.stderr.is_empty(), "standard error: {}", finished.stderr);
    let records = wire::read_all(&finished.records)?;
    Ok((finished, records))
}

/// The summary, which is the last record of a watch.
///
/// # Errors
/// When the last record is another.
pub fn summary(records: &[Record]) -> Result<&Summary> {
    match records.last().map(|record| &record.body) {
        Some(Body::Summary(summary)) => Ok(summary),
        other => anyhow::bail!("the last record is {other:?}"),
    }
}

/// Ends a watch that must have found nothing.
///
/// # Errors
/// With what it has found, or lost.
pub fn stop_silent(probe: Probe) -> Result<Summary> {
    let (finished, records) = stop(probe)?;
    let summary = summary(&records)?;
    if summary.findings > 0 {
        return Err(FalseAlarm(format!("found something:\n{}", finished.stdout)).into());
    }
    ensure!(finished.code == Some(0), "exit code {:?}\n{}", finished.code, finished.stdout);
    // A firing while the same program runs on that CPU is missed by the kernel's own rule, and counted; under interrupts that
    // happens now and then.
    let lost: u64 = summary.hooks.iter().map(|hook| hook.lost).sum();
    ensure!(lost == 0 && summary.undecodable == 0, "lost events: {summary:?}");
    Ok(summary.clone())
}
