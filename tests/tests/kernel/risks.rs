//! Risk notes: what is idle, what keeps it known, and what was never closed. Told by both commands, never a finding.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    labs::routed::Routed,
    netns::Netns,
    peer::{Keepalive, Options, Peer},
    probe::{self, Probe},
    require::Requirement::Conntrack,
    runner::{FalseAlarm, Test, TestContext},
    watching::{PORT, SOON, WATCHING, summary},
    wire::{self, Body, Risk, Risks},
};

pub(crate) fn tests() -> Vec<Test> {
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    vec![
        test("idle connections without keepalive are one risk, and those that are kept alive are none", idle),
        test("keepalive that begins when the connection may be forgotten is a risk", too_late).not_shared(),
        test("a connection that only the peer's keepalive keeps known is no risk where that is seen", kept_by_peer)
            .not_shared(),
        test("a socket that its application does not close is a leak", close_wait).not_shared(),
        test("a snapshot without privileges tells risks, and that it cannot know whose they are", bare).not_shared(),
        Test::new(
            "local connection tracking that forgets sooner is the limit",
            &[WATCHING, &[Conntrack]].concat(),
            conntrack,
        )
        .not_shared(),
    ]
}

/// A connection is idle after a second then.
const LIMIT: &str = "10s";
/// Connections are idle for so long before they are looked at.
const IDLE_FOR: Duration = Duration::from_millis(2_500);

/// Both ways of looking.
const DIAGNOSE: [&str; 3] = ["diagnose", "--duration", "1s"];
const SNAPSHOT: [&str; 3] = ["snapshot", "--duration", "1s"];

/// Runs a command that must find nothing, and returns the risks it tells and what it says of the look for them.
fn risks(netns: &Netns, command: &[&str], idle_timeout: &str) -> Result<(Vec<Risk>, Risks)> {
    let inode = netns.inode().to_string();
    let more = ["--netns", &inode, "--format", "ndjson", "--risks", "--idle-timeout", idle_timeout];
    let finished = Probe::run(&[command, &more].concat(), SOON)?;
    ensure!(finished.code == Some(0), "exit code {:?}: {}{}", finished.code, finished.stdout, finished.stderr);
    ensure!(finished.stderr.is_empty(), "{}", finished.stderr);
    let records = wire::read_all(&finished.records)?;
    let summary = summary(&records)?;
    if summary.findings > 0 {
        return Err(FalseAlarm(format!("found something:\n{}", finished.stdout)).into());
    }
    let look = summary.risks.clone().context("the summary says nothing of risks")?;
    ensure!(look.gaps.is_empty(), "{look:?}");
    ensure!((look.left_out, look.not_judged, look.keepalive_unknown) == (0, 0, 0), "{look:?}");
    let by = if command.first() == Some(&"snapshot") { "sock_diag" } else { "iterator" };
    ensure!(look.looked_by == by, "{look:?}");
    let risks: Vec<_> = records
        .into_iter()
        .filter_map(|record| match record.body {
            Body::Risk(risk) => Some(*risk),
            Body::Finding(_)
            | Body::Forwarded(_)
            | Body::Connection(_)
            | Body::Coverage(_)
            | Body::Loss(_)
            | Body::Heartbeat(_)
            | Body::Summary(_) => None,
        })
        .collect();
    ensure!(look.risks == risks.len(), "{look:?}");
    ensure!(look.connections == risks.iter().map(|risk| risk.connections).sum::<usize>(), "{look:?}");
    Ok((risks, look))
}

/// There must be none.
fn none(risks: &[Risk]) -> Result<()> {
    if risks.is_empty() { Ok(()) } else { Err(FalseAlarm(format!("{risks:#?}")).into()) }
}

/// The one risk there is.
fn only(risks: &[Risk]) -> Result<&Risk> {
    let [risk] = risks else { anyhow::bail!("{} risks: {risks:#?}", risks.len()) };
    Ok(risk)
}

fn ensure_held_by(risk: &Risk, peer: &Peer) -> Result<()> {
    let owner = risk.owner.as_ref().with_context(|| format!("no owner: {risk:?}"))?;
    ensure!((owner.pid, owner.comm.as_str(), risk.processes) == (peer.pid(), "connprobe-peer", 1), "{risk:?}");
    Ok(())
}

const fn keepalive(time_s: u32) -> Option<Keepalive> {
    Some(Keepalive { time_s, interval_s: 1, probes: 5 })
}

fn idle(test: &TestContext) -> Result<()> {
    const COUNT: usize = 20;
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let connect = |options: &Options| Peer::connect(&lab.client, Routed::server_v4(PORT), options);
    let busy = connect(&Options { write_every: Some(Duration::from_millis(100)), ..Options::default() })?;
    let kept = connect(&Options { keepalive: keepalive(3), ..Options::default() })?;
    let idle = connect(&Options { count: COUNT, ..Options::default() })?;
    sleep(IDLE_FOR);
    for command in [&DIAGNOSE, &SNAPSHOT] {
        let (found, look) = risks(&lab.client, command, LIMIT)?;
        println!(
            "{}: {} idle for {:.1} s",
            command[0],
            look.connections,
            found.first().map_or(0.0, |risk| risk.longest_idle_seconds)
        );
        let risk = only(&found)?;
        ensure!((risk.kind.as_str(), risk.connections) == ("idle_without_keepalive", COUNT), "{risk:?}");
        ensure!((risk.service_port, risk.direction.as_str()) == (PORT, "outgoing"), "{risk:?}");
        ensure!((risk.limit_seconds, risk.limit_set_by.as_str()) == (10.0, "idle_timeout"), "{risk:?}");
        ensure!(risk.netns == lab.client.inode(), "{risk:?}");
        ensure!(risk.longest_idle_seconds >= IDLE_FOR.as_secs_f64(), "{risk:?}");
        ensure_held_by(risk, &idle)?;
        let others = [busy.local()?.port(), kept.local()?.port()];
        ensure!(risk.examples.iter().all(|example| !others.contains(&example.local.port)), "{risk:?}");
    }
    // The filters hold for risks, too.
    for filter in [["--port", "1"], ["--peer", "10.9.0.0/16"]] {
        for command in [&DIAGNOSE, &SNAPSHOT] {
            let (found, _) = risks(&lab.client, &[&command[..], &filter].concat(), LIMIT)?;
            none(&found)?;
        }
    }
    // The other end has them too, and the one whose keepalive only the diagnosis sees.
    let (found, _) = risks(&lab.server, &DIAGNOSE, LIMIT)?;
    let risk = found.iter().find(|risk| risk.direction == "accepted").context("nothing accepted")?;
    ensure!(risk.service_port == PORT && risk.connections >= COUNT, "{risk:?}");
    ensure_held_by(risk, &server)?;
    let inode = lab.client.inode().to_string();
    let text = Probe::run(&["snapshot", "--netns", &inode, "--risks", "--idle-timeout", LIMIT], SOON)?.stdout;
    for words in
        ["20 connections of connprobe-peer to :5672 (idle_without_keepalive)", "(17 more)", "connprobe explain risk"]
    {
        ensure!(text.contains(words), "no {words:?} in:\n{text}");
    }
    Ok(())
}

fn too_late(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let options = Options { keepalive: keepalive(60), ..Options::default() };
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &options)?;
    sleep(IDLE_FOR);
    for command in [&DIAGNOSE, &SNAPSHOT] {
        let (found, _) = risks(&lab.client, command, LIMIT)?;
        let risk = only(&found)?;
        ensure!((risk.kind.as_str(), risk.connections) == ("keepalive_too_late", 1), "{risk:?}");
        ensure_held_by(risk, &client)?;
        let times = risk.keepalive.as_ref().context("no times of keepalive")?;
        println!("{}: {times:?}", command[0]);
        if times.exact {
            ensure!((times.shortest_seconds, times.longest_seconds) == (60.0, 60.0), "{times:?}");
        } else {
            // What the timer has left and what has passed, each to a tick.
            ensure!(command[0] == "snapshot" && (59.0..=60.5).contains(&times.shortest_seconds), "{times:?}");
        }
    }
    // The same connection is no risk where what is on the way remembers for longer.
    sleep(Duration::from_secs(7));
    for command in [&DIAGNOSE, &SNAPSHOT] {
        let (found, _) = risks(&lab.client, command, "70s")?;
        none(&found)?;
    }
    Ok(())
}

fn kept_by_peer(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let options = Options { keepalive: keepalive(1), ..Options::default() };
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &options)?;
    let _client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    // A connection is idle after four seconds, and a probe comes every second.
    sleep(Duration::from_secs(6));
    let (found, _) = risks(&lab.client, &DIAGNOSE, "40s")?;
    none(&found)?;
    // Sock_diag does not show them.
    let (found, _) = risks(&lab.client, &SNAPSHOT, "40s")?;
    ensure!(only(&found)?.kind == "idle_without_keepalive", "{found:?}");
    Ok(())
}

fn close_wait(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let options = Options { keep_open: true, ..Options::default() };
    let server = Peer::listen(&lab.server, Routed::server_v4(PORT), &options)?;
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    client.command("close")?;
    server.wait_event("eof", SOON)?;
    sleep(IDLE_FOR);
    for command in [&DIAGNOSE, &SNAPSHOT] {
        let (found, _) = risks(&lab.server, command, LIMIT)?;
        let risk = only(&found)?;
        ensure!((risk.kind.as_str(), risk.connections) == ("close_wait_leak", 1), "{risk:?}");
        ensure!((risk.service_port, risk.direction.as_str()) == (PORT, "accepted"), "{risk:?}");
        ensure!(risk.examples.iter().all(|example| example.tcp_state == "close_wait"), "{risk:?}");
        ensure_held_by(risk, &server)?;
    }
    Ok(())
}

fn bare(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let _client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    sleep(IDLE_FOR);
    let mut command = probe::unprivileged()?;
    command.args(["snapshot", "--duration", "1s", "--format", "json", "--risks", "--idle-timeout", LIMIT]);
    let output = lab.client.output(command, "")?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    let records = wire::read_all(&serde_json::from_slice::<Vec<_>>(&output.stdout)?)?;
    let risk = records.iter().find_map(|record| match &record.body {
        Body::Risk(risk) => Some(risk),
        Body::Finding(_)
        | Body::Forwarded(_)
        | Body::Connection(_)
        | Body::Coverage(_)
        | Body::Loss(_)
        | Body::Heartbeat(_)
        | Body::Summary(_) => None,
    });
    let risk = risk.context("no risk")?;
    ensure!(risk.kind == "idle_without_keepalive", "{risk:?}");
    ensure!(risk.owner_unavailable.as_ref().is_some_and(|why| why.contains("run connprobe as root")), "{risk:?}");
    Ok(())
}

fn conntrack(test: &TestContext) -> Result<()> {
    /// Long enough for both commands in a slow guest.
    const TIMEOUT_S: u32 = 60;
    // To build the program may take longer than that.
    probe::program()?;
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.firewall(&lab.client, &["output", "input"])?;
    lab.client.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", &TIMEOUT_S.to_string())?;
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    // In time for what the operator thinks of, too late for this host itself.
    let options = Options { keepalive: keepalive(90), ..Options::default() };
    let _late = Peer::connect(&lab.client, Routed::server_v4(PORT), &options)?;
    let _idle = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    // A tenth of this host's limit, not of the operator's.
    sleep(Duration::from_secs(7));
    for command in [&DIAGNOSE, &SNAPSHOT] {
        let (found, _) = risks(&lab.client, command, "30m")?;
        for kind in ["idle_without_keepalive", "keepalive_too_late"] {
            let risk = found.iter().find(|risk| risk.kind == kind).with_context(|| format!("no {kind}: {found:#?}"))?;
            ensure!(risk.connections == 1, "{risk:?}");
            ensure!(
                (risk.limit_seconds, risk.limit_set_by.as_str()) == (f64::from(TIMEOUT_S), "conntrack"),
                "{risk:?}"
            );
        }
        ensure!(found.len() == 2, "{found:#?}");
    }
    Ok(())
}
