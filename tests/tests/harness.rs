//! The harness itself: what it makes really fails the way a lab wants it, and nothing stays behind.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use connprobe_tests::child::ManagedChild;
use connprobe_tests::lab::{Lab, PREFIX};
use connprobe_tests::link::{End, veth};
use connprobe_tests::netns::{Netns, RUN_DIR};
use connprobe_tests::peer::{Keepalive, Mode, Options, Peer};
use connprobe_tests::probe::Probe;
use connprobe_tests::require::Requirement::{self, Bridge, Conntrack, Ipv6, Netns as Namespaces, Nft, Root, Veth};
use connprobe_tests::runner::{Test, TestContext, run};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Makes this program the child of one of its tests: it makes a lab, prints the path of the namespace, and waits.
const HOLD_VARIABLE: &str = "CONNPROBE_HARNESS_HOLD";

const ETIMEDOUT: i64 = 110;
const ECONNRESET: i64 = 104;
/// Long enough for a slow guest.
const SOON: Duration = Duration::from_secs(30);

/// Drops every TCP segment that arrives.
const DROP_TCP: &str =
    "table inet cut { chain input { type filter hook input priority 0; meta l4proto tcp drop; }; }\n";

fn main() -> ExitCode {
    if env::var_os(HOLD_VARIABLE).is_some() {
        return match hold() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let lab: &[Requirement] = &[Root, Namespaces];
    let linked: &[Requirement] = &[Root, Namespaces, Veth];
    let filtered: &[Requirement] = &[Root, Namespaces, Veth, Nft];
    run(
        "kernel",
        vec![
            Test::new("a namespace appears with its loopback device up and vanishes with its lab", lab, vanishes),
            Test::new("a panic in a lab removes its namespaces", lab, vanishes_by_panic),
            Test::new("a name that iproute2 could not hold is refused", lab, refuses_names),
            Test::new(
                "what a killed process has left is removed by the next, what a live one has is not",
                lab,
                leftovers,
            ),
            Test::new("an interrupted process removes its namespaces and exits with 130", lab, interrupted),
            Test::new("a terminated process removes its namespaces and exits with 143", lab, terminated),
            Test::new("a child started in a namespace ends with the lab", lab, children_end),
            Test::new("a setting of one namespace is not that of another", lab, settings),
            Test::new("two namespaces exchange data over a veth pair", linked, exchange),
            Test::new("two namespaces exchange data by IPv6", &[Root, Namespaces, Veth, Ipv6], exchange_by_ipv6),
            Test::new("data passes with tx offload off", linked, exchange_without_offload),
            Test::new("a bridge joins namespaces", &[Root, Namespaces, Veth, Bridge], bridged),
            Test::new("a router forwards and tracks connections", &[Root, Namespaces, Veth, Conntrack], routed),
            Test::new("an nft rule drops until it is taken away", filtered, dropped),
            Test::new("the message of nft is in the error", &[Root, Namespaces, Nft], nft_message),
            Test::new("a short link failure is survived by a connection", linked, link_failure),
            Test::new("an address taken away can be given back", linked, address_moves),
            Test::new("a peer owns its socket in its namespace", linked, ownership),
            Test::new("a peer reports ETIMEDOUT when its user timeout is over", filtered, user_timeout),
            Test::new("a peer reports ETIMEDOUT when its keepalive probes stay unanswered", filtered, keepalive),
            Test::new("a peer that cannot reach the other says which address it tries from", filtered, unanswered),
            Test::new("a reset and an end of file are told apart", linked, endings),
            Test::new("a slow reader and a mute one take less than is written", linked, slow_readers),
            Test::new("short connections all succeed", linked, churned),
            Test::new("output of the program is read as it comes", &[], program_output),
        ],
    )
}

fn hold() -> Result<()> {
    let lab = Lab::new("hold")?;
    let netns = lab.netns("held")?;
    writeln!(std::io::stdout(), "{}", netns.path().display())?;
    loop {
        thread::park();
    }
}

/// Starts this program as a child that holds a lab; the path is that of its namespace.
fn start_holder() -> Result<(ManagedChild, PathBuf)> {
    let mut command = Command::new(env::current_exe()?);
    command.env(HOLD_VARIABLE, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    let child = ManagedChild::spawn(command)?;
    let mut line = String::new();
    BufReader::new(child.take_stdout().context("no standard output")?).read_line(&mut line)?;
    let path = PathBuf::from(line.trim_end());
    ensure!(path.starts_with(RUN_DIR) && path.exists(), "the child has made nothing: \"{line}\"");
    Ok((child, path))
}

fn vanishes(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let (one, other) = (lab.netns("one")?, lab.netns("one")?);
    ensure!(one.name().starts_with(&format!("{PREFIX}{}-", std::process::id())));
    ensure!(one.name() != other.name() && one.inode() != other.inode());
    ensure!(u64::from(one.inode()) == fs::metadata(one.path())?.ino());
    ensure!(one.run(|| fs::metadata("/proc/thread-self/ns/net"))??.ino() == u64::from(one.inode()));
    let listener = one.run(|| std::net::TcpListener::bind("127.0.0.1:0"))??;
    let address = listener.local_addr()?;
    one.run(|| std::net::TcpStream::connect(address))??;
    ensure!(other.run(|| std::net::TcpStream::connect(address))?.is_err());

    lab.close()?;
    ensure!(!one.path().exists() && !other.path().exists());
    ensure!(one.run(|| ()).is_err(), "a namespace that is gone cannot be entered");
    Ok(())
}

fn vanishes_by_panic(test: &TestContext) -> Result<()> {
    let mut path = None;
    let caught = panic::catch_unwind(AssertUnwindSafe(|| -> Result<()> {
        let lab = test.lab()?;
        let netns = lab.netns("doomed")?;
        path = Some(netns.path().to_owned());
        // Out of the namespace, through the lab: without the hook that prints.
        netns.run(|| panic::resume_unwind(Box::new("doomed")))
    }));
    ensure!(caught.is_err());
    ensure!(!path.context("there was no namespace")?.exists());
    Ok(())
}

fn refuses_names(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    for name in ["", "../x", "a b", "A"] {
        ensure!(lab.netns(name).is_err(), "{name}");
    }
    Ok(())
}

fn leftovers(_: &TestContext) -> Result<()> {
    let (killed, of_killed) = start_holder()?;
    let (live, of_live) = start_holder()?;
    ensure!(of_killed.exists(), "the second process has removed what the first, alive, has");
    killed.kill()?;
    let (next, of_next) = start_holder()?;
    ensure!(!of_killed.exists(), "the third process has left what the first had");
    ensure!(of_live.exists() && of_next.exists());
    for child in [live, next] {
        child.signal(Signal::SIGTERM)?;
        child.wait(SOON)?;
    }
    Ok(())
}

fn interrupted(_: &TestContext) -> Result<()> {
    ends_by(Signal::SIGINT, 130)
}

fn terminated(_: &TestContext) -> Result<()> {
    ends_by(Signal::SIGTERM, 143)
}

fn ends_by(signal: Signal, code: i32) -> Result<()> {
    let (child, path) = start_holder()?;
    child.signal(signal)?;
    let status = child.wait(SOON)?;
    ensure!(status.code() == Some(code), "{status}");
    ensure!(!path.exists());
    Ok(())
}

fn children_end(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let mut command = Command::new("sleep");
    command.arg("1000");
    let child = lab.netns("busy")?.spawn(command)?;
    ensure!(child.try_wait()?.is_none());
    lab.close()?;
    let status = child.wait(SOON)?;
    ensure!(status.signal() == Some(9), "{status}");
    Ok(())
}

fn settings(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let (one, other) = (lab.netns("one")?, lab.netns("other")?);
    one.sysctl("net.ipv4.tcp_retries2", "5")?;
    other.sysctl("net.ipv4.tcp_retries2", "7")?;
    ensure!(one.read_sysctl("net.ipv4.tcp_retries2")? == "5");
    ensure!(other.read_sysctl("net.ipv4.tcp_retries2")? == "7");
    ensure!(one.sysctl("net.ipv4.no_such_setting", "1").is_err());
    ensure!(!one.has_sysctl("net.ipv4.no_such_setting")?);
    Ok(())
}

/// Two namespaces joined by a veth pair: 10.9.0.1 and 10.9.0.2.
struct Pair {
    client: Netns,
    server: Netns,
    _lab: Lab,
}

fn pair(test: &TestContext) -> Result<Pair> {
    let lab = test.lab()?;
    let (client, server) = (lab.netns("client")?, lab.netns("server")?);
    veth(&End::new(&client, "left", &["10.9.0.1/24"]), &End::new(&server, "right", &["10.9.0.2/24"]))?;
    Ok(Pair { client, server, _lab: lab })
}

fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| text.to_owned())
}

fn echo() -> Options {
    Options { mode: Mode::Echo, ..Options::default() }
}

/// A listener at this address and a connection to it.
fn connected(client: &Netns, server: &Netns, at: &str, client_options: &Options) -> Result<(Peer, Peer)> {
    let listener = Peer::listen(server, address(at)?, &echo())?;
    let peer = Peer::connect(client, listener.local()?, client_options)?;
    let local = peer.local()?.to_string();
    listener.wait_event_where("accepted", SOON, |event| event.get("remote").is_some_and(|remote| *remote == local))?;
    Ok((listener, peer))
}

/// Bytes the first connection of a peer has received.
fn received(peer: &Peer) -> Result<u64> {
    let status = peer.status()?;
    let bytes = status.pointer("/connections/0/received").and_then(Value::as_u64);
    bytes.ok_or_else(|| anyhow!("no connection: {status}"))
}

fn wait_received(peer: &Peer, bytes: u64) -> Result<()> {
    for _ in 0..1500 {
        if received(peer)? >= bytes {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(anyhow!("{bytes} bytes have not come: {}", peer.status()?))
}

fn exchange_over(client: &Netns, server: &Netns, at: &str) -> Result<()> {
    let (listener, peer) = connected(client, server, at, &Options::default())?;
    ensure!(peer.remote()? == listener.local()?);
    peer.command("write 300000")?;
    peer.wait_event("written", SOON)?;
    wait_received(&peer, 300_000)?;
    peer.command("close")?;
    peer.wait_event("closed", SOON)?;
    listener.wait_event("eof", SOON)?;
    listener.wait_event("closed", SOON)?;
    peer.finish(SOON)?;
    listener.finish(SOON)
}

fn exchange(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    exchange_over(&pair.client, &pair.server, "10.9.0.2:7000")
}

fn exchange_by_ipv6(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let (client, server) = (lab.netns("client")?, lab.netns("server")?);
    veth(&End::new(&client, "left", &["fd09::1/64"]), &End::new(&server, "right", &["fd09::2/64"]))?;
    exchange_over(&client, &server, "[fd09::2]:7000")
}

fn exchange_without_offload(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    pair.client.tx_offload_off("left")?;
    pair.server.tx_offload_off("right")?;
    ensure!(pair.client.tx_offload_off("missing").is_err());
    exchange_over(&pair.client, &pair.server, "10.9.0.2:7000")
}

fn bridged(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let (client, switch, server) = (lab.netns("client")?, lab.netns("switch")?, lab.netns("server")?);
    veth(&End::new(&client, "eth0", &["10.9.0.1/24"]), &End::new(&switch, "port1", &[]))?;
    veth(&End::new(&server, "eth0", &["10.9.0.2/24"]), &End::new(&switch, "port2", &[]))?;
    switch.bridge("br0", &["port1", "port2"], &["10.9.0.3/24"])?;
    exchange_over(&client, &server, "10.9.0.2:7000")?;
    exchange_over(&client, &switch, "10.9.0.3:7000")
}

fn routed(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let (client, router, server) = (lab.netns("client")?, lab.netns("router")?, lab.netns("server")?);
    veth(&End::new(&client, "eth0", &["10.9.1.2/24"]), &End::new(&router, "inner", &["10.9.1.1/24"]))?;
    veth(&End::new(&server, "eth0", &["10.9.2.2/24"]), &End::new(&router, "outer", &["10.9.2.1/24"]))?;
    client.add_route("default via 10.9.1.1")?;
    server.add_route("default via 10.9.2.1")?;
    router.forward()?;
    router.nft(
        "table inet firewall {
           counter opened { }
           chain forward {
             type filter hook forward priority 0; policy drop;
             ct state established accept
             iifname inner tcp flags syn / fin,syn,rst,ack ct state new counter name opened accept
           }
         }\n",
    )?;
    exchange_over(&client, &server, "10.9.2.2:7000")?;
    let counters = router.nft_query(&["list", "counters"])?;
    ensure!(counters.contains("packets 1 "), "one SYN has opened one connection: {counters}");
    Ok(())
}

fn dropped(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let (listener, peer) = connected(&pair.client, &pair.server, "10.9.0.2:7000", &Options::default())?;
    pair.server.nft(DROP_TCP)?;
    peer.command("write 10")?;
    peer.wait_event("written", SOON)?;
    thread::sleep(Duration::from_millis(300));
    ensure!(received(&listener)? == 0, "the rule drops nothing");
    pair.server.nft("flush ruleset\n")?;
    wait_received(&listener, 10)
}

fn nft_message(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let error = lab.netns("alone")?.nft("table inet t { nonsense }\n").err().context("nft took nonsense")?;
    ensure!(error.to_string().contains("syntax error"), "{error:#}");
    Ok(())
}

fn link_failure(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let (listener, peer) = connected(&pair.client, &pair.server, "10.9.0.2:7000", &Options::default())?;
    pair.server.link_down("right")?;
    peer.command("write 10")?;
    peer.wait_event("written", SOON)?;
    thread::sleep(Duration::from_millis(300));
    ensure!(received(&listener)? == 0);
    pair.server.link_up("right")?;
    wait_received(&listener, 10)?;
    ensure!(pair.server.link_up("missing").is_err());
    Ok(())
}

fn address_moves(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    pair.server.add_address("right", "10.9.0.100/32")?;
    let (listener, peer) = connected(&pair.client, &pair.server, "10.9.0.100:7000", &Options::default())?;
    pair.server.del_address("right", "10.9.0.100/32")?;
    peer.command("write 10")?;
    peer.wait_event("written", SOON)?;
    thread::sleep(Duration::from_millis(300));
    ensure!(received(&listener)? == 0);
    pair.server.add_address("right", "10.9.0.100/32")?;
    wait_received(&listener, 10)
}

fn ownership(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let (listener, peer) = connected(&pair.client, &pair.server, "10.9.0.2:7000", &Options::default())?;
    for (process, netns) in [(&listener, &pair.server), (&peer, &pair.client)] {
        let own = fs::metadata(format!("/proc/{}/ns/net", process.pid()))?;
        ensure!(own.ino() == u64::from(netns.inode()));
        let comm = fs::read_to_string(format!("/proc/{}/comm", process.pid()))?;
        ensure!(comm.trim_end() == "connprobe-peer", "{comm}");
    }
    Ok(())
}

fn number(event: &Value, name: &str) -> Result<i64> {
    event.get(name).and_then(Value::as_i64).ok_or_else(|| anyhow!("no {name} in {event}"))
}

fn user_timeout(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let options = Options { user_timeout: Some(Duration::from_millis(1000)), ..Options::default() };
    let (_listener, peer) = connected(&pair.client, &pair.server, "10.9.0.2:7000", &options)?;
    pair.server.nft(DROP_TCP)?;
    peer.command("write 10")?;
    let written = number(&peer.wait_event("written", SOON)?, "ktime_ns")?;
    let error = peer.wait_event("error", SOON)?;
    ensure!(number(&error, "errno")? == ETIMEDOUT, "{error}");
    let passed = Duration::from_nanos(u64::try_from(number(&error, "ktime_ns")? - written)?);
    test.note(format!("given up after {passed:?}"));
    // The retransmission timer ends on the user timeout (tcp_clamp_rto_to_user_timeout), not much before or after it.
    ensure!(passed > Duration::from_millis(900) && passed < Duration::from_secs(10), "{passed:?}");
    Ok(())
}

fn keepalive(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let keepalive = Some(Keepalive { time_s: 1, interval_s: 1, probes: 2 });
    let options = Options { keepalive, ..Options::default() };
    let (_listener, peer) = connected(&pair.client, &pair.server, "10.9.0.2:7000", &options)?;
    pair.server.nft(DROP_TCP)?;
    let error = peer.wait_event("error", SOON)?;
    ensure!(number(&error, "errno")? == ETIMEDOUT, "{error}");
    Ok(())
}

fn unanswered(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    pair.server.nft(DROP_TCP)?;
    let options = Options { user_timeout: Some(Duration::from_millis(1500)), ..Options::default() };
    let from = address("10.9.0.1:40000")?;
    let peer = Peer::start_connect(&pair.client, Some(from), address("10.9.0.2:7000")?, &options)?;
    ensure!(peer.local()? == from);
    let error = peer.wait_event("error", SOON)?;
    ensure!(number(&error, "errno")? == ETIMEDOUT, "{error}");
    ensure!(error.get("during").is_some_and(|during| during == "connect"), "{error}");
    Ok(())
}

fn endings(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let (listener, peer) = connected(&pair.client, &pair.server, "10.9.0.2:7000", &Options::default())?;
    peer.command("abort")?;
    peer.wait_event("aborted", SOON)?;
    ensure!(number(&listener.wait_event("error", SOON)?, "errno")? == ECONNRESET);

    let other = Peer::connect(&pair.client, listener.local()?, &Options::default())?;
    other.command("shutdown")?;
    listener.wait_event("eof", SOON)?;
    listener.wait_event("closed", SOON)?;
    other.wait_event("eof", SOON)?;
    other.command("nonsense")?;
    other.wait_event("refused", SOON)?;
    Ok(())
}

fn slow_readers(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    for (port, mode) in [(7000, Mode::Slow), (7001, Mode::Mute)] {
        let options = Options { mode, ..Options::default() };
        let listener = Peer::listen(&pair.server, address(&format!("10.9.0.2:{port}"))?, &options)?;
        let peer = Peer::connect(&pair.client, listener.local()?, &Options::default())?;
        peer.command("write 30000000")?;
        thread::sleep(Duration::from_millis(500));
        let status = peer.status()?;
        let pending = status.pointer("/connections/0/pending").and_then(Value::as_u64).unwrap_or(0);
        ensure!(pending > 0, "{mode:?}: {status}");
        if mode == Mode::Slow {
            wait_received(&listener, 1)?;
        }
        ensure!(received(&listener)? < 1_000_000, "{mode:?}");
    }
    Ok(())
}

fn churned(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let quiet = Options { quiet: true, ..echo() };
    let listener = Peer::listen(&pair.server, address("10.9.0.2:7000")?, &quiet)?;
    let peer = Peer::churn(&pair.client, listener.local()?, 500)?;
    let churned = peer.wait_event("churned", SOON)?;
    ensure!(number(&churned, "failed")? == 0, "{churned}");
    ensure!(number(&listener.status()?, "accepted")? == 500);
    ensure!(listener.events().len() == 2, "listening and status, nothing else");
    Ok(())
}

fn program_output(_: &TestContext) -> Result<()> {
    let script = r#"trap 'echo "{\"type\":\"summary\"}"; exit 1' INT
        echo ready >&2; echo '{"type":"heartbeat"}'; echo text; while :; do sleep 0.02; done"#;
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let probe = Probe::start_command(command)?;
    probe.wait_stderr("read", SOON)?;
    probe.wait_type("heartbeat", SOON)?;
    ensure!(probe.wait_type("heartbeat", Duration::from_millis(50)).is_err(), "a record is returned once");
    let finished = probe.stop(SOON)?;
    ensure!(finished.code == Some(1) && finished.records.len() == 2, "{finished:?}");
    ensure!(finished.stdout.contains("text\n") && finished.stderr == "ready\n", "{finished:?}");
    Ok(())
}
