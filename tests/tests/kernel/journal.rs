//! The daemon and a journal of its own: systemd-journald at work in a mount namespace in which it has `/run` to itself.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use connprobe_tests::{
    child::ManagedChild,
    daemon::Daemon,
    findings::wait as finding,
    labs::routed::Routed,
    peer::Options,
    probe::program,
    require::{JOURNALD, Requirement::Journald},
    runner::{Test, TestContext},
    watching::{SOON, WATCHING, connect, cut_and_write},
    wire::{self, Body, Record, Sink},
};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) fn tests() -> Vec<Test> {
    let needs = [WATCHING, &[Journald]].concat();
    vec![
        Test::new(
            "records are in the journal with their fields, and a journal that was gone is told what it missed",
            &needs,
            fields,
        )
        .not_shared(),
    ]
}

/// A journal, whose files are in a folder of this test.
struct Journal {
    folder: TempDir,
    /// The mount namespace in which it has `/run` to itself; goes with this.
    place: ManagedChild,
    journald: Option<ManagedChild>,
}

/// Neither the kernel's log nor what else a journal tells the host is touched.
const SETTINGS: &str = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=\nForwardToSyslog=no\nForwardToWall=no\n";

/// Network namespaces stay where they were; what is unmounted outside is unmounted here, too.
const PLACE: &str = "set -e
mount --rbind /run/netns $0/netns
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal
mount --rbind $0/netns /run/netns
mount --bind $0/journal /run/log/journal
test ! -e /dev/kmsg || mount --bind /dev/null /dev/kmsg
cp $0/test.conf /run/systemd/journald.conf.d
touch $0/ready
exec sleep 600";

impl Journal {
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for name in ["netns", "journal"] {
            fs::create_dir(folder.path().join(name))?;
        }
        fs::write(folder.path().join("test.conf"), SETTINGS)?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", PLACE]).arg(folder.path());
        let place = ManagedChild::spawn(quiet(command))?;
        wait("a place for the journal", || folder.path().join("ready").exists())?;
        let mut journal = Self { folder, place, journald: None };
        journal.restart()?;
        Ok(journal)
    }

    /// A command that runs a program where this journal is.
    fn beside(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.place.pid())).arg(program.into());
        command
    }

    fn kill(&mut self) -> Result<()> {
        self.journald.take().map_or(Ok(()), |journald| journald.kill())
    }

    fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.journald = Some(ManagedChild::spawn(quiet(self.beside(JOURNALD)))?);
        Ok(())
    }

    /// The entries of the program, in order, of those that match.
    fn entries(&self, matching: &str) -> Result<Vec<Value>> {
        let mut command = Command::new("journalctl");
        // Without --all, fields of more than 4 kB are left out.
        command
            .args(["--all", "--no-pager", "--output=json", matching, "--directory"])
            .arg(self.folder.path().join("journal"));
        let output = command.output()?;
        let (stdout, stderr) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{stderr}");
        stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

fn quiet(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn wait(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_so() {
        ensure!(start.elapsed() < SOON, "{what} has not come");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// How the journal's sink does, as soon as that is wanted.
fn sink(daemon: &Daemon, wanted: impl Fn(&Sink) -> bool) -> Result<Sink> {
    let is_it = |sink: &&Sink| sink.sink == "journald" && wanted(sink);
    let heartbeat = daemon.heartbeat(|heartbeat| heartbeat.sinks.iter().any(|sink| is_it(&sink)))?;
    heartbeat.sinks.iter().find(is_it).cloned().context("no such sink")
}

fn fields(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let mut journal = Journal::start()?;
    let mut command = journal.beside(program()?);
    command.arg("daemon");
    let daemon = Daemon::start_by(command, &lab.client, "journald = true")?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    finding(&daemon.probe, "opened", SOON)?;
    let told = sink(&daemon, |sink| sink.written > 2)?.written;
    // With the heartbeat that says so: what the journal has got and not yet written down goes with it.
    let has_all = || journal.entries("SYSLOG_IDENTIFIER=connprobe").is_ok_and(|entries| entries.len() as u64 > told);
    wait("the heartbeat", has_all)?;
    journal.kill()?;
    let gone = sink(&daemon, |sink| sink.failing.is_some())?;
    ensure!(gone.failing.as_ref().is_some_and(|why| why.contains("Connection refused")), "{gone:?}");
    journal.restart()?;
    sink(&daemon, |sink| sink.failing.is_none())?;
    lab.heal()?;
    finding(&daemon.probe, "closed", SOON)?;
    let (records, _folder, stderr) = daemon.stop()?;
    ensure!(stderr.lines().count() == 2, "one word when it fails and one when it is over: {stderr}");

    let entries = journal.entries("SYSLOG_IDENTIFIER=connprobe")?;
    let told = entries.iter().map(record).collect::<Result<Vec<_>>>()?;
    // What is not there is what the loss says.
    let is_loss = |record: &Record| matches!(&record.body, Body::Loss(loss) if loss.place == "sink");
    let losses: Vec<_> = told.iter().filter(|record| is_loss(record)).collect();
    let [loss] = losses.as_slice() else { bail!("{losses:?}") };
    let Body::Loss(body) = &loss.body else { bail!("{loss:?}") };
    let lost = loss.seq + 1 - body.count..=loss.seq;
    let seqs: Vec<_> = told.iter().filter(|record| !is_loss(record)).map(|record| record.seq).collect();
    let wanted: Vec<_> = records.iter().map(|record| record.seq).filter(|seq| !lost.contains(seq)).collect();
    ensure!(seqs == wanted, "{seqs:?} is not {wanted:?}");
    // By field, as an operator asks.
    let found = journal.entries("CONNPROBE_VERDICT=retransmit_stalled")?;
    let states: Vec<_> = found.iter().filter_map(|entry| entry.get("CONNPROBE_STATE")?.as_str()).collect();
    ensure!(states.first() == Some(&"opened") && states.last() == Some(&"closed"), "{states:?}");
    Ok(())
}

/// The record of an entry, whose fields say the same.
fn record(entry: &Value) -> Result<Record> {
    let field = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    let line: Value = serde_json::from_str(field("CONNPROBE_RECORD")).with_context(|| entry.to_string())?;
    let record = wire::read(&line)?;
    let text = |pointer: &str| line.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    ensure!(field("CONNPROBE_TYPE") == text("/type") && field("CONNPROBE_SEQ") == record.seq.to_string(), "{entry}");
    let Body::Finding(finding) = &record.body else {
        ensure!(entry.get("CONNPROBE_VERDICT").is_none() && !field("MESSAGE").is_empty(), "{entry}");
        return Ok(record);
    };
    for (name, pointer) in [
        ("CONNPROBE_FINDING_ID", "/finding_id"),
        ("CONNPROBE_STATE", "/state"),
        ("CONNPROBE_VERDICT", "/verdict"),
        ("CONNPROBE_CAUSE", "/cause"),
        ("CONNPROBE_CONFIDENCE", "/confidence"),
        ("CONNPROBE_VANTAGE", "/vantage"),
        ("CONNPROBE_COMMUNITY_ID", "/connection/community_id"),
    ] {
        ensure!(!field(name).is_empty() && field(name) == text(pointer), "{name}: {entry}");
    }
    let end = |end: &wire::Endpoint| format!("{}:{}", end.address, end.port);
    let (local, remote) = (end(&finding.connection.local), end(&finding.connection.remote));
    ensure!((field("CONNPROBE_LOCAL"), field("CONNPROBE_REMOTE")) == (&local, &remote), "{entry}");
    let priority = match (text("/state"), text("/confidence")) {
        ("closed", _) => "6",
        (_, "confirmed") => "4",
        _ => "5",
    };
    ensure!(field("PRIORITY") == priority, "{entry}");
    let sentence = format!("{}/{} ({}): {local} -> {remote}", finding.verdict, finding.cause, finding.confidence);
    ensure!(field("MESSAGE").contains(&sentence), "{entry}");
    Ok(record)
}
