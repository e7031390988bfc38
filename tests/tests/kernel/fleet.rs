//! What several hosts tell of one connection, carried by a real shipper into a real store, and asked there as `docs/fleet` says.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use connprobe_tests::{
    child::ManagedChild,
    daemon::write_settings,
    labs::asymmetric::Asymmetric,
    netns::Netns,
    peer::{Mode, Options, Peer},
    probe::program,
    require::Requirement::{Bridge, Conntrack, Rsyslog as RsyslogThere, Store as StoreThere},
    rsyslog::Rsyslog,
    runner::{Test, TestContext},
    store::{SHIPPED, Store},
    watching::{PORT, SOON, WATCHING},
};
use nix::sys::signal::Signal;
use serde_json::Value;

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

/// A host: a daemon that takes a namespace for its host and writes a file, and an rsyslog that sends it on.
struct Host {
    name: &'static str,
    folder: PathBuf,
    daemon: ManagedChild,
    rsyslog: Rsyslog,
}

impl Host {
    fn start(name: &'static str, netns: &Netns, collector: &str, folder: &Path) -> Result<Self> {
        let folder = folder.join(name);
        fs::create_dir(&folder)?;
        let settings = write_settings(&folder, netns, "stdout = false\nfile = \"FOLDER/events.ndjson\"\n")?;
        // Hosts are told apart by their names; in a UTS namespace of its own each has one.
        let mut command = Command::new("unshare");
        command.args(["--uts", "sh", "-c", "hostname \"$0\" && exec \"$@\"", name]).arg(program()?);
        command.arg("daemon").arg("--config").arg(settings).stderr(fs::File::create(folder.join("daemon.stderr"))?);
        let daemon = ManagedChild::spawn(command)?;
        let own = folder.display().to_string();
        let replace = [
            ("/var/log/connprobe", own.as_str()),
            ("/var/spool/rsyslog", own.as_str()),
            ("collector.example", collector),
        ];
        let rsyslog = Rsyslog::start(netns, &folder, "rsyslog.conf", &replace)?;
        Ok(Self { name, folder, daemon, rsyslog })
    }

    /// All that the daemon has written, line by line.
    fn lines(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for file in ["events.ndjson.1", "events.ndjson"] {
            let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
            // One that is being written is not whole yet.
            lines.extend(text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned));
        }
        Ok(lines)
    }

    fn records(&self) -> Result<Vec<Value>> {
        self.lines()?.iter().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let end = Instant::now() + SOON;
        loop {
            let records = self.records()?;
            if records.iter().any(&wanted) {
                return Ok(());
            }
            let errors = fs::read_to_string(self.folder.join("daemon.stderr"))?;
            let told: Vec<_> =
                records.iter().filter_map(|record| Some((record.get("verdict")?, record.get("cause")?))).collect();
            ensure!(Instant::now() < end, "{} tells of no {what}, but of {told:?}\n{errors}", self.name);
            sleep(Duration::from_millis(100));
        }
    }

    fn wait_verdict(&self, verdict: &str, port: u16) -> Result<()> {
        let port = Value::from(port);
        self.wait(&format!("{verdict} at port {port}"), |record| {
            let has_port = |end: &str| record.pointer(&format!("/connection/{end}/port")) == Some(&port);
            record.get("verdict").is_some_and(|is| is == verdict)
                && ["local", "remote", "initiator", "responder"].into_iter().any(has_port)
        })
    }

    /// Where a segment is dropped comes after that it is, on a starved host.
    fn wait_drop_place(&self, verdict: &str) -> Result<()> {
        self.wait(&format!("place of a drop of {verdict}"), |record| {
            record.get("verdict").is_some_and(|is| is == verdict)
                && record.get("evidence").is_some_and(|evidence| evidence.to_string().contains("\"drop_place\""))
        })
    }

    /// As logrotate does, while rsyslog reads; until what is in the new file arrives, for rsyslog leaves the older one then.
    fn turn_over(&self, spool: &Path) -> Result<()> {
        let file = self.folder.join("events.ndjson");
        fs::rename(&file, self.folder.join("events.ndjson.1"))?;
        self.daemon.signal(Signal::SIGHUP)?;
        let end = Instant::now() + SOON;
        loop {
            let text = fs::read_to_string(&file).unwrap_or_default();
            if let Some((line, _)) = text.split_once('\n')
                && spooled(spool)?.iter().any(|arrived| arrived == line)
            {
                return Ok(());
            }
            ensure!(Instant::now() < end, "nothing of the new file of {} arrives", self.name);
            sleep(Duration::from_millis(100));
        }
    }

    fn stop(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGTERM)?;
        let status = self.daemon.wait(SOON)?;
        ensure!(status.success(), "the daemon of {} ended with {status}", self.name);
        Ok(())
    }
}

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

/// What is asked at three in the morning, while everything fails.
fn answers(store: &Store) -> Result<()> {
    let hosts =
        column(store, "SELECT host FROM connprobe.hosts WHERE status IN ('ok', 'losing', 'degraded') ORDER BY host")?;
    ensure!(
        hosts == ["compute-1", "controller-1", "firewall-1"],
        "{:#?}",
        store.rows("SELECT * FROM connprobe.hosts")?
    );
    let open =
        column(store, "SELECT concat(host, ' ', verdict) AS finding FROM connprobe.open_findings ORDER BY finding")?;
    let expected = [
        "compute-1 retransmit_stalled",
        "compute-1 silently_dropped_fin",
        "compute-1 zero_window_stalled",
        "controller-1 retransmit_stalled",
        "firewall-1 asymmetric_handshake",
        "firewall-1 silently_dropped_fin",
    ];
    ensure!(open == expected, "{open:?}");
    let connections = column(store, "SELECT arrayStringConcat(hosts, ' ') FROM connprobe.connections ORDER BY begin")?;
    ensure!(connections.len() == 3, "what has nothing to do with each other does not meet: {connections:?}");

    let several = store.rows("SELECT * FROM connprobe.seen_from_several_hosts ORDER BY length(hosts)")?;
    let [fin, silent] = several.as_slice() else { bail!("{several:#?}") };
    ensure_says(fin, "told", "compute-1: silently_dropped_fin/unacknowledged_fin")?;
    ensure_says(fin, "told", "firewall-1 (forwards it): silently_dropped_fin/firewall_drop")?;
    ensure_says(fin, "dropped_on", "firewall-1: NETFILTER_DROP by inet firewall forward: tcp dport 5673")?;
    ensure_says(silent, "told", "compute-1: retransmit_stalled/peer_silent")?;
    ensure_says(silent, "told", "controller-1: retransmit_stalled/peer_silent")?;
    ensure_says(silent, "told", "firewall-1 (forwards it): asymmetric_handshake/embryonic_expired")?;
    ensure_says(silent, "dropped_on", "firewall-1: NETFILTER_DROP by inet firewall")?;
    ensure_says(silent, "owners", "controller-1 connprobe-peer")?;

    let drops = column(store, "SELECT DISTINCT host FROM connprobe.drops_by_rule")?;
    ensure!(drops == ["firewall-1"], "{drops:?}");
    let causes = column(
        store,
        "SELECT concat(cause, ' ', peer, ' ', toString(service_port), ' ', owner) FROM connprobe.causes_by_day \
         WHERE cause = 'peer_silent' AND service_port = 5672 ORDER BY peer",
    )?;
    ensure!(
        causes == ["peer_silent 10.78.1.1 5672 connprobe-peer", "peer_silent 10.78.2.1 5672 connprobe-peer"],
        "{causes:?}"
    );
    documented(store)?;
    for nothing in ["missing_records", "rejected"] {
        let rows = store.rows(&format!("SELECT * FROM connprobe.{nothing}"))?;
        ensure!(rows.is_empty(), "{nothing}: {rows:#?}");
    }
    Ok(())
}

/// Each query of the document is one that the store takes, and those about what is in limbo have an answer.
fn documented(store: &Store) -> Result<()> {
    let document = fs::read_to_string(Path::new(SHIPPED).join("README.md"))?;
    let blocks = document.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut answered = 0;
    for query in blocks.flat_map(|block| block.split_terminator(";\n").flat_map(|line| line.split("; "))) {
        let query = query.replace("FORMAT Vertical", "").replace('…', "00000000-0000-0000-0000-000000000000");
        answered += usize::from(!store.rows(&query)?.is_empty());
    }
    println!("{answered} of the document's queries have an answer");
    ensure!(answered >= 4, "{answered}");
    Ok(())
}

/// What a fleet's records are like now and then.
fn unusual(store: &Store, written: &[String]) -> Result<()> {
    const STATES: &str = "SELECT * EXCEPT (received) FROM connprobe.current_findings ORDER BY finding_id";
    const CONNECTIONS: &str = "SELECT * FROM connprobe.connections ORDER BY community_id";
    // When they came is what has changed.
    const HOSTS: &str =
        "SELECT * EXCEPT (last_heartbeat, last_coverage, late_seconds) FROM connprobe.hosts ORDER BY host";
    let state = || Ok::<_, anyhow::Error>((store.rows(STATES)?, store.rows(CONNECTIONS)?, store.rows(HOSTS)?));
    let before = state()?;
    let last_first: Vec<String> = written.iter().rev().cloned().collect();
    store.insert(&last_first)?;
    ensure!(before == state()?, "out of order and again, it is the same");

    let finding = |host: &str| -> Result<Value> {
        let of = |record: &Value| record.pointer("/host/name").is_some_and(|name| name == host);
        let stalled = ["retransmit_stalled", "asymmetric_handshake"];
        let records = written.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut findings = records.filter(|record| of(record) && stalled.contains(&text(record, "verdict").as_str()));
        findings.next_back().with_context(|| format!("no finding of {host}"))
    };
    // Fields of a later version, and records of one, beside what is no record at all; and the end comes before what was before it.
    let mut closed = finding("compute-1")?;
    let id = text(&closed, "finding_id");
    set(&mut closed, &[("/state", "closed".into()), ("/outcome", "recovered".into()), ("/seq", 1001.into())])?;
    let mut late = finding("compute-1")?;
    set(&mut late, &[("/state", "updated".into()), ("/seq", 1000.into()), ("/connection/netns", Value::Null)])?;
    for (field, value) in [("novelty", serde_json::json!({"of": ["a later version"]})), ("owner", Value::Null)] {
        late.as_object_mut().context("no object")?.insert(field.to_owned(), value);
    }
    let novel =
        r#"{"schema":"connprobe/1","type":"novelty","time":"2026-11-20T21:24:01Z","host":{"name":"novel-1"},"seq":7}"#;
    let later = novel.replace("connprobe/1", "connprobe/10");
    // In the place of what a sink has lost stands a record that says so.
    let lost = r#"{"schema":"connprobe/1","type":"coverage","time":"2026-11-20T21:24:01Z","host":{"name":"losing-1"},"seq":0}
{"schema":"connprobe/1","type":"loss","place":"sink","time":"2026-11-20T21:24:02Z","host":{"name":"losing-1"},"seq":1}
{"schema":"connprobe/1","type":"summary","time":"2026-11-20T21:24:03Z","host":{"name":"losing-1"},"seq":2}"#;
    let mut lines = vec![closed.to_string(), late.to_string(), "no record".to_owned(), "{\"cut\": tr".to_owned()];
    lines.extend([novel.to_owned(), later.clone()].into_iter().chain(lost.lines().map(str::to_owned)));
    store.insert(&lines)?;
    let state = column(
        store,
        &format!("SELECT concat(status, ' ', outcome) FROM connprobe.current_findings WHERE finding_id = '{id}'"),
    )?;
    ensure!(state == ["closed recovered"], "{state:?}");
    let kept = column(store, "SELECT host FROM connprobe.records WHERE type = 'novelty'")?;
    ensure!(kept == ["novel-1"], "{kept:?}");
    let rejected = column(store, "SELECT line FROM connprobe.rejected ORDER BY line")?;
    ensure!(rejected == ["no record", "{\"cut\": tr", later.as_str()], "{rejected:?}");
    let missing = column(
        store,
        "SELECT concat(host, if(missing > 900, ' lacks many', ' lacks few')) FROM connprobe.missing_records ORDER BY host",
    )?;
    ensure!(missing == ["compute-1 lacks many", "losing-1 lacks few"], "{missing:?}");

    // The daemon of a host begins anew without a last word, once without what it knew and once with it.
    let id = "00000000-0000-4000-8000-000000000090";
    let run = |number: u8| Value::from(format!("00000000-0000-4000-8000-0000000001{number:02}"));
    let mut begins_anew = finding("compute-1")?;
    let host = ("/host/name", Value::from("anew-1"));
    set(&mut begins_anew, &[host, ("/finding_id", id.into()), ("/state", "opened".into()), ("/run_id", run(1))])?;
    let coverage = format!(
        r#"{{"schema":"connprobe/1","type":"coverage","time":"2100-01-01T00:00:00Z","host":{{"name":"anew-1"}},"run_id":{},"seq":0}}"#,
        run(2)
    );
    let status = format!("SELECT concat(status, ' ', state) FROM connprobe.current_findings WHERE finding_id = '{id}'");
    store.insert(&[begins_anew.to_string(), coverage])?;
    ensure!(column(store, &status)? == ["abandoned opened"], "{:?}", column(store, &status)?);
    let now = column(store, "SELECT formatDateTime(now('UTC') + INTERVAL 1 MINUTE, '%FT%TZ')")?.concat();
    let again = [("/state", "updated".into()), ("/run_id", run(2)), ("/seq", 1.into()), ("/time", now.into())];
    set(&mut begins_anew, &again)?;
    store.insert(&[begins_anew.to_string()])?;
    ensure!(column(store, &status)? == ["open updated"], "{:?}", column(store, &status)?);

    // Two on the way translate: three names of one connection. The same ports at another time are another connection.
    let mut lines = Vec::new();
    let mut add = |from: &str, host: &str, number: u8, changes: &[(&str, Value)]| -> Result<()> {
        let mut record = finding(from)?;
        let id = format!("00000000-0000-4000-8000-0000000000{number:02}");
        set(&mut record, &[("/host/name", host.into()), ("/finding_id", id.into())])?;
        set(&mut record, changes)?;
        lines.push(record.to_string());
        Ok(())
    };
    let name = |name: &str| ("/connection/community_id", Value::from(name));
    let translated = |name: &str| ("/connection/translated", serde_json::json!({"community_id": name}));
    add("compute-1", "client-1", 1, &[name("1:first")])?;
    add("firewall-1", "gateway-1", 2, &[name("1:first"), translated("1:second")])?;
    add("firewall-1", "node-1", 3, &[name("1:second"), translated("1:third")])?;
    add("controller-1", "server-1", 4, &[name("1:third")])?;
    let earlier = column(store, "SELECT formatDateTime(now('UTC') - INTERVAL 2 HOUR, '%FT%TZ')")?;
    let earlier = Value::from(earlier.concat());
    let then = [("/time", earlier.clone()), ("/since", earlier)];
    add("controller-1", "server-2", 5, &[&[name("1:third")], &then[..]].concat())?;
    // What stood before the same name at another time.
    add("firewall-1", "gateway-2", 6, &[&[name("1:earlier"), translated("1:near")], &then[..]].concat())?;
    add("firewall-1", "node-2", 7, &[name("1:near"), translated("1:far")])?;
    add("controller-1", "server-3", 8, &[name("1:far")])?;
    store.insert(&lines)?;
    let met = column(
        store,
        "SELECT concat(community_id, ' ', arrayStringConcat(hosts, ' ')) FROM connprobe.connections \
         WHERE hasAny(hosts, ['server-1', 'server-2', 'server-3']) ORDER BY community_id",
    )?;
    let expected = ["1:first client-1 gateway-1 node-1 server-1", "1:near node-2 server-3", "1:third server-2"];
    ensure!(met == expected, "{met:?}");

    // A host of which nothing has come for ten minutes: what it told of last is not known to be so.
    store.rows(
        "INSERT INTO connprobe.last_records SELECT received - 600, time - 600, type, 'server-1', boot_id, run_id, seq, record, version \
         FROM connprobe.last_records FINAL WHERE host = 'controller-1' AND type IN ('heartbeat', 'coverage')",
    )?;
    let silent = column(store, "SELECT host FROM connprobe.hosts WHERE status = 'silent'")?;
    ensure!(silent.contains(&"server-1".to_owned()), "{silent:?}");
    Ok(())
}

/// Changes what stands at these places.
fn set(record: &mut Value, changes: &[(&str, Value)]) -> Result<()> {
    for (place, value) in changes {
        *record.pointer_mut(place).with_context(|| format!("there is no {place}"))? = value.clone();
    }
    Ok(())
}

fn ensure_says(row: &Value, column: &str, what: &str) -> Result<()> {
    let said = row.get(column).and_then(Value::as_array).context("no such column")?;
    let is_it = |text: &Value| text.as_str().is_some_and(|text| text.starts_with(what));
    ensure!(said.iter().any(is_it), "no {what:?} in {row:#}");
    Ok(())
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
