//! How connections end, and who ended them.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    daemon::Daemon,
    labs::routed::Routed,
    peer::{Keepalive, Options, Peer},
    runner::TestContext,
    watching::{PORT, SOON},
    wire::{self, Body, Closed},
};

use super::{TELLING, at, closed_at, closed_of, pair};

pub(super) fn endings(test: &TestContext) -> Result<()> {
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

pub(super) fn failures(test: &TestContext) -> Result<()> {
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

pub(super) fn resets(test: &TestContext) -> Result<()> {
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

/// A connection that has carried some data to a listener, which keeps its end open.
fn connected(lab: &Routed, server: &Peer) -> Result<Peer> {
    let client = Peer::connect(&lab.client, server.local()?, &Options::default())?;
    server.wait_event("accepted", SOON)?;
    client.command("write 1000")?;
    client.wait_event("written", SOON)?;
    sleep(Duration::from_millis(100));
    Ok(client)
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
