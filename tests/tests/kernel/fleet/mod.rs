//! What several hosts tell of one connection, carried by a real shipper into a real store, and asked there as `docs/fleet` says.

mod answers;
mod host;
mod unusual;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    labs::asymmetric::Asymmetric,
    peer::{Mode, Options, Peer},
    require::Requirement::{Bridge, Conntrack, Rsyslog as RsyslogThere, Store as StoreThere},
    rsyslog::Rsyslog,
    runner::{Test, TestContext},
    store::Store,
    watching::{PORT, SOON, WATCHING},
};
use serde_json::Value;

use answers::answers;
use host::Host;
use unusual::unusual;

pub(crate) fn tests() -> Vec<Test> {
    let shipped = [WATCHING, &[Conntrack, Bridge, RsyslogThere, StoreThere]].concat();
    vec![
        Test::new("what both ends and the firewall between them tell meets in the fleet's store", &shipped, fleet)
            .not_shared(),
    ]
}

/// Lets a connection pass for three seconds after its SYN, for it sees no SYN-ACK of it, and nothing that comes back; and drops the FINs
/// of another.
const FIREWALL: &str = "table inet firewall { \
    set known { type ipv4_addr . inet_service; flags timeout; size 1024; }; \
    chain raw { type filter hook prerouting priority -400; iifname \"outside\" tcp sport 5672 drop; }; \
    chain early { type filter hook forward priority -1; ct state established accept; }; \
    chain first { \
    tcp flags & (fin|syn|rst|ack) == syn add @known { ip saddr . tcp sport timeout 3s } accept; \
    ip saddr . tcp sport @known accept; drop; }; \
    chain forward { type filter hook forward priority 0; \
    tcp dport 5673 tcp flags & fin == fin drop; tcp dport 5672 jump first; }; }\n";

const FIN_PORT: u16 = 5673;

fn fleet(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Asymmetric::new(&own)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path();
    let spool = path.join("spool");
    fs::create_dir(&spool)?;
    let spool_text = spool.display().to_string();
    let replace = [("/var/spool/connprobe", spool_text.as_str())];
    let collector = Rsyslog::start(&lab.firewall, &path.join("collector"), "rsyslog-collector.conf", &replace)?;
    let compute = Host::start("compute-1", &lab.compute, "10.78.1.254", path)?;
    let firewall = Host::start("firewall-1", &lab.firewall, "127.0.0.1", path)?;
    let mut controller = Host::start("controller-1", &lab.controller, "10.78.2.254", path)?;
    let store = Store::start(path)?;
    store.set_up()?;
    for host in [&compute, &firewall, &controller] {
        host.wait("heartbeat", |record| record.get("type").is_some_and(|is| is == "heartbeat"))?;
    }

    let connections = fail(&lab, &compute, &firewall, &mut controller, &spool)?;
    let hosts = [compute, firewall, controller];
    let lines = || Ok::<_, anyhow::Error>(hosts.iter().map(Host::lines).collect::<Result<Vec<_>>>()?.concat());
    store.insert(&lines()?)?;
    answers(&store)?;
    for host in &hosts {
        host.stop()?;
    }
    drop(connections);
    let written = lines()?;
    let arrived = wait_spooled(&spool, written.len())?;
    collector.stop()?;
    // Each line has arrived as it was, turning over, restart and all. RELP may send one again whose acknowledgment it has missed.
    let (distinct, lines) = (arrived.iter().collect::<BTreeSet<_>>(), written.iter().collect::<BTreeSet<_>>());
    ensure!(distinct == lines, "of {} lines {} have arrived", lines.len(), distinct.len());
    println!("{} lines of {} bytes arrived as {}", lines.len(), written.concat().len(), arrived.len());

    store.load(&spool)?;
    ensure!(spooled(&spool)?.is_empty(), "what is loaded is gone");
    let kept = store.rows("SELECT record FROM connprobe.records FINAL")?;
    let kept: Vec<String> = kept.iter().map(|row| text(row, "record")).collect();
    // Most of them have come a second time.
    ensure!(sorted(&kept) == sorted(&written), "{} of {} lines are in the store", kept.len(), written.len());
    ensure!(column(&store, "SELECT DISTINCT status FROM connprobe.hosts")? == ["stopped"], "all were stopped");
    let left = column(&store, "SELECT status FROM connprobe.current_findings")?;
    ensure!(left.len() == 6 && left.iter().all(|status| status == "left_open"), "{left:?}");
    for folder in hosts.iter().map(|host| host.folder.as_path()).chain([spool.as_path()]) {
        ensure!(!folder.join("not-records").exists(), "a record was taken for none in {}", folder.display());
    }
    unusual(&store, &written)
}

/// The two failures, and one that only one host can tell of.
fn fail(lab: &Asymmetric, compute: &Host, firewall: &Host, controller: &mut Host, spool: &Path) -> Result<Vec<Peer>> {
    // What belongs to the second connection goes through the firewall in both directions.
    lab.controller.ip(&format!(
        "rule add from 10.78.2.1 ipproto tcp sport {FIN_PORT} table 100\nroute add default via 10.78.2.254 table 100\n"
    ))?;
    lab.firewall.nft(FIREWALL)?;
    let talking = Options { write_every: Some(Duration::from_secs(1)), write_bytes: 10, ..Options::default() };
    let forgotten_server = Peer::listen(&lab.controller, Asymmetric::controller_address(PORT), &Options::default())?;
    let forgotten = Peer::connect(&lab.compute, Asymmetric::controller_address(PORT), &talking)?;
    let server = Peer::listen(&lab.controller, Asymmetric::controller_address(FIN_PORT), &Options::default())?;
    let client = Peer::connect(&lab.compute, Asymmetric::controller_address(FIN_PORT), &Options::default())?;
    client.command("write 100")?;
    client.wait_event("written", SOON)?;
    // Nobody reads: no fault of the path, and no other host sees it.
    let nearby = ([127, 0, 0, 1], 7000).into();
    let mute = Peer::listen(&lab.compute, nearby, &Options { mode: Mode::Mute, ..Options::default() })?;
    let writer = Peer::connect(&lab.compute, nearby, &Options::default())?;
    writer.command("write 20000000")?;
    sleep(Duration::from_millis(1500));
    client.command("close")?;
    // The way back that did not lead through the firewall is gone: neither end hears the other any more.
    lab.controller.ip("link set shared down\n")?;

    firewall.wait_verdict("asymmetric_handshake", PORT)?;
    forgotten_server.command("write 100")?;
    controller.turn_over(spool)?;
    controller.rsyslog.restart()?;
    firewall.wait_verdict("silently_dropped_fin", FIN_PORT)?;
    firewall.wait_drop_place("silently_dropped_fin")?;
    firewall.wait_drop_place("asymmetric_handshake")?;
    compute.wait_verdict("silently_dropped_fin", FIN_PORT)?;
    compute.wait_verdict("retransmit_stalled", PORT)?;
    compute.wait_verdict("zero_window_stalled", 7000)?;
    controller.wait("finding", |record| record.get("verdict").is_some())?;
    Ok(vec![forgotten_server, forgotten, server, client, mute, writer])
}

/// The answers to a query of one column.
fn column(store: &Store, query: &str) -> Result<Vec<String>> {
    let first = |row: &Value| row.as_object().and_then(|row| row.values().next()?.as_str().map(str::to_owned));
    store.rows(query)?.iter().map(|row| first(row).with_context(|| row.to_string())).collect()
}

fn text(row: &Value, column: &str) -> String {
    row.get(column).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn sorted(lines: &[String]) -> Vec<&str> {
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines.sort_unstable();
    lines
}

/// What the collector has written, once it is as many lines.
fn wait_spooled(spool: &Path, lines: usize) -> Result<Vec<String>> {
    let end = Instant::now() + SOON;
    loop {
        let spooled = spooled(spool)?;
        if spooled.iter().collect::<BTreeSet<_>>().len() >= lines || Instant::now() > end {
            return Ok(spooled);
        }
        sleep(Duration::from_millis(100));
    }
}

fn spooled(spool: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(spool)? {
        let path = entry?.path();
        if path.extension().is_some_and(|is| is == "ndjson") {
            lines.extend(fs::read_to_string(path)?.lines().map(str::to_owned));
        }
    }
    Ok(lines)
}
