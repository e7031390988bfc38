//! `retransmit_stalled` by causes on this host: the address that is gone, the route that is gone, the rule that drops.

use std::{
    collections::BTreeSet,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    clocks::{wall_of_event, wall_seconds},
    findings::{ensure_is_about, recovered, wait as finding},
    labs::routed::Routed,
    peer::{Options, Peer},
    probe::Probe,
    require::Requirement::SendResult,
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, connect, stop, summary, watch},
    wire::{Connection, Finding, Path},
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    let sending = |name: &str, function: fn(&TestContext) -> Result<()>| {
        Test::new(name, &[WATCHING, &[SendResult]].concat(), function)
    };
    vec![
        test(
            "a virtual address that is gone before the write is the cause, and coming back in time ends it",
            idle_failover,
        ),
        test("three hundred connections that lose their address at once all have their cause and owner", many)
            .alone()
            .within(Duration::from_secs(180))
            .not_shared(),
        test("over IPv6 a lost address is the cause, though segments leave", lost_v6),
        test("an address that is local by a route alone is not lost", any_ip).not_shared(),
        test("a transparent socket does without an address of this host", transparent).not_shared(),
        test("the route is looked up with the socket's mark", marked).not_shared(),
        test("the route is looked up with the device that the socket is bound to", bound_to_device).not_shared(),
        test("a write from a lost address ends at the stated time set by TCP_USER_TIMEOUT", user_timeout),
        test("a write from an address lost before the watch began is found by the first scan", lost_before),
        sending("a virtual address that goes while data is in flight is the cause", busy_failover),
        sending("a withdrawn route is told apart from a lost address", route_withdrawn),
        sending("a rule of this host that drops what is in flight is the cause", filtered_in_flight),
        test("a rule of this host that drops the first segment is the cause, if it is seen to fail", filtered_before),
    ]
}

fn lab_with_vip(test: &TestContext) -> Result<(connprobe_tests::lab::Lab, Routed)> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.add_address("uplink", &format!("{}/32", Routed::VIP))?;
    Ok((own, lab))
}

fn from_vip(user_timeout: Option<Duration>) -> Result<Options> {
    Ok(Options { bind: Some(Routed::VIP.parse()?), user_timeout, ..Options::default() })
}

fn lose_vip(lab: &Routed) -> Result<()> {
    lab.client.del_address("uplink", &format!("{}/32", Routed::VIP))
}

fn write(client: &Peer) -> Result<()> {
    client.command("write 100")?;
    client.wait_event("written", SOON).map(drop)
}

fn idle_failover(test: &TestContext) -> Result<()> {
    let (_own, lab) = lab_with_vip(test)?;
    let (_server, client) = connect(&lab, &from_vip(None)?)?;
    let probe = watch(&lab.client, &[])?;
    lose_vip(&lab)?;
    write(&client)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(
        (opened.verdict.as_str(), opened.cause.as_str()) == ("retransmit_stalled", "source_address_lost"),
        "{opened:?}"
    );
    ensure!(opened.confidence == "confirmed", "{opened:?}");
    ensure!(opened.evidence.iter().any(|evidence| evidence.kind == "local_address_gone"), "{opened:?}");
    ensure!(opened.socket.unsent_bytes == Some(100), "{:?}", opened.socket);
    let deadline = opened.deadline.as_ref().context("no deadline")?;
    ensure!((deadline.timer.as_str(), deadline.set_by.as_str()) == ("probe0", "tcp_retries2"), "{deadline:?}");
    lab.client.add_address("uplink", &format!("{}/32", Routed::VIP))?;
    let closed = recovered::<Connection>(&probe, SOON)?;
    ensure_is_about(&closed, &client, &lab.client)?;
    let (finished, _) = stop(probe)?;
    ensure!(finished.code == Some(0), "exit code {:?}", finished.code);
    Ok(())
}

fn lost_v6(test: &TestContext) -> Result<()> {
    const VIP: &str = "fd77:1::100";
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.add_address("uplink", &format!("{VIP}/128"))?;
    lab.warm_up_v6()?;
    let server = Routed::server_v6(PORT);
    let _server = Peer::listen(&lab.server, server, &Options::default())?;
    let client = Peer::connect(&lab.client, server, &Options { bind: Some(VIP.parse()?), ..Options::default() })?;
    write(&client)?;
    sleep(Duration::from_millis(300));
    let probe = watch(&lab.client, &[])?;
    lab.client.del_address("uplink", &format!("{VIP}/128"))?;
    write(&client)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.cause.as_str(), opened.confidence.as_str()) == ("source_address_lost", "confirmed"), "{opened:?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    stop(probe)?;
    Ok(())
}

fn many(test: &TestContext) -> Result<()> {
    const COUNT: usize = 300;
    let (_own, lab) = lab_with_vip(test)?;
    let server = Options { quiet: true, ..Options::default() };
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &server)?;
    let options = Options { count: COUNT, ..from_vip(None)? };
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &options)?;
    let probe = watch(&lab.client, &[])?;
    lose_vip(&lab)?;
    client.command("write 100")?;
    let owned = |record: &Value| {
        record.get("cause").is_some_and(|cause| cause == "source_address_lost")
            && record.pointer("/owner/pid").is_some_and(|pid| *pid == client.pid())
    };
    let named = || -> BTreeSet<String> {
        let id = |record: Value| record.get("finding_id").and_then(Value::as_str).map(str::to_owned);
        probe.records().into_iter().filter(owned).filter_map(id).collect()
    };
    // Reading a thousand records takes a guest's one processor from the program that is to answer: look seldom.
    let end = Instant::now() + 3 * SOON;
    while named().len() < COUNT && Instant::now() < end {
        sleep(Duration::from_secs(3));
    }
    let named = named().len();
    let (_, records) = stop(probe)?;
    let summary = summary(&records)?;
    ensure!(
        (named, summary.findings, summary.unasked) == (COUNT, COUNT, 0),
        "{named} with cause and owner: {summary:?}"
    );
    Ok(())
}

/// An address beside the client's own that the router takes to the client.
const ROUTED: &str = "10.9.0.7";

fn lab_with_routed_prefix(test: &TestContext) -> Result<(connprobe_tests::lab::Lab, Routed)> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.router.ip("route add 10.9.0.0/24 via 10.77.1.1\n")?;
    Ok((own, lab))
}

/// Cuts a connection off, writes, and gives what is found: the peer's silence.
fn silenced(lab: &Routed, options: &Options) -> Result<Finding> {
    let (_server, client) = connect(lab, options)?;
    let probe = watch(&lab.client, &[])?;
    lab.cut()?;
    write(&client)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure_is_about(&opened, &client, &lab.client)?;
    let of_this_host = ["local_address_gone", "no_route"];
    ensure!(!opened.evidence.iter().any(|evidence| of_this_host.contains(&evidence.kind.as_str())), "{opened:?}");
    ensure!(opened.cause == "peer_silent", "{opened:?}");
    stop(probe)?;
    Ok(opened)
}

fn any_ip(test: &TestContext) -> Result<()> {
    let (_own, lab) = lab_with_routed_prefix(test)?;
    lab.client.ip("route add local 10.9.0.0/24 dev lo\n")?;
    let opened = silenced(&lab, &Options { bind: Some(ROUTED.parse()?), ..Options::default() })?;
    let path = opened.path.context("no path")?;
    ensure!(path.local_address && path.egress_interface.as_deref() == Some("uplink"), "{path:?}");
    Ok(())
}

fn transparent(test: &TestContext) -> Result<()> {
    let (_own, lab) = lab_with_routed_prefix(test)?;
    // What comes in is delivered; nothing makes the address one of this host.
    lab.client.ip("route add local 10.9.0.0/24 dev lo table 100\nrule add iif uplink lookup 100\n")?;
    let options = Options { bind: Some(ROUTED.parse()?), transparent: true, ..Options::default() };
    let path = silenced(&lab, &options)?.path.context("no path")?;
    ensure!((path.local_address, path.transparent) == (false, Some(true)), "{path:?}");
    Ok(())
}

/// Only what fits this rule has a route to the server.
fn routed_by(test: &TestContext, rule: &str, options: &Options) -> Result<Path> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.ip(&format!(
        "route del default via 10.77.1.254\nroute add default via 10.77.1.254 table 100\nrule add {rule} lookup 100\n"
    ))?;
    let path = silenced(&lab, options)?.path.context("no path")?;
    ensure!((path.route_errno, path.egress_interface.as_deref()) == (None, Some("uplink")), "{path:?}");
    Ok(path)
}

fn marked(test: &TestContext) -> Result<()> {
    let path = routed_by(test, "fwmark 7", &Options { mark: Some(7), ..Options::default() })?;
    ensure!(path.mark == Some(7), "{path:?}");
    Ok(())
}

fn bound_to_device(test: &TestContext) -> Result<()> {
    routed_by(test, "oif uplink", &Options { device: Some("uplink"), ..Options::default() }).map(drop)
}

fn user_timeout(test: &TestContext) -> Result<()> {
    let (_own, lab) = lab_with_vip(test)?;
    let (_server, client) = connect(&lab, &from_vip(Some(Duration::from_secs(12)))?)?;
    let probe = watch(&lab.client, &[])?;
    lose_vip(&lab)?;
    write(&client)?;
    let opened = finding(&probe, "opened", SOON)?;
    let deadline = opened.deadline.as_ref().context("no deadline")?;
    ensure!((deadline.timer.as_str(), deadline.set_by.as_str()) == ("probe0", "tcp_user_timeout"), "{deadline:?}");
    ensure!(deadline.setting == 12_000, "{deadline:?}");
    let error = client.wait_event("error", SOON)?;
    let stated = wall_seconds(&deadline.time)?;
    let given_up = wall_of_event(&error)?;
    println!("stated {:.1} s ahead, given up {:+.3} s from it", deadline.in_seconds, given_up - stated);
    // The model must be right within one step of the timer.
    ensure!((given_up - stated).abs() < 0.5, "stated {stated}, given up {given_up}: {deadline:?}");
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:?}");
    stop(probe)?;
    Ok(())
}

fn lost_before(test: &TestContext) -> Result<()> {
    let (_own, lab) = lab_with_vip(test)?;
    let (_server, client) = connect(&lab, &from_vip(None)?)?;
    lose_vip(&lab)?;
    write(&client)?;
    sleep(Duration::from_secs(3));
    let inode = lab.client.inode().to_string();
    let finished = Probe::run(&["diagnose", "--netns", &inode, "--duration", "2s"], SOON)?;
    ensure!(finished.code == Some(1), "exit code {:?}: {}{}", finished.code, finished.stdout, finished.stderr);
    for wanted in ["source_address_lost (confirmed)", "100 bytes have waited to be sent", Routed::VIP, "connprobe-peer"]
    {
        ensure!(finished.stdout.contains(wanted), "no {wanted:?} in:\n{}", finished.stdout);
    }
    Ok(())
}

fn busy_failover(test: &TestContext) -> Result<()> {
    let (_own, lab) = lab_with_vip(test)?;
    let (_server, client) = connect(&lab, &from_vip(None)?)?;
    let probe = watch(&lab.client, &[])?;
    lab.cut()?;
    write(&client)?;
    lose_vip(&lab)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.cause.as_str(), opened.confidence.as_str()) == ("source_address_lost", "confirmed"), "{opened:?}");
    let deadline = opened.deadline.as_ref().context("no deadline")?;
    ensure!((deadline.timer.as_str(), deadline.set_by.as_str()) == ("retransmission", "tcp_retries2"), "{deadline:?}");
    stop(probe)?;
    Ok(())
}

fn route_withdrawn(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    lab.client.ip("route del default via 10.77.1.254\n")?;
    write(&client)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(opened.cause == "local_send_failure", "{opened:?}");
    let confirmed = if opened.confidence == "confirmed" { opened } else { finding(&probe, "updated", SOON)? };
    ensure!(confirmed.confidence == "confirmed", "{confirmed:?}");
    ensure!(confirmed.evidence.iter().any(|evidence| evidence.kind == "no_route"), "{confirmed:?}");
    lab.client.ip("route add default via 10.77.1.254\n")?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

/// Drops what leaves, without connection tracking.
const DROP_OUTPUT: &str =
    "table inet filter { chain output { type filter hook output priority 0; tcp dport 5672 drop; }; }\n";

fn filtered_in_flight(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    lab.cut()?;
    write(&client)?;
    lab.client.nft(DROP_OUTPUT)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.cause.as_str(), opened.confidence.as_str()) == ("local_send_failure", "confirmed"), "{opened:?}");
    ensure!(opened.evidence.iter().any(|evidence| evidence.text.contains("packet filter")), "{opened:?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    lab.client.nft("delete table inet filter\n")?;
    lab.heal()?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

fn filtered_before(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    lab.client.nft(DROP_OUTPUT)?;
    write(&client)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(opened.cause == "local_send_failure", "{opened:?}");
    // What sending a probe gives, only kernels tell that can be attached to at functions.
    let seen_to_fail = opened.evidence.iter().any(|evidence| evidence.kind == "probe_sent");
    let missing = opened.missing_evidence.iter().any(|missing| missing.kind == "why_sending_fails");
    ensure!(missing != seen_to_fail, "{opened:?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    let deadline = opened.deadline.as_ref().context("no deadline")?;
    ensure!((deadline.timer.as_str(), deadline.set_by.as_str()) == ("probe0", "tcp_retries2"), "{deadline:?}");
    stop(probe)?;
    Ok(())
}
