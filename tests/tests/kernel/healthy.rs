//! What must stay silent: healthy connections, however noisy.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    findings::{recovered, wait as finding},
    labs::routed::Routed,
    peer::{Mode, Options, Peer},
    require::is_guest,
    runner::{Test, TestContext},
    wire::{Connection, Summary},
};
use nix::{
    errno::Errno,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt},
    },
};

use crate::watching::{PORT, SOON, WATCHING, stop, stop_silent, summary, watch};

pub(crate) fn tests() -> Vec<Test> {
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    vec![
        test("a connection with traffic and pauses is no finding and no event", traffic),
        test("a path cut for some seconds is opened and then recovered, and the exit code is 0", flap),
        test("five percent of random loss with progress is no finding", lossy),
        test("a pool of idle connections is no finding and no event, however often it is scanned", idle_pool)
            .within(Duration::from_secs(300))
            .alone()
            .not_shared(),
        test("many connections in request loops are no finding", request_loops).alone(),
        test("twenty thousand short connections are no finding and hardly an event", churn)
            .within(Duration::from_secs(600))
            .alone()
            .not_shared(),
        test("a burst of unanswered connection attempts is held back and is no finding", attempts).alone(),
        test("an orderly close, a half-close and an abort are no finding", endings),
    ]
}

fn seen(summary: &Summary) -> u64 {
    summary.hooks.iter().map(|hook| hook.seen).sum()
}

fn traffic(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let echo = Options { mode: Mode::Echo, ..Options::default() };
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &echo)?;
    let busy = Options { write_every: Some(Duration::from_millis(5)), write_bytes: 4_000, ..Options::default() };
    let probe = watch(&lab.client, &[])?;
    let _busy = Peer::connect(&lab.client, Routed::server_v4(PORT), &busy)?;
    let idle = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    for _ in 0..4 {
        sleep(Duration::from_secs(2));
        idle.command("write 10")?;
    }
    let summary = stop_silent(probe)?;
    ensure!(seen(&summary) == 0, "events on healthy connections: {summary:?}");
    Ok(())
}

fn flap(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    lab.cut()?;
    client.command("write 100")?;
    // The fourth timeout makes it a suspicion, 3 s after the write; the sixth, 12.6 s after it, would make it a fact.
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(opened.confidence == "suspected", "{opened:?}");
    lab.heal()?;
    let healed = Instant::now();
    recovered::<Connection>(&probe, SOON)?;
    // The next retransmission comes 3.2 s after the fourth; its answer is looked for within a second or so.
    println!("recovery was told {:.1} s after the path was healed", healed.elapsed().as_secs_f64());
    let (finished, records) = stop(probe)?;
    ensure!(finished.code == Some(0), "exit code {:?}", finished.code);
    let summary = summary(&records)?;
    ensure!((summary.findings, summary.unresolved) == (1, 0), "{summary:?}");
    Ok(())
}

fn idle_pool(test: &TestContext) -> Result<()> {
    /// Both ends are held by this program: twice as many descriptors.
    const CONNECTIONS: usize = 9_700;
    allow_descriptors(2 * CONNECTIONS + 500)?;
    let own = test.lab()?;
    let netns = own.netns("pool")?;
    netns.ip("link set lo up\n")?;
    let pool = netns.run(|| -> Result<Vec<_>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        (0..CONNECTIONS).map(|_| Ok((TcpStream::connect(address)?, listener.accept()?.0))).collect()
    })??;
    // Some of them as web servers keep theirs: their peers answer a probe every second. More would starve a guest.
    for (client, _) in pool.iter().step_by(100) {
        setsockopt(client, sockopt::KeepAlive, &true)?;
        setsockopt(client, sockopt::TcpKeepIdle, &1)?;
        setsockopt(client, sockopt::TcpKeepInterval, &1)?;
    }
    let probe = watch(&netns, &["--scan-every", "500ms"])?;
    sleep(Duration::from_secs(6));
    let summary = stop_silent(probe)?;
    // A probe may be answered late by a processor that is busy with ten thousand; one in a row is nothing.
    println!("events on {CONNECTIONS} idle connections: {}", seen(&summary));
    ensure!(seen(&summary) < 100, "events on idle connections: {summary:?}");
    drop(pool);
    Ok(())
}

fn request_loops(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let echo = Options { mode: Mode::Echo, quiet: true, ..Options::default() };
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &echo)?;
    let probe = watch(&lab.client, &["--scan-every", "500ms"])?;
    // A guest's one translated processor is starved by less.
    let (count, every_ms) = if is_guest() { (3, 10) } else { (12, 1) };
    let looping =
        Options { write_every: Some(Duration::from_millis(every_ms)), write_bytes: 200, ..Options::default() };
    let clients = (0..count)
        .map(|_| Peer::connect(&lab.client, Routed::server_v4(PORT), &looping))
        .collect::<Result<Vec<_>>>()?;
    sleep(Duration::from_secs(8));
    let summary = stop_silent(probe)?;
    println!("events of {} request loops: {}", clients.len(), seen(&summary));
    Ok(())
}

/// Raises what this process may open, its own limit and, where that is too low, also the limit's limit.
fn allow_descriptors(count: usize) -> Result<()> {
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = now.max(count.try_into()?);
    Ok(setrlimit(Resource::RLIMIT_NOFILE, wanted, most.max(wanted))?)
}

fn lossy(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let echo = Options { mode: Mode::Echo, ..Options::default() };
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &echo)?;
    let busy = Options { write_every: Some(Duration::from_millis(20)), write_bytes: 1_000, ..Options::default() };
    let clients =
        (0..4).map(|_| Peer::connect(&lab.client, Routed::server_v4(PORT), &busy)).collect::<Result<Vec<_>>>()?;
    let probe = watch(&lab.client, &[])?;
    lab.lose(5)?;
    sleep(Duration::from_secs(15));
    let summary = stop_silent(probe)?;
    for client in &clients {
        let status = client.status()?;
        ensure!(status.to_string().contains("\"received\""), "{status}");
    }
    println!("timeouts seen at 5 % loss: {}", seen(&summary));
    Ok(())
}

fn churn(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let echo = Options { mode: Mode::Echo, quiet: true, ..Options::default() };
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &echo)?;
    let probe = watch(&lab.client, &[])?;
    let client = Peer::churn(&lab.client, Routed::server_v4(PORT), 20_000)?;
    client.wait_event("churned", Duration::from_secs(500))?;
    let summary = stop_silent(probe)?;
    println!("events seen in 20,000 short connections: {}", seen(&summary));
    ensure!(seen(&summary) < 200, "{summary:?}");
    Ok(())
}

fn attempts(test: &TestContext) -> Result<()> {
    /// All repeat their SYN within a moment, a second after the first: far more than a CPU may tell of (100 in 0.1 s).
    const ATTEMPTS: u16 = 800;
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let probe = watch(&lab.client, &[])?;
    lab.cut()?;
    // Begun by one thread without waiting: in a guest, as many threads take longer to start than the limit's window.
    let sockets =
        lab.client.run(|| (1..=ATTEMPTS).map(|port| begin(Routed::server_v4(port))).collect::<Result<Vec<_>>>())??;
    sleep(Duration::from_millis(2_500));
    drop(sockets);
    let summary = stop_silent(probe)?;
    let suppressed: u64 = summary.hooks.iter().map(|hook| hook.suppressed).sum();
    println!("of {ATTEMPTS} connection attempts {} repeats told, {suppressed} held back", seen(&summary));
    // Each repeats its SYN after 1 s and, where the first repeats are linear, after 2 s.
    ensure!(seen(&summary) > 0 && suppressed > 0, "{summary:?}");
    ensure!(seen(&summary) + suppressed >= u64::from(ATTEMPTS), "{summary:?}");
    Ok(())
}

/// A socket that has begun to connect.
fn begin(to: SocketAddr) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(error) => Err(error).with_context(|| format!("cannot connect to {to}")),
    }
}

fn endings(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let keep = Options { keep_open: true, ..Options::default() };
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &keep)?;
    let probe = watch(&lab.client, &[])?;
    for ending in ["close", "shutdown", "abort"] {
        let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
        client.command("write 100")?;
        client.wait_event("written", SOON)?;
        client.command(ending)?;
        sleep(Duration::from_millis(500));
    }
    stop_silent(probe).context("while connections ended in three ways")?;
    Ok(())
}
