//! What is watched only while something is under suspicion: where all is well, no program runs at changes of state.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use connprobe_tests::{
    clocks::{now_wall_seconds, wall_seconds},
    daemon::Daemon,
    findings::wait as finding,
    labs::routed::Routed,
    peer::{Options, Peer},
    probe::Probe,
    programs::is_attached_to,
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, connect, cut_and_write, stop, watch},
    wire::{self, Body},
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "changes of state are looked at only while something is under suspicion, and nothing is missed for it",
            WATCHING,
            only_when_needed,
        ),
        Test::new("who is reset while nobody looks leaves no suspicion to whom comes after", WATCHING, no_heirs)
            .not_shared(),
    ]
}

fn looks_at_states(probe: &Probe) -> Result<bool> {
    is_attached_to(probe.pid(), "inet_sock_set_state")
}

fn wait_until(probe: &Probe, looks: bool) -> Result<()> {
    let start = Instant::now();
    while looks_at_states(probe)? != looks {
        ensure!(start.elapsed() < SOON, "changes of state are looked at: {}", !looks);
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn only_when_needed(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (server, client) = connect(&lab, &Options::default())?;
    let other = Routed::server_v4(PORT + 1);
    let _other_server = Peer::listen(&lab.server, other, &Options::default())?;
    let impatient = Options { user_timeout: Some(Duration::from_secs(8)), ..Options::default() };
    let stalled = Peer::connect(&lab.client, other, &impatient)?;
    let probe = watch(&lab.client, &[])?;
    ensure!(looks_at_states(&probe)?, "it begins with them");
    // The server forgets the connection, and the client does not hear of it.
    lab.cut()?;
    server.command("abort")?;
    server.wait_event("aborted", SOON)?;
    let aborted = Instant::now();
    lab.heal()?;
    wait_until(&probe, false)?;
    sleep(Duration::from_secs(12).saturating_sub(aborted.elapsed()));

    // Between the reset and the end of its connection are microseconds.
    client.command("write 100")?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.cause.as_str(), opened.confidence.as_str()) == ("peer_reset", "confirmed"), "{opened:?}");
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("reset"), "{closed:?}");

    wait_until(&probe, false)?;
    cut_and_write(&lab, &stalled)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(opened.verdict == "retransmit_stalled", "{opened:?}");
    ensure!(looks_at_states(&probe)?, "how it goes on is looked at");
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:?}");
    stop(probe).map(drop)
}

/// A socket's place in memory is given to the next one.
fn no_heirs(test: &TestContext) -> Result<()> {
    const CONNECTIONS: usize = 300;
    const LATE: u64 = 20;
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let daemon = Daemon::start(&lab.client, "scan_every = \"never\"")?;
    let listener = lab.server.run(|| TcpListener::bind(("0.0.0.0", PORT + 1)))??;
    let pair = || -> Result<_> { Ok((TcpStream::connect(Routed::server_v4(PORT + 1))?, listener.accept()?.0)) };
    let pairs = || (0..CONNECTIONS).map(|_| pair()).collect::<Result<Vec<_>>>();
    wait_until(&daemon.probe, false)?;
    for (mut client, mut server) in lab.client.run(pairs)?? {
        client.write_all(&[1; 2])?;
        server.read_exact(&mut [0])?;
        // With data unread the close is a reset.
        drop((server, client));
    }

    cut_and_write(&lab, &client)?;
    wait_until(&daemon.probe, true)?;
    // Those that come under suspicion themselves: their first SYNs are lost.
    let begun = counted(&daemon, "inet_sock_set_state")?;
    let connect = || {
        let netns = lab.client.clone();
        thread::spawn(move || netns.run(|| TcpStream::connect(Routed::server_v4(PORT + 1))))
    };
    let late: Vec<_> = (0..LATE).map(|_| connect()).collect();
    sleep(Duration::from_millis(1_500));
    lab.heal()?;
    let established =
        late.into_iter().map(|late| late.join().map_err(|_| anyhow!("a connection panicked"))??.map_err(Into::into));
    let established = established.collect::<Result<Vec<_>>>()?;
    let told = counted(&daemon, "inet_sock_set_state")? - begun;
    ensure!(told >= LATE, "of {LATE} handshakes that were completed late {told} were told");
    drop(established);

    let begun = counted(&daemon, "inet_sock_set_state")?;
    drop(lab.client.run(pairs)??);
    let told = counted(&daemon, "inet_sock_set_state")? - begun;
    ensure!(told < 10, "{told} changes of healthy connections were told");
    let resets = counted(&daemon, "tcp_receive_reset")?;
    ensure!(resets >= CONNECTIONS as u64 / 2, "{resets} resets were told");
    daemon.stop().map(drop)
}

/// How many events of a hook have been told by now.
fn counted(daemon: &Daemon, name: &str) -> Result<u64> {
    let wanted = now_wall_seconds()?;
    let is_of_now =
        |record: &Value| record.get("type").is_some_and(|kind| kind == "heartbeat") && wall_of(record) > wanted;
    let record = daemon.probe.wait_record(SOON, is_of_now)?;
    let Body::Heartbeat(heartbeat) = wire::read(&record)?.body else { bail!("no heartbeat") };
    let hook = heartbeat.hooks.iter().find(|hook| hook.hook == name);
    Ok(hook.with_context(|| format!("{name} is not counted"))?.emitted)
}

fn wall_of(record: &Value) -> f64 {
    record.get("time").and_then(Value::as_str).and_then(|time| wall_seconds(time).ok()).unwrap_or(0.0)
}
