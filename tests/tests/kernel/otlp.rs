//! The daemon and a collector of OpenTelemetry's log records, which may have gone.

use std::{
    cell::RefCell,
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use connprobe_tests::{
    collector::{Answer, Collector, LogRecord},
    daemon::{Daemon, records_in},
    findings::wait as finding,
    labs::routed::Routed,
    peer::Options,
    runner::{Test, TestContext},
    watching::{SOON, WATCHING, connect, cut_and_write},
    wire::Sink,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Test> {
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function).not_shared();
    vec![
        test("a collector that was gone gets what was kept, and is told what was not", stopped_collector),
        test("a daemon that is stopped does not wait for a collector that never answers", mute_at_the_end),
    ]
}

/// How the collector's sink does, as soon as that is wanted.
fn sink(daemon: &Daemon, wanted: impl Fn(&Sink) -> bool) -> Result<Sink> {
    let last = RefCell::new(None);
    let found = daemon.heartbeat(|heartbeat| {
        let sink = heartbeat.sinks.iter().find(|sink| sink.sink.starts_with("otlp http://")).cloned();
        let is_wanted = sink.as_ref().is_some_and(&wanted);
        last.replace(sink);
        is_wanted
    });
    // What it was instead tells more than that it did not come.
    let last = last.into_inner();
    found.with_context(|| format!("{last:?}"))?;
    last.context("no such sink")
}

fn is_failing_with(why: &str) -> impl Fn(&Sink) -> bool {
    move |sink| sink.failing.as_ref().is_some_and(|failing| failing.contains(why))
}

fn is_well(sink: &Sink) -> bool {
    sink.failing.is_none()
}

fn stopped_collector(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let mut collector = Collector::start()?;
    let secret = tempfile::NamedTempFile::new()?;
    fs::write(&secret, "# for the collector\nX-Key: sesame\n")?;
    let (url, headers) = (collector.url(), secret.path().display());
    // Longer than a starved machine takes to answer: what is answered later is sent again, and would be here twice.
    let settings = format!(
        "file = \"FOLDER/events\"\notlp_endpoint = \"{url}\"\notlp_timeout = \"5s\"\notlp_headers_file = \"{headers}\"\n"
    );
    let daemon = Daemon::start(&lab.client, &settings)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    sink(&daemon, |sink| sink.written > 1 && is_well(sink))?;
    // It goes, while the connection fails.
    collector.stop();
    finding(&daemon.probe, "opened", SOON)?;
    sink(&daemon, is_failing_with("Connection refused"))?;
    // It is back, and says nothing.
    collector.answer(Answer::Never);
    collector.restart()?;
    // The time between attempts doubles; SIGHUP makes the next one come at once.
    daemon.signal(Signal::SIGHUP)?;
    sink(&daemon, is_failing_with("no response within 5s"))?;
    // It has no time.
    let busy = Answer::Status("503 Service Unavailable", "later, please", "Retry-After: 3\r\n");
    collector.answer(busy);
    daemon.signal(Signal::SIGHUP)?;
    sink(&daemon, is_failing_with("503 Service Unavailable: later, please"))?;
    let asked = collector.requests()?.len();
    lab.heal()?;
    let closed = finding(&daemon.probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("recovered"), "{closed:?}");
    wait(|| Ok(collector.requests()?.len() > asked))?;
    let requests = collector.requests()?;
    let [.., before, last] = requests.as_slice() else { bail!("{} requests", requests.len()) };
    let gap = last.at.duration_since(before.at);
    ensure!(gap >= Duration::from_secs(3), "it comes again after {gap:?}, though asked to wait for 3 s");
    // It is well again, and gets what was kept.
    collector.answer(Answer::Take);
    let kept = sink(&daemon, is_well)?;
    ensure!(kept.dropped == 0, "{kept:?}");
    let is_end = |record: &LogRecord| record.attribute("connprobe.outcome") == "recovered";
    wait(|| Ok(collector.taken()?.iter().any(is_end)))?;
    // What it does not want is dropped, and it is told so.
    collector.answer(Answer::Status("400 Bad Request", "no logs here", ""));
    let refused = sink(&daemon, is_failing_with("400 Bad Request: no logs here"))?;
    ensure!(refused.dropped > 0, "{refused:?}");
    collector.answer(Answer::TakeBut(1, "too old"));
    let rejected = sink(&daemon, is_failing_with("1 of"))?;
    ensure!(rejected.failing.as_ref().is_some_and(|why| why.ends_with("too old")), "{rejected:?}");
    collector.answer(Answer::Take);
    let well = sink(&daemon, is_well)?;
    let (_, folder, stderr) = daemon.stop()?;
    ensure!(!stderr.contains("sesame"), "{stderr}");
    let file = records_in(&folder.path().join("events"))?;
    check(&file, &collector.taken()?, well.dropped)?;
    for request in collector.requests()? {
        let key = request.headers.get("x-key").map(String::as_str);
        ensure!((request.line.as_str(), key) == ("POST /v1/logs HTTP/1.1", Some("sesame")), "{request:?}");
    }
    Ok(())
}

fn wait(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        ensure!(start.elapsed() < SOON, "it has not come");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Every record in the file was taken once, or is one of those whose loss was told.
fn check(file: &[Value], taken: &[LogRecord], dropped: u64) -> Result<()> {
    let seq = |record: &LogRecord| record.attribute("connprobe.seq").as_u64().context("no seq");
    let is_loss = |record: &&LogRecord| record.attribute("connprobe.place") == "sink";
    let told: u64 = taken.iter().filter(is_loss).filter_map(|loss| loss.attribute("connprobe.count").as_u64()).sum();
    let records: Vec<_> = taken.iter().filter(|record| !is_loss(record)).collect();
    let seqs = records.iter().map(|record| seq(record)).collect::<Result<Vec<_>>>()?;
    ensure!(seqs.is_sorted_by(|one, next| one < next), "twice, or out of order: {seqs:?}");
    // Those that the collector said it had rejected are here nevertheless.
    let missing = file.len() - records.len();
    ensure!(told == dropped && (missing as u64) < told, "{missing} missing, {dropped} dropped, {told} told");
    let names: Vec<_> = records.iter().map(|record| record.event_name.as_str()).collect();
    ensure!(names.last() == Some(&"connprobe.summary"), "the end is sent, too: {names:?}");
    for record in records {
        let wanted = seq(record)?;
        let line = file.iter().find(|line| line.get("seq") == Some(&wanted.into())).context("not in the file")?;
        as_mapped(line, record).with_context(|| format!("{line}\n{record:?}"))?;
    }
    Ok(())
}

/// A log record says what the line of the file says.
fn as_mapped(line: &Value, record: &LogRecord) -> Result<()> {
    let at = |pointer: &str| line.pointer(pointer).cloned().unwrap_or(Value::Null);
    let text = |pointer: &str| line.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let time: jiff::Timestamp = text("/time").parse()?;
    ensure!(i128::from(record.time_unix_nano) == time.as_nanosecond(), "time");
    ensure!(record.observed_time_unix_nano >= record.time_unix_nano, "it is handed on after it has happened");
    ensure!(record.event_name == format!("connprobe.{}", text("/type")), "event name");
    ensure!(record.scope == ("connprobe".to_owned(), "1".to_owned()), "scope");
    let resource = |name: &str| record.resource.get(name).cloned().unwrap_or(Value::Null);
    ensure!(resource("service.name") == "connprobe" && resource("service.version") != Value::Null, "service");
    for (name, pointer) in
        [("host.name", "/host/name"), ("host.id", "/host/machine_id"), ("connprobe.host.boot_id", "/host/boot_id")]
    {
        ensure!(resource(name) == at(pointer), "{name}");
    }
    if text("/type") != "finding" {
        return Ok(());
    }
    for (name, pointer) in [
        ("connprobe.finding_id", "/finding_id"),
        ("connprobe.state", "/state"),
        ("connprobe.outcome", "/outcome"),
        ("connprobe.verdict", "/verdict"),
        ("connprobe.cause", "/cause"),
        ("connprobe.confidence", "/confidence"),
        ("connprobe.vantage", "/vantage"),
        ("connprobe.since", "/since"),
        ("connprobe.community_id", "/connection/community_id"),
        ("connprobe.tcp_state", "/connection/tcp_state"),
        ("connprobe.deadline.time", "/deadline/time"),
        ("connprobe.remedy", "/remedies/0/text"),
        ("error.type", "/deadline/error"),
        ("network.transport", "/connection/protocol"),
        ("network.local.address", "/connection/local/address"),
        ("network.local.port", "/connection/local/port"),
        ("network.peer.address", "/connection/remote/address"),
        ("network.peer.port", "/connection/remote/port"),
        ("process.pid", "/owner/pid"),
        ("process.executable.name", "/owner/comm"),
        ("process.executable.path", "/owner/exe"),
    ] {
        ensure!(*record.attribute(name) == at(pointer), "{name}: {}", record.attribute(name));
    }
    ensure!(record.attribute("network.type") == "ipv4", "network.type");
    let severity = match (text("/state"), text("/confidence")) {
        ("closed", _) => (9, "INFO"),
        (_, "confirmed") => (13, "WARN"),
        _ => (10, "INFO2"),
    };
    ensure!((record.severity_number, record.severity_text.as_str()) == severity, "severity");
    let body = record.body.as_str().context("no body")?;
    ensure!(body.contains(&format!("{}/{}", text("/verdict"), text("/cause"))), "{body}");
    let evidence = record.attribute("connprobe.evidence").as_array().context("no evidence")?;
    let kinds: Vec<_> = evidence.iter().map(|piece| piece.get("kind").cloned()).collect();
    let wanted: Vec<_> =
        at("/evidence").as_array().into_iter().flatten().map(|piece| piece.get("kind").cloned()).collect();
    ensure!(kinds == wanted, "{}", json!(kinds));
    Ok(())
}

fn mute_at_the_end(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let collector = Collector::start()?;
    collector.answer(Answer::Never);
    let daemon = Daemon::start(&lab.client, &format!("otlp_endpoint = \"{}\"\n", collector.url()))?;
    wait(|| Ok(!collector.requests()?.is_empty()))?;
    let (records, _, stderr) = daemon.stop()?;
    // All that was sent was sent while nobody answered; what was not is told, by the sink or, where that is starved, by who waits for it.
    let told = ["could not be sent before the end", "could not be written in time"];
    ensure!(told.iter().any(|told| stderr.contains(told)) && !records.is_empty(), "{stderr}");
    Ok(())
}
