//! `asymmetric_handshake` where this host only forwards the connection.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use connprobe_tests::{
    findings::{recovered, wait_forwarded},
    labs::{asymmetric::Asymmetric, routed::Routed},
    peer::{Options, Peer},
    probe::Probe,
    require::Requirement::{Bridge, Conntrack},
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, stop, watch},
    wire::{Finding, ForwardedConnection, Port},
};

pub(crate) fn tests() -> Vec<Test> {
    let tracked = [WATCHING, &[Conntrack]].concat();
    let asymmetric = [WATCHING, &[Conntrack, Bridge]].concat();
    let routed = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, &tracked, function);
    let two_ways = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, &asymmetric, function);
    vec![
        two_ways("a firewall that has not seen the SYN-ACK tells that it drops the final ACK", final_ack),
        two_ways("a firewall that ends a connection early of which it has seen one side tells that", expired)
            .not_shared(),
        routed("a router whose rule drops SYN-ACKs tells that, until one gets through", syn_ack),
    ]
}

/// The finding that is opened, with which way its segments go.
fn opened(probe: &Probe, start: Instant, cause: &str) -> Result<Finding<ForwardedConnection>> {
    let mut found = wait_forwarded(probe, "opened", SOON)?;
    println!("told after {:.1} s, {}", start.elapsed().as_secs_f64(), found.confidence);
    ensure!((found.verdict.as_str(), found.cause.as_str()) == ("asymmetric_handshake", cause), "{found:#?}");
    // On a starved host answers may come after the first word.
    while found.connection.ingress.is_none() || found.confidence != "confirmed" {
        found = wait_forwarded(probe, "updated", SOON)?;
        ensure!(found.cause == cause, "{found:#?}");
    }
    Ok(found)
}

/// It is about this connection, begun by `client`, whose segments come in by the one and go out by the other interface.
fn ensure_is_about(
    finding: &Finding<ForwardedConnection>,
    client: SocketAddr,
    server: SocketAddr,
    ways: [&str; 2],
) -> Result<()> {
    let connection = &finding.connection;
    for (told, expected) in [(&connection.initiator, client), (&connection.responder, server)] {
        ensure!((told.address, told.port) == (expected.ip(), expected.port()), "{connection:?}");
    }
    ensure!(connection.direction_known && connection.zone == Some(0), "{connection:?}");
    let name = |port: &Option<Port>| port.as_ref().map_or(String::new(), |port| port.name.clone());
    ensure!([name(&connection.ingress), name(&connection.egress)] == ways, "{connection:?}");
    Ok(())
}

fn receiver_state(finding: &Finding<ForwardedConnection>) -> Option<&str> {
    finding.connection.ends.iter().find(|end| end.role == "receiver").map(|end| end.tcp_state.as_str())
}

fn controller(lab: &Asymmetric, options: &Options) -> Result<Peer> {
    Peer::listen(&lab.controller, Asymmetric::controller_address(PORT), options)
}

fn final_ack(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Asymmetric::new(&own)?;
    lab.drop_final_ack()?;
    let _server = controller(&lab, &Options::default())?;
    let probe = watch(&lab.firewall, &[])?;
    let start = Instant::now();
    let client = Peer::connect(&lab.compute, Asymmetric::controller_address(PORT), &Options::default())?;
    client.command("write 100")?;
    let found = opened(&probe, start, "final_ack_lost")?;
    ensure_is_about(&found, client.local()?, client.remote()?, ["inside", "outside"])?;
    ensure!(receiver_state(&found) == Some("new_syn_recv"), "{:?}", found.connection.ends);
    let entry = found.evidence_of("conntrack_entry")?;
    ensure!(entry.data.get("state") == Some(&"syn_sent".into()), "{entry:?}");
    ensure!(entry.data.get("replied") == Some(&false.into()), "{entry:?}");
    let drop = found.evidence_of("segment_dropped")?;
    ensure!(drop.data.get("reason") == Some(&"NETFILTER_DROP".into()), "{drop:?}");
    ensure!(found.remedies.iter().any(|remedy| remedy.text.contains("come back through this host")), "{found:#?}");
    // With one way for both directions the firewall sees the SYN-ACK, and the connection goes on.
    lab.answer_the_same_way()?;
    recovered::<ForwardedConnection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

/// How long the firewall lets half-seen connections pass.
const EMBRYONIC_S: u32 = 3;

/// Each second each end says something.
fn talking() -> Options {
    Options { write_every: Some(Duration::from_secs(1)), write_bytes: 10, ..Options::default() }
}

fn expired(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Asymmetric::new(&own)?;
    lab.track()?;
    lab.expire_embryonic(EMBRYONIC_S)?;
    let _server = controller(&lab, &talking())?;
    let probe = watch(&lab.firewall, &[])?;
    let start = Instant::now();
    let client = Peer::connect(&lab.compute, Asymmetric::controller_address(PORT), &talking())?;
    let found = opened(&probe, start, "embryonic_expired")?;
    ensure!(start.elapsed() > Duration::from_secs(EMBRYONIC_S.into()), "it works at first");
    ensure_is_about(&found, client.local()?, client.remote()?, ["inside", "outside"])?;
    ensure!(receiver_state(&found) == Some("established"), "{:?}", found.connection.ends);
    stop(probe)?;
    Ok(())
}

fn syn_ack(test: &TestContext) -> Result<()> {
    const DROPS: &str = "table inet drops { chain forward { type filter hook forward priority 0; \
                         ct state established tcp flags & (fin|syn|rst|ack) == (syn|ack) drop; }; }\n";
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.router.nft(DROPS)?;
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let probe = watch(&lab.router, &[])?;
    let start = Instant::now();
    let client = Peer::start_connect(&lab.client, None, Routed::server_v4(PORT), &Options::default())?;
    let found = opened(&probe, start, "synack_lost")?;
    // What is dropped goes the other way than the connection.
    ensure_is_about(&found, client.local()?, Routed::server_v4(PORT), ["server", "client"])?;
    ensure!(receiver_state(&found) == Some("syn_sent"), "{:?}", found.connection.ends);
    lab.router.nft("delete table inet drops\n")?;
    recovered::<ForwardedConnection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}
