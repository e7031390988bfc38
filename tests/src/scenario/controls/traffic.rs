//! Connections that are used, or wait to be used.

use std::{
    net::{TcpListener, TcpStream},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{setsockopt, sockopt},
};
use serde_json::Value;

use crate::{
    labs::routed::Routed,
    peer::{Keepalive, Mode, Options, Peer},
    require::is_guest,
    scenario::{
        Scenario,
        script::{Script, Seat},
    },
};

const ECHO: Options = Options { mode: Mode::Echo, ..Options::NONE };

fn busy(every: Duration, bytes: u64) -> Result<Options> {
    Ok(Options { write_every: Some(every), write_bytes: bytes, ..Options::default() })
}

pub(super) fn all() -> Vec<Scenario> {
    let control = |name, summary| Script::<Routed>::control(name, summary, &[Seat::Client]);
    vec![
        Script::<Routed> {
            server: Some(ECHO),
            client: || busy(Duration::from_millis(5), 4_000),
            act: |cast| {
                cast.establish()?;
                cast.options = Options::default();
                let idle = cast.connect_silently()?;
                for _ in 0..4 {
                    sleep(Duration::from_secs(2));
                    idle.command("write 10")?;
                }
                cast.keep(idle);
                Ok(())
            },
            also: |counts| ensure_no_events(counts.seen(Seat::Client)),
            ..control("busy-and-idle", "a connection with traffic, and one with pauses")
        }
        .scenario(),
        Script::<Routed> {
            server: Some(ECHO),
            client: || busy(Duration::from_millis(20), 1_000),
            act: |cast| {
                for _ in 0..4 {
                    cast.establish()?;
                }
                cast.lab.lose(5)?;
                sleep(Duration::from_secs(10));
                let half = received(&cast.clients)?;
                sleep(Duration::from_secs(5));
                let all = received(&cast.clients)?;
                ensure!(half.iter().zip(&all).all(|(half, all)| half < all), "no progress: {half:?}, then {all:?}");
                Ok(())
            },
            ..control("lossy-path", "transfers over a path that loses one packet in twenty, at random")
        }
        .scenario(),
        Script::<Routed> {
            is_alone: true,
            is_shared: false,
            limit: Duration::from_secs(300),
            server: None,
            act: |cast| {
                let pool = cast.lab.client.run(idle_pool)??;
                cast.keep(pool);
                sleep(Duration::from_secs(6));
                Ok(())
            },
            // A probe may be answered late by a processor that is busy with ten thousand; one in a row is nothing.
            also: |counts| ensure_few_events(counts.seen(Seat::Client), 100),
            ..control("idle-pool", "ten thousand idle connections, one in a hundred with keepalive")
        }
        .scenario(),
        Script::<Routed> {
            is_alone: true,
            server: Some(Options { quiet: true, ..ECHO }),
            // A guest's one translated processor is starved by less.
            client: || busy(Duration::from_millis(if is_guest() { 10 } else { 1 }), 200),
            act: |cast| {
                for _ in 0..if is_guest() { 3 } else { 12 } {
                    cast.establish()?;
                }
                sleep(Duration::from_secs(8));
                Ok(())
            },
            ..control("request-loops", "clients that send request after request")
        }
        .scenario(),
        Script::<Routed> {
            is_alone: true,
            is_shared: false,
            limit: Duration::from_secs(600),
            server: Some(Options { quiet: true, ..ECHO }),
            act: |cast| cast.churn(if is_guest() { 2_000 } else { 20_000 }, Duration::from_secs(500)),
            also: |counts| ensure_few_events(counts.seen(Seat::Client), 200),
            ..control("short-connections", "twenty thousand short connections, one after the other")
        }
        .scenario(),
        Script::<Routed> {
            client: || {
                Ok(Options { keepalive: Some(Keepalive { time_s: 2, interval_s: 3, probes: 3 }), ..Options::default() })
            },
            act: |cast| {
                cast.connect()?;
                sleep(Duration::from_secs(15));
                Ok(())
            },
            ..control("kept-alive", "an idle connection whose peer answers keepalive probes")
        }
        .scenario(),
        Script::<Routed> {
            server: Some(Options { mode: Mode::Slow, ..Options::default() }),
            act: |cast| {
                cast.connect()?;
                cast.clients_say("write 20000000")?;
                sleep(Duration::from_secs(20));
                Ok(())
            },
            ..control("slow-reader", "a peer that reads slowly, so that its window shuts again and again")
        }
        .scenario(),
    ]
}

/// Bytes that have come back to each client.
fn received(clients: &[Peer]) -> Result<Vec<u64>> {
    clients
        .iter()
        .map(|client| {
            let status = client.status()?;
            let received = status.pointer("/connections/0/received").and_then(Value::as_u64);
            received.with_context(|| format!("no bytes received in {status}"))
        })
        .collect()
}

fn ensure_no_events(seen: u64) -> Result<()> {
    ensure!(seen == 0, "{seen} events");
    Ok(())
}

fn ensure_few_events(seen: u64, most: u64) -> Result<()> {
    ensure!(seen < most, "{seen} events");
    Ok(())
}

/// Connections with both their ends.
fn idle_pool() -> Result<Vec<(TcpStream, TcpStream)>> {
    // Both ends are held by this program: twice as many descriptors. A guest takes half a minute for two thousand.
    let connections = if is_guest() { 2_000 } else { 9_700 };
    allow_descriptors(2 * connections + 500)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let pool = (0..connections)
        .map(|_| Ok((TcpStream::connect(address)?, listener.accept()?.0)))
        .collect::<Result<Vec<_>>>()?;
    // Some of them as web servers keep theirs: their peers answer a probe every second. More would starve a guest.
    for (client, _) in pool.iter().step_by(100) {
        setsockopt(client, sockopt::KeepAlive, &true)?;
        setsockopt(client, sockopt::TcpKeepIdle, &1)?;
        setsockopt(client, sockopt::TcpKeepInterval, &1)?;
    }
    Ok(pool)
}

/// Raises what this process may open, its own limit and, where that is too low, also the limit's limit.
fn allow_descriptors(count: usize) -> Result<()> {
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = now.max(count.try_into()?);
    Ok(setrlimit(Resource::RLIMIT_NOFILE, wanted, most.max(wanted))?)
}
