use std::time::Duration;

use anyhow::Result;

use crate::{
    labs::{asymmetric::Asymmetric, routed::Routed},
    netns::Netns,
    peer::Options,
    require::Requirement::Conntrack,
    scenario::{
        Expectation, Scenario,
        script::{Cast, Script, Seat, Topology},
    },
    watching::PORT,
};

/// How long a firewall lets half-seen connections pass.
const EMBRYONIC_S: u32 = 4;

/// Seen in the packets of the handshake, which are over when it is.
const fn handshake(cause: &'static str) -> Expectation {
    Expectation::new("asymmetric_handshake", cause).only_as_it_happens()
}

/// A rule, at this hook, for all that the client sends but its SYN.
fn drop_acks(netns: &Netns, hook: &str) -> Result<()> {
    drop_flags(netns, hook, &format!("tcp dport {PORT}"), "ack")
}

/// A rule, at this hook, for the SYN-ACKs of the server.
fn drop_syn_acks(netns: &Netns, hook: &str) -> Result<()> {
    drop_flags(netns, hook, &format!("tcp sport {PORT}"), "(syn|ack)")
}

fn drop_flags(netns: &Netns, hook: &str, which: &str, flags: &str) -> Result<()> {
    netns.nft(&format!(
        "table inet drops {{ chain {hook} {{ type filter hook {hook} priority 0; \
         {which} tcp flags & (fin|syn|rst|ack) == {flags} drop; }}; }}\n"
    ))
}

/// The client is established at once, and sends.
fn connect_and_write<T: Topology>(cast: &mut Cast<T>) -> Result<()> {
    cast.establish()?;
    cast.clients_say("write 100")
}

/// Each second each end says something.
fn talking() -> Options {
    Options { write_every: Some(Duration::from_secs(1)), write_bytes: 10, ..Options::default() }
}

pub(super) fn all() -> Vec<Scenario> {
    let routed = |name, summary| Script::<Routed> { connects_first: false, ..Script::new(name, summary) };
    let two_ways = |name, summary| Script::<Asymmetric> {
        needs: &[Conntrack],
        connects_first: false,
        ..Script::new(name, summary)
    };
    vec![
        Script::<Routed> {
            views: vec![(Seat::Server, Some(handshake("final_ack_lost")))],
            prepare: |lab| drop_acks(&lab.server, "input"),
            act: Cast::establish,
            heal: Some(|cast| {
                cast.lab.server.nft("delete table inet drops\n")?;
                cast.clients_say("write 10")
            }),
            ..routed("final-ack-dropped", "the server's own firewall drops the ACK that completes the handshake")
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(Seat::Client, Some(handshake("final_ack_lost").suspected()))],
            prepare: |lab| drop_acks(&lab.router, "forward"),
            act: connect_and_write,
            heal: Some(|cast| cast.lab.router.nft("delete table inet drops\n")),
            ..routed("final-ack-lost", "the ACK that completes the handshake is lost on the way to the server")
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(Seat::Client, Some(handshake("synack_lost")))],
            prepare: |lab| drop_syn_acks(&lab.client, "input"),
            act: Cast::begin,
            heal: Some(|cast| cast.lab.client.nft("delete table inet drops\n")),
            ..routed("synack-dropped", "the client's own firewall drops the SYN-ACK")
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(Seat::Server, Some(handshake("synack_lost").suspected()))],
            prepare: |lab| drop_syn_acks(&lab.router, "forward"),
            act: Cast::begin,
            heal: Some(|cast| cast.lab.router.nft("delete table inet drops\n")),
            ..routed("synack-lost", "the SYN-ACK is lost on the way to the client")
        }
        .scenario(),
        Script::<Asymmetric> {
            views: vec![
                (Seat::Client, Some(handshake("final_ack_lost").suspected())),
                (Seat::Middle, Some(handshake("final_ack_lost"))),
            ],
            prepare: Asymmetric::drop_final_ack,
            act: connect_and_write,
            // With one way for both directions the firewall sees the SYN-ACK, and the connection goes on.
            heal: Some(|cast| cast.lab.answer_the_same_way()),
            ..two_ways(
                "asymmetric-route",
                "the SYN goes through a stateful firewall and the SYN-ACK comes back another way; the firewall drops the rest",
            )
        }
        .scenario(),
        Script::<Asymmetric> {
            views: vec![
                (Seat::Server, Some(handshake("path_mismatch").suspected().within(20.0, 20.0))),
                (Seat::Middle, Some(handshake("embryonic_expired").within(12.0, 16.0))),
            ],
            prepare: |lab| {
                lab.track()?;
                lab.expire_embryonic(EMBRYONIC_S)
            },
            server: Some(talking()),
            client: || Ok(talking()),
            act: Cast::establish,
            ..two_ways(
                "embryonic-timeout",
                "the firewall has seen one half of the handshake, and drops the connection when its embryonic timeout is over",
            )
        }
        .scenario(),
        Script::<Asymmetric> {
            views: vec![(Seat::Server, Some(handshake("reverse_path_filtered")))],
            prepare: |lab| lab.controller.sysctl("net.ipv4.conf.service.rp_filter", "1"),
            act: Cast::begin,
            heal: Some(|cast| cast.lab.controller.sysctl("net.ipv4.conf.service.rp_filter", "2")),
            ..two_ways(
                "reverse-path-filter",
                "the server's strict reverse-path filter drops SYNs that come by another interface than the answer would take",
            )
        }
        .scenario(),
    ]
}
