//! The daemon: its sinks, its settings and its life.

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use connprobe_tests::{
    daemon::{Daemon, command, records_in, write_settings},
    findings::wait as finding,
    http::{get, metric},
    labs::routed::Routed,
    peer::Options,
    probe::{Probe, program},
    require::Requirement::{Promtool, SystemdAnalyze},
    runner::{Test, TestContext},
    server::promtool,
    watching::{SOON, WATCHING, attached, connect, cut_and_write},
    wire::{self, Body, Heartbeat, Record},
};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    let on_any = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    // What they are about is the same on every kernel.
    let test = |name: &str, function| on_any(name, function).not_shared();
    vec![
        test("a daemon writes each failure and its recovery once, while its file is turned over", three_failures),
        on_any("a daemon takes new settings and keeps its cases", reload),
        test("what counts as a stall can be set, also on the way", thresholds),
        test("a daemon survives a full disk and says what it could not write", full_disk),
        test("a reader that stops reading, and one that is killed, keep nobody waiting", bad_readers),
        test("Prometheus is told what is found and how the daemon does", metrics),
        Test::new("the alerts that are handed out fire when they should, and not before", &[Promtool], alerts)
            .not_shared(),
        test(
            "the service manager is told when the programs are attached, that the daemon lives, and that it ends",
            notifies,
        ),
        Test::new("the unit for systemd is right, and leaves the daemon little", &[SystemdAnalyze], unit).not_shared(),
        test("findings that are open when a daemon is stopped are left open", left_open),
        test("settings that are wrong are named, and a second daemon is told of the first", refusals),
    ]
}

/// What became of each finding: its states in order, by cause.
fn stories(records: &[Record]) -> Vec<(String, Vec<String>)> {
    let mut stories: Vec<(String, String, Vec<String>)> = Vec::new();
    for record in records {
        let Body::Finding(finding) = &record.body else { continue };
        let state = finding.outcome.clone().unwrap_or_else(|| finding.state.clone());
        match stories.iter_mut().find(|(id, ..)| *id == finding.finding_id) {
            Some((_, _, states)) => states.push(state),
            None => stories.push((finding.finding_id.clone(), finding.cause.clone(), vec![state])),
        }
    }
    stories.into_iter().map(|(_, cause, states)| (cause, states)).collect()
}

/// A connection stalls, is found, and recovers.
fn stall_and_recover(daemon: &Daemon, lab: &Routed) -> Result<()> {
    let (_server, client) = connect(lab, &Options::default())?;
    cut_and_write(lab, &client)?;
    finding(&daemon.probe, "opened", SOON)?;
    lab.heal()?;
    let closed = finding(&daemon.probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("recovered"), "{closed:?}");
    Ok(())
}

fn three_failures(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    // So small that it is turned over with every few records; all of them are kept.
    let daemon = Daemon::start(&lab.client, "file = \"FOLDER/events\"\nfile_max_size = \"20kB\"\nfile_keep = 100")?;
    for round in 0..3 {
        stall_and_recover(&daemon, &lab)?;
        if round == 1 {
            // As logrotate does.
            fs::rename(daemon.path("events"), daemon.path("events.moved"))?;
            daemon.signal(Signal::SIGHUP)?;
        }
    }
    let (records, folder, stderr) = daemon.stop()?;
    ensure!(stderr.is_empty(), "{stderr}");
    for (cause, states) in stories(&records) {
        ensure!(cause == "peer_silent", "{cause}");
        let [first, .., last] = states.as_slice() else { bail!("{states:?}") };
        ensure!((first.as_str(), last.as_str()) == ("opened", "recovered"), "{states:?}");
        // Confidence, owner and deadline change a few times; it is no stream of repeats.
        ensure!(states.len() < 8, "{states:?}");
    }
    ensure!(stories(&records).len() == 3, "{:?}", stories(&records));
    ensure!(matches!(records.last().map(|record| &record.body), Some(Body::Summary(_))), "{:?}", records.last());
    // Every record is in one of the files, once, and in order within each.
    let mut files: Vec<Vec<Value>> = Vec::new();
    for entry in fs::read_dir(folder.path())? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("events")) {
            ensure!(fs::metadata(&path)?.permissions().mode() & 0o777 == 0o640, "{}", path.display());
            files.push(records_in(&path)?);
        }
    }
    ensure!(files.len() > 2, "it was turned over");
    let mut written = files.concat();
    written.sort_by_key(|record| record.get("seq").and_then(Value::as_u64));
    ensure!(wire::read_all(&written)?.len() == records.len(), "{} of {}", written.len(), records.len());
    Ok(())
}

fn reload(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let daemon = Daemon::start(&lab.client, "ports = [1]")?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    sleep(Duration::from_secs(6));
    // Wrong settings change nothing.
    daemon.reload("ports = [5672]\nprots = [1]")?;
    daemon.probe.wait_stderr("unknown field `prots`", SOON)?;
    daemon.reload("ports = [5672]\nfile = \"FOLDER/events\"")?;
    attached(&daemon.probe)?;
    // It is found although it began to wait before the filter let it through.
    finding(&daemon.probe, "opened", SOON)?;
    daemon.reload("ports = [5672, 1]\nfile = \"FOLDER/events\"")?;
    attached(&daemon.probe)?;
    lab.heal()?;
    let closed = finding(&daemon.probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("recovered"), "the case was kept: {closed:?}");
    let (records, folder, _) = daemon.stop()?;
    ensure!(stories(&records).len() == 1, "{:?}", stories(&records));
    let written = records_in(&folder.path().join("events"))?;
    ensure!(written.len() > 3 && written.len() < records.len(), "it writes from its first settings on");
    Ok(())
}

fn thresholds(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let late = "[thresholds]\nretransmits_suspected = 9\nretransmits_confirmed = 10\n";
    let daemon = Daemon::start(&lab.client, late)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    // The default would have told of it after 3 s.
    sleep(Duration::from_secs(7));
    let heartbeat = daemon.heartbeat(|heartbeat| heartbeat.watched_seconds > 7.0)?;
    ensure!((heartbeat.findings, heartbeat.open_cases) == (0, 1), "{heartbeat:?}");
    daemon.reload("")?;
    let found = finding(&daemon.probe, "opened", SOON)?;
    ensure!(found.cause == "peer_silent", "{found:?}");
    daemon.stop()?;
    Ok(())
}

/// A file system of its own size, gone with this.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, size: &str) -> Result<Self> {
        fs::create_dir(&path)?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path))?;
        Ok(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn full_disk(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let small = tempfile::tempdir()?;
    let disk = SmallDisk::mount(small.path().join("disk"), "16k")?;
    let daemon = Daemon::start(&lab.client, &format!("file = \"{}/events\"", disk.0.display()))?;
    let is_failing = |heartbeat: &Heartbeat| heartbeat.sinks.iter().any(|sink| sink.failing.is_some());
    let heartbeat = daemon.heartbeat(is_failing)?;
    let sink = heartbeat.sinks.iter().find(|sink| sink.sink.starts_with("file ")).context("no file")?;
    ensure!(sink.failing.as_ref().is_some_and(|why| why.contains("No space left")), "{sink:?}");
    let other = heartbeat.sinks.iter().find(|sink| sink.sink == "stdout").context("no stdout")?;
    ensure!(other.dropped == 0 && other.failing.is_none(), "{other:?}");
    let before = records_in(&disk.0.join("events"))?;
    run(Command::new("mount").args(["-o", "remount,size=1m"]).arg(&disk.0))?;
    daemon.heartbeat(|heartbeat| !is_failing(heartbeat))?;
    let path = disk.0.join("events");
    let (_, _, stderr) = daemon.stop()?;
    ensure!(stderr.lines().count() == 2, "one word when it fails and one when it is over: {stderr}");
    let after = records_in(&path)?;
    let seq = |record: &Value| record.get("seq").and_then(Value::as_u64);
    let loss = after.get(before.len()).context("nothing was written any more")?;
    ensure!(loss.get("place").is_some_and(|place| place == "sink"), "{loss}");
    let (lost, last) = (loss.get("count").and_then(Value::as_u64), before.last().and_then(seq));
    ensure!(lost.is_some() && seq(loss) == last.zip(lost).map(|(last, lost)| last + lost), "{last:?}: {loss}");
    for record in &after {
        wire::read(record)?;
    }
    Ok(())
}

fn bad_readers(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let daemon = Daemon::start(&lab.client, "unix_socket = \"FOLDER/socket\"")?;
    let socket = daemon.path("socket");
    ensure!(fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o660, "its owner's and its group's");
    // One that never reads, one that is killed, one that reads.
    let _silent = UnixStream::connect(&socket)?;
    let mut killed =
        Command::new("sleep").arg("60").stdin(std::os::fd::OwnedFd::from(UnixStream::connect(&socket)?)).spawn()?;
    let mut reader = UnixStream::connect(&socket)?;
    daemon.heartbeat(|_| true)?;
    killed.kill()?;
    killed.wait()?;
    stall_and_recover(&daemon, &lab)?;
    let (records, _folder, _) = daemon.stop()?;
    ensure!(!socket.exists(), "the socket is left behind");
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    let read = text.lines().map(|line| wire::read(&serde_json::from_str(line)?)).collect::<Result<Vec<_>>>()?;
    let first = read.first().context("nothing was read")?.seq;
    let expected: Vec<_> = records.iter().map(|record| record.seq).filter(|seq| *seq >= first).collect();
    ensure!(read.iter().map(|record| record.seq).eq(expected), "it has read everything from when it connected");
    ensure!(stories(&read).len() == 1, "{:?}", stories(&read));
    Ok(())
}

fn notifies(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let folder = tempfile::tempdir()?;
    let manager = UnixDatagram::bind(folder.path().join("notify"))?;
    manager.set_read_timeout(Some(SOON))?;
    let mut command = command()?;
    command.arg("--config").arg(write_settings(folder.path(), &lab.client, "")?);
    command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("WATCHDOG_USEC", "30000000");
    let probe = Probe::start_command(command)?;
    let said = || -> Result<String> {
        let mut buffer = [0; 1024];
        let bytes = manager.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(buffer.get(..bytes).unwrap_or_default()).trim().to_owned())
    };
    let first = said()?;
    ensure!(first == "READY=1", "{first}");
    attached(&probe)?;
    ensure!(said()? == "WATCHDOG=1" && said()? == "WATCHDOG=1", "it lives");
    probe.interrupt()?;
    while said()? != "STOPPING=1" {}
    ensure!(probe.finish(SOON)?.code == Some(0), "it ends");
    Ok(())
}

fn unit(_: &TestContext) -> Result<()> {
    /// In tenths: systemd's own scale, of which 10 is what has no limits at all. Root with these capabilities has 3 by itself.
    const MOST_EXPOSED: &str = "34";
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("connprobe.service");
    let text = include_str!("../../../probe-user/service/connprobe.service");
    ensure!(text.contains("ExecStart=/usr/bin/connprobe daemon"), "where packages put it");
    fs::write(&path, text.replace("/usr/bin/connprobe", &program()?.display().to_string()))?;
    run(Command::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]).arg(&path))?;
    let threshold = format!("--threshold={MOST_EXPOSED}");
    run(Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager", &threshold]).arg(&path))?;
    let settings = concat!(env!("CARGO_MANIFEST_DIR"), "/../probe-user/service/connprobe.toml");
    let checked = Probe::run(&["daemon", "--config", settings, "--check-config"], SOON)?;
    ensure!(checked.code == Some(0) && checked.stdout.contains("/var/log/connprobe/events.ndjson"), "{checked:?}");
    Ok(())
}

fn metrics(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let daemon = Daemon::start(&lab.client, &format!("metrics_listen = \"{address}\""))?;
    ensure!(get(address, "/healthz")?.0.ends_with("200 OK"), "{:?}", get(address, "/healthz")?);
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    finding(&daemon.probe, "opened", SOON)?;
    daemon.heartbeat(|heartbeat| heartbeat.open_findings == 1)?;
    let of = |name: &str, labels: &[&str]| -> Result<Option<f64>> {
        let (_, text) = get(address, "/metrics")?;
        let is_it = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
        Ok(text.lines().find(is_it).and_then(|line| line.rsplit(' ').next()?.parse().ok()))
    };
    let silent = ["verdict=\"retransmit_stalled\"", "cause=\"peer_silent\""];
    ensure!(of("connprobe_open_findings", &silent)? == Some(1.0), "{}", get(address, "/metrics")?.1);
    ensure!(of("connprobe_findings_total", &silent)? == Some(1.0), "{}", get(address, "/metrics")?.1);
    // Also before the first loss: else nobody could tell it from the beginning of the series.
    let ring = ["place=\"ring\"", "hook=\"tcp_retransmit_skb\""];
    ensure!(of("connprobe_events_lost_total", &ring)? == Some(0.0), "{}", get(address, "/metrics")?.1);
    ensure!(of("connprobe_connections_lost_total", &["place=\"connection_ring\""])? == Some(0.0), "no count");
    ensure!(of("connprobe_resident_memory_bytes", &[])?.is_some_and(|bytes| bytes > 1e6), "no memory");
    let hook = ["hook=\"tcp_retransmit_skb\"", "status=\"ok\""];
    ensure!(of("connprobe_hook_status", &hook)? == Some(1.0), "{}", get(address, "/metrics")?.1);
    ensure!(of("connprobe_heartbeat_timestamp_seconds", &[])?.is_some_and(|time| time > 1.7e9), "no time");
    ensure!(of("connprobe_sink_written_total", &["stdout"])?.is_some_and(|count| count > 1.0), "no sink");
    lab.heal()?;
    finding(&daemon.probe, "closed", SOON)?;
    daemon.heartbeat(|heartbeat| heartbeat.open_findings == 0)?;
    let (_, text) = get(address, "/metrics")?;
    ensure!(metric(&text, "connprobe_open_findings", "").is_none_or(|open| open == 0.0), "{text}");
    let closed = [silent[0], silent[1], "outcome=\"recovered\""];
    ensure!(of("connprobe_findings_closed_total", &closed)? == Some(1.0), "{}", get(address, "/metrics")?.1);
    daemon.stop()?;
    ensure!(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err(), "nobody listens any more");
    Ok(())
}

fn alerts(_: &TestContext) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations");
    run(promtool()?.args(["check", "rules"]).arg(folder.join("alerts.yml")))?;
    run(promtool()?.args(["test", "rules"]).arg(folder.join("alerts_test.yml")))
}

fn left_open(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let daemon = Daemon::start(&lab.client, "")?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    finding(&daemon.probe, "opened", SOON)?;
    let heartbeat = daemon.heartbeat(|heartbeat| heartbeat.open_findings == 1)?;
    ensure!(heartbeat.findings == 1 && heartbeat.open_cases == 1, "{heartbeat:?}");
    ensure!(heartbeat.cost.rss_bytes.is_some_and(|bytes| bytes > 1 << 20), "{:?}", heartbeat.cost);
    let (records, ..) = daemon.stop()?;
    let stories = stories(&records);
    let [(_, states)] = stories.as_slice() else { bail!("{stories:?}") };
    ensure!(states.last().is_some_and(|state| state == "left_open"), "{states:?}");
    let Some(Body::Summary(summary)) = records.last().map(|record| &record.body) else { bail!("no summary") };
    ensure!((summary.findings, summary.unresolved) == (1, 1), "{summary:?}");
    Ok(())
}

fn refusals(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let daemon = Daemon::start(&lab.client, "")?;
    let config = daemon.path("connprobe.toml");
    let config = config.to_str().context("a path that is no text")?;
    let second = Probe::run(&["daemon", "--config", config], SOON)?;
    let first = format!("another daemon is at work on this host (pid {})", daemon.probe.pid());
    ensure!(second.code == Some(2) && second.stderr.contains(&first), "{second:?}");
    let checked = Probe::run(&["daemon", "--config", config, "--check-config", "--port", "443"], SOON)?;
    ensure!(checked.code == Some(0) && checked.stdout.contains("443"), "{checked:?}");
    daemon.write_settings("scan_every = \"fast\"")?;
    let wrong = Probe::run(&["daemon", "--config", config, "--check-config"], SOON)?;
    ensure!(wrong.code == Some(2) && wrong.stderr.contains("line 6"), "{wrong:?}");
    let nowhere = Probe::run(&["daemon", "--file", "/nowhere/at/all", "--lock", &format!("{config}.lock")], SOON)?;
    ensure!(nowhere.code == Some(2) && nowhere.stderr.contains("/nowhere/at/all"), "{nowhere:?}");
    daemon.stop()?;
    Ok(())
}
