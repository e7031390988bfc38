//! `silently_dropped_fin` where this host forwards the connection and translates its addresses, as a node does for a service.

use std::{net::SocketAddr, process::Command, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    findings::wait_forwarded,
    firewall::{drops_flag, drops_invalid},
    labs::routed::Routed,
    peer::{Options, Peer},
    probe::Probe,
    require::Requirement::Conntrack,
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, stop, watch},
    wire::{Endpoint, Finding, ForwardedConnection},
};

use crate::forwarded::close_at_server;

pub(crate) fn tests() -> Vec<Test> {
    let tracked = [WATCHING, &[Conntrack]].concat();
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, &tracked, function);
    vec![
        test(
            "of a service behind DNAT, the client is told by the service's address, and rules by the server's",
            service,
        ),
        test("of a connection whose both ends are translated, the server is told by what it sees", both_translated)
            .not_shared(),
    ]
}

/// The service, an address that nobody has.
const SERVICE: ([u8; 4], u16) = ([10, 77, 9, 9], 443);

const DNAT: &str = "table ip service { chain before { type nat hook prerouting priority -100; \
                    ip daddr 10.77.9.9 tcp dport 443 dnat to 10.77.2.1:5672; }; }\n";

/// As a node does with what comes from outside, so that the answers come back to it.
const SNAT: &str = "table ip outside { chain after { type nat hook postrouting priority 100; \
                    oifname \"server\" masquerade; }; }\n";

fn connect(lab: &Routed) -> Result<(Peer, Peer)> {
    lab.router.nft(DNAT)?;
    let server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let client = Peer::connect(&lab.client, SERVICE.into(), &Options::default())?;
    client.command("write 1000")?;
    client.wait_event("written", SOON)?;
    sleep(Duration::from_millis(300));
    Ok((server, client))
}

fn ensure_is(endpoint: &Endpoint, expected: SocketAddr) -> Result<()> {
    ensure!((endpoint.address, endpoint.port) == (expected.ip(), expected.port()), "{endpoint:?} is not {expected}");
    Ok(())
}

/// The commands of the remedies, once they name the process that waits.
fn commands(
    probe: &Probe,
    opened: Finding<ForwardedConnection>,
) -> Result<(Finding<ForwardedConnection>, Vec<String>)> {
    let mut finding = opened;
    // On a starved host who holds the socket is told later, and where it was dropped.
    while !finding.connection.ends.iter().any(|end| end.role == "receiver" && end.owner.is_some())
        || !finding.evidence.iter().any(|evidence| evidence.kind == "drop_place")
    {
        finding = wait_forwarded(probe, "updated", SOON)?;
    }
    let commands = finding.remedies.iter().filter_map(|remedy| remedy.command.clone()).collect();
    Ok((finding, commands))
}

fn ensure_said(commands: &[String], expected: &str) -> Result<()> {
    ensure!(commands.iter().any(|command| command.contains(expected)), "no {expected:?} in {commands:#?}");
    Ok(())
}

fn service(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.router.nft(&drops_invalid("forward"))?;
    let (server, client) = connect(&lab)?;
    lab.mangle_fins("tcp flags set fin")?;
    let inode = lab.router.inode().to_string();
    let text = Probe::diagnose(&["--netns", &inode, "--duration", "20s"])?;
    let probe = watch(&lab.router, &[])?;
    sleep(Duration::from_secs(2));
    let opened = close_at_server(&probe, &server, "close")?;
    ensure!(opened.cause == "conntrack_invalid", "{opened:#?}");
    let (finding, commands) = commands(&probe, opened)?;
    let connection = &finding.connection;
    let local = client.local()?;
    ensure_is(&connection.initiator, local)?;
    ensure_is(&connection.responder, SERVICE.into())?;
    let translated = connection.translated.as_ref().context("not translated")?;
    ensure_is(&translated.initiator, local)?;
    ensure_is(&translated.responder, Routed::server_v4(PORT))?;
    ensure!(translated.community_id != connection.community_id, "{connection:?}");
    let port = local.port();
    ensure_said(&commands, &format!("ss -tK src 10.77.1.1 sport = :{port} dst 10.77.9.9 dport = :443"))?;
    ensure_said(&commands, "ip saddr 10.77.2.1 ip daddr 10.77.1.1 tcp flags & (fin|rst) != 0 accept")?;
    stop(probe)?;
    let report = text.finish(SOON)?.stdout;
    for said in [
        format!("10.77.1.1:{port} -> 10.77.9.9:443"),
        format!("translated to 10.77.1.1:{port} -> 10.77.2.1:5672"),
        "10.77.2.1 has ended the connection".to_owned(),
        format!("ss -tK src 10.77.1.1 sport = :{port} dst 10.77.9.9 dport = :443"),
    ] {
        let unwrapped = report.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(unwrapped.contains(&said), "no {said:?} in {report}");
    }
    // It does what it says.
    let end = commands.iter().find(|command| command.contains("ss -tK ")).context("no command ends it")?;
    let mut shell = Command::new("sh");
    shell.args(["-c", end]);
    lab.router.check_output(shell, "")?;
    client.wait_event("error", SOON)?;
    Ok(())
}

fn both_translated(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.router.nft(SNAT)?;
    let (_server, client) = connect(&lab)?;
    lab.router.nft(&drops_flag("forward", "fin"))?;
    let probe = watch(&lab.router, &[])?;
    client.command("shutdown")?;
    let opened = wait_forwarded(&probe, "opened", SOON)?;
    ensure!(opened.cause == "firewall_drop", "{opened:#?}");
    let (finding, commands) = commands(&probe, opened)?;
    let translated = finding.connection.translated.as_ref().context("not translated")?;
    ensure!(translated.initiator.address == std::net::IpAddr::from([10, 77, 2, 254]), "{translated:?}");
    ensure_is(&translated.responder, Routed::server_v4(PORT))?;
    let port = translated.initiator.port;
    ensure_said(&commands, &format!("ss -tK src 10.77.2.1 sport = :5672 dst 10.77.2.254 dport = :{port}"))?;
    // On that hook the destination is translated already, and the source not yet.
    ensure_said(&commands, "ip saddr 10.77.1.1 ip daddr 10.77.2.1 tcp flags & (fin|rst) != 0 accept")?;
    stop(probe)?;
    Ok(())
}
