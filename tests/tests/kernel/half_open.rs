//! `half_open`: probes without an answer.

use std::{net::SocketAddr, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    clocks::{wall_of_event, wall_seconds},
    findings::{ensure_is_about, recovered, wait as finding},
    firewall::drops_flag,
    labs::routed::Routed,
    peer::{Keepalive, Options, Peer},
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, connect, cut_and_write, stop, watch},
    wire::Connection,
};

pub(crate) fn tests() -> Vec<Test> {
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    vec![
        test("an idle connection whose keepalive probes stay unanswered ends at the stated time", keepalive),
        test("a peer that has forgotten an idle connection answers the next write with a reset", forgotten),
        test("a peer that has restarted asks for the connection anew, and its reset proves it", restarted),
        test("a peer that asks anew and whose reset is lost on the way is suspected of having restarted", asks_anew),
        test("a next hop that does not answer any more makes the peer unreachable, and is named", next_hop_gone),
        test("keepalive is said to be masked while data is unacknowledged", masked).not_shared(),
    ]
}

fn options(probes: u32) -> Options {
    Options { keepalive: Some(Keepalive { time_s: 2, interval_s: 3, probes }), ..Options::default() }
}

fn keepalive(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &options(6))?;
    let probe = watch(&lab.client, &[])?;
    lab.cut()?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.verdict.as_str(), opened.cause.as_str()) == ("half_open", "keepalive_unanswered"), "{opened:?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    let deadline = opened.deadline.as_ref().context("no deadline")?;
    ensure!(
        (deadline.timer.as_str(), deadline.set_by.as_str(), deadline.setting) == ("keepalive", "keepalive_probes", 6),
        "{deadline:?}"
    );
    let updated = if opened.confidence == "confirmed" { opened.clone() } else { finding(&probe, "updated", SOON)? };
    ensure!(updated.confidence == "confirmed", "{updated:?}");
    let error = client.wait_event("error", SOON)?;
    let (stated, given_up) = (wall_seconds(&deadline.time)?, wall_of_event(&error)?);
    println!("stated {:.1} s ahead, given up {:+.3} s from it", deadline.in_seconds, given_up - stated);
    // Within one step of the timer: a guest that is starved of its processor fires each of them late.
    ensure!((given_up - stated).abs() <= 3.0, "stated {stated}, given up {given_up}: {deadline:?}");
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:?}");
    stop(probe)?;
    Ok(())
}

fn masked(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &options(3))?;
    let probe = watch(&lab.client, &[])?;
    cut_and_write(&lab, &client)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(opened.verdict == "retransmit_stalled", "{opened:?}");
    let keepalive = opened.socket.keepalive.as_ref().context("no keepalive")?;
    ensure!((keepalive.enabled, keepalive.idle_ms, keepalive.probes) == (true, Some(2_000), Some(3)), "{keepalive:?}");
    // Eleven seconds of silence would have ended an idle connection.
    sleep(Duration::from_secs(14));
    client.command("status")?;
    ensure!(client.wait_event("error", Duration::from_millis(100)).is_err(), "the keepalive timer ended it");
    stop(probe)?;
    Ok(())
}

fn forgotten(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    // The server restarts while the path is cut: nothing of that gets to the client.
    lab.cut()?;
    server.command("abort")?;
    server.wait_event("aborted", SOON)?;
    lab.heal()?;
    sleep(Duration::from_secs(12));
    client.command("write 100")?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.verdict.as_str(), opened.cause.as_str()) == ("half_open", "peer_reset"), "{opened:?}");
    ensure!(opened.confidence == "confirmed", "{opened:?}");
    let reset = opened.evidence.iter().find(|evidence| evidence.kind == "reset_received").context("no reset")?;
    let silence = wall_seconds(&reset.time)? - wall_seconds(&opened.since)?;
    ensure!((11.0..60.0).contains(&silence), "silent for {silence} s");
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("reset"), "{closed:?}");
    let (finished, _) = stop(probe)?;
    ensure!(finished.code == Some(1), "exit code {:?}", finished.code);
    Ok(())
}

/// A connection of which the client alone has lost its end; from the same port it then asks for it anew. The server holds on.
fn lose_client(lab: &Routed) -> Result<(Peer, SocketAddr)> {
    let (server, client) = connect(lab, &Options::default())?;
    let from = client.local()?;
    lab.cut()?;
    client.command("abort")?;
    client.wait_event("aborted", SOON)?;
    lab.heal()?;
    Ok((server, from))
}

fn restarted(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let probe = watch(&lab.server, &[])?;
    let (server, from) = lose_client(&lab)?;
    let _again = Peer::connect_from(&lab.client, Some(from), Routed::server_v4(PORT), &Options::default())?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.verdict.as_str(), opened.cause.as_str()) == ("half_open", "peer_restarted"), "{opened:?}");
    ensure!(opened.confidence == "confirmed", "{opened:?}");
    ensure!(opened.evidence.iter().any(|evidence| evidence.kind == "syn_received"), "{opened:?}");
    ensure!(opened.connection.remote.port == from.port(), "{:?}", opened.connection);
    let owner = opened.owner.as_ref().with_context(|| format!("no owner: {:?}", opened.owner_unavailable))?;
    ensure!(owner.pid == server.pid(), "owner {owner:?}, but the server is {}", server.pid());
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("reset"), "{closed:?}");
    stop(probe)?;
    Ok(())
}

fn asks_anew(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let probe = watch(&lab.server, &[])?;
    let (server, from) = lose_client(&lab)?;
    lab.router.nft(&drops_flag("forward", "rst"))?;
    let _again = Peer::start_connect(&lab.client, Some(from), Routed::server_v4(PORT), &Options::default())?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.cause.as_str(), opened.confidence.as_str()) == ("peer_restarted", "suspected"), "{opened:?}");
    ensure!(opened.missing_evidence.iter().any(|missing| missing.kind == "reset_after_syn"), "{opened:?}");
    let owner = opened.owner.as_ref().with_context(|| format!("no owner: {:?}", opened.owner_unavailable))?;
    ensure!(owner.pid == server.pid(), "owner {owner:?}, but the server is {}", server.pid());
    let closed = finding(&probe, "closed", Duration::from_secs(4));
    ensure!(closed.is_err(), "it has not recovered because it is still there: {closed:?}");
    stop(probe)?;
    Ok(())
}

fn next_hop_gone(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    // The router does not answer ARP any more, and the client has forgotten what it once answered.
    lab.router.ip("link set client arp off\n")?;
    lab.client.ip("neighbour flush dev uplink\n")?;
    client.command("write 100")?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.verdict.as_str(), opened.cause.as_str()) == ("half_open", "peer_unreachable"), "{opened:?}");
    let next_hop = opened.evidence.iter().find(|evidence| evidence.kind == "next_hop_silent").context("no next hop")?;
    ensure!(next_hop.data.get("gateway") == Some(&"10.77.1.254".into()), "{next_hop:?}");
    ensure!(next_hop.data.get("interface") == Some(&"uplink".into()), "{next_hop:?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    lab.router.ip("link set client arp on\n")?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}
