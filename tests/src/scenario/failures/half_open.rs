use std::{thread::sleep, time::Duration};

use super::{give_up_soon, until_retransmissions_end, wait_until_forgotten, with_keepalive};
use crate::{
    labs::routed::Routed,
    peer::{Mode, Options, Peer},
    require::Requirement::Conntrack,
    scenario::{
        Expectation, Scenario,
        script::{Script, Seat, Topology as _},
    },
    watching::{PORT, SOON},
};

const VERDICT: &str = "half_open";

/// Each ICMP error takes a doubling of the timer away (RFC 6069), and errors are limited: how many will come is not to be known. One step
/// of a timer that has doubled four times.
const ONE_STEP_SECONDS: f64 = 3.5;

/// More than any buffer takes.
const FLOOD: &str = "write 20000000";

const fn unreachable() -> Expectation {
    Expectation { off_deadline_seconds: ONE_STEP_SECONDS, ..until_retransmissions_end(VERDICT, "peer_unreachable") }
}

pub(super) fn all() -> Vec<Scenario> {
    let script = |name, summary| Script::<Routed> { prepare: give_up_soon, ..Script::new(name, summary) };
    let forgotten = |expected| vec![(Seat::Client, Some(expected))];
    vec![
        Script::<Routed> {
            is_shared: true,
            views: vec![(
                Seat::Client,
                Some(
                    Expectation::new(VERDICT, "keepalive_unanswered")
                        .given_up("keepalive", "keepalive_probes")
                        .within(12.0, 18.0),
                ),
            )],
            client: with_keepalive,
            act: |cast| cast.lab.cut(),
            heal: Some(|cast| cast.lab.heal()),
            ..script("peer-without-power", "the peer of an idle connection with keepalive has lost its power")
        }
        .scenario(),
        Script::<Routed> {
            is_shared: true,
            views: vec![(Seat::Client, Some(unreachable()))],
            act: |cast| {
                cast.lab.refuse()?;
                cast.clients_say("write 100")
            },
            heal: Some(|cast| cast.lab.router.nft("delete table inet refuse\n")),
            ..script("host-unreachable", "a router answers what the client sends with an ICMP error")
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(Seat::Client, Some(unreachable()))],
            act: |cast| {
                cast.lab.router.ip("link set client arp off\n")?;
                cast.lab.client.ip("neighbour flush dev uplink\n")?;
                cast.clients_say("write 100")
            },
            heal: Some(|cast| cast.lab.router.ip("link set client arp on\n")),
            ..script("next-hop-silent", "the next hop does not answer ARP any more")
        }
        .scenario(),
        Script::<Routed> {
            needs: &[Conntrack],
            views: forgotten(Expectation::new(VERDICT, "conntrack_expired").given_up("probe0", "tcp_retries2")),
            prepare: |lab| {
                give_up_soon(lab)?;
                lab.firewall(&lab.client, &["output"])
            },
            act: |cast| {
                wait_until_forgotten();
                cast.clients_say("write 100")
            },
            ..script(
                "own-firewall-forgets-output",
                "this host's own firewall forgets an idle connection, and lets nothing of it out any more",
            )
        }
        .scenario(),
        Script::<Routed> {
            is_shared: true,
            needs: &[Conntrack],
            // Segments leave. That a rule drops the answers is seen where it happens to be one's turn to be told.
            views: forgotten(Expectation {
                confidence: &["suspected", "confirmed"],
                confidence_late: &["suspected", "confirmed"],
                ..until_retransmissions_end(VERDICT, "conntrack_expired")
            }),
            prepare: |lab| {
                give_up_soon(lab)?;
                lab.firewall(&lab.client, &["input"])
            },
            act: |cast| {
                wait_until_forgotten();
                cast.clients_say("write 100")
            },
            ..script(
                "own-firewall-forgets-input",
                "this host's own firewall forgets an idle connection, and lets no answer in any more",
            )
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(
                Seat::Client,
                Some(
                    Expectation::new(VERDICT, "window_probes_unanswered")
                        .given_up("probe0", "tcp_retries2")
                        .within(20.0, 25.0),
                ),
            )],
            server: Some(Options { mode: Mode::Mute, ..Options::default() }),
            act: |cast| {
                cast.clients_say(FLOOD)?;
                // Its window is shut.
                sleep(Duration::from_secs(1));
                cast.lab.cut()
            },
            heal: Some(|cast| cast.lab.heal()),
            ..script("stuck-reader-lost", "a peer that has ceased to read, so that its window is shut, loses its power")
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(
                Seat::Client,
                Some(Expectation::new(VERDICT, "peer_reset").within(3.0, 3.0).only_as_it_happens()),
            )],
            act: |cast| {
                // The server restarts while the path is cut: nothing of that gets to the client.
                cast.lab.cut()?;
                cast.server_says("abort")?;
                cast.server()?.wait_event("aborted", SOON)?;
                cast.lab.heal()?;
                // A reset amid traffic is none of this.
                sleep(Duration::from_secs(12));
                cast.clients_say("write 100")
            },
            ..script(
                "peer-forgot",
                "the server has restarted while nobody could tell the client, and answers its next write with a reset",
            )
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(
                Seat::Server,
                Some(Expectation::new(VERDICT, "peer_restarted").within(3.0, 3.0).only_as_it_happens()),
            )],
            act: |cast| {
                cast.lab.cut()?;
                cast.clients_say("abort")?;
                for client in &cast.clients {
                    client.wait_event("aborted", SOON)?;
                }
                cast.lab.heal()?;
                let again = cast
                    .clients
                    .iter()
                    .map(|client| {
                        let to = Routed::SERVER(PORT);
                        Peer::connect_from(&cast.lab.client, Some(client.local()?), to, &cast.options)
                    })
                    .collect::<anyhow::Result<Vec<_>>>()?;
                cast.keep(again);
                Ok(())
            },
            ..script(
                "peer-restarted",
                "a client has lost its end, which the server still holds, and connects again from the same port",
            )
        }
        .scenario(),
    ]
}
