//! Records of connections that are over: each once, with who ended it, what went over it and whose it was.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connprobe::model::Mechanism;
use connprobe_tests::{
    daemon::{Daemon, command},
    labs::routed::Routed,
    netns::Netns,
    peer::{Keepalive, Mode, Options, Peer},
    probe::Probe,
    programs::held_by,
    require::Requirement::{Attaching, Ipv6},
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, attached},
    wire::{self, Body, Closed, Record},
};
use nix::sys::{
    signal::Signal,
    socket::{setsockopt, sockopt},
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    let with_v6 = [WATCHING, &[Ipv6]].concat().leak();
    let by = |name: &str, mechanism, function: fn(&TestContext) -> Result<()>| {
        Test::new(name, [WATCHING, &[Attaching(mechanism)]].concat().leak(), function)
    };
    vec![
        Test::new("each connection that ends is told once, with who ended it and whose it was", with_v6, endings)
            .within(Duration::from_secs(300))
            .on_every_kernel(),
        Test::new(
            "what went over a connection is what TCP_INFO said of it, and who closes it is its owner",
            WATCHING,
            amounts,
        )
        .not_shared(),
        Test::new("connections that the network ends are told with the kernel's error", WATCHING, failures)
            .not_shared(),
        Test::new("a connection that this end resets after its FIN was acknowledged is told as that", WATCHING, resets)
            .not_shared(),
        Test::new("of thousands of short connections each is told once, also while settings change", WATCHING, churn)
            .alone()
            .within(Duration::from_secs(120))
            .not_shared(),
        Test::new("records of connections that find no room are counted", WATCHING, lost).alone().not_shared(),
        Test::new("nothing is loaded for connections that end unless that is asked for", WATCHING, off).not_shared(),
        by("the ends of connections are told by classic tracepoints", Mechanism::Tracepoint, |_| by_tracepoint()),
        by("the ends of connections are told by kprobes", Mechanism::Kprobe, |test| check(test, "kprobe")),
        by("the ends of connections are told by trampolines", Mechanism::Fentry, |test| check(test, "fentry")),
    ]
}

/// What a daemon is told that tells of every connection that ends.
const TELLING: &str = "lifecycle = true";

/// The next connection that was over at this endpoint, as that end's record has it.
fn closed_at(daemon: &Daemon, local: SocketAddr) -> Result<Closed> {
    let port = local.port();
    let record = daemon.probe.wait_record(SOON, |record| {
        at(record, "/type") == "connection" && at(record, "/connection/local/port") == port
    })?;
    match wire::read(&record)?.body {
        Body::Connection(closed) => Ok(*closed),
        other => anyhow::bail!("{other:?}"),
    }
}

/// Waits until a daemon holds so many programs: those of before go when their last scan is over.
fn wait_programs(daemon: &Daemon, wanted: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        let held = held_by(daemon.probe.pid())?.len();
        if held == wanted {
            return Ok(());
        }
        ensure!(start.elapsed() < SOON, "{held} programs are held, not {wanted}");
        sleep(Duration::from_millis(100));
    }
}

fn closed_of(records: &[Record]) -> Vec<&Closed> {
    let mut all = Vec::new();
    for record in records {
        if let Body::Connection(closed) = &record.body {
            all.push(closed.as_ref());
        }
    }
    all
}

/// What is there in a record; nothing where it is not.
fn at<'a>(record: &'a Value, path: &str) -> &'a Value {
    record.pointer(path).unwrap_or(&Value::Null)
}

/// How it ended: outcome, whose FIN came first, who reset it, the error.
fn end(closed: &Closed) -> (&str, Option<&str>, Option<&str>, Option<&str>) {
    let Closed { outcome, closed_by, reset_by, error, .. } = closed;
    (outcome, closed_by.as_deref(), reset_by.as_deref(), error.as_deref())
}

fn is(closed: &Closed, expected: (&str, Option<&str>, Option<&str>, Option<&str>)) -> Result<()> {
    ensure!(end(closed) == expected, "{:?} where {expected:?} is due: {closed:?}", end(closed));
    Ok(())
}

/// A connection that has carried some data to a listener, which keeps its end open.
fn connected(lab: &Routed, server: &Peer) -> Result<Peer> {
    let client = Peer::connect(&lab.client, server.local()?, &Options::default())?;
    server.wait_event("accepted", SOON)?;
    client.command("write 1000")?;
    client.wait_event("written", SOON)?;
    sleep(Duration::from_millis(100));
    Ok(client)
}

fn endings(test: &TestContext) -> Result<()> {
    const FIN: (&str, Option<&str>, Option<&str>, Option<&str>) = ("closed_normally", Some("local"), None, None);
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.warm_up_v6()?;
    let listen = |address| Peer::listen(&lab.server, address, &Options { keep_open: true, ..Options::default() });
    let (server, server_v6) = (listen(Routed::server_v4(0))?, listen(Routed::server_v6(0))?);
    let older = connected(&lab, &server)?;
    let daemon = Daemon::start(&lab.client, TELLING)?;
    let connected = || connected(&lab, &server);

    older.command("close")?;
    let told = closed_at(&daemon, older.local()?)?;
    is(&told, FIN)?;
    ensure!(told.opened.is_none() && told.duration_seconds.is_none() && told.connection.role.is_none(), "{told:?}");
    ensure!(told.bytes_sent == Some(1_000), "the socket has counted itself: {told:?}");

    let client = self::connected(&lab, &server_v6)?;
    client.command("close")?;
    let told = closed_at(&daemon, client.local()?)?;
    is(&told, FIN)?;
    ensure!(told.connection.role.as_deref() == Some("active_open"), "{told:?}");
    ensure!(told.connection.remote.port == server_v6.local()?.port(), "{told:?}");
    // SYN and FIN count as one each; of the latter the acknowledgment may be on its way.
    ensure!(told.bytes_sent == Some(1_000) && told.bytes_acked >= Some(1_001), "{told:?}");
    ensure!(told.segments_retransmitted == Some(0) && told.rtt_us > Some(0) && told.min_rtt_us > Some(0), "{told:?}");
    let owner = &told.owner;
    ensure!(owner.pid == Some(client.pid()) && owner.known_by.as_deref() == Some("connect"), "{owner:?}");
    ensure!(owner.comm.as_deref() == Some("connprobe-peer") && owner.uid == Some(0), "{owner:?}");
    ensure!(told.duration_seconds.is_some_and(|seconds| (0.1..60.0).contains(&seconds)), "{told:?}");
    ensure!(told.opened <= told.established && told.established.is_some(), "{told:?}");

    let client = connected()?;
    client.command("abort")?;
    is(&closed_at(&daemon, client.local()?)?, ("reset", None, Some("local"), None))?;

    let client = connected()?;
    let local = client.local()?;
    drop(client);
    is(&closed_at(&daemon, local)?, FIN)?;

    // Both FINs are on their way before either arrives.
    let client = connected()?;
    lab.cut()?;
    client.command("shutdown")?;
    server.command("shutdown")?;
    sleep(Duration::from_millis(300));
    lab.heal()?;
    let told = closed_at(&daemon, client.local()?)?;
    ensure!(told.outcome == "closed_normally" && told.segments_retransmitted >= Some(1), "{told:?}");
    // Which segment comes first after the path is healed is chance: with the ACK of this end's FIN it is no simultaneous close.
    ensure!(["simultaneous", "local"].contains(&told.closed_by.as_deref().unwrap_or_default()), "{told:?}");

    let client = connected()?;
    server.command("shutdown")?;
    client.wait_event("eof", SOON)?;
    client.command("close")?;
    is(&closed_at(&daemon, client.local()?)?, ("closed_normally", Some("remote"), None, None))?;

    let client = connected()?;
    server.command("abort")?;
    is(&closed_at(&daemon, client.local()?)?, ("reset", None, Some("remote"), Some("ECONNRESET")))?;

    // The listener's ends, in the other namespace, are none of this watch.
    let (records, ..) = daemon.stop()?;
    ensure!(closed_of(&records).len() == 7, "{} connections", closed_of(&records).len());
    Ok(())
}

fn failures(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let daemon = Daemon::start(&lab.client, TELLING)?;

    let refused = lab.client.run(|| TcpStream::connect(Routed::server_v4(9)))?;
    ensure!(refused.is_err(), "somebody listens");
    let record = daemon.probe.wait_record(SOON, |record| at(record, "/type") == "connection")?;
    let Body::Connection(told) = wire::read(&record)?.body else { anyhow::bail!("{record}") };
    is(&told, ("refused", None, None, Some("ECONNREFUSED")))?;
    ensure!(told.opened.is_some() && told.established.is_none() && told.rtt_us.is_none(), "{told:?}");
    ensure!(told.connection.tcp_state.as_deref() == Some("syn_sent"), "{told:?}");

    let keepalive = Some(Keepalive { time_s: 1, interval_s: 1, probes: 2 });
    let server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let idle = Peer::connect(&lab.client, server.local()?, &Options { keepalive, ..Options::default() })?;
    let user_timeout = Some(Duration::from_secs(8));
    let waiting = Peer::connect(&lab.client, server.local()?, &Options { user_timeout, ..Options::default() })?;
    waiting.command("write 500")?;
    waiting.wait_event("written", SOON)?;
    sleep(Duration::from_millis(100));
    lab.cut()?;
    waiting.command("write 700")?;
    let told = closed_at(&daemon, idle.local()?)?;
    is(&told, ("timed_out", None, None, Some("ETIMEDOUT")))?;
    let told = closed_at(&daemon, waiting.local()?)?;
    is(&told, ("timed_out", None, None, Some("ETIMEDOUT")))?;
    let retransmitted = told.segments_retransmitted.context("not counted")?;
    ensure!(retransmitted >= 4, "{told:?}");
    // Each segment that was sent again had all of it.
    ensure!(told.bytes_retransmitted == Some(700 * u64::from(retransmitted)), "{told:?}");
    ensure!(told.bytes_sent == Some(1_200 + 700 * u64::from(retransmitted)), "{told:?}");
    ensure!(told.bytes_acked == Some(501), "{told:?}");
    let finding = daemon.probe.wait_type("finding", SOON)?;
    ensure!(told.finding_ids == [at(&finding, "/finding_id").as_str().unwrap_or_default()], "{told:?}\n{finding}");
    lab.heal()?;

    // Nobody answers, and the connecting end gives up after its timeout.
    lab.cut()?;
    let options = Options { user_timeout: Some(Duration::from_secs(2)), ..Options::default() };
    let unanswered = Peer::start_connect(&lab.client, None, server.local()?, &options)?;
    let told = closed_at(&daemon, unanswered.local()?)?;
    is(&told, ("timed_out", None, None, Some("ETIMEDOUT")))?;
    ensure!(told.established.is_none() && told.bytes_sent == Some(0), "{told:?}");
    Ok(())
}

/// Both ends in one process, and one thread: what one does is there before the other does anything.
fn pair(netns: &Netns) -> Result<(TcpStream, TcpStream)> {
    netns.run(|| -> Result<_> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        Ok((client, listener.accept()?.0))
    })?
}

fn resets(test: &TestContext) -> Result<()> {
    const RESET: (&str, Option<&str>, Option<&str>, Option<&str>) = ("reset", Some("local"), Some("local"), None);
    let own = test.lab()?;
    let netns = own.netns("resets")?;
    let daemon = Daemon::start(&netns, TELLING)?;
    // It asks for an answer, and closes before it has read it.
    let (client, mut server) = pair(&netns)?;
    client.shutdown(Shutdown::Write)?;
    ensure!(server.read(&mut [0; 1])? == 0, "no FIN");
    server.write_all(b"answer")?;
    let local = client.local_addr()?;
    drop(client);
    let closed = closed_at(&daemon, local)?;
    is(&closed, RESET)?;
    ensure!(closed.connection.tcp_state.as_deref() == Some("fin_wait2"), "{closed:?}");
    // `tcp_reset` in CLOSE-WAIT.
    let error = server.take_error()?.map(|error| error.kind());
    ensure!(error == Some(ErrorKind::BrokenPipe), "the peer was not told: {error:?}");

    // It has read all of it.
    let (mut client, mut server) = pair(&netns)?;
    client.shutdown(Shutdown::Write)?;
    ensure!(server.read(&mut [0; 1])? == 0, "no FIN");
    server.write_all(b"answer")?;
    client.read_exact(&mut [0; 6])?;
    let local = client.local_addr()?;
    drop(client);
    is(&closed_at(&daemon, local)?, ("closed_normally", Some("local"), None, None))?;
    drop(server);

    // The first answer acknowledges the FIN of one that has gone.
    let (client, mut server) = pair(&netns)?;
    let local = client.local_addr()?;
    drop(client);
    server.write_all(b"answer")?;
    let closed = closed_at(&daemon, local)?;
    ensure!(closed.connection.tcp_state.as_deref() == Some("fin_wait2"), "{closed:?}");
    is(&closed, RESET)?;

    // The peer's end of a close by both has only its FIN's acknowledgment to wait for, and does not.
    let (client, mut server) = pair(&netns)?;
    client.shutdown(Shutdown::Write)?;
    ensure!(server.read(&mut [0; 1])? == 0, "no FIN");
    let remote = client.peer_addr()?;
    drop(server);
    is(&closed_at(&daemon, remote)?, ("closed_normally", Some("remote"), None, None))
}

/// A number of `ss -ti`, as `bytes_sent:100` or `rtt:0.05/0.02`, in thousandths where it has a fraction.
fn shown(line: &str, name: &str) -> Option<u64> {
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix(':'))?;
    let number = word.split('/').next()?;
    match number.split_once('.') {
        None => number.parse().ok(),
        Some((whole, fraction)) => format!("{whole}{:0<3}", fraction).parse().ok(),
    }
}

fn amounts(test: &TestContext) -> Result<()> {
    const BYTES: usize = 300_000;
    let own = test.lab()?;
    let netns = own.netns("amounts")?;
    let daemon = Daemon::start(&netns, TELLING)?;
    let (mut client, mut server) = pair(&netns)?;
    let (local, remote) = (client.local_addr()?, client.peer_addr()?);
    let reader = std::thread::spawn(move || server.read_exact(&mut [0; BYTES]).map(|()| server));
    client.write_all(&[7; BYTES])?;
    let mut server = reader.join().map_err(|_| anyhow::anyhow!("the reader has failed"))??;
    server.write_all(&[8; 1_000])?;
    client.read_exact(&mut [0; 1_000])?;
    sleep(Duration::from_millis(300));
    let mut ss = Command::new("ss");
    ss.args(["-tinOH", "src", &local.to_string()]).stdout(Stdio::piped());
    let said = netns.run(|| ss.output())??;
    let said = String::from_utf8(said.stdout)?;
    // A reset changes nothing of what was counted.
    setsockopt(&client, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    drop(client);
    let told = closed_at(&daemon, local)?;
    ensure!(told.bytes_sent == Some(u64::try_from(BYTES)?) && told.bytes_received == Some(1_000), "{told:?}");
    for (name, value) in [
        ("bytes_sent", told.bytes_sent),
        ("bytes_acked", told.bytes_acked),
        ("bytes_received", told.bytes_received),
        ("segs_out", told.segments_sent.map(u64::from)),
        ("segs_in", told.segments_received.map(u64::from)),
        ("rtt", told.rtt_us),
        ("minrtt", told.min_rtt_us),
    ] {
        ensure!(value.is_some() && shown(&said, name) == value, "{name}: {value:?} is told, and ss says: {said}");
    }
    drop(server);
    closed_at(&daemon, remote)?;

    // A server that hands what it accepts to a process of its own.
    let (client, server) = pair(&netns)?;
    let remote = client.peer_addr()?;
    let mut worker = Command::new("sleep").arg("0.2").stdin(OwnedFd::from(server)).spawn()?;
    worker.wait()?;
    let told = closed_at(&daemon, remote)?;
    let owner = &told.owner;
    ensure!(owner.pid == Some(worker.id()) && owner.comm.as_deref() == Some("sleep"), "{owner:?}");
    ensure!(owner.known_by.as_deref() == Some("close"), "{owner:?}");
    Ok(())
}

/// Both ends of each are in one namespace.
fn churn(test: &TestContext) -> Result<()> {
    const CONNECTIONS: u64 = 3_000;
    let own = test.lab()?;
    let netns = own.netns("churn")?;
    let echo = Options { mode: Mode::Echo, quiet: true, ..Options::default() };
    let server = Peer::listen(&netns, ([127, 0, 0, 1], PORT).into(), &echo)?;
    let daemon = Daemon::start(&netns, TELLING)?;
    // A connection that is there before the settings change, and after.
    let kept = Peer::connect(&netns, server.local()?, &Options::default())?;
    let start = Instant::now();
    let client = Peer::churn(&netns, server.local()?, CONNECTIONS)?;
    sleep(Duration::from_millis(100));
    daemon.reload("lifecycle = true\npeers = [\"127.0.0.0/8\"]")?;
    attached(&daemon.probe)?;
    let churned = client.wait_event("churned", Duration::from_secs(60))?;
    ensure!(at(&churned, "/failed") == 0, "{churned}");
    println!("{CONNECTIONS} connections in {:.1} s", start.elapsed().as_secs_f64());
    kept.command("close")?;
    let told = closed_at(&daemon, kept.local()?)?;
    ensure!(told.opened.is_some() && told.owner.pid == Some(kept.pid()), "forgotten by new settings: {told:?}");
    closed_at(&daemon, server.local()?)?;
    let (records, ..) = daemon.stop()?;
    let closed = closed_of(&records);
    let lost: u64 = records.iter().map(|record| if let Body::Loss(loss) = &record.body { loss.count } else { 0 }).sum();
    let mut ends: Vec<_> = closed
        .iter()
        .map(|closed| (&closed.opened, closed.connection.local.port, closed.connection.remote.port))
        .collect();
    ends.sort();
    let told = ends.len();
    ends.dedup();
    ensure!(ends.len() == told, "{} of {told} were told twice", told - ends.len());
    let wanted = usize::try_from(2 * (CONNECTIONS + 1))?;
    // A change that comes while the program runs on that CPU already is missed by the kernel's own rule, and counted.
    ensure!(told <= wanted && told + usize::try_from(lost)? >= wanted, "{told} of {wanted} were told, {lost} lost");
    let of = |role: &str| closed.iter().filter(|closed| closed.connection.role.as_deref() == Some(role)).count();
    let (active, passive) = (of("active_open"), of("passive_open"));
    println!("{active} active and {passive} passive opens told, {lost} changes lost");
    // What was opened before the settings changed, or while they did, is known all the same.
    let unseen = closed.iter().filter(|closed| closed.opened.is_none()).count();
    ensure!(unseen <= usize::try_from(lost)?, "of {unseen} the opening was not seen");
    ensure!(active.abs_diff(passive) <= usize::try_from(lost)?, "{active} active and {passive} passive opens");
    let bytes = |closed: &&&Closed| closed.bytes_received >= Some(64) && closed.bytes_sent == Some(64);
    let whole = closed.iter().filter(bytes).count();
    ensure!(whole + 2 >= told, "{whole} of {told} with their bytes");
    Ok(())
}

fn lost(test: &TestContext) -> Result<()> {
    const CONNECTIONS: usize = 100;
    let own = test.lab()?;
    let netns = own.netns("lost")?;
    let mut command = command()?;
    command.args(["--ring-bytes", "4096"]);
    let daemon = Daemon::start_by(command, &netns, TELLING)?;
    daemon.signal(Signal::SIGSTOP)?;
    netns.run(|| -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        for _ in 0..CONNECTIONS {
            let client = TcpStream::connect(listener.local_addr()?)?;
            drop(listener.accept()?);
            drop(client);
        }
        Ok(())
    })??;
    daemon.signal(Signal::SIGCONT)?;
    let loss = daemon.probe.wait_type("loss", SOON)?;
    ensure!(at(&loss, "/place") == "connection_ring", "{loss}");
    let heartbeat = daemon.probe.wait_record(SOON, |record| {
        at(record, "/type") == "heartbeat" && at(record, "/connections/lost").as_u64() > Some(0)
    })?;
    let connections = at(&heartbeat, "/connections");
    let sum = at(connections, "/told").as_u64().zip(at(connections, "/lost").as_u64()).map(|(told, lost)| told + lost);
    ensure!(sum == Some(2 * u64::try_from(CONNECTIONS)?), "{heartbeat}");
    ensure!(at(&heartbeat, "/lost") == 0, "nothing suspicious is lost: {heartbeat}");
    Ok(())
}

fn off(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let netns = own.netns("off")?;
    let daemon = Daemon::start(&netns, "")?;
    let without = held_by(daemon.probe.pid())?.len();
    let heartbeat = daemon.probe.wait_type("heartbeat", SOON)?;
    ensure!(at(&heartbeat, "/connections").is_null(), "{heartbeat}");
    daemon.reload(TELLING)?;
    attached(&daemon.probe)?;
    wait_programs(&daemon, without + 1)?;
    daemon.reload("lifecycle = false")?;
    attached(&daemon.probe)?;
    wait_programs(&daemon, without)?;
    let (records, ..) = daemon.stop()?;
    let told: Vec<_> =
        records
            .iter()
            .filter_map(|record| {
                if let Body::Coverage(coverage) = &record.body { Some(coverage.lifecycle.is_some()) } else { None }
            })
            .collect();
    ensure!(told == [false, true, false], "{told:?}");
    Ok(())
}

fn by_tracepoint() -> Result<()> {
    judged(Probe::start_with_tracefs(&["check", "--lifecycle", "--format", "json", "--force-mechanism", "tracepoint"])?)
}

fn check(test: &TestContext, mechanism: &str) -> Result<()> {
    judged(Probe::start(&["check", "--lifecycle", "--format", "json", "--force-mechanism", mechanism])?)?;
    with_every_filter(test, mechanism)
}

/// What a filter looks at is code that the kernel's verifier does not see without it.
fn with_every_filter(test: &TestContext, mechanism: &str) -> Result<()> {
    let (folder, own) = (tempfile::tempdir()?, test.lab()?);
    let (lock, netns) = (folder.path().join("lock").display().to_string(), own.netns("own")?.inode().to_string());
    let settings = [
        "--netns",
        &netns,
        "--lifecycle",
        "--port",
        "5672",
        "--peer",
        "10.77.2.0/24",
        "--peer",
        "fd00::/8",
        "--lock",
        &lock,
    ];
    let arguments = [&["daemon", "--metrics-listen", "none", "--force-mechanism", mechanism], &settings[..]].concat();
    let probe = Probe::start(&arguments)?;
    let Body::Coverage(coverage) = wire::read(&probe.wait_type("coverage", Duration::from_secs(90))?)?.body else {
        anyhow::bail!("no coverage")
    };
    ensure!(coverage.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.status == "ok"), "{:?}", coverage.lifecycle);
    ensure!(coverage.hooks.iter().all(|hook| hook.status != "broken"), "{:?}", coverage.hooks);
    probe.stop(SOON).map(drop)
}

/// The self-test resets a connection: its end must have been told.
fn judged(probe: Probe) -> Result<()> {
    let finished = probe.finish(Duration::from_secs(90))?;
    let record = finished.records.first().with_context(|| finished.stderr.clone())?;
    let Body::Coverage(coverage) = wire::read(record)?.body else { anyhow::bail!("{record}") };
    let lifecycle = coverage.lifecycle.context("not attached")?;
    ensure!(lifecycle.status == "ok", "{lifecycle:?}");
    ensure!(coverage.self_test.as_ref().is_some_and(|test| test.status == "ok"), "{:?}", coverage.self_test);
    Ok(())
}
