//! Handshakes that look one-sided, or fail, and are ordinary: none is a finding.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::AsRawFd as _,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    clocks::{now_wall_seconds, wall_seconds},
    findings::wait as finding,
    labs::routed::Routed,
    netns::Netns,
    peer::{Options, Peer},
    probe::Probe,
    runner::{Test, TestContext},
    wire::{Evidence, Summary},
};
use etherparse::PacketBuilder;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrStorage, bind, listen,
    sendto, socket,
};

use crate::watching::{PORT, SOON, WATCHING, connect, stop, stop_silent, summary, watch};

pub(crate) fn tests() -> Vec<Test> {
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    vec![
        test("a listener that waits for data before it accepts is no finding at either end", defer_accept),
        test("a flood of SYNs from forged addresses is no finding, with a backlog and with cookies", flood).alone(),
        test("what is dropped of a connection in limbo is told while a flood of SYNs comes in", flood_beside_a_case)
            .alone()
            .not_shared(),
        test("scans of closed and of filtered ports are no finding at either end", scan),
        test("health checks that answer the SYN-ACK with a RST are no finding", health_checks),
        test("two ends that open a connection at once are no finding", simultaneous_open),
        test("a connection that is opened with data in its SYN is no finding", fast_open),
        test("a listener whose backlog is full is no finding", backlog),
        test("a connection attempt that another one has made needless is no finding", happy_eyeballs),
    ]
}

fn both(lab: &Routed) -> Result<(Probe, Probe)> {
    Ok((watch(&lab.client, &[])?, watch(&lab.server, &[])?))
}

fn both_silent((client, server): (Probe, Probe)) -> Result<[Summary; 2]> {
    Ok([stop_silent(client).context("at the client")?, stop_silent(server).context("at the server")?])
}

fn seen(summary: &Summary, hook: &str) -> u64 {
    summary.hooks.iter().filter(|count| count.hook == hook).map(|count| count.seen).sum()
}

fn defer_accept(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let deferring = Options { defer_accept_s: Some(4), ..Options::default() };
    let server = Peer::listen(&lab.server, Routed::server_v4(PORT), &deferring)?;
    // Else nobody could tell that this one is known.
    let other = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    other.command("write 10")?;
    server.wait_event("accepted", SOON)?;
    let probes = both(&lab)?;
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    sleep(Duration::from_secs(10));
    client.command("write 10")?;
    server.wait_event("accepted", SOON)?;
    let [here, there] = both_silent(probes)?;
    // The kernel repeats its SYN-ACK before it gives up waiting; only the client cannot tell why.
    ensure!(seen(&here, "kfree_skb") > 0, "no SYN-ACK was repeated: {here:?}");
    ensure!(seen(&there, "tcp_retransmit_synack") == 0, "the final ACK has come: {there:?}");
    Ok(())
}

/// Sends a SYN for the server from each of these addresses and ports.
fn send_syns(netns: &Netns, from: impl Iterator<Item = (Ipv4Addr, u16)> + Send) -> Result<()> {
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 77, 2, 1), PORT);
    netns.run(|| {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        for (address, port) in from {
            let builder = PacketBuilder::ipv4(address.octets(), to.ip().octets(), 64).tcp(port, to.port(), 1, 64_000);
            let mut packet = Vec::new();
            builder.syn().write(&mut packet, &[])?;
            sendto(raw.as_raw_fd(), &packet, &SockaddrIn::from(to), MsgFlags::empty())?;
        }
        Ok(())
    })?
}

fn flood(test: &TestContext) -> Result<()> {
    for cookies in ["0", "2"] {
        let own = test.lab()?;
        let lab = Routed::new(&own)?;
        // Nobody is there to answer the SYN-ACKs with a reset.
        lab.router.nft(
            "table inet forged { chain forward { type filter hook forward priority 0; ip daddr 10.77.9.0/24 drop; }; }\n",
        )?;
        lab.router.ip("route add 10.77.9.0/24 via 10.77.1.1\n")?;
        lab.server.sysctl("net.ipv4.tcp_syncookies", cookies)?;
        let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
        let probe = watch(&lab.server, &[])?;
        let forged = (1..=250u8).flat_map(|host| [(Ipv4Addr::new(10, 77, 9, host), 1_000 + u16::from(host)); 2]);
        send_syns(&lab.client, forged)?;
        sleep(Duration::from_secs(8));
        let summary = stop_silent(probe).with_context(|| format!("tcp_syncookies = {cookies}"))?;
        println!("tcp_syncookies = {cookies}: {} repeated SYN-ACKs told", seen(&summary, "tcp_retransmit_synack"));
        ensure!((seen(&summary, "tcp_retransmit_synack") > 0) == (cookies == "0"), "{summary:?}");
    }
    Ok(())
}

/// For nine seconds, SYNs of more hosts than are remembered, again and again in another order, so that each is remembered for more than one.
fn flood_server(lab: &Routed) -> Result<()> {
    /// A prime: multiples of each number below it are another order of them all.
    const HOSTS: usize = 127;
    // Nobody is there to answer the SYN-ACKs with a reset.
    lab.router.nft(
        "table inet forged { chain forward { type filter hook forward priority 0; ip daddr 10.77.9.0/24 drop; }; }\n",
    )?;
    lab.router.ip("route add 10.77.9.0/24 via 10.77.1.1\n")?;
    for round in 1..=15 {
        let hosts = (1..HOSTS).filter_map(|index| u8::try_from(index * round % HOSTS).ok());
        send_syns(&lab.client, hosts.map(|host| (Ipv4Addr::new(10, 77, 9, host), 1_000)))?;
        // The kernel answers the copy of a SYN twice a second at most (`tcp_invalid_ratelimit`).
        sleep(Duration::from_millis(600));
    }
    Ok(())
}

fn flood_beside_a_case(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.server.sysctl("net.ipv4.tcp_syncookies", "0")?;
    let (server, _client) = connect(&lab, &Options::default())?;
    // Fewer than the flood has handshakes.
    let probe = watch(&lab.server, &["--scan-every", "never", "--test-suspects", "96"])?;
    lab.router.nft(
        "table inet lost { chain forward { type filter hook forward priority 0; ip daddr 10.77.1.1 meta l4proto tcp drop; }; }\n",
    )?;
    server.command("write 100")?;
    finding(&probe, "opened", SOON)?;
    // What a retransmission sends is dropped before its timeout is told: only one that is remembered from the last is told itself.
    lab.server.nft(
        "table inet drops { chain output { type filter hook output priority 0; ip daddr 10.77.1.1 tcp sport 5672 drop; }; }\n",
    )?;
    let flooded_at = now_wall_seconds()?;
    flood_server(&lab)?;
    // Meanwhile it was sent again twice, 3.2 and 9.6 s after the finding.
    sleep(Duration::from_secs(2));
    server.command("abort")?;
    let closed = finding(&probe, "closed", SOON)?;
    let (_, records) = stop(probe)?;
    let summary = summary(&records)?;
    ensure!(seen(summary, "tcp_retransmit_synack") > 200, "no flood: {summary:?}");
    let told = |evidence: &&Evidence| {
        is_dropped_data(evidence) && wall_seconds(&evidence.time).is_ok_and(|at| at > flooded_at + 1.5)
    };
    ensure!(closed.evidence.iter().filter(told).count() > 0, "nothing is told any more: {:#?}", closed.evidence);
    Ok(())
}

fn is_dropped_data(evidence: &Evidence) -> bool {
    evidence.kind == "segment_dropped" && evidence.data.get("message") == Some(&"data".into())
}

fn scan(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.server.nft(
        "table inet filtered { chain input { type filter hook input priority 0; tcp dport 7000-7999 drop; }; }\n",
    )?;
    let _server = Peer::listen(&lab.server, Routed::server_v4(7_500), &Options::default())?;
    let probes = both(&lab)?;
    let closed =
        (6_000..6_040).map(|port| Peer::start_connect(&lab.client, None, Routed::server_v4(port), &Options::default()));
    let filtered =
        [7_100, 7_500].map(|port| Peer::start_connect(&lab.client, None, Routed::server_v4(port), &Options::default()));
    let scanning = closed.take(4).chain(filtered).collect::<Result<Vec<_>>>()?;
    sleep(Duration::from_secs(8));
    drop(scanning);
    both_silent(probes)?;
    Ok(())
}

fn health_checks(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let _other = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    let probes = both(&lab)?;
    // The kernel has no socket for the answers, and resets each.
    for round in 0..3 {
        send_syns(&lab.client, (0..20).map(|port| (Ipv4Addr::new(10, 77, 1, 1), 20_000 + round * 100 + port)))?;
        sleep(Duration::from_secs(1));
    }
    both_silent(probes)?;
    Ok(())
}

fn simultaneous_open(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let probes = both(&lab)?;
    lab.cut()?;
    let (one, other) = (([10, 77, 1, 1], 4_001).into(), Routed::server_v4(4_002));
    let here = Peer::start_connect(&lab.client, Some(one), other, &Options::default())?;
    let there = Peer::start_connect(&lab.server, Some(other), one, &Options::default())?;
    lab.heal()?;
    here.wait_event("connected", SOON)?;
    there.wait_event("connected", SOON)?;
    here.command("write 100")?;
    there.command("write 100")?;
    sleep(Duration::from_secs(4));
    both_silent(probes)?;
    Ok(())
}

fn fast_open(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    // Both ends without cookies (`TFO_CLIENT_NO_COOKIE`, `TFO_SERVER_COOKIE_NOT_REQD`, `TFO_SERVER_WO_SOCKOPT1`).
    lab.client.sysctl("net.ipv4.tcp_fastopen", "5")?;
    lab.server.sysctl("net.ipv4.tcp_fastopen", "1538")?;
    let server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let probes = both(&lab)?;
    let fast = Options { fast_open: true, ..Options::default() };
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &fast)?;
    client.command("write 100")?;
    server.wait_event("accepted", SOON)?;
    sleep(Duration::from_secs(4));
    both_silent(probes)?;
    Ok(())
}

fn backlog(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let address = Routed::server_v4(PORT);
    let listener = lab.server.run(|| -> Result<_> {
        let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(listener.as_raw_fd(), &SockaddrStorage::from(address))?;
        listen(&listener, Backlog::new(1)?)?;
        Ok(listener)
    })??;
    // These fill it; nobody accepts them.
    let waiting = lab.client.run(|| (0..2).map(|_| Ok(TcpStream::connect(address)?)).collect::<Result<Vec<_>>>())??;
    let probe = watch(&lab.server, &[])?;
    let attempts = (0..4)
        .map(|_| Peer::start_connect(&lab.client, None, address, &Options::default()))
        .collect::<Result<Vec<_>>>()?;
    sleep(Duration::from_secs(9));
    stop_silent(probe)?;
    drop((attempts, waiting, listener));
    Ok(())
}

fn happy_eyeballs(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    lab.router.nft(
        "table inet v6 { chain forward { type filter hook forward priority 0; meta nfproto ipv6 meta l4proto tcp drop; }; }\n",
    )?;
    let probes = both(&lab)?;
    let loser = Peer::start_connect(&lab.client, None, Routed::server_v6(PORT), &Options::default())?;
    let winner = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    winner.command("write 10")?;
    sleep(Duration::from_millis(2_500));
    loser.command("close")?;
    sleep(Duration::from_secs(2));
    both_silent(probes)?;
    Ok(())
}
