//! Short FINs in padded frames: what is said of a checksum that counts the padding in, and by which port of a bridge they would have left.

use std::{net::SocketAddr, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    findings::wait_forwarded,
    firewall::drops_invalid,
    labs::routed::Routed,
    link::{End, veth},
    padded::{Padding, Wire},
    peer::{Options, Peer},
    probe::Probe,
    require::Requirement::{Bridge, Conntrack},
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, attached, connect, stop, stop_silent, watch},
    wire::{Finding, ForwardedConnection},
};

pub(crate) fn tests() -> Vec<Test> {
    let tracked = [WATCHING, &[Conntrack]].concat();
    let bridged = [WATCHING, &[Bridge]].concat();
    vec![
        Test::new(
            "a checksum that counts the padding of its frame in is told so, though the padding is cut off",
            &tracked,
            counted_in,
        ),
        Test::new("a padded FIN with a right checksum passes a router, which is silent", &tracked, garbage)
            .not_shared(),
        Test::new(
            "a FIN that a bridge drops is told with its padding, and the port that leads to its receiver",
            &bridged,
            on_a_bridge,
        ),
    ]
}

/// Sends a FIN and a copy of it.
fn send(wire: Wire<'_>, from: SocketAddr, to: SocketAddr, padding: Padding) -> Result<()> {
    wire.send_padded_fin(from, to, padding)?;
    sleep(Duration::from_millis(400));
    wire.send_padded_fin(from, to, padding)
}

fn counted_in(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.router.nft(&drops_invalid("forward"))?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let inode = lab.router.inode().to_string();
    let text = Probe::diagnose(&["--netns", &inode, "--duration", "20s"])?;
    let probe = watch(&lab.router, &[])?;
    // Until the other one has attached its programs, too.
    sleep(Duration::from_secs(3));
    let wire = Wire { from: (&lab.server, "uplink"), to: (&lab.router, "server") };
    send(wire, Routed::server_v4(PORT), client.local()?, Padding::CountedIn)?;
    let opened = wait_forwarded(&probe, "opened", SOON)?;
    ensure!(opened.cause == "conntrack_bad_checksum", "{opened:#?}");
    let drop = opened.evidence_of("segment_dropped")?;
    ensure!(drop.data.get("checksum") == Some(&"wrong".into()), "{drop:?}");
    ensure!(drop.text.contains("(it counts 6 bytes of padding in)"), "{drop:?}");
    stop(probe)?;
    let report = text.finish(SOON)?.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(report.contains("the 54-byte frame padded to 60: who computed it took the padding in"), "{report}");
    Ok(())
}

fn garbage(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.router.nft(&drops_invalid("forward"))?;
    lab.client.nft(
        "table inet count { counter fins { }; \
         chain raw { type filter hook prerouting priority -400; tcp flags & fin == fin counter name fins; }; }\n",
    )?;
    // It lies outside the window.
    lab.router.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.router, &[])?;
    let wire = Wire { from: (&lab.server, "uplink"), to: (&lab.router, "server") };
    send(wire, Routed::server_v4(PORT), client.local()?, Padding::Garbage)?;
    sleep(Duration::from_secs(4));
    let counted = lab.client.nft_query(&["list", "counters"])?;
    ensure!(counted.contains("packets 2 bytes 80"), "{counted}");
    stop_silent(probe)?;
    Ok(())
}

fn on_a_bridge(test: &TestContext) -> Result<()> {
    const SERVER: [u8; 4] = [10, 79, 3, 2];
    const FILTERED: &str = "net.bridge.bridge-nf-call-iptables";
    let own = test.lab()?;
    let (client_side, switch, server_side) = (own.netns("client")?, own.netns("switch")?, own.netns("server")?);
    veth(&End::new(&client_side, "eth0", &["10.79.3.1/24"]), &End::new(&switch, "client", &[]))?;
    veth(&End::new(&server_side, "eth0", &["10.79.3.2/24"]), &End::new(&switch, "server", &[]))?;
    switch.bridge("br0", &["client", "server"], &[])?;
    // It would cut the padding off (`br_validate_ipv4`, `net/bridge/br_netfilter_hooks.c`).
    if switch.has_sysctl(FILTERED)? {
        switch.sysctl(FILTERED, "0")?;
    }
    let address = SocketAddr::from((SERVER, PORT));
    let _server = Peer::listen(&server_side, address, &Options::default())?;
    let client = Peer::connect(&client_side, address, &Options::default())?;
    switch.nft(
        "table bridge drops { chain forward { type filter hook forward priority 0; \
         ether type ip ip protocol tcp tcp flags & fin == fin drop; }; }\n",
    )?;
    let probe = Probe::diagnose(&["--netns", &switch.inode().to_string(), "--follow", "--format", "ndjson"])?;
    attached(&probe)?;
    let wire = Wire { from: (&server_side, "eth0"), to: (&client_side, "eth0") };
    send(wire, address, client.local()?, Padding::Garbage)?;
    let mut finding = wait_forwarded(&probe, "opened", SOON)?;
    // On a starved host answers may come after the first word.
    let has_place =
        |finding: &Finding<ForwardedConnection>| finding.evidence.iter().any(|evidence| evidence.kind == "drop_place");
    while finding.connection.ingress.is_none() || !has_place(&finding) {
        finding = wait_forwarded(&probe, "updated", SOON)?;
    }
    ensure!(finding.cause == "firewall_drop", "{finding:#?}");
    let ports =
        [(&finding.connection.ingress, "server", &server_side), (&finding.connection.egress, "client", &client_side)];
    for (port, name, behind) in ports {
        let port = port.as_ref().with_context(|| format!("no port {name}: {:?}", finding.connection))?;
        let owner = port.owner.as_ref().and_then(|owner| owner.netns);
        ensure!((port.name.as_str(), owner) == (name, Some(behind.inode())), "{port:?}");
    }
    let drop = finding.evidence_of("segment_dropped")?;
    ensure!(drop.data.get("stated_bytes") == Some(&40.into()), "{drop:?}");
    ensure!(drop.data.get("actual_bytes") == Some(&46.into()), "{drop:?}");
    ensure!(drop.data.get("checksum") == Some(&"right".into()), "{drop:?}");
    stop(probe)?;
    Ok(())
}
