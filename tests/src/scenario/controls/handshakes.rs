//! Handshakes that look one-sided, or fail, and are ordinary.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, socket},
};

use crate::{
    labs::routed::Routed,
    peer::{Options, Peer},
    scenario::{
        Scenario,
        script::{Cast, Counts, Script, Seat},
    },
    watching::{PORT, SOON},
};

const BOTH_ENDS: &[Seat] = &[Seat::Client, Seat::Server];

/// Connection attempts that all repeat their SYN within a moment, a second after the first: far more than a CPU may tell of (100 in 0.1 s).
const ATTEMPTS: u16 = 800;

pub(super) fn all() -> Vec<Scenario> {
    let control = |name, summary, seats| Script::<Routed>::control(name, summary, seats);
    vec![
        Script::<Routed> {
            server: Some(Options { defer_accept_s: Some(4), ..Options::default() }),
            act: |cast| {
                // Else nobody could tell that this client is known.
                cast.connect()?;
                cast.server()?.wait_event("accepted", SOON)?;
                let client = cast.connect_silently()?;
                sleep(Duration::from_secs(10));
                client.command("write 10")?;
                cast.server()?.wait_event("accepted", SOON)?;
                cast.keep(client);
                Ok(())
            },
            // The kernel repeats its SYN-ACK before it gives up waiting; only the client cannot tell why.
            also: |counts| {
                ensure!(counts.seen_by(Seat::Client, "kfree_skb") > 0, "no SYN-ACK was repeated");
                let told = counts.seen_by(Seat::Server, "tcp_retransmit_synack");
                ensure!(told == 0, "the final ACK has come, and {told} repeats were told");
                Ok(())
            },
            ..control("deferred-accept", "a listener that waits for data before it accepts", BOTH_ENDS)
        }
        .scenario(),
        Script::<Routed> {
            is_alone: true,
            prepare: |lab| prepare_flood(lab, "0"),
            act: flood,
            also: |counts| {
                ensure!(repeats(counts) > 0, "no SYN-ACK was repeated");
                Ok(())
            },
            ..control("syn-flood", "a flood of SYNs from forged addresses, with a backlog", &[Seat::Server])
        }
        .scenario(),
        Script::<Routed> {
            is_alone: true,
            prepare: |lab| prepare_flood(lab, "2"),
            act: flood,
            also: |counts| {
                ensure!(repeats(counts) == 0, "SYN-ACKs were repeated");
                Ok(())
            },
            ..control("syn-flood-cookies", "the same flood, answered with SYN cookies", &[Seat::Server])
        }
        .scenario(),
        Script::<Routed> {
            is_alone: true,
            server: None,
            act: |cast| {
                cast.lab.cut()?;
                // Begun by one thread without waiting: in a guest, as many threads take longer to start than the limit's window.
                let begin_all = || (1..=ATTEMPTS).map(|port| begin(Routed::server_v4(port))).collect::<Result<Vec<_>>>();
                let sockets = cast.lab.client.run(begin_all)??;
                sleep(Duration::from_millis(2_500));
                drop(sockets);
                Ok(())
            },
            // Each repeats its SYN after 1 s and, where the first repeats are linear, after 2 s.
            also: |counts| {
                let (seen, suppressed) = (counts.seen(Seat::Client), counts.suppressed(Seat::Client));
                ensure!(seen > 0 && suppressed > 0, "{seen} seen, {suppressed} held back");
                ensure!(seen + suppressed >= u64::from(ATTEMPTS), "{seen} seen, {suppressed} held back");
                Ok(())
            },
            ..control("unanswered-attempts", "a burst of connection attempts that nobody answers", &[Seat::Client])
        }
        .scenario(),
        Script::<Routed> {
            prepare: |lab| {
                lab.server.nft(
                    "table inet filtered { chain input { type filter hook input priority 0; tcp dport 7000-7999 drop; }; }\n",
                )
            },
            act: |cast| {
                let filtered = Peer::listen(&cast.lab.server, Routed::server_v4(7_500), &Options::default())?;
                let scanned = (6_000..6_004).chain([7_100, 7_500]);
                let scanning = scanned
                    .map(|port| {
                        Peer::start_connect(&cast.lab.client, None, Routed::server_v4(port), &Options::default())
                    })
                    .collect::<Result<Vec<_>>>()?;
                sleep(Duration::from_secs(8));
                drop(scanning);
                cast.keep(filtered);
                Ok(())
            },
            ..control("port-scan", "scans of closed and of filtered ports", BOTH_ENDS)
        }
        .scenario(),
        Script::<Routed> {
            act: |cast| {
                cast.connect()?;
                // The kernel has no socket for the answers, and resets each.
                for round in 0..3 {
                    let checks = (0..20).map(|port| (Ipv4Addr::new(10, 77, 1, 1), 20_000 + round * 100 + port));
                    cast.lab.client.send_syns(Routed::server_v4(PORT), checks)?;
                    sleep(Duration::from_secs(1));
                }
                Ok(())
            },
            ..control("health-checks", "health checks that answer the SYN-ACK with a RST", BOTH_ENDS)
        }
        .scenario(),
        Script::<Routed> {
            server: None,
            act: |cast| {
                cast.lab.cut()?;
                let (one, other) = (([10, 77, 1, 1], 4_001).into(), Routed::server_v4(4_002));
                let ends = [
                    Peer::start_connect(&cast.lab.client, Some(one), other, &Options::default())?,
                    Peer::start_connect(&cast.lab.server, Some(other), one, &Options::default())?,
                ];
                cast.lab.heal()?;
                for end in &ends {
                    end.wait_event("connected", SOON)?;
                }
                ends.iter().try_for_each(|end| end.command("write 100"))?;
                sleep(Duration::from_secs(4));
                cast.keep(ends);
                Ok(())
            },
            ..control("simultaneous-open", "two ends that open a connection at once", BOTH_ENDS)
        }
        .scenario(),
        Script::<Routed> {
            // Both ends without cookies (`TFO_CLIENT_NO_COOKIE`, `TFO_SERVER_COOKIE_NOT_REQD`, `TFO_SERVER_WO_SOCKOPT1`).
            prepare: |lab| {
                lab.client.sysctl("net.ipv4.tcp_fastopen", "5")?;
                lab.server.sysctl("net.ipv4.tcp_fastopen", "1538")
            },
            client: || Ok(Options { fast_open: true, ..Options::default() }),
            act: |cast| {
                let client = cast.connect_silently()?;
                client.command("write 100")?;
                cast.server()?.wait_event("accepted", SOON)?;
                sleep(Duration::from_secs(4));
                cast.keep(client);
                Ok(())
            },
            ..control("fast-open", "a connection that is opened with data in its SYN", BOTH_ENDS)
        }
        .scenario(),
        Script::<Routed> {
            server: None,
            act: |cast| {
                let address = Routed::server_v4(PORT);
                let listener = cast.lab.server.run(|| listen_for_one(address))??;
                // These fill it; nobody accepts them.
                let fill = || (0..2).map(|_| Ok(TcpStream::connect(address)?)).collect::<Result<Vec<_>>>();
                let waiting = cast.lab.client.run(fill)??;
                for _ in 0..4 {
                    cast.begin()?;
                }
                sleep(Duration::from_secs(9));
                cast.keep((listener, waiting));
                Ok(())
            },
            ..control("full-backlog", "a listener whose backlog is full", &[Seat::Server])
        }
        .scenario(),
        Script::<Routed> {
            prepare: |lab| {
                lab.router.nft(
                    "table inet v6 { chain forward { type filter hook forward priority 0; meta nfproto ipv6 meta l4proto tcp drop; }; }\n",
                )
            },
            act: |cast| {
                let loser =
                    Peer::start_connect(&cast.lab.client, None, Routed::server_v6(PORT), &Options::default())?;
                cast.connect()?;
                sleep(Duration::from_millis(2_500));
                loser.command("close")?;
                sleep(Duration::from_secs(2));
                Ok(())
            },
            ..control("happy-eyeballs", "a connection attempt that another one has made needless", BOTH_ENDS)
        }
        .scenario(),
    ]
}

fn repeats(counts: &Counts<'_>) -> u64 {
    counts.seen_by(Seat::Server, "tcp_retransmit_synack")
}

/// Nobody is there to answer the SYN-ACKs with a reset.
fn prepare_flood(lab: &Routed, cookies: &str) -> Result<()> {
    lab.swallow_forged()?;
    lab.server.sysctl("net.ipv4.tcp_syncookies", cookies)
}

/// Each SYN twice.
fn flood(cast: &mut Cast<Routed>) -> Result<()> {
    let forged = (1..=250u8).flat_map(|host| [(Ipv4Addr::new(10, 77, 9, host), 1_000 + u16::from(host)); 2]);
    cast.lab.client.send_syns(Routed::server_v4(PORT), forged)?;
    sleep(Duration::from_secs(8));
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

fn listen_for_one(address: SocketAddr) -> Result<OwnedFd> {
    let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&listener, Backlog::new(1)?)?;
    Ok(listener)
}
