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
    clocks, findings,
    lab::Lab,
    labs::routed::Routed,
    peer::{Options, Peer},
    probe::{self, Probe},
    require::{
        self,
        Requirement::{Bpf, Btf, Netns, Nft, Root, Veth},
    },
};

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

    let opened = findings::wait(&held, "opened", SOON)?;
    ensure!((opened.verdict.as_str(), opened.cause.as_str()) == ("retransmit_stalled", "peer_silent"), "{opened:?}");
    findings::ensure_is_about(&opened, &client, &lab.client)?;
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
    let closed = findings::wait(&held, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "closed as {:?}", closed.outcome);
    println!("checked: the finding was closed as timed_out");
    held.stop(SOON)?;
    Ok(())
}
