//! `silently_dropped_fin`: where this host holds the connection whose end was thrown away.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    findings::{confirmed, ensure_is_about, recovered, wait as finding},
    firewall::drops_invalid,
    labs::routed::Routed,
    padded::{Padding, Wire},
    peer::{Options, Peer},
    probe::Probe,
    require::Requirement::Conntrack,
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, connect, stop, watch},
    wire::{Connection, Finding},
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    let tracked = [WATCHING, &[Conntrack]].concat();
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, &tracked, function);
    vec![
        test(
            "a FIN whose checksum connection tracking finds wrong is dropped, and proven from its headers",
            bad_checksum,
        ),
        test("without that test of checksums the same FIN is dropped by TCP itself", checksum_not_looked_at),
        test("a FIN that connection tracking holds for invalid is told from one with a wrong checksum", invalid),
        test("a FIN that a rule drops is a finding until a copy gets through", rule),
        test("a RST that a rule drops leaves the receiver with a connection that is none", reset),
        test("a FIN of this host that its own rule drops is told, too", own_rule),
        test("a FIN that anybody can forge is told of nobody, or taken back when data comes", forged),
        test("a FIN of this host that nobody acknowledges ends at the stated time", unacknowledged),
    ]
}

/// The finding about a FIN from the server that the client does not get; with the time from closing to it.
fn close_at_server(probe: &Probe, server: &Peer, command: &str) -> Result<Finding> {
    server.command(command)?;
    let closed = Instant::now();
    let opened = finding(probe, "opened", SOON)?;
    println!("told {:.1} s after the {command}", closed.elapsed().as_secs_f64());
    ensure!(opened.verdict == "silently_dropped_fin", "{opened:?}");
    Ok(opened)
}

/// Waits until a record says where it was dropped. The function that did it is known by then.
fn wait_for_place(probe: &Probe) -> Result<()> {
    let is_place = |evidence: &Value| evidence.get("kind").is_some_and(|kind| kind == "drop_place");
    let has_place =
        |record: &Value| record.get("evidence").and_then(Value::as_array).is_some_and(|all| all.iter().any(is_place));
    let end = Instant::now() + SOON;
    while !probe.records().iter().any(has_place) {
        ensure!(Instant::now() < end, "where it was dropped was not told");
        sleep(Duration::from_millis(500));
    }
    Ok(())
}

fn bad_checksum(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.nft(&drops_invalid("input"))?;
    let (server, client) = connect(&lab, &Options::default())?;
    lab.mangle_fins("tcp checksum set 0xbad")?;
    let probe = watch(&lab.client, &[])?;
    let opened = close_at_server(&probe, &server, "close")?;
    ensure!(opened.cause == "conntrack_bad_checksum", "{opened:#?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    ensure!(opened.connection.tcp_state.as_deref() == Some("established"), "{opened:?}");
    let drop = opened.evidence_of("segment_dropped")?;
    let expected = [
        ("message", "FIN".into()),
        ("reason", "NETFILTER_DROP".into()),
        ("checksum", "wrong".into()),
        ("tracked", false.into()),
        ("data_bytes", 0.into()),
    ];
    for (name, value) in expected {
        ensure!(drop.data.get(name) == Some(&value), "{name}: {drop:?}");
    }
    ensure!(drop.data.get("ingress_ifindex").is_some_and(Value::is_number), "{drop:?}");
    let sure = confirmed(&probe, opened, SOON)?;
    ensure!(sure.remedies.iter().any(|remedy| remedy.text.contains("`stack_drop`")), "{:?}", sure.remedies);
    // Looking it up takes a slow guest longer than a first judgment waits.
    wait_for_place(&probe)?;
    lab.router.nft("delete table inet mangle\n")?;
    let closed = recovered::<Connection>(&probe, SOON)?;
    // Who dropped it is told of the first copy.
    let mut functions = closed.evidence.iter().filter_map(|evidence| evidence.data.get("function")?.as_str());
    ensure!(functions.any(|function| function.starts_with("nf")), "{closed:#?}");
    stop(probe)?;
    Ok(())
}

fn checksum_not_looked_at(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.nft(&drops_invalid("input"))?;
    lab.client.sysctl("net.netfilter.nf_conntrack_checksum", "0")?;
    let (server, _client) = connect(&lab, &Options::default())?;
    lab.mangle_fins("tcp checksum set 0xbad")?;
    let probe = watch(&lab.client, &[])?;
    let opened = close_at_server(&probe, &server, "close")?;
    ensure!(opened.cause == "stack_drop", "{opened:#?}");
    ensure!(opened.evidence_of("segment_dropped")?.data.get("reason") == Some(&"TCP_CSUM".into()), "{opened:?}");
    stop(probe)?;
    Ok(())
}

fn invalid(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.nft(&drops_invalid("input"))?;
    let (server, client) = connect(&lab, &Options::default())?;
    // A FIN without an ACK is none that TCP sends (`tcp_valid_flags`, `net/netfilter/nf_conntrack_proto_tcp.c`); nft keeps the
    // checksum right.
    lab.mangle_fins("tcp flags set fin")?;
    let probe = watch(&lab.client, &[])?;
    let opened = close_at_server(&probe, &server, "close")?;
    ensure!(opened.cause == "conntrack_invalid", "{opened:#?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    ensure!(opened.evidence_of("segment_dropped")?.data.get("checksum") == Some(&"right".into()), "{opened:?}");
    confirmed(&probe, opened, SOON)?;
    stop(probe)?;
    Ok(())
}

fn rule(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    lab.client.nft(
        "table inet drops { chain input { type filter hook input priority 0; tcp flags & fin == fin drop; }; }\n",
    )?;
    let opened = close_at_server(&probe, &server, "close")?;
    ensure!(opened.cause == "firewall_drop", "{opened:#?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    confirmed(&probe, opened, SOON)?;
    lab.client.nft("delete table inet drops\n")?;
    recovered::<Connection>(&probe, SOON)?;
    client.wait_event("eof", SOON)?;
    stop(probe)?;
    Ok(())
}

fn reset(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    lab.client.nft(
        "table inet drops { chain input { type filter hook input priority 0; tcp flags & rst == rst drop; }; }\n",
    )?;
    let opened = close_at_server(&probe, &server, "abort")?;
    ensure!((opened.cause.as_str(), opened.confidence.as_str()) == ("firewall_drop", "confirmed"), "{opened:#?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    ensure!(opened.evidence_of("segment_dropped")?.data.get("message") == Some(&"RST".into()), "{opened:?}");
    stop(probe)?;
    Ok(())
}

fn own_rule(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    lab.client.nft(
        "table inet drops { chain output { type filter hook output priority 0; tcp flags & fin == fin drop; }; }\n",
    )?;
    // A shutdown keeps the socket in the process's hands.
    client.command("shutdown")?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(
        (opened.verdict.as_str(), opened.cause.as_str()) == ("silently_dropped_fin", "firewall_drop"),
        "{opened:#?}"
    );
    ensure_is_about(&opened, &client, &lab.client)?;
    ensure!(opened.evidence_of("segment_dropped")?.data.get("ingress_ifindex") == Some(&Value::Null), "{opened:?}");
    lab.client.nft("delete table inet drops\n")?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

/// Sends FINs that the server has not sent, as far from each other, to the client.
fn forge(lab: &Routed, client: &Peer, copies: u32) -> Result<()> {
    let wire = Wire { from: (&lab.router, "client"), to: (&lab.client, "uplink") };
    for _ in 0..copies {
        wire.send_padded_fin(Routed::server_v4(PORT), client.local()?, Padding::Garbage)?;
        sleep(Duration::from_millis(400));
    }
    Ok(())
}

fn forged(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    // TCP finds it outside of the window.
    forge(&lab, &client, 4)?;
    sleep(Duration::from_secs(4));
    ensure!(probe.records().iter().all(|record| record.get("verdict").is_none()), "{:#?}", probe.records());
    // What drops these knows nothing of the window.
    lab.client.nft(
        "table inet drops { chain input { type filter hook input priority 0; tcp flags & fin == fin drop; }; }\n",
    )?;
    forge(&lab, &client, 4)?;
    let opened = finding(&probe, "opened", SOON)?;
    sleep(Duration::from_secs(4));
    let is_sure = |record: &Value| record.get("confidence").is_some_and(|confidence| confidence == "confirmed");
    ensure!(opened.confidence == "suspected" && !probe.records().iter().any(is_sure), "{opened:#?}");
    server.command("write 100")?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

fn unacknowledged(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.sysctl("net.ipv4.tcp_retries2", "6")?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    lab.cut()?;
    client.command("shutdown")?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(
        (opened.verdict.as_str(), opened.cause.as_str()) == ("silently_dropped_fin", "unacknowledged_fin"),
        "{opened:#?}"
    );
    ensure_is_about(&opened, &client, &lab.client)?;
    let deadline = opened.deadline.as_ref().context("no deadline")?;
    ensure!((deadline.timer.as_str(), deadline.set_by.as_str()) == ("retransmission", "tcp_retries2"), "{deadline:?}");
    let closed = finding(&probe, "closed", Duration::from_secs(60))?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:?}");
    stop(probe)?;
    Ok(())
}
