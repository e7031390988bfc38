//! Makes the golden recordings: two labs, recorded from either vantage while they are told of (`cargo xtask golden --record` runs it in a
//! guest). Prints each file as a line: its name, and its bytes as base64.
#![expect(clippy::print_stdout, reason = "what it prints is its result")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use connprobe_tests::findings::{wait, wait_forwarded};
use connprobe_tests::lab::Lab;
use connprobe_tests::labs::routed::Routed;
use connprobe_tests::netns::Netns;
use connprobe_tests::peer::{Options, Peer};
use connprobe_tests::probe::Probe;

const PORT: u16 = 5672;
/// A guest computes slowly.
const SOON: Duration = Duration::from_secs(90);

fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("connprobe-golden-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let made = silent_peer(&folder).and_then(|()| forwarded_fin(&folder));
    fs::remove_dir_all(&folder)?;
    made
}

/// The kernel gives up after six retransmissions.
fn silent_peer(folder: &Path) -> Result<()> {
    let own = Lab::new("golden endpoint")?;
    let lab = Routed::new(&own)?;
    lab.client.sysctl("net.ipv4.tcp_retries2", "5")?;
    let (_server, client) = connect(&lab)?;
    let recorder = Recorder::start(&lab.client, folder, "retransmit_stalled-endpoint")?;
    lab.cut()?;
    client.command("write 100")?;
    let closed = wait(&recorder.probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:?}");
    recorder.print()
}

/// A rule of a router drops a FIN until it is taken away.
fn forwarded_fin(folder: &Path) -> Result<()> {
    let own = Lab::new("golden forwarder")?;
    let lab = Routed::new(&own)?;
    let (server, client) = connect(&lab)?;
    let recorder = Recorder::start(&lab.router, folder, "silently_dropped_fin-forwarder")?;
    lab.router.nft(
        "table inet drops { chain forward { type filter hook forward priority 0; \
         ct state established counter; tcp flags & fin == fin drop; }; }\n",
    )?;
    server.command("close")?;
    let mut finding = wait_forwarded(&recorder.probe, "opened", SOON)?;
    while finding.confidence != "confirmed" {
        finding = wait_forwarded(&recorder.probe, "updated", SOON)?;
    }
    ensure!(finding.cause == "firewall_drop", "{finding:?}");
    lab.router.nft("delete table inet drops\n")?;
    client.wait_event("eof", SOON)?;
    wait_forwarded(&recorder.probe, "closed", SOON)?;
    recorder.print()
}

fn connect(lab: &Routed) -> Result<(Peer, Peer)> {
    let server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    client.command("write 1000")?;
    client.wait_event("written", SOON)?;
    std::thread::sleep(Duration::from_millis(500));
    Ok((server, client))
}

/// A recorder that reports what it records.
struct Recorder {
    probe: Probe,
    name: &'static str,
    file: String,
}

impl Recorder {
    fn start(netns: &Netns, folder: &Path, name: &'static str) -> Result<Self> {
        let file = folder.join(name).display().to_string();
        let inode = netns.inode().to_string();
        let arguments = ["record", "-o", &file, "--netns", &inode, "--follow", "--format", "ndjson"];
        let probe = Probe::start(&arguments)?;
        probe.wait_type("coverage", SOON)?;
        Ok(Self { probe, name, file })
    }

    fn print(self) -> Result<()> {
        let live = self.probe.stop(SOON)?;
        let recording = fs::read(&self.file).with_context(|| live.stderr.clone())?;
        let inputs = live.stderr.lines().next().unwrap_or_default();
        for (ending, bytes) in [("rec", recording), ("ndjson", live.stdout.into_bytes())] {
            println!("{}.{ending} {}", self.name, STANDARD.encode(bytes));
        }
        ensure!(inputs.starts_with("connprobe: recorded "), "{inputs}");
        Ok(())
    }
}
