//! Makes connections fail in network namespaces, runs `connprobe diagnose` on them, and checks what it says against what is
//! known here. Run by `cargo xtask demo`; it needs root. The program is taken from `CONNPROBE_BIN`, or from beside this one.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "showing is what a demo is for")]

use std::{
    process::{Command, ExitCode, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use connprobe_tests::{
    clocks,
    lab::Lab,
    labs::routed::Routed,
    peer::{Options, Peer},
    probe::{self, Probe},
    require::{
        self,
        Requirement::{Bpf, Btf, Netns, Nft, Root, Veth},
    },
    wire::{self, Body, Finding},
};
use serde_json::Value;

/// Short enough to wait for the kernel to give up: about 26 s after the path is cut, instead of a quarter of an hour.
const TCP_RETRIES2: &str = "6";
const SOON: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    if let Err(missing) = require::check(&[Root, Bpf, Btf, Netns, Veth, Nft]) {
        bail!("cannot be shown here: {missing}");
    }
    let own = Lab::new("demo")?;
    retransmit_stalled(&own)?;
    println!("\nThe demo is over: everything said was as it happened.");
    Ok(())
}

/// A connection whose peer is cut off.
fn retransmit_stalled(own: &Lab) -> Result<()> {
    println!("# retransmit_stalled: a client writes to a broker, and the router between them drops everything\n");
    let lab = Routed::new(own)?;
    lab.client.sysctl("net.ipv4.tcp_retries2", TCP_RETRIES2)?;
    let _server = Peer::listen(&lab.server, Routed::server_v4(5672), &Options::default())?;
    let client = Peer::connect(&lab.client, Routed::server_v4(5672), &Options::default())?;
    client.command("write 1000")?;
    client.wait_event("written", SOON)?;
    sleep(Duration::from_millis(300));

    let inode = lab.client.inode().to_string();
    // One instance is shown to the reader, another is held to what it says.
    let held = Probe::diagnose(&["--netns", &inode, "--follow", "--format", "ndjson"])?;
    held.wait_type("coverage", SOON)?;
    lab.cut()?;
    client.command("write 100")?;
    client.wait_event("written", SOON)?;

    println!("$ connprobe diagnose --netns {inode} --duration 16s\n");
    let shown = Command::new(probe::program()?)
        .args(["diagnose", "--netns", &inode, "--duration", "16s"])
        .stdin(Stdio::null())
        .status()
        .context("connprobe cannot be run")?;
    ensure!(shown.code() == Some(1), "connprobe diagnose ended with {shown}, where 1 was due");

    let opened = finding(&held, "opened")?;
    check(&opened, &client, lab.client.inode())?;
    let stated = clocks::wall_seconds(&opened.deadline.as_ref().context("no deadline")?.time)?;
    println!(
        "\nchecked: connection, namespace, and owner are the ones made here; now waiting for the kernel to give up"
    );
    let error = client.wait_event("error", Duration::from_secs(60))?;
    let gave_up = clocks::wall_of_event(&error)?;
    ensure!(error.get("errno").is_some_and(|errno| errno == 110), "the client got another error: {error}");
    let rto = opened.socket.rto_us.context("no RTO")? as f64 / 1e6;
    println!("checked: the kernel gave up {:+.1} s from the time first stated", gave_up - stated);
    // From the fourth timeout, where it was stated, the RTO doubles three times until the last.
    ensure!((gave_up - stated).abs() <= 8.0 * rto, "the stated time was wrong");
    let closed = finding(&held, "closed")?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "closed as {:?}", closed.outcome);
    println!("checked: the finding was closed as timed_out");
    held.stop(SOON)?;
    Ok(())
}

fn finding(probe: &Probe, state: &str) -> Result<Finding> {
    let is_it = |record: &Value| {
        record.get("type").is_some_and(|kind| kind == "finding") && record.get("state").is_some_and(|is| is == state)
    };
    match wire::read(&probe.wait_record(SOON, is_it)?)?.body {
        Body::Finding(finding) => Ok(*finding),
        other => bail!("no finding: {other:?}"),
    }
}

fn check(finding: &Finding, client: &Peer, netns: u32) -> Result<()> {
    let connection = &finding.connection;
    let (local, remote) = (client.local()?, client.remote()?);
    ensure!((finding.verdict.as_str(), finding.cause.as_str()) == ("retransmit_stalled", "peer_silent"), "{finding:?}");
    ensure!((connection.local.address, connection.local.port) == (local.ip(), local.port()), "{connection:?}");
    ensure!((connection.remote.address, connection.remote.port) == (remote.ip(), remote.port()), "{connection:?}");
    ensure!(connection.netns == netns, "{connection:?}");
    let owner = finding.owner.as_ref().map(|owner| owner.pid);
    ensure!(owner == Some(client.pid()), "owner {owner:?}, but the client is {}", client.pid());
    Ok(())
}
