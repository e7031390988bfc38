//! Where its records go, and who does not take them.

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use connprobe_tests::{
    daemon::{Daemon, records_in},
    findings::wait as finding,
    http::{get, metric},
    labs::routed::Routed,
    peer::Options,
    runner::TestContext,
    server::promtool,
    watching::{SOON, connect, cut_and_write},
    wire::{self, Body, Heartbeat},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{run, stall_and_recover, stories};

pub(super) fn three_failures(test: &TestContext) -> Result<()> {
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

pub(super) fn full_disk(test: &TestContext) -> Result<()> {
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

pub(super) fn bad_readers(test: &TestContext) -> Result<()> {
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

pub(super) fn metrics(test: &TestContext) -> Result<()> {
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

pub(super) fn alerts(_: &TestContext) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations");
    run(promtool()?.args(["check", "rules"]).arg(folder.join("alerts.yml")))?;
    run(promtool()?.args(["test", "rules"]).arg(folder.join("alerts_test.yml")))
}
