//! Peers own their sockets and tell what becomes of them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use connprobe_tests::peer::{Keepalive, Mode, Options, Peer};
use connprobe_tests::require::Requirement::{self, Netns as Namespaces, Nft, Root, Veth};
use connprobe_tests::runner::{Test, TestContext};
use serde_json::Value;

use crate::support::{DROP_TCP, SOON, address, connected, echo, number, pair, received, wait_received};

const ETIMEDOUT: i64 = 110;

const ECONNRESET: i64 = 104;

/// What is checked here.
pub(crate) fn tests() -> Vec<Test> {
    let linked: &[Requirement] = &[Root, Namespaces, Veth];
    let filtered: &[Requirement] = &[Root, Namespaces, Veth, Nft];
    vec![
        Test::new("a peer owns its socket in its namespace", linked, ownership),
        Test::new("a peer reports ETIMEDOUT when its user timeout is over", filtered, user_timeout),
        Test::new("a peer reports ETIMEDOUT when its keepalive probes stay unanswered", filtered, keepalive),
        Test::new("a peer that cannot reach the other says which address it tries from", filtered, unanswered),
        Test::new("a reset and an end of file are told apart", linked, endings),
        Test::new("a slow reader and a mute one take less than is written", linked, slow_readers),
        Test::new("short connections all succeed", linked, churned),
    ]
}

fn ownership(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let (listener, peer) = connected(&pair.client, &pair.server, "10.9.0.2:7000", &Options::default())?;
    for (process, netns) in [(&listener, &pair.server), (&peer, &pair.client)] {
        let own = fs::metadata(format!("/proc/{}/ns/net", process.pid()))?;
        ensure!(own.ino() == u64::from(netns.inode()));
        let comm = fs::read_to_string(format!("/proc/{}/comm", process.pid()))?;
        ensure!(comm.trim_end() == "connprobe-peer", "{comm}");
    }
    Ok(())
}

fn user_timeout(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let options = Options { user_timeout: Some(Duration::from_millis(1000)), ..Options::default() };
    let (_listener, peer) = connected(&pair.client, &pair.server, "10.9.0.2:7000", &options)?;
    pair.server.nft(DROP_TCP)?;
    peer.command("write 10")?;
    let written = number(&peer.wait_event("written", SOON)?, "ktime_ns")?;
    let error = peer.wait_event("error", SOON)?;
    ensure!(number(&error, "errno")? == ETIMEDOUT, "{error}");
    let passed = Duration::from_nanos(u64::try_from(number(&error, "ktime_ns")? - written)?);
    test.note(format!("given up after {passed:?}"));
    // The retransmission timer ends on the user timeout (tcp_clamp_rto_to_user_timeout), not much before or after it.
    ensure!(passed > Duration::from_millis(900) && passed < Duration::from_secs(10), "{passed:?}");
    Ok(())
}

fn keepalive(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let keepalive = Some(Keepalive { time_s: 1, interval_s: 1, probes: 2 });
    let options = Options { keepalive, ..Options::default() };
    let (_listener, peer) = connected(&pair.client, &pair.server, "10.9.0.2:7000", &options)?;
    pair.server.nft(DROP_TCP)?;
    let error = peer.wait_event("error", SOON)?;
    ensure!(number(&error, "errno")? == ETIMEDOUT, "{error}");
    Ok(())
}

fn unanswered(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    pair.server.nft(DROP_TCP)?;
    let options = Options { user_timeout: Some(Duration::from_millis(1500)), ..Options::default() };
    let from = address("10.9.0.1:40000")?;
    let peer = Peer::start_connect(&pair.client, Some(from), address("10.9.0.2:7000")?, &options)?;
    ensure!(peer.local()? == from);
    let error = peer.wait_event("error", SOON)?;
    ensure!(number(&error, "errno")? == ETIMEDOUT, "{error}");
    ensure!(error.get("during").is_some_and(|during| during == "connect"), "{error}");
    Ok(())
}

fn endings(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let (listener, peer) = connected(&pair.client, &pair.server, "10.9.0.2:7000", &Options::default())?;
    peer.command("abort")?;
    peer.wait_event("aborted", SOON)?;
    ensure!(number(&listener.wait_event("error", SOON)?, "errno")? == ECONNRESET);

    let other = Peer::connect(&pair.client, listener.local()?, &Options::default())?;
    other.command("shutdown")?;
    listener.wait_event("eof", SOON)?;
    listener.wait_event("closed", SOON)?;
    other.wait_event("eof", SOON)?;
    other.command("nonsense")?;
    other.wait_event("refused", SOON)?;
    Ok(())
}

fn slow_readers(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    for (port, mode) in [(7000, Mode::Slow), (7001, Mode::Mute)] {
        let options = Options { mode, ..Options::default() };
        let listener = Peer::listen(&pair.server, address(&format!("10.9.0.2:{port}"))?, &options)?;
        let peer = Peer::connect(&pair.client, listener.local()?, &Options::default())?;
        peer.command("write 30000000")?;
        thread::sleep(Duration::from_millis(500));
        let status = peer.status()?;
        let pending = status.pointer("/connections/0/pending").and_then(Value::as_u64).unwrap_or(0);
        ensure!(pending > 0, "{mode:?}: {status}");
        if mode == Mode::Slow {
            wait_received(&listener, 1)?;
        }
        ensure!(received(&listener)? < 1_000_000, "{mode:?}");
    }
    Ok(())
}

fn churned(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let quiet = Options { quiet: true, ..echo() };
    let listener = Peer::listen(&pair.server, address("10.9.0.2:7000")?, &quiet)?;
    let peer = Peer::churn(&pair.client, listener.local()?, 500)?;
    let churned = peer.wait_event("churned", SOON)?;
    ensure!(number(&churned, "failed")? == 0, "{churned}");
    ensure!(number(&listener.status()?, "accepted")? == 500);
    ensure!(listener.events().len() == 2, "listening and status, nothing else");
    Ok(())
}
