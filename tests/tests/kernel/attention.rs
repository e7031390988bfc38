//! What is watched only while something is under suspicion: where all is well, no program runs at changes of state.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use connprobe_tests::{
    findings::wait as finding,
    labs::routed::Routed,
    peer::{Options, Peer},
    probe::Probe,
    runner::{Test, TestContext},
};

use crate::watching::{PORT, SOON, WATCHING, connect, cut_and_write, stop, watch};

pub(crate) fn tests() -> Vec<Test> {
    vec![Test::new(
        "changes of state are looked at only while something is under suspicion, and nothing is missed for it",
        WATCHING,
        only_when_needed,
    )]
}

/// Whether the program that looks at changes of state is attached: its link names the tracepoint.
fn looks_at_states(probe: &Probe) -> Result<bool> {
    let mut is_attached = false;
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", probe.pid()))?.flatten() {
        // Descriptors come and go meanwhile.
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        is_attached |= info.lines().any(|line| line.starts_with("tp_name:") && line.ends_with("inet_sock_set_state"));
    }
    Ok(is_attached)
}

fn wait_until(probe: &Probe, looks: bool) -> Result<()> {
    let start = Instant::now();
    while looks_at_states(probe)? != looks {
        ensure!(start.elapsed() < SOON, "changes of state are looked at: {}", !looks);
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn only_when_needed(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (server, client) = connect(&lab, &Options::default())?;
    let other = Routed::server_v4(PORT + 1);
    let _other_server = Peer::listen(&lab.server, other, &Options::default())?;
    let impatient = Options { user_timeout: Some(Duration::from_secs(8)), ..Options::default() };
    let stalled = Peer::connect(&lab.client, other, &impatient)?;
    let probe = watch(&lab.client, &[])?;
    ensure!(looks_at_states(&probe)?, "it begins with them");
    // The server forgets the connection, and the client does not hear of it.
    lab.cut()?;
    server.command("abort")?;
    server.wait_event("aborted", SOON)?;
    let aborted = Instant::now();
    lab.heal()?;
    wait_until(&probe, false)?;
    sleep(Duration::from_secs(12).saturating_sub(aborted.elapsed()));

    // Between the reset and the end of its connection are microseconds.
    client.command("write 100")?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.cause.as_str(), opened.confidence.as_str()) == ("peer_reset", "confirmed"), "{opened:?}");
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("reset"), "{closed:?}");

    wait_until(&probe, false)?;
    cut_and_write(&lab, &stalled)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(opened.verdict == "retransmit_stalled", "{opened:?}");
    ensure!(looks_at_states(&probe)?, "how it goes on is looked at");
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:?}");
    stop(probe).map(drop)
}
