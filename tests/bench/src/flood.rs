//! A flood of forged SYNs at a listening port.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use connprobe_tests::{lab::Lab, labs::routed::Routed};
use etherparse::PacketBuilder;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
use serde_json::Value;

use crate::counters::Counters;
use crate::effort::{Effort, progress};
use crate::load::count;
use crate::table::Table;
use crate::watcher::{Reading, Watcher};

/// The port that is flooded, and the one of the connection that stalls.
const FLOODED: u16 = 80;
const STALLED: u16 = 9_000;
/// Whoever a forged SYN claims to come from. Its router throws away what is sent there.
const FORGED: &str = "blackhole 10.99.0.0/16";

pub(crate) fn measure(effort: Effort) -> Result<Table> {
    let duration = Duration::from_secs(if effort.quick { 5 } else { 20 });
    progress("flood");
    let own = Lab::new("flood")?;
    let lab = Routed::new(&own)?;
    lab.router.add_route(FORGED)?;
    let listener = lab.server.run(|| TcpListener::bind(("0.0.0.0", FLOODED)))??;
    let accepting = lab.server.run(|| TcpListener::bind(("0.0.0.0", STALLED)))??;
    let client = lab.client.run(|| TcpStream::connect(Routed::server_v4(STALLED)))??;
    let mut server = accepting.accept()?.0;
    let watcher = Watcher::daemon(&lab.server, &["--heartbeat-every", "1s"], Reading::Counted)?;

    // Only what comes back to this connection is lost.
    lab.router.nft(&format!(
        "table inet cut {{ chain forward {{ type filter hook forward priority 0; tcp sport {STALLED} drop; tcp dport {STALLED} drop; }}; }}\n"
    ))?;
    server.write_all(&[1; 100])?;
    let opened = wait_opened(&watcher)?;

    let quiet = watcher.next_heartbeat()?;
    let (rss_before, cpu, counters) = (watcher.resident()?, watcher.cpu()?, Counters::read(&lab.server)?);
    let start = Instant::now();
    let (sent, rss_most) = thread::scope(|scope| -> Result<(u64, u64)> {
        let flood = scope.spawn(|| lab.router.run(|| forge(duration))?);
        let mut most = rss_before;
        while !flood.is_finished() {
            most = most.max(watcher.resident()?);
            thread::sleep(Duration::from_millis(200));
        }
        Ok((flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??, most))
    })?;
    let wall = start.elapsed().as_secs_f64();
    let cpu = watcher.cpu()?.saturating_sub(cpu);
    let after = watcher.next_heartbeat()?;
    let received = Counters::read(&lab.server)?;
    let closed_early = watcher.is_closed(&opened);
    lab.heal()?;
    let healed = wait_closed(&watcher, &opened);
    let findings = number(&after, "/findings")?;
    watcher.stop()?;
    drop((listener, client));
    Ok(Table {
        title: "SYN flood",
        how: "One thread forges SYNs, each from another address and port, to a listening port in another namespace; nobody answers the SYN-ACKs. A connection of that \
              namespace had stalled before."
            .to_owned(),
        head: vec!["measure", "target", "measured"],
        rows: [
            ("SYNs a second", "100k", format!("{:.0}", count(sent) / wall)),
            (
                "of those, answered by a cookie",
                "",
                format!("{:.0} a second", count(received.since(&counters, "TcpExt.SyncookiesSent")) / wall),
            ),
            ("events a second", "bounded", format!("{:.0}", count(events(&after, "emitted")? - events(&quiet, "emitted")?) / wall)),
            ("held back a second", "", format!("{:.0}", count(events(&after, "suppressed")? - events(&quiet, "suppressed")?) / wall)),
            ("lost", "", (events(&after, "lost")? - events(&quiet, "lost")?).to_string()),
            ("findings but that of the connection", "0", (findings - 1).to_string()),
            ("open cases afterwards", "bounded", number(&after, "/open_cases")?.to_string()),
            ("memory before, at most, MB", "bounded", format!("{:.0}, {:.0}", count(rss_before) / 1e6, count(rss_most) / 1e6)),
            ("watcher's own CPU", "", format!("{:.1} %", 100.0 * cpu.as_secs_f64() / wall)),
            ("the connection's finding during the flood", "stays", if closed_early { "closed" } else { "stays" }.to_owned()),
            ("the same when its path was healed", "recovered", healed),
        ]
        .map(|(what, target, measured)| vec![what.to_owned(), target.to_owned(), measured])
        .into(),
        notes: Vec::new(),
    })
}

fn number(record: &Value, pointer: &str) -> Result<u64> {
    record.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("a heartbeat without {pointer}"))
}

fn events(heartbeat: &Value, what: &str) -> Result<u64> {
    let hooks = heartbeat.pointer("/hooks").and_then(Value::as_array).context("a heartbeat without hooks")?;
    Ok(hooks.iter().filter_map(|hook| hook.get(what)?.as_u64()).sum())
}

/// The identity of the first finding.
fn wait_opened(watcher: &Watcher) -> Result<String> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if let Some((_, line)) = watcher.opened().first() {
            let record: Value = serde_json::from_str(line)?;
            let id = record.get("finding_id").and_then(Value::as_str).context("a finding without an identity")?;
            return Ok(id.to_owned());
        }
        thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!("the connection that stalled was not told")
}

/// How the finding ended.
fn wait_closed(watcher: &Watcher, id: &str) -> String {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if let Some(outcome) = watcher.outcome(id) {
            return outcome;
        }
        thread::sleep(Duration::from_millis(100));
    }
    "left open for a minute".to_owned()
}

/// Sends SYNs for so long, and returns how many.
fn forge(duration: Duration) -> Result<u64> {
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    let std::net::SocketAddr::V4(to) = Routed::server_v4(FLOODED) else { anyhow::bail!("the lab has IPv4") };
    let (target, start) = (SockaddrIn::from(to), Instant::now());
    let mut packet = Vec::with_capacity(64);
    let mut sent: u32 = 0;
    while !sent.is_multiple_of(64) || start.elapsed() < duration {
        sent = sent.wrapping_add(1);
        let [_, high, low, last] = sent.to_be_bytes();
        // Of addresses 2^16, and of ports enough for each SYN to be another connection's.
        let from = Ipv4Addr::new(10, 99, low, last);
        packet.clear();
        let syn = PacketBuilder::ipv4(from.octets(), to.ip().octets(), 64)
            .tcp(20_000 + u16::from(high), FLOODED, sent, 65_535)
            .syn();
        syn.write(&mut packet, &[]).context("a SYN cannot be written")?;
        sendto(raw.as_raw_fd(), &packet, &target, MsgFlags::empty()).context("a SYN cannot be sent")?;
    }
    Ok(u64::from(sent))
}
