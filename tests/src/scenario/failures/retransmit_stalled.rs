use std::time::Duration;

use super::{give_up_soon, until_retransmissions_end, wait_until_forgotten, with_keepalive};
use crate::{
    labs::routed::Routed,
    peer::Options,
    require::Requirement::{Conntrack, SendResult},
    scenario::{
        Expectation, Scenario,
        script::{Script, Seat},
    },
};

const VERDICT: &str = "retransmit_stalled";

/// The first segment fails in routing, so that the persist timer runs.
const fn unsendable(cause: &'static str) -> Expectation {
    Expectation::new(VERDICT, cause).given_up("probe0", "tcp_retries2")
}

pub(super) fn all() -> Vec<Scenario> {
    let script = |name, summary| Script::<Routed> { prepare: give_up_soon, ..Script::new(name, summary) };
    let silent = || vec![(Seat::Client, Some(until_retransmissions_end(VERDICT, "peer_silent")))];
    vec![
        Script::<Routed> {
            is_shared: true,
            views: silent(),
            act: |cast| {
                cast.lab.cut()?;
                cast.clients_say("write 100")
            },
            heal: Some(|cast| cast.lab.heal()),
            ..script(
                "path-cut",
                "a client writes to a broker, and the router between them has begun to drop everything",
            )
        }
        .scenario(),
        Script::<Routed> {
            views: silent(),
            client: with_keepalive,
            act: |cast| {
                cast.lab.cut()?;
                cast.clients_say("write 100")
            },
            heal: Some(|cast| cast.lab.heal()),
            ..script(
                "path-cut-keepalive",
                "the same with keepalive on, which unacknowledged data keeps from ever starting",
            )
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(
                Seat::Client,
                Some(Expectation::new(VERDICT, "peer_silent").given_up("retransmission", "tcp_user_timeout")),
            )],
            client: || Ok(Options { user_timeout: Some(Duration::from_secs(20)), ..Options::default() }),
            act: |cast| {
                cast.lab.cut()?;
                cast.clients_say("write 100")
            },
            heal: Some(|cast| cast.lab.heal()),
            ..script("path-cut-user-timeout", "the same with TCP_USER_TIMEOUT, which then decides alone when it ends")
        }
        .scenario(),
        Script::<Routed> {
            needs: &[Conntrack],
            views: silent(),
            prepare: |lab| {
                give_up_soon(lab)?;
                lab.firewall(&lab.router, &["forward"])
            },
            act: |cast| {
                wait_until_forgotten();
                cast.clients_say("write 100")
            },
            ..script(
                "firewall-forgets",
                "a stateful firewall on the way forgets an idle connection, and drops what the client then writes",
            )
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(Seat::Client, Some(unsendable("source_address_lost")))],
            prepare: |lab| {
                give_up_soon(lab)?;
                lab.client.add_address("uplink", &format!("{}/32", Routed::VIP))
            },
            client: || Ok(Options { bind: Some(Routed::VIP.parse()?), ..Options::default() }),
            act: |cast| {
                cast.lab.client.del_address("uplink", &format!("{}/32", Routed::VIP))?;
                cast.clients_say("write 100")
            },
            heal: Some(|cast| cast.lab.client.add_address("uplink", &format!("{}/32", Routed::VIP))),
            ..script(
                "virtual-address-moved",
                "a virtual address moves to another host, and what was connected from it goes on writing here",
            )
        }
        .scenario(),
        Script::<Routed> {
            needs: &[SendResult],
            views: vec![(Seat::Client, Some(unsendable("local_send_failure")))],
            act: |cast| {
                cast.lab.client.ip("route del default via 10.77.1.254\n")?;
                cast.clients_say("write 100")
            },
            heal: Some(|cast| cast.lab.client.ip("route add default via 10.77.1.254\n")),
            ..script("route-withdrawn", "the route to the peer is withdrawn, and nothing leaves this host any more")
        }
        .scenario(),
    ]
}
