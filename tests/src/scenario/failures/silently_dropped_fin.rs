use super::give_up_soon;
use crate::{
    firewall::{drops_flag, drops_invalid},
    labs::{compute_node::ComputeNode, routed::Routed},
    require::Requirement::Conntrack,
    scenario::{
        Expectation, Scenario,
        script::{Script, Seat},
    },
};

const VERDICT: &str = "silently_dropped_fin";

/// A watch that begins late may see a single copy, which may be forged.
const fn dropped(cause: &'static str) -> Expectation {
    let expected = Expectation { confidence_late: EITHER, ..Expectation::new(VERDICT, cause) };
    expected.within(5.0, 10.0)
}

const EITHER: &[&str] = &["suspected", "confirmed"];

pub(super) fn all() -> Vec<Scenario> {
    let tracked = |name, summary| Script::<Routed> { needs: &[Conntrack], ..Script::new(name, summary) };
    vec![
        Script::<Routed> {
            views: vec![(Seat::Client, Some(dropped("conntrack_bad_checksum")))],
            prepare: |lab| {
                lab.client.nft(&drops_invalid("input"))?;
                lab.mangle_fins("tcp checksum set 0xbad")
            },
            act: |cast| cast.server_says("close"),
            heal: Some(|cast| cast.lab.router.nft("delete table inet mangle\n")),
            ..tracked(
                "fin-bad-checksum",
                "the server's FINs have a wrong checksum, and the client's firewall drops what is invalid",
            )
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(Seat::Middle, Some(dropped("conntrack_bad_checksum"))), (Seat::Client, None)],
            prepare: |lab| {
                lab.router.nft(&drops_invalid("forward"))?;
                lab.mangle_fins("tcp checksum set 0xbad")
            },
            act: |cast| cast.server_says("close"),
            heal: Some(|cast| cast.lab.router.nft("delete table inet mangle\n")),
            ..tracked(
                "fin-bad-checksum-forwarded",
                "the server's FINs have a wrong checksum, and the router between drops what is invalid",
            )
        }
        .scenario(),
        Script::<ComputeNode> {
            needs: &[Conntrack],
            // Before Linux 6.6 nothing tells of what Open vSwitch drops.
            views: vec![(
                Seat::Middle,
                Some(Expectation {
                    confidence: EITHER,
                    ..dropped("conntrack_bad_checksum").within(20.0, 20.0)
                }),
            )],
            prepare: |lab| lab.mangle_fins("tcp checksum set 0xbad"),
            act: |cast| cast.server_says("close"),
            heal: Some(|cast| cast.lab.mend_fins()),
            ..Script::new(
                "fin-bad-checksum-openvswitch",
                "FINs for a virtual machine have a wrong checksum, and a flow of Open vSwitch drops what is invalid",
            )
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(Seat::Client, Some(dropped("conntrack_invalid")))],
            // A FIN without an ACK is none that TCP sends (`tcp_valid_flags`, `net/netfilter/nf_conntrack_proto_tcp.c`); nft keeps
            // the checksum right.
            prepare: |lab| {
                lab.client.nft(&drops_invalid("input"))?;
                lab.mangle_fins("tcp flags set fin")
            },
            act: |cast| cast.server_says("close"),
            heal: Some(|cast| cast.lab.router.nft("delete table inet mangle\n")),
            ..tracked(
                "fin-invalid",
                "connection tracking holds the server's FINs for invalid, and the client's firewall drops them",
            )
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(Seat::Client, Some(dropped("firewall_drop")))],
            act: |cast| {
                cast.lab.client.nft(&drops_flag("input", "fin"))?;
                cast.server_says("close")
            },
            heal: Some(|cast| cast.lab.client.nft("delete table inet drops\n")),
            ..tracked("fin-dropped-by-rule", "a rule of the client's firewall drops FINs")
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(Seat::Middle, Some(dropped("firewall_drop")))],
            prepare: Routed::track,
            act: |cast| {
                cast.lab.router.nft(&drops_flag("forward", "fin"))?;
                cast.server_says("close")
            },
            heal: Some(|cast| cast.lab.router.nft("delete table inet drops\n")),
            ..tracked("fin-dropped-by-rule-forwarded", "a rule of the router between drops FINs")
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(Seat::Client, Some(dropped("firewall_drop").only_as_it_happens()))],
            act: |cast| {
                cast.lab.client.nft(&drops_flag("input", "rst"))?;
                cast.server_says("abort")
            },
            ..tracked("reset-dropped-by-rule", "a rule of the client's firewall drops the server's RST, which is sent only once")
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(Seat::Client, Some(dropped("stack_drop")))],
            prepare: |lab| {
                lab.client.nft(&drops_invalid("input"))?;
                lab.client.sysctl("net.netfilter.nf_conntrack_checksum", "0")?;
                lab.mangle_fins("tcp checksum set 0xbad")
            },
            act: |cast| cast.server_says("close"),
            heal: Some(|cast| cast.lab.router.nft("delete table inet mangle\n")),
            ..tracked(
                "fin-corrupt",
                "the server's FINs have a wrong checksum, connection tracking does not look at it, and the client's TCP drops them",
            )
        }
        .scenario(),
        Script::<Routed> {
            views: vec![(
                Seat::Client,
                Some(Expectation::new(VERDICT, "unacknowledged_fin").given_up("retransmission", "tcp_retries2")),
            )],
            prepare: give_up_soon,
            act: |cast| {
                cast.lab.cut()?;
                cast.clients_say("shutdown")
            },
            heal: Some(|cast| cast.lab.heal()),
            ..tracked("fin-unacknowledged", "the client closes its half, and nobody acknowledges its FIN")
        }
        .scenario(),
    ]
}
