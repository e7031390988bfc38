//! `silently_dropped_fin` on a compute node: Open vSwitch drops what connection tracking held for invalid, between the tunnel and the
//! interface of a virtual machine. No socket of the node knows of it.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    findings::wait_forwarded,
    labs::compute_node::ComputeNode,
    peer::{Options, Peer},
    probe::Probe,
    require::Requirement::OpenVswitch,
    runner::{Test, TestContext},
    wire::{Evidence, Finding, ForwardedConnection},
};

use crate::watching::{PORT, SOON, WATCHING, stop, stop_silent, watch};

pub(crate) fn tests() -> Vec<Test> {
    let needs = [WATCHING, &[OpenVswitch]].concat();
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| {
        Test::new(name, &needs, function).within(Duration::from_secs(240))
    };
    vec![
        test("a FIN from the tunnel with a wrong checksum that Open vSwitch drops is told where it is forwarded", bad_checksum)
            .on_every_kernel(),
        test("a FIN that connection tracking holds for invalid in Open vSwitch's zone is told with its reason", invalid),
        test("without that test of checksums Open vSwitch passes it on, and the node is silent", checksum_not_looked_at),
        test("connections through Open vSwitch that end in order are no finding", in_order),
    ]
}

/// From closing to the first word about it. A guest's witnesses are slow, and copies of the FIN are waited for.
const LONGEST: Duration = Duration::from_secs(20);

/// A connection from the machine through the tunnel, with a server that has taken some data.
fn connect(lab: &ComputeNode) -> Result<(Peer, Peer)> {
    let server = Peer::listen(&lab.server, ComputeNode::server(PORT), &Options::default())?;
    let client = Peer::connect(&lab.machine, ComputeNode::server(PORT), &Options::default())?;
    client.command("write 1000")?;
    client.wait_event("written", SOON)?;
    sleep(Duration::from_millis(300));
    Ok((server, client))
}

/// The finding about a FIN from the server that the machine does not get, once its interfaces, the machine's end and its holder are known.
fn close_at_server(probe: &Probe, server: &Peer) -> Result<Finding<ForwardedConnection>> {
    server.command("close")?;
    let closed = Instant::now();
    let mut finding = wait_forwarded(probe, "opened", SOON)?;
    let took = closed.elapsed();
    println!("told {:.1} s after the close", took.as_secs_f64());
    ensure!(took < LONGEST, "it took {took:?}");
    ensure!(finding.verdict == "silently_dropped_fin", "{finding:#?}");
    let is_whole = |finding: &Finding<ForwardedConnection>| {
        let FoundEnds { receiver_is_owned } = ends(finding);
        finding.connection.ingress.is_some() && receiver_is_owned && evidence(finding, "drop_place").is_ok()
    };
    while !is_whole(&finding) {
        finding = wait_forwarded(probe, "updated", SOON).with_context(|| format!("after {finding:#?}"))?;
    }
    Ok(finding)
}

struct FoundEnds {
    receiver_is_owned: bool,
}

fn ends(finding: &Finding<ForwardedConnection>) -> FoundEnds {
    let receiver = finding.connection.ends.iter().find(|end| end.role == "receiver");
    FoundEnds { receiver_is_owned: receiver.is_some_and(|end| end.owner.is_some()) }
}

fn evidence<'a>(finding: &'a Finding<ForwardedConnection>, kind: &str) -> Result<&'a Evidence> {
    finding.evidence.iter().rev().find(|evidence| evidence.kind == kind).with_context(|| format!("no {kind}: {finding:#?}"))
}

fn bad_checksum(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let folder = tempfile::tempdir()?;
    let lab = ComputeNode::new(&own, folder.path())?;
    let (server, client) = connect(&lab)?;
    lab.mangle_fins("tcp checksum set 0xbad")?;
    let probe = watch(&lab.node, &[])?;
    let finding = close_at_server(&probe, &server)?;
    println!("{finding:#?}");
    stop(probe)?;
    drop(client);
    Ok(())
}

fn invalid(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let folder = tempfile::tempdir()?;
    let lab = ComputeNode::new(&own, folder.path())?;
    let (server, _client) = connect(&lab)?;
    // A FIN without an ACK is none that TCP sends (`tcp_valid_flags`, `net/netfilter/nf_conntrack_proto_tcp.c`).
    lab.mangle_fins("tcp flags set fin")?;
    let probe = watch(&lab.node, &[])?;
    let finding = close_at_server(&probe, &server)?;
    ensure!(finding.cause == "conntrack_invalid", "{finding:#?}");
    stop(probe)?;
    Ok(())
}

fn checksum_not_looked_at(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let folder = tempfile::tempdir()?;
    let lab = ComputeNode::new(&own, folder.path())?;
    lab.node.sysctl("net.netfilter.nf_conntrack_checksum", "0")?;
    let (server, _client) = connect(&lab)?;
    lab.mangle_fins("tcp checksum set 0xbad")?;
    let probe = watch(&lab.node, &[])?;
    server.command("close")?;
    sleep(Duration::from_secs(8));
    stop_silent(probe)?;
    Ok(())
}

fn in_order(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let folder = tempfile::tempdir()?;
    let lab = ComputeNode::new(&own, folder.path())?;
    let probe = watch(&lab.node, &[])?;
    let _server = Peer::listen(&lab.server, ComputeNode::server(PORT), &Options { quiet: true, ..Options::default() })?;
    let client = Peer::churn(&lab.machine, ComputeNode::server(PORT), 50)?;
    client.wait_event("churned", Duration::from_secs(60))?;
    for ending in ["close", "shutdown", "abort"] {
        let client = Peer::connect(&lab.machine, ComputeNode::server(PORT), &Options::default())?;
        client.command("write 100")?;
        client.wait_event("written", SOON)?;
        client.command(ending)?;
    }
    sleep(Duration::from_secs(4));
    stop_silent(probe)?;
    Ok(())
}
