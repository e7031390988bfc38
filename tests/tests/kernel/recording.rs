//! `record` and `replay`: what was told live, and what is told again from the recording.

use std::{collections::BTreeSet, fs::File, io::BufReader, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use connprobe::recording::{Input, Reader};
use connprobe_tests::{
    findings::{all as findings, recovered, wait as finding, wait_forwarded},
    firewall::drops_flag,
    labs::routed::Routed,
    netns::Netns,
    peer::{Mode, Options, Peer},
    probe::{self, Finished, Probe},
    require::Requirement::Conntrack,
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, attached, connect, cut_and_write},
    wire::{self, Connection, Finding},
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub(crate) fn tests() -> Vec<Test> {
    let tracked = [WATCHING, &[Conntrack]].concat();
    vec![
        Test::new("a recorded silent peer is replayed to the same records, byte for byte", WATCHING, silent_peer)
            .on_every_kernel(),
        Test::new("a recorded forwarded FIN is replayed to the same records, byte for byte", &tracked, forwarded_fin)
            .not_shared(),
        Test::new("a recorded healthy connection is replayed to nothing", WATCHING, healthy).not_shared(),
        Test::new("an anonymized recording tells the same story, and no address of it", WATCHING, anonymized)
            .not_shared(),
        Test::new("a recorder that is killed leaves what it had written", WATCHING, killed).not_shared(),
        Test::new("a disk that fills up ends the recording, not the watch", WATCHING, full_disk).not_shared(),
        Test::new("a recording is not written over unless that is asked for", WATCHING, overwriting).not_shared(),
    ]
}

/// The kernel gives up soon, so that the recording holds a whole life.
fn impatient() -> Options {
    Options { user_timeout: Some(Duration::from_secs(6)), ..Options::default() }
}

/// A recorder that reports, too, and its file.
struct Recorder {
    probe: Probe,
    folder: TempDir,
}

impl Recorder {
    fn start(netns: &Netns, more: &[&str]) -> Result<Self> {
        let folder = TempDir::new()?;
        let inode = netns.inode().to_string();
        let file = path(&folder);
        let arguments = [&["record", "-o", &file, "--netns", &inode, "--follow", "--format", "ndjson"], more].concat();
        let probe = Probe::start(&arguments)?;
        attached(&probe)?;
        Ok(Self { probe, folder })
    }

    /// Ends it; what it has told, and its file.
    fn stop(self) -> Result<(Finished, TempDir)> {
        let finished = self.probe.stop(SOON)?;
        ensure!(finished.stderr.starts_with("connprobe: recorded "), "{}", finished.stderr);
        ensure!(finished.stderr.lines().count() == 1, "{}", finished.stderr);
        Ok((finished, self.folder))
    }
}

fn path(folder: &TempDir) -> String {
    folder.path().join("run.rec").display().to_string()
}

fn replay(file: &str, format: &str) -> Result<Finished> {
    Probe::run(&["replay", file, "--format", format], SOON)
}

/// Checks that a replay says exactly what was said live.
fn ensure_replayed(live: &Finished, folder: &TempDir) -> Result<()> {
    let replayed = replay(&path(folder), "ndjson")?;
    ensure!(replayed.stderr.is_empty(), "{}", replayed.stderr);
    for (live, replayed) in live.stdout.lines().zip(replayed.stdout.lines()) {
        ensure!(live == replayed, "live:\n{live}\nreplayed:\n{replayed}");
    }
    ensure!(replayed.stdout == live.stdout, "{} records, but live {}", replayed.records.len(), live.records.len());
    ensure!(replayed.code == live.code, "{:?}, but live {:?}", replayed.code, live.code);
    wire::read_all(&replayed.records)?;
    let inputs = inputs(Path::new(&path(folder)))?;
    let bytes = std::fs::metadata(path(folder))?.len();
    println!("{} inputs and {} records in {bytes} bytes", inputs.len(), live.records.len());
    Ok(())
}

fn inputs(file: &Path) -> Result<Vec<Input>> {
    let mut reader = Reader::new(BufReader::new(File::open(file)?))?;
    let mut inputs = Vec::new();
    while let Some(more) = reader.next_frame()? {
        inputs.extend(more);
    }
    Ok(inputs)
}

fn silent_peer(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &impatient())?;
    let recorder = Recorder::start(&lab.client, &[])?;
    cut_and_write(&lab, &client)?;
    let opened = finding(&recorder.probe, "opened", SOON)?;
    ensure!((opened.verdict.as_str(), opened.cause.as_str()) == ("retransmit_stalled", "peer_silent"), "{opened:?}");
    let closed = finding(&recorder.probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:?}");
    let (live, folder) = recorder.stop()?;
    ensure!(live.code == Some(1), "exit code {:?}", live.code);
    ensure_replayed(&live, &folder)?;
    let text = replay(&path(&folder), "text")?.stdout;
    for wanted in ["1 connection in limbo", "retransmit_stalled, peer_silent", &client.local()?.to_string()] {
        ensure!(text.contains(wanted), "no {wanted:?} in:\n{text}");
    }
    Ok(())
}

fn forwarded_fin(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.track()?;
    let (server, client) = connect(&lab, &Options::default())?;
    let recorder = Recorder::start(&lab.router, &[])?;
    lab.router.nft(&drops_flag("forward", "fin"))?;
    server.command("close")?;
    let opened = wait_forwarded(&recorder.probe, "opened", SOON)?;
    ensure!(opened.cause == "firewall_drop", "{opened:#?}");
    lab.router.nft("delete table inet drops\n")?;
    client.wait_event("eof", SOON)?;
    wait_forwarded(&recorder.probe, "closed", SOON)?;
    let (live, folder) = recorder.stop()?;
    ensure_replayed(&live, &folder)
}

fn healthy(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let echo = Options { mode: Mode::Echo, quiet: true, ..Options::default() };
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &echo)?;
    let recorder = Recorder::start(&lab.client, &[])?;
    let client = Peer::churn(&lab.client, Routed::server_v4(PORT), 200)?;
    client.wait_event("churned", Duration::from_secs(60))?;
    let (live, folder) = recorder.stop()?;
    ensure!(live.code == Some(0), "{}", live.stdout);
    ensure_replayed(&live, &folder)
}

/// What must be the same, however the addresses are called.
fn story(finding: &Finding) -> impl PartialEq + std::fmt::Debug + use<> {
    let deadline = finding.deadline.as_ref().map(|deadline| (deadline.time.clone(), deadline.set_by.clone()));
    let evidence: Vec<_> =
        finding.evidence.iter().map(|evidence| (evidence.time.clone(), evidence.kind.clone())).collect();
    let judged = [&finding.verdict, &finding.cause, &finding.confidence, &finding.state].map(Clone::clone);
    (judged, finding.since.clone(), deadline, evidence)
}

fn anonymized(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &impatient())?;
    let other = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    let recorder = Recorder::start(&lab.client, &["--anonymize"])?;
    cut_and_write(&lab, &client)?;
    other.command("write 10")?;
    finding(&recorder.probe, "closed", SOON)?;
    let (live, folder) = recorder.stop()?;
    let replayed = replay(&path(&folder), "ndjson")?;
    ensure!(replayed.code == live.code, "{:?}, but live {:?}", replayed.code, live.code);
    let (told, retold) = (findings(&wire::read_all(&live.records)?), findings(&wire::read_all(&replayed.records)?));
    ensure!(told.len() == retold.len() && told.len() >= 3, "{told:?}\n{retold:?}");
    for (told, retold) in told.iter().zip(&retold) {
        ensure!(story(told) == story(retold), "{told:#?}\n{retold:#?}");
        ensure!(retold.connection.local.port == told.connection.local.port, "ports stay");
    }
    let ends = |findings: &[Finding]| -> BTreeSet<_> {
        findings.iter().map(|finding| (finding.connection.local.address, finding.connection.remote.address)).collect()
    };
    ensure!(ends(&retold).len() == 1, "one address is two: {:?}", ends(&retold));
    let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    let inputs = format!("{:?}", inputs(Path::new(&path(&folder)))?);
    for secret in ["10.77.", "fd77:", &format!("name: {host:?}")] {
        ensure!(!inputs.contains(secret), "{secret} in the recording");
        ensure!(!replayed.stdout.contains(secret), "{secret} in the replay");
    }
    let told_host =
        |record: &serde_json::Value| record.pointer("/host/name").and_then(|name| name.as_str()).map(str::to_owned);
    let hosts: BTreeSet<_> = replayed.records.iter().map(told_host).collect();
    ensure!(hosts.len() == 1 && !hosts.contains(&Some(host)), "{hosts:?}");
    Ok(())
}

fn killed(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let recorder = Recorder::start(&lab.client, &[])?;
    cut_and_write(&lab, &client)?;
    let opened = finding(&recorder.probe, "opened", SOON)?;
    // What was taken in is written within a second.
    std::thread::sleep(Duration::from_millis(2_500));
    kill(Pid::from_raw(recorder.probe.pid().try_into()?), Signal::SIGKILL)?;
    let Recorder { probe, folder } = recorder;
    let live = probe.finish(SOON)?;
    let whole = path(&folder);
    let replayed = replay(&whole, "ndjson")?;
    ensure!(replayed.stderr.contains("the recorder was interrupted"), "{}", replayed.stderr);
    ensure!(replayed.code == Some(1), "exit code {:?}", replayed.code);
    ensure!(live.stdout.lines().zip(replayed.stdout.lines()).take(2).all(|(live, replayed)| live == replayed));
    // In the middle of a frame.
    let bytes = std::fs::read(&whole)?;
    let cut = folder.path().join("cut.rec");
    std::fs::write(&cut, bytes.get(..bytes.len() - 5).context("nothing was written")?)?;
    let cut = replay(&cut.display().to_string(), "ndjson")?;
    ensure!(cut.stderr.contains("ends in the middle of a frame at byte"), "{}", cut.stderr);
    ensure!(cut.stdout.contains(&opened.finding_id.to_string()), "{}", cut.stdout);
    Ok(())
}

fn full_disk(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let folder = TempDir::new()?;
    let mut command = Command::new("unshare");
    // The file is copied out of the disk that only this process sees, once it is over.
    let script = "mount -t tmpfs -o size=8k,mode=700 tmpfs \"$1\" && \"$2\" record -o \"$1/run.rec\" --netns \"$3\" \
                  --follow --format ndjson --scan-every 500ms; code=$?; cat \"$1/run.rec\" > \"$4\"; exit $code";
    let (small, copy) = (folder.path().join("small"), folder.path().join("copy.rec"));
    std::fs::create_dir(&small)?;
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&small).arg(probe::program()?);
    command.arg(lab.client.inode().to_string()).arg(&copy);
    let probe = Probe::start_command(command)?;
    attached(&probe)?;
    cut_and_write(&lab, &client)?;
    probe.wait_stderr("the recording ends here, the watch goes on", Duration::from_secs(60))?;
    lab.heal()?;
    recovered::<Connection>(&probe, SOON)?;
    // The shell waits for it.
    let recorder = child_of(probe.pid())?;
    kill(Pid::from_raw(recorder), Signal::SIGINT)?;
    let finished = probe.finish(SOON)?;
    ensure!(finished.code == Some(2), "exit code {:?}: {}", finished.code, finished.stderr);
    ensure!(finished.stderr.contains("It ends before the watch did: No space left"), "{}", finished.stderr);
    let replayed = replay(&copy.display().to_string(), "ndjson")?;
    ensure!(replayed.stderr.contains("the recording ends before its run"), "{}", replayed.stderr);
    ensure!(finished.stdout.starts_with(replayed.stdout.lines().next().context("nothing replayed")?));
    Ok(())
}

fn child_of(pid: u32) -> Result<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(children.split_whitespace().next().context("no child")?.parse()?)
}

fn overwriting(_: &TestContext) -> Result<()> {
    let folder = TempDir::new()?;
    let file = path(&folder);
    std::fs::write(&file, "something dear")?;
    let arguments = ["record", "-o", &file, "--duration", "1s", "--port", "1"];
    let refused = Probe::run(&arguments, SOON)?;
    ensure!(refused.code == Some(2) && refused.stderr.contains("--force"), "{refused:?}");
    ensure!(std::fs::read_to_string(&file)? == "something dear");
    let recorded = Probe::run(&[&arguments[..], &["--force"]].concat(), SOON)?;
    ensure!(recorded.code == Some(0) && recorded.stdout.contains("nothing found"), "{recorded:?}");
    let replayed = replay(&file, "text")?;
    ensure!(replayed.code == Some(0) && replayed.stdout.contains("No connection in limbo"), "{replayed:?}");
    let nowhere = Probe::run(&["record", "-o", "/nonexistent/run.rec", "--duration", "1s"], SOON)?;
    if nowhere.code != Some(2) || !nowhere.stderr.contains("cannot be created") {
        bail!("{nowhere:?}");
    }
    Ok(())
}
