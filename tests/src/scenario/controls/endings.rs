//! Connections that end, in every way that is in order.

use std::{net::SocketAddrV4, thread::sleep, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    firewall::drops_invalid,
    labs::{compute_node::ComputeNode, routed::Routed},
    peer::{Mode, Options},
    require::Requirement::Conntrack,
    scenario::{
        Scenario,
        script::{Cast, Script, Seat, Topology},
    },
    stray::Stray,
    watching::{PORT, SOON},
};

const ECHO: Options = Options { mode: Mode::Echo, quiet: true, ..Options::NONE };

/// One that its client closes, one that it closes by half, and one that it resets.
fn end_in_every_way<T: Topology>(cast: &mut Cast<T>) -> Result<()> {
    for ending in ["close", "shutdown", "abort"] {
        let client = cast.connect_silently()?;
        client.command("write 100")?;
        client.wait_event("written", SOON)?;
        client.command(ending)?;
        sleep(Duration::from_millis(500));
        cast.keep(client);
    }
    Ok(())
}

fn churn_and_end<T: Topology>(cast: &mut Cast<T>, count: u64) -> Result<()> {
    cast.churn(count, Duration::from_secs(60))?;
    end_in_every_way(cast)
}

pub(super) fn all() -> Vec<Scenario> {
    let control = |name, summary, seats| Script::<Routed>::control(name, summary, seats);
    vec![
        Script::<Routed> {
            server: Some(Options { keep_open: true, ..Options::default() }),
            act: end_in_every_way,
            ..control("orderly-endings", "an orderly close, a half-close and an abort", &[Seat::Client])
        }
        .scenario(),
        Script::<Routed> {
            client: || Ok(Options { write_every: Some(Duration::from_millis(20)), ..Options::default() }),
            act: |cast| {
                let client = cast.connect_silently()?;
                sleep(Duration::from_secs(1));
                cast.server_says("abort")?;
                client.wait_event("error", SOON).map(drop)
            },
            ..control("reset-amid-traffic", "a reset of a connection that is in use", &[Seat::Client])
        }
        .scenario(),
        Script::<Routed> {
            is_shared: false,
            // A pool does not read what nobody waits for, not even an end of file.
            client: || Ok(Options { mode: Mode::Mute, ..Options::default() }),
            act: |cast| {
                let client = cast.connect_silently()?;
                cast.server()?.wait_event("accepted", SOON)?;
                cast.server_says("close")?;
                cast.server()?.wait_event("closed", SOON)?;
                sleep(Duration::from_secs(12));
                client.command("write 100")?;
                client.wait_event("error", SOON).map(drop)
            },
            ..control(
                "stale-in-pool",
                "a pooled connection that its peer has closed, and that is used all the same",
                &[Seat::Client],
            )
        }
        .scenario(),
        Script::<Routed> {
            needs: &[Conntrack],
            prepare: |lab| {
                lab.client.nft(&drops_invalid("input"))?;
                lab.server.nft(&drops_invalid("input"))
            },
            server: Some(ECHO),
            act: |cast| {
                churn_and_end(cast, 500)?;
                sleep(Duration::from_secs(2));
                Ok(())
            },
            ..control(
                "strict-firewall",
                "connections that end in order, through firewalls of both ends that drop what is invalid",
                &[Seat::Client, Seat::Server],
            )
        }
        .scenario(),
        Script::<Routed> {
            needs: &[Conntrack],
            prepare: |lab| {
                lab.router.nft(&drops_invalid("forward"))?;
                lab.router.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")
            },
            server: Some(ECHO),
            act: |cast| {
                churn_and_end(cast, 500)?;
                for port in 50_000..50_020_u16 {
                    let from = SocketAddrV4::new([10, 77, 1, 1].into(), port);
                    let to = SocketAddrV4::new([10, 77, 2, 1].into(), PORT);
                    let stray = if port % 2 == 0 { Stray::Fin } else { Stray::Reset };
                    cast.lab.client.send_stray(from, to, stray)?;
                }
                sleep(Duration::from_secs(4));
                Ok(())
            },
            also: |counts| {
                let drops = counts.seen_by(Seat::Middle, "kfree_skb");
                // On a guest's one processor not each that was sent is seen; half of them prove that strays are looked at.
                ensure!(drops >= 10, "of the strays, {drops} drops were seen");
                Ok(())
            },
            ..control(
                "strict-router",
                "a router that drops what is invalid, late FINs and RSTs among it",
                &[Seat::Middle],
            )
        }
        .scenario(),
        Script::<ComputeNode> {
            server: Some(ECHO),
            act: |cast| {
                churn_and_end(cast, 50)?;
                sleep(Duration::from_secs(4));
                Ok(())
            },
            limit: Duration::from_secs(240),
            ..Script::control(
                "openvswitch",
                "connections of a virtual machine that end in order, through Open vSwitch's connection tracking",
                &[Seat::Middle],
            )
        }
        .scenario(),
    ]
}
