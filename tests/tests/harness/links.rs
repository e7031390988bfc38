//! Links, bridges, routes and rules carry or lose what they should.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::link::{End, veth};
use connprobe_tests::netns::Netns;
use connprobe_tests::peer::Options;
use connprobe_tests::require::Requirement::{self, Bridge, Conntrack, Ipv6, Netns as Namespaces, Nft, Root, Veth};
use connprobe_tests::runner::{Test, TestContext};

use crate::support::{DROP_TCP, SOON, connected, pair, received, wait_received};

/// What is checked here.
pub(crate) fn tests() -> Vec<Test> {
    let linked: &[Requirement] = &[Root, Namespaces, Veth];
    let filtered: &[Requirement] = &[Root, Namespaces, Veth, Nft];
    vec![
        Test::new("two namespaces exchange data over a veth pair", linked, exchange),
        Test::new("two namespaces exchange data by IPv6", &[Root, Namespaces, Veth, Ipv6], exchange_by_ipv6),
        Test::new("data passes with tx offload off", linked, exchange_without_offload),
        Test::new("a bridge joins namespaces", &[Root, Namespaces, Veth, Bridge], bridged),
        Test::new("a router forwards and tracks connections", &[Root, Namespaces, Veth, Conntrack], routed),
        Test::new("an nft rule drops until it is taken away", filtered, dropped),
        Test::new("the message of nft is in the error", &[Root, Namespaces, Nft], nft_message),
        Test::new("a short link failure is survived by a connection", linked, link_failure),
        Test::new("an address taken away can be given back", linked, address_moves),
    ]
}

fn exchange(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    exchange_over(&pair.client, &pair.server, "10.9.0.2:7000")
}

fn exchange_by_ipv6(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let (client, server) = (lab.netns("client")?, lab.netns("server")?);
    veth(&End::new(&client, "left", &["fd09::1/64"]), &End::new(&server, "right", &["fd09::2/64"]))?;
    exchange_over(&client, &server, "[fd09::2]:7000")
}

fn exchange_without_offload(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    pair.client.tx_offload_off("left")?;
    pair.server.tx_offload_off("right")?;
    ensure!(pair.client.tx_offload_off("missing").is_err());
    exchange_over(&pair.client, &pair.server, "10.9.0.2:7000")
}

fn bridged(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let (client, switch, server) = (lab.netns("client")?, lab.netns("switch")?, lab.netns("server")?);
    veth(&End::new(&client, "eth0", &["10.9.0.1/24"]), &End::new(&switch, "port1", &[]))?;
    veth(&End::new(&server, "eth0", &["10.9.0.2/24"]), &End::new(&switch, "port2", &[]))?;
    switch.bridge("br0", &["port1", "port2"], &["10.9.0.3/24"])?;
    exchange_over(&client, &server, "10.9.0.2:7000")?;
    exchange_over(&client, &switch, "10.9.0.3:7000")
}

fn routed(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let (client, router, server) = (lab.netns("client")?, lab.netns("router")?, lab.netns("server")?);
    veth(&End::new(&client, "eth0", &["10.9.1.2/24"]), &End::new(&router, "inner", &["10.9.1.1/24"]))?;
    veth(&End::new(&server, "eth0", &["10.9.2.2/24"]), &End::new(&router, "outer", &["10.9.2.1/24"]))?;
    client.add_route("default via 10.9.1.1")?;
    server.add_route("default via 10.9.2.1")?;
    router.forward()?;
    router.nft(
        "table inet firewall {
           counter opened { }
           chain forward {
             type filter hook forward priority 0; policy drop;
             ct state established accept
             iifname inner tcp flags syn / fin,syn,rst,ack ct state new counter name opened accept
           }
         }\n",
    )?;
    exchange_over(&client, &server, "10.9.2.2:7000")?;
    let counters = router.nft_query(&["list", "counters"])?;
    ensure!(counters.contains("packets 1 "), "one SYN has opened one connection: {counters}");
    Ok(())
}

fn dropped(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let (listener, peer) = connected(&pair.client, &pair.server, "10.9.0.2:7000", &Options::default())?;
    pair.server.nft(DROP_TCP)?;
    peer.command("write 10")?;
    peer.wait_event("written", SOON)?;
    thread::sleep(Duration::from_millis(300));
    ensure!(received(&listener)? == 0, "the rule drops nothing");
    pair.server.nft("flush ruleset\n")?;
    wait_received(&listener, 10)
}

fn nft_message(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let error = lab.netns("alone")?.nft("table inet t { nonsense }\n").err().context("nft took nonsense")?;
    ensure!(error.to_string().contains("syntax error"), "{error:#}");
    Ok(())
}

fn link_failure(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    let (listener, peer) = connected(&pair.client, &pair.server, "10.9.0.2:7000", &Options::default())?;
    pair.server.link_down("right")?;
    peer.command("write 10")?;
    peer.wait_event("written", SOON)?;
    thread::sleep(Duration::from_millis(300));
    ensure!(received(&listener)? == 0);
    pair.server.link_up("right")?;
    wait_received(&listener, 10)?;
    ensure!(pair.server.link_up("missing").is_err());
    Ok(())
}

fn address_moves(test: &TestContext) -> Result<()> {
    let pair = pair(test)?;
    pair.server.add_address("right", "10.9.0.100/32")?;
    let (listener, peer) = connected(&pair.client, &pair.server, "10.9.0.100:7000", &Options::default())?;
    pair.server.del_address("right", "10.9.0.100/32")?;
    peer.command("write 10")?;
    peer.wait_event("written", SOON)?;
    thread::sleep(Duration::from_millis(300));
    ensure!(received(&listener)? == 0);
    pair.server.add_address("right", "10.9.0.100/32")?;
    wait_received(&listener, 10)
}

fn exchange_over(client: &Netns, server: &Netns, at: &str) -> Result<()> {
    let (listener, peer) = connected(client, server, at, &Options::default())?;
    ensure!(peer.remote()? == listener.local()?);
    peer.command("write 300000")?;
    peer.wait_event("written", SOON)?;
    wait_received(&peer, 300_000)?;
    peer.command("close")?;
    peer.wait_event("closed", SOON)?;
    listener.wait_event("eof", SOON)?;
    listener.wait_event("closed", SOON)?;
    peer.finish(SOON)?;
    listener.finish(SOON)
}
