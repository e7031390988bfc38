//! `silently_dropped_fin` on a compute node: Open vSwitch drops what connection tracking held for invalid, between the tunnel and the
//! interface of a virtual machine. No socket of the node knows of it.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use connprobe_tests::{
    findings::{recovered, wait_forwarded},
    labs::compute_node::ComputeNode,
    padded::{Padding, Wire},
    peer::{Options, Peer},
    probe::Probe,
    require::Requirement::OpenVswitch,
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, stop, stop_silent, watch},
    wire::{End, Finding, ForwardedConnection},
};
use nix::sys::utsname::uname;

pub(crate) fn tests() -> Vec<Test> {
    let needs = [WATCHING, &[OpenVswitch]].concat();
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| {
        Test::new(name, &needs, function).within(Duration::from_secs(240))
    };
    vec![
        test(
            "a FIN from the tunnel with a wrong checksum that Open vSwitch drops is told where it is forwarded",
            bad_checksum,
        )
        .on_every_kernel(),
        test(
            "a padded FIN from the tunnel whose checksum counts its padding in is told so on Open vSwitch's node",
            padded,
        )
        .not_shared(),
        test(
            "a FIN that connection tracking holds for invalid in Open vSwitch's zone is told with its reason",
            invalid,
        )
        .not_shared(),
        test(
            "without that test of checksums Open vSwitch passes it on, and the node is silent",
            checksum_not_looked_at,
        )
        .not_shared(),
    ]
}

/// From closing to the first word about it. A guest's witnesses are slow, and copies of the FIN are waited for.
const LONGEST: Duration = Duration::from_secs(20);

/// Until the place of a drop is known, where two watches look it up on one emulated processor.
const LATE: Duration = Duration::from_secs(60);

/// A connection from the machine through the tunnel, with a server that has taken some data.
fn connect(lab: &ComputeNode) -> Result<(Peer, Peer)> {
    let server = Peer::listen(&lab.server, ComputeNode::server(PORT), &Options::default())?;
    let client = Peer::connect(&lab.machine, ComputeNode::server(PORT), &Options::default())?;
    client.command("write 1000")?;
    client.wait_event("written", SOON)?;
    sleep(Duration::from_millis(300));
    Ok((server, client))
}

/// The finding about a FIN from the server that the machine does not get.
fn close_at_server(probe: &Probe, server: &Peer) -> Result<Finding<ForwardedConnection>> {
    server.command("close")?;
    let closed = Instant::now();
    let (finding, opened) = whole(probe)?;
    let told = opened.duration_since(closed);
    println!("told {:.1} s after the close", told.as_secs_f64());
    ensure!(told < LONGEST, "it took {told:?}");
    Ok(finding)
}

/// The finding, once all is known that is asked for late; and when it was opened.
fn whole(probe: &Probe) -> Result<(Finding<ForwardedConnection>, Instant)> {
    let mut finding = wait_forwarded(probe, "opened", SOON)?;
    let opened = Instant::now();
    ensure!(finding.verdict == "silently_dropped_fin", "{finding:#?}");
    let is_whole = |finding: &Finding<ForwardedConnection>| {
        finding.connection.ingress.is_some()
            && receiver(finding).is_some_and(|end| end.owner.is_some())
            && finding.evidence_of("drop_place").is_ok()
    };
    while !is_whole(&finding) {
        finding = wait_forwarded(probe, "updated", LATE).with_context(|| format!("after {finding:#?}"))?;
    }
    Ok((finding, opened))
}

fn receiver(finding: &Finding<ForwardedConnection>) -> Option<&End> {
    finding.connection.ends.iter().find(|end| end.role == "receiver")
}

/// Checks that it is about the machine's connection, between the tunnel and the machine's interface.
fn ensure_is_about(finding: &Finding<ForwardedConnection>, client: &Peer, lab: &ComputeNode) -> Result<()> {
    let connection = &finding.connection;
    let ends = [(&connection.initiator, client.local()?), (&connection.responder, ComputeNode::server(PORT))];
    for (told, expected) in ends {
        ensure!((told.address, told.port) == (expected.ip(), expected.port()), "{connection:?}");
    }
    ensure!(connection.direction_known && connection.zone == Some(ComputeNode::ZONE), "{connection:?}");
    ensure!(connection.netns == lab.node.inode(), "{connection:?}");
    let (ingress, egress) = (connection.ingress.as_ref(), connection.egress.as_ref());
    ensure!(ingress.is_some_and(|port| port.name == ComputeNode::TUNNEL && port.owner.is_none()), "{connection:?}");
    let egress = egress.with_context(|| format!("no egress: {connection:?}"))?;
    let behind = egress.owner.as_ref().and_then(|owner| owner.netns);
    ensure!((egress.name.as_str(), behind) == (ComputeNode::TAP, Some(lab.machine.inode())), "{connection:?}");
    let receiver = receiver(finding).context("no receiver")?;
    ensure!((receiver.netns, receiver.tcp_state.as_str()) == (lab.machine.inode(), "established"), "{receiver:?}");
    ensure!(receiver.owner.as_ref().is_some_and(|owner| owner.pid == client.pid()), "{receiver:?}");
    Ok(())
}

/// Whether this kernel tells what Open vSwitch drops: from 6.6 on (`ovs_kfree_skb_reason`, `net/openvswitch/drop.h`).
fn are_drops_told() -> Result<bool> {
    let release = uname()?.release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { bail!("release {release}") };
    Ok((major, minor) >= (6, 6))
}

/// Checks that connection tracking has said why, and who dropped it is told or known to be missing.
fn ensure_tells_who_dropped(finding: &Finding<ForwardedConnection>, why: &str) -> Result<()> {
    let held = finding.evidence_of("segment_invalid")?;
    ensure!(held.data.get("why") == Some(&why.into()), "{held:?}");
    let place = finding.evidence_of("drop_place")?;
    ensure!(place.data.get("site") == Some(&"openvswitch".into()), "{place:?}");
    let is_missing = finding.missing_evidence.iter().any(|missing| missing.kind == "who_dropped");
    if are_drops_told()? {
        let drop = finding.evidence_of("segment_dropped")?;
        ensure!(drop.data.get("reason") == Some(&"OVS_DROP_LAST_ACTION".into()), "{drop:?}");
        ensure!(drop.data.get("tracked") == Some(&false.into()), "{drop:?}");
        ensure!(place.text.contains("do_execute_actions"), "{place:?}");
        ensure!(finding.confidence == "confirmed" && !is_missing, "{finding:#?}");
    } else {
        ensure!(finding.evidence_of("segment_dropped").is_err(), "{finding:#?}");
        ensure!(place.text.contains("ovs_ct_"), "{place:?}");
        ensure!(finding.confidence == "suspected" && is_missing, "{finding:#?}");
    }
    let told = |part: &str| {
        finding.remedies.iter().any(|remedy| remedy.command.as_ref().is_some_and(|command| command.contains(part)))
    };
    ensure!(told("dpctl/dump-flows") && told("dpctl/dump-conntrack"), "{:#?}", finding.remedies);
    Ok(())
}

fn bad_checksum(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = ComputeNode::new(&own)?;
    let (server, client) = connect(&lab)?;
    lab.mangle_fins("tcp checksum set 0xbad")?;
    let probe = watch(&lab.node, &[])?;
    let finding = close_at_server(&probe, &server)?;
    ensure!(finding.cause == "conntrack_bad_checksum", "{finding:#?}");
    ensure_is_about(&finding, &client, &lab)?;
    ensure_tells_who_dropped(&finding, "bad checksum")?;
    let held = finding.evidence_of("segment_invalid")?;
    ensure!(held.data.get("checksum") == Some(&"wrong".into()), "{held:?}");
    // To let it pass would not help: its receiver finds the sum wrong, too.
    let is_setting = |command: &str| command.contains("nf_conntrack_checksum=0");
    ensure!(!finding.remedies.iter().any(|remedy| remedy.command.as_deref().is_some_and(is_setting)), "{finding:#?}");
    stop(probe)?;
    Ok(())
}

/// As a sender's that pads short frames and takes the padding into its sum.
fn padded(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = ComputeNode::new(&own)?;
    let (_server, client) = connect(&lab)?;
    let text = Probe::diagnose(&["--netns", &lab.node.inode().to_string(), "--follow"])?;
    // The later of the two has attached its programs.
    let probe = watch(&lab.node, &[])?;
    sleep(Duration::from_secs(5));
    let wire = Wire { from: (&lab.network, "tunnel"), to: (&lab.machine, "eth0") };
    for _ in 0..3 {
        wire.send_padded_fin(ComputeNode::server(PORT), client.local()?, Padding::CountedIn)?;
        sleep(Duration::from_millis(500));
    }
    let (finding, _) = whole(&probe)?;
    ensure!(finding.cause == "conntrack_bad_checksum", "{finding:#?}");
    ensure_is_about(&finding, &client, &lab)?;
    let held = finding.evidence_of("segment_invalid")?;
    ensure!(held.text.contains("(it counts 6 bytes of padding in)"), "{held:?}");
    // Open vSwitch has cut the padding off (`ovs_skb_network_trim`, `net/openvswitch/conntrack.c`).
    ensure!(held.data.get("actual_bytes") == Some(&40.into()), "{held:?}");
    stop(probe)?;
    let report = text.stop(SOON)?.stdout;
    let words = report.split_whitespace().collect::<Vec<_>>().join(" ");
    let way =
        format!("from {} to {} (to network namespace {})", ComputeNode::TUNNEL, ComputeNode::TAP, lab.machine.inode());
    let sum = "it is that of the 54-byte frame padded to 60: who computed it took the padding in";
    for part in [way.as_str(), sum, "connection tracking's zone 7", "Open vSwitch"] {
        ensure!(words.contains(part), "{part}: {report}");
    }
    println!("{report}");
    Ok(())
}

fn invalid(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = ComputeNode::new(&own)?;
    let (server, client) = connect(&lab)?;
    // A FIN without an ACK is none that TCP sends (`tcp_valid_flags`, `net/netfilter/nf_conntrack_proto_tcp.c`).
    lab.mangle_fins("tcp flags set fin")?;
    let probe = watch(&lab.node, &[])?;
    let finding = close_at_server(&probe, &server)?;
    ensure!(finding.cause == "conntrack_invalid", "{finding:#?}");
    ensure_is_about(&finding, &client, &lab)?;
    ensure_tells_who_dropped(&finding, "invalid tcp flag combination")?;
    // What the remedy's commands look for is there.
    let flows = lab.ask_switch("dpctl/dump-flows -m")?;
    ensure!(flows.lines().any(|flow| flow.contains("actions:drop") && flow.contains(ComputeNode::TUNNEL)), "{flows}");
    let tracked = lab.ask_switch(&format!("dpctl/dump-conntrack zone={}", ComputeNode::ZONE))?;
    ensure!(tracked.contains(&client.local()?.ip().to_string()), "{tracked}");
    lab.mend_fins()?;
    // The gaps between copies have grown.
    recovered::<ForwardedConnection>(&probe, Duration::from_secs(60))?;
    client.wait_event("eof", SOON)?;
    stop(probe)?;
    Ok(())
}

fn checksum_not_looked_at(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = ComputeNode::new(&own)?;
    lab.node.sysctl("net.netfilter.nf_conntrack_checksum", "0")?;
    let (server, _client) = connect(&lab)?;
    lab.mangle_fins("tcp checksum set 0xbad")?;
    let probe = watch(&lab.node, &[])?;
    server.command("close")?;
    sleep(Duration::from_secs(8));
    stop_silent(probe)?;
    Ok(())
}
