//! `silently_dropped_fin` where this host only forwards the connection.

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    findings::{confirmed, recovered, wait as finding, wait_forwarded},
    firewall::drops_invalid,
    labs::routed::Routed,
    peer::{Options, Peer},
    probe::Probe,
    require::Requirement::Conntrack,
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, connect, stop, stop_silent, watch},
    wire::{Finding, ForwardedConnection, Port},
};

pub(crate) fn tests() -> Vec<Test> {
    let tracked = [WATCHING, &[Conntrack]].concat();
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, &tracked, function);
    vec![
        test("a FIN with a wrong checksum that a router drops is told where it is forwarded", bad_checksum),
        test("without that test of checksums the router passes it on, and is silent", checksum_not_looked_at),
        test("a forwarded FIN that a rule drops is a finding until a copy gets through", rule),
        test("of a receiver that is not on this host the copies and connection tracking tell", receiver_elsewhere),
        test("a forwarded RST that a rule drops is told by the end that still waits", reset),
        test("a zone of connection tracking is named", zone),
        test(
            "only the peers and the verdicts that were asked for are told, whichever end the peer is",
            only_what_was_asked_for,
        )
        .not_shared(),
        test("a connection that both its end and its router are suspicious of is told once", both_vantages),
    ]
}

/// From closing to the first word about it: a copy of the FIN is waited for, then the witnesses are asked. A guest's are slow.
const LONGEST: Duration = Duration::from_secs(8);

/// The finding about what the server sends and the client does not get; with the time from closing to it.
pub(crate) fn close_at_server(probe: &Probe, server: &Peer, command: &str) -> Result<Finding<ForwardedConnection>> {
    server.command(command)?;
    let closed = Instant::now();
    let opened = wait_forwarded(probe, "opened", SOON)?;
    let took = closed.elapsed();
    println!("told {:.1} s after the {command}", took.as_secs_f64());
    ensure!(took < LONGEST, "it took {took:?}");
    ensure!(opened.verdict == "silently_dropped_fin", "{opened:?}");
    // On a starved host answers may come after the first word.
    let mut finding = opened;
    while finding.connection.ingress.is_none() {
        finding = wait_forwarded(probe, "updated", SOON)?;
    }
    Ok(finding)
}

/// Checks that it is about this client's connection, and which way the segment went.
fn ensure_is_about(
    finding: &Finding<ForwardedConnection>,
    from: SocketAddr,
    to: SocketAddr,
    lab: &Routed,
) -> Result<()> {
    let connection = &finding.connection;
    let ends = [(&connection.initiator, from), (&connection.responder, to)];
    for (told, expected) in ends {
        ensure!((told.address, told.port) == (expected.ip(), expected.port()), "{connection:?}");
    }
    ensure!(connection.direction_known, "{connection:?}");
    ensure!(connection.netns == lab.router.inode(), "{connection:?}");
    let name = |port: &Option<Port>| port.as_ref().map(|port| port.name.clone());
    ensure!(name(&connection.ingress).as_deref() == Some("server"), "{connection:?}");
    ensure!(name(&connection.egress).as_deref() == Some("client"), "{connection:?}");
    let behind = |port: &Option<Port>| port.as_ref()?.owner.as_ref()?.netns;
    ensure!(behind(&connection.ingress) == Some(lab.server.inode()), "{connection:?}");
    ensure!(behind(&connection.egress) == Some(lab.client.inode()), "{connection:?}");
    Ok(())
}

/// Checks that the client was found to wait, in its own namespace. On a starved host who holds it is told later.
fn ensure_receiver_waits(
    probe: &Probe,
    opened: Finding<ForwardedConnection>,
    client: &Peer,
    lab: &Routed,
) -> Result<Finding<ForwardedConnection>> {
    let receiver_of = |finding: &Finding<ForwardedConnection>| {
        finding.connection.ends.iter().find(|end| end.role == "receiver" && end.owner.is_some()).cloned()
    };
    let mut finding = opened;
    while receiver_of(&finding).is_none() {
        finding = wait_forwarded(probe, "updated", SOON)?;
    }
    let receiver = receiver_of(&finding).context("no receiver")?;
    ensure!((receiver.netns, receiver.tcp_state.as_str()) == (lab.client.inode(), "established"), "{receiver:?}");
    ensure!(receiver.owner.is_some_and(|owner| owner.pid == client.pid()), "the client is {}", client.pid());
    ensure!(finding.evidence.iter().any(|evidence| evidence.kind == "end_waits"), "{finding:#?}");
    Ok(finding)
}

fn bad_checksum(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.router.nft(&drops_invalid("forward"))?;
    let (server, client) = connect(&lab, &Options::default())?;
    lab.mangle_fins("tcp checksum set 0xbad")?;
    let probe = watch(&lab.router, &[])?;
    let opened = close_at_server(&probe, &server, "close")?;
    ensure!(opened.cause == "conntrack_bad_checksum", "{opened:#?}");
    ensure_is_about(&opened, client.local()?, client.remote()?, &lab)?;
    let opened = ensure_receiver_waits(&probe, opened, &client, &lab)?;
    ensure!(opened.connection.zone == Some(0), "{:?}", opened.connection);
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
    let sure = confirmed(&probe, opened, SOON)?;
    ensure!(sure.remedies.iter().any(|remedy| remedy.text.contains("`stack_drop`")), "{:?}", sure.remedies);
    ensure!(sure.evidence.iter().any(|evidence| evidence.kind == "conntrack_entry"), "{sure:#?}");
    lab.router.nft("delete table inet mangle\n")?;
    let closed = recovered::<ForwardedConnection>(&probe, SOON)?;
    // Who dropped it is told of the first copy.
    let mut functions = closed.evidence.iter().filter_map(|evidence| evidence.data.get("function")?.as_str());
    ensure!(functions.any(|function| function.starts_with("nf")), "{closed:#?}");
    stop(probe)?;
    Ok(())
}

fn checksum_not_looked_at(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.router.nft(&drops_invalid("forward"))?;
    lab.router.sysctl("net.netfilter.nf_conntrack_checksum", "0")?;
    let (server, _client) = connect(&lab, &Options::default())?;
    lab.mangle_fins("tcp checksum set 0xbad")?;
    let (at_client, at_router) = (watch(&lab.client, &[])?, watch(&lab.router, &[])?);
    server.command("close")?;
    let opened = finding(&at_client, "opened", SOON)?;
    ensure!(opened.cause == "stack_drop", "{opened:#?}");
    stop(at_client)?;
    stop_silent(at_router)?;
    Ok(())
}

fn rule(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.track()?;
    let (server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.router, &[])?;
    lab.router.nft(
        "table inet drops { chain forward { type filter hook forward priority 0; tcp flags & fin == fin drop; }; }\n",
    )?;
    let opened = close_at_server(&probe, &server, "close")?;
    ensure!(opened.cause == "firewall_drop", "{opened:#?}");
    let opened = ensure_receiver_waits(&probe, opened, &client, &lab)?;
    confirmed(&probe, opened, SOON)?;
    lab.router.nft("delete table inet drops\n")?;
    client.wait_event("eof", SOON)?;
    recovered::<ForwardedConnection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

/// The client translates the server's address itself: its socket has another tuple than its packets, and cannot be found by them, as
/// that of a virtual machine.
fn receiver_elsewhere(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.nft(
        "table ip translation { chain output { type nat hook output priority -100; \
         ip daddr 10.77.9.9 dnat to 10.77.2.1; }; }\n",
    )?;
    lab.router.nft(&drops_invalid("forward"))?;
    let server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let client = Peer::connect(&lab.client, ([10, 77, 9, 9], PORT).into(), &Options::default())?;
    client.command("write 1000")?;
    client.wait_event("written", SOON)?;
    sleep(Duration::from_millis(300));
    lab.mangle_fins("tcp flags set fin")?;
    let probe = watch(&lab.router, &[])?;
    let opened = close_at_server(&probe, &server, "close")?;
    ensure!((opened.cause.as_str(), opened.confidence.as_str()) == ("conntrack_invalid", "confirmed"), "{opened:#?}");
    ensure_is_about(&opened, client.local()?, Routed::server_v4(PORT), &lab)?;
    ensure!(opened.connection.ends.iter().all(|end| end.role == "sender"), "{:?}", opened.connection);
    lab.router.nft("delete table inet mangle\n")?;
    recovered::<ForwardedConnection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

fn reset(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.track()?;
    let (server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.router, &[])?;
    lab.router.nft(
        "table inet drops { chain forward { type filter hook forward priority 0; tcp flags & rst == rst drop; }; }\n",
    )?;
    let opened = close_at_server(&probe, &server, "abort")?;
    ensure!((opened.cause.as_str(), opened.confidence.as_str()) == ("firewall_drop", "confirmed"), "{opened:#?}");
    let opened = ensure_receiver_waits(&probe, opened, &client, &lab)?;
    ensure!(opened.evidence_of("segment_dropped")?.data.get("message") == Some(&"RST".into()), "{opened:?}");
    client.command("abort")?;
    wait_forwarded(&probe, "closed", SOON)?;
    stop(probe)?;
    Ok(())
}

fn zone(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.router
        .nft("table inet zones { chain raw { type filter hook prerouting priority -350; ct zone set 7; }; }\n")?;
    lab.router.nft(&drops_invalid("forward"))?;
    let (server, client) = connect(&lab, &Options::default())?;
    lab.mangle_fins("tcp flags set fin")?;
    let probe = watch(&lab.router, &[])?;
    let opened = close_at_server(&probe, &server, "close")?;
    ensure!(opened.cause == "conntrack_invalid", "{opened:#?}");
    ensure_is_about(&opened, client.local()?, client.remote()?, &lab)?;
    ensure!(opened.connection.zone == Some(7), "{:?}", opened.connection);
    stop(probe)?;
    Ok(())
}

fn only_what_was_asked_for(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.router.nft(&drops_invalid("forward"))?;
    let (server, _client) = connect(&lab, &Options::default())?;
    lab.mangle_fins("tcp flags set fin")?;
    let inode = lab.router.inode().to_string();
    let with =
        |more: &[&str]| Probe::diagnose(&[&["--netns", &inode, "--follow", "--format", "ndjson"], more].concat());
    let told = [with(&["--peer", "10.77.1.1"])?, with(&["--verdict", "silently_dropped_fin,half_open"])?];
    let silent = [with(&["--peer", "10.77.3.0/24"])?, with(&["--verdict", "half_open"])?];
    for probe in told.iter().chain(&silent) {
        connprobe_tests::watching::attached(probe)?;
    }
    server.command("close")?;
    for probe in told {
        let opened = wait_forwarded(&probe, "opened", SOON)?;
        ensure!(opened.connection.responder.address == Routed::server_v4(PORT).ip(), "{:?}", opened.connection);
        let (finished, _) = stop(probe)?;
        ensure!(finished.code == Some(1), "exit code {:?}", finished.code);
    }
    for probe in silent {
        stop_silent(probe)?;
    }
    Ok(())
}

fn both_vantages(test: &TestContext) -> Result<()> {
    const OWN_PORT: u16 = 5699;
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let server = Peer::listen(&lab.server, Routed::server_v4(OWN_PORT), &Options::default())?;
    let client = Peer::connect(&lab.client, Routed::server_v4(OWN_PORT), &Options::default())?;
    client.command("write 1000")?;
    client.wait_event("written", SOON)?;
    lab.router.nft(
        "table inet drops { chain forward { type filter hook forward priority 0; tcp flags & fin == fin drop; }; }\n",
    )?;
    let port = OWN_PORT.to_string();
    let records = Probe::diagnose(&["--port", &port, "--follow", "--format", "ndjson"])?;
    let text = Probe::diagnose(&["--port", &port, "--duration", "20s"])?;
    connprobe_tests::watching::attached(&records)?;
    sleep(Duration::from_secs(3));
    server.command("close")?;
    let forwarded = wait_forwarded(&records, "opened", SOON)?;
    let at_sender = finding(&records, "opened", SOON)?;
    ensure!(at_sender.cause == "unacknowledged_fin", "{at_sender:#?}");
    ensure!(at_sender.connection.community_id == forwarded.connection.community_id);
    ensure!(at_sender.related == [forwarded.finding_id], "{:?}", at_sender.related);
    let report = text.finish(SOON)?.stdout;
    ensure!(report.contains("1 connection in limbo"), "{report}");
    ensure!(report.contains("seen from elsewhere on this host") && report.contains("unacknowledged_fin"), "{report}");
    stop(records)?;
    Ok(())
}
