//! `asymmetric_handshake`: each cause from the end that can tell it. What looks alike and is no fault is in `handshakes.rs`.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    findings::{confirmed, ensure_is_about, recovered, wait as finding},
    labs::{asymmetric::Asymmetric, routed::Routed},
    netns::Netns,
    peer::{Options, Peer},
    probe::Probe,
    require::Requirement::{Bridge, Conntrack, Ipv6},
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, stop, watch},
    wire::{Connection, Evidence, Finding},
};

pub(crate) fn tests() -> Vec<Test> {
    let routed = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    let tracked = [WATCHING, &[Conntrack]].concat();
    let v6 = [WATCHING, &[Ipv6]].concat();
    let asymmetric = [WATCHING, &[Conntrack, Bridge]].concat();
    let two_ways = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, &asymmetric, function);
    vec![
        routed(
            "a final ACK that the server's own firewall drops is told there, until it gets through",
            server_drops_ack,
        ),
        routed("a final ACK that is lost on the way is told by the client that sends data", client_sees_ack_lost),
        routed("a final ACK that is lost on the way is suspected by a server that knows the client", server_misses_ack),
        routed("a request that was waiting before the watch began is found by the scan", found_waiting),
        Test::new(
            "a SYN-ACK over IPv6 that the client's own firewall drops is told there, too",
            &v6,
            client_drops_synack_v6,
        ),
        routed(
            "a SYN-ACK that the client's own firewall drops is told there, until it gets through",
            client_drops_synack,
        ),
        routed("a SYN-ACK that the server's own firewall drops is told there", server_drops_synack),
        routed("a client that repeats its SYN though it was answered is suspected not to get the SYN-ACK", synack_lost),
        two_ways(
            "a final ACK that a firewall drops because the SYN-ACK went another way is told by the client",
            firewall,
        ),
        two_ways("SYNs that a strict reverse-path filter drops are told where somebody listens for them", syn_filtered),
        two_ways("a SYN-ACK that a strict reverse-path filter drops is told with both interfaces", synack_filtered),
        two_ways("a connection over two paths that a firewall ends early is suspected for its paths", two_paths),
        Test::new(
            "a connection that this host's firewall has seen half of is told when that drops it",
            &tracked,
            embryonic,
        ),
    ]
}

/// Drops what a client sends but its SYN, at this hook.
fn drop_acks(netns: &Netns, hook: &str) -> Result<()> {
    drop_flags(netns, hook, "ack", &format!("tcp dport {PORT}"))
}

/// Drops segments with just these of the flags.
fn drop_flags(netns: &Netns, hook: &str, flags: &str, which: &str) -> Result<()> {
    netns.nft(&format!(
        "table inet drops {{ chain {hook} {{ type filter hook {hook} priority 0; \
         {which} tcp flags & (fin|syn|rst|ack) == {flags} drop; }}; }}\n"
    ))
}

fn heal(netns: &Netns) -> Result<()> {
    netns.nft("delete table inet drops\n")
}

/// The finding that is opened, with the time since `start`.
fn opened(probe: &Probe, start: Instant, cause: &str) -> Result<Finding> {
    let opened = finding(probe, "opened", SOON)?;
    println!("told {:.1} s after the SYN, {}", start.elapsed().as_secs_f64(), opened.confidence);
    ensure!((opened.verdict.as_str(), opened.cause.as_str()) == ("asymmetric_handshake", cause), "{opened:#?}");
    Ok(opened)
}

fn drop_of<'a>(finding: &'a Finding, message: &str) -> Result<&'a Evidence> {
    finding
        .evidence
        .iter()
        .find(|evidence| evidence.kind == "segment_dropped" && evidence.data.get("message") == Some(&message.into()))
        .with_context(|| format!("no dropped {message}: {finding:#?}"))
}

/// The finding is about the server's end of this client's connection.
fn ensure_is_servers(finding: &Finding, client: &Peer, server: &Peer) -> Result<()> {
    let (connection, remote) = (&finding.connection, client.local()?);
    ensure!((connection.remote.address, connection.remote.port) == (remote.ip(), remote.port()), "{connection:?}");
    let owner = finding.owner.as_ref().with_context(|| format!("no owner: {:?}", finding.owner_unavailable))?;
    ensure!(owner.pid == server.pid(), "the listener's process waits for it: {owner:?}");
    Ok(())
}

fn listen(lab: &Routed) -> Result<Peer> {
    Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())
}

fn server_drops_ack(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let server = listen(&lab)?;
    let probe = watch(&lab.server, &[])?;
    drop_acks(&lab.server, "input")?;
    let start = Instant::now();
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    let found = confirmed(&probe, opened(&probe, start, "final_ack_lost")?, SOON)?;
    ensure_is_servers(&found, &client, &server)?;
    let drop = drop_of(&found, "ACK")?;
    ensure!(drop.data.get("reason") == Some(&"NETFILTER_DROP".into()), "{drop:?}");
    ensure!(drop.data.get("ingress_ifindex").is_some_and(serde_json::Value::is_number), "{drop:?}");
    ensure!(found.path.as_ref().is_some_and(|path| path.ingress_interface.as_deref() == Some("uplink")), "{found:#?}");
    heal(&lab.server)?;
    client.command("write 10")?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

fn client_sees_ack_lost(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let _server = listen(&lab)?;
    drop_acks(&lab.router, "forward")?;
    let probe = watch(&lab.client, &[])?;
    let start = Instant::now();
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    client.command("write 100")?;
    let found = opened(&probe, start, "final_ack_lost")?;
    ensure_is_about(&found, &client, &lab.client)?;
    ensure!(found.connection.tcp_state.as_deref() == Some("established"), "{found:?}");
    ensure!(found.evidence.iter().any(|evidence| evidence.kind == "syn_ack_received"), "{found:#?}");
    ensure!(found.deadline.is_some(), "{found:?}");
    // A second SYN-ACK, two seconds later; what the client cannot tell is left.
    let updated = finding(&probe, "updated", SOON)?;
    let missing: Vec<_> = updated.missing_evidence.iter().map(|missing| missing.kind.as_str()).collect();
    ensure!(missing == ["peers_backlog"], "{updated:#?}");
    heal(&lab.router)?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

fn server_misses_ack(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let server = listen(&lab)?;
    let _other = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    drop_acks(&lab.router, "forward")?;
    let probe = watch(&lab.server, &[])?;
    let start = Instant::now();
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    let found = opened(&probe, start, "final_ack_lost")?;
    ensure!(found.confidence == "suspected" && start.elapsed() > Duration::from_secs(6), "{found:#?}");
    ensure_is_servers(&found, &client, &server)?;
    ensure!(found.evidence.iter().any(|evidence| evidence.kind == "peer_connected"), "{found:#?}");
    stop(probe)?;
    Ok(())
}

fn found_waiting(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let server = listen(&lab)?;
    let _other = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    drop_acks(&lab.router, "forward")?;
    let start = Instant::now();
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    // Its SYN-ACK is sent again after 1, 3, 7 and 15 seconds.
    sleep(Duration::from_secs(8));
    let probe = watch(&lab.server, &[])?;
    // The hook tells of the next repeat, before which the timer had fired so often; the scan of the one before.
    let fired = (start.elapsed().as_secs() + 1).ilog2();
    let found = opened(&probe, start, "final_ack_lost")?;
    let timeouts = found.evidence.first().and_then(|first| first.data.get("timeouts")?.as_u64());
    ensure!(timeouts.is_some_and(|timeouts| timeouts < fired.into()), "{fired}: {found:#?}");
    ensure_is_servers(&found, &client, &server)?;
    stop(probe)?;
    Ok(())
}

fn client_drops_synack_v6(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.warm_up_v6()?;
    let _server = Peer::listen(&lab.server, Routed::server_v6(PORT), &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    drop_flags(&lab.client, "input", "(syn|ack)", "")?;
    let start = Instant::now();
    let client = Peer::start_connect(&lab.client, None, Routed::server_v6(PORT), &Options::default())?;
    let found = opened(&probe, start, "synack_lost")?;
    ensure_is_about(&found, &client, &lab.client)?;
    stop(probe)?;
    Ok(())
}

fn client_drops_synack(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let _server = listen(&lab)?;
    let probe = watch(&lab.client, &[])?;
    drop_flags(&lab.client, "input", "(syn|ack)", "")?;
    let start = Instant::now();
    let client = Peer::start_connect(&lab.client, None, Routed::server_v4(PORT), &Options::default())?;
    let found = opened(&probe, start, "synack_lost")?;
    ensure_is_about(&found, &client, &lab.client)?;
    ensure!(found.confidence == "confirmed", "{found:#?}");
    ensure!(found.connection.tcp_state.as_deref() == Some("syn_sent"), "{found:?}");
    drop_of(&found, "SYN-ACK")?;
    heal(&lab.client)?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

fn server_drops_synack(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let server = listen(&lab)?;
    let probe = watch(&lab.server, &[])?;
    drop_flags(&lab.server, "output", "(syn|ack)", "")?;
    let start = Instant::now();
    let client = Peer::start_connect(&lab.client, None, Routed::server_v4(PORT), &Options::default())?;
    let found = opened(&probe, start, "synack_lost")?;
    ensure!(found.confidence == "confirmed", "{found:#?}");
    ensure_is_servers(&found, &client, &server)?;
    ensure!(drop_of(&found, "SYN-ACK")?.data.get("ingress_ifindex") == Some(&serde_json::Value::Null), "{found:?}");
    heal(&lab.server)?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

fn synack_lost(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let server = listen(&lab)?;
    let probe = watch(&lab.server, &[])?;
    drop_flags(&lab.router, "forward", "(syn|ack)", "")?;
    let start = Instant::now();
    let client = Peer::start_connect(&lab.client, None, Routed::server_v4(PORT), &Options::default())?;
    let found = opened(&probe, start, "synack_lost")?;
    ensure!(found.confidence == "suspected", "{found:#?}");
    ensure_is_servers(&found, &client, &server)?;
    heal(&lab.router)?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

fn controller(lab: &Asymmetric) -> Result<Peer> {
    Peer::listen(&lab.controller, Asymmetric::controller_address(PORT), &Options::default())
}

fn firewall(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Asymmetric::new(&own)?;
    lab.drop_final_ack()?;
    let _server = controller(&lab)?;
    let probe = watch(&lab.compute, &[])?;
    let start = Instant::now();
    let client = Peer::connect(&lab.compute, Asymmetric::controller_address(PORT), &Options::default())?;
    client.command("write 100")?;
    let found = opened(&probe, start, "final_ack_lost")?;
    ensure_is_about(&found, &client, &lab.compute)?;
    // With one way for both directions the firewall sees the SYN-ACK, and the connection goes on.
    lab.answer_the_same_way()?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

/// The path of a finding goes in by the one and out by the other interface.
fn ensure_path(finding: &Finding, ingress: &str, egress: &str) -> Result<()> {
    let path = finding.path.as_ref().context("no path")?;
    let interfaces = (path.ingress_interface.as_deref(), path.egress_interface.as_deref());
    ensure!(interfaces == (Some(ingress), Some(egress)) && path.asymmetric == Some(true), "{path:?}");
    Ok(())
}

fn filter_strictly(lab: &Asymmetric) -> Result<()> {
    lab.controller.sysctl("net.ipv4.conf.service.rp_filter", "1")
}

fn syn_filtered(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Asymmetric::new(&own)?;
    filter_strictly(&lab)?;
    let server = controller(&lab)?;
    let probe = watch(&lab.controller, &[])?;
    let start = Instant::now();
    let client = Peer::start_connect(&lab.compute, None, Asymmetric::controller_address(PORT), &Options::default())?;
    let found = opened(&probe, start, "reverse_path_filtered")?;
    ensure!(found.confidence == "confirmed", "{found:#?}");
    ensure_is_servers(&found, &client, &server)?;
    ensure_path(&found, "service", "shared")?;
    ensure!(found.path.as_ref().is_some_and(|path| path.reverse_path_filter == Some(1)), "{found:?}");
    ensure!(drop_of(&found, "SYN")?.data.get("reason") == Some(&"IP_RPFILTER".into()), "{found:?}");
    lab.controller.sysctl("net.ipv4.conf.service.rp_filter", "2")?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

fn synack_filtered(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Asymmetric::new(&own)?;
    filter_strictly(&lab)?;
    let compute = ([10, 78, 1, 1], PORT).into();
    let _server = Peer::listen(&lab.compute, compute, &Options::default())?;
    let probe = watch(&lab.controller, &[])?;
    let start = Instant::now();
    // Its SYN leaves by the shared network; the answer to this address comes through the firewall.
    let from = Asymmetric::controller_address(0);
    let client = Peer::start_connect(&lab.controller, Some(from), compute, &Options::default())?;
    let found = opened(&probe, start, "reverse_path_filtered")?;
    ensure!(found.confidence == "confirmed", "{found:#?}");
    ensure_is_about(&found, &client, &lab.controller)?;
    ensure_path(&found, "service", "shared")?;
    drop_of(&found, "SYN-ACK")?;
    stop(probe)?;
    Ok(())
}

/// How long the firewall lets half-seen connections pass.
const EMBRYONIC_S: u32 = 4;

/// Each second each end says something.
fn talking() -> Options {
    Options { write_every: Some(Duration::from_secs(1)), write_bytes: 10, ..Options::default() }
}

fn two_paths(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Asymmetric::new(&own)?;
    lab.expire_embryonic(EMBRYONIC_S)?;
    let server = Peer::listen(&lab.controller, Asymmetric::controller_address(PORT), &talking())?;
    let probe = watch(&lab.controller, &[])?;
    let start = Instant::now();
    let client = Peer::connect(&lab.compute, Asymmetric::controller_address(PORT), &talking())?;
    let found = opened(&probe, start, "path_mismatch")?;
    ensure!(start.elapsed() > Duration::from_secs(EMBRYONIC_S.into()), "it works at first");
    ensure!(found.confidence == "suspected", "{found:#?}");
    ensure_is_servers(&found, &client, &server)?;
    ensure_path(&found, "service", "shared")?;
    stop(probe)?;
    Ok(())
}

fn embryonic(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    // Of what comes in connection tracking is told nothing, as where it comes in by an interface that is not filtered.
    lab.client.nft(
        "table inet half { chain pre { type filter hook prerouting priority -300; notrack; }; \
         chain output { type filter hook output priority 0; ct state new accept; }; }\n",
    )?;
    let _server = listen(&lab)?;
    let probe = watch(&lab.client, &[])?;
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &talking())?;
    sleep(Duration::from_secs(3));
    let start = Instant::now();
    lab.client.nft("add rule inet half output ct state invalid drop\n")?;
    let found = opened(&probe, start, "embryonic_expired")?;
    ensure_is_about(&found, &client, &lab.client)?;
    let entry = found.evidence.iter().find(|evidence| evidence.kind == "conntrack_entry").context("no entry")?;
    ensure!(entry.data.get("state") == Some(&"syn_sent".into()), "{entry:?}");
    confirmed(&probe, found, SOON)?;
    lab.client.nft("flush chain inet half output\n")?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}
