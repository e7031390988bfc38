//! `half_open` by connection tracking that has forgotten: a firewall on this host itself, and one on the way.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    findings::{ensure_is_about, recovered, wait as finding},
    labs::routed::Routed,
    peer::{Options, Peer},
    require::Requirement::Conntrack,
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, connect, stop, watch},
    wire::Connection,
};

pub(crate) fn tests() -> Vec<Test> {
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| {
        Test::new(name, &[WATCHING, &[Conntrack]].concat(), function)
    };
    vec![
        test(
            "a connection that this host's firewall has forgotten and lets nothing out of is said to be so",
            own_output,
        ),
        test("a silent peer is not laid to the charge of a firewall that knows the connection", tracked),
        test("an entry in another zone is found", zone),
    ]
}

/// A connection that goes on talking beside the one that is idle: by it, connection tracking is seen to be at work.
fn busy(lab: &Routed) -> Result<Peer> {
    let options = Options { write_every: Some(Duration::from_millis(300)), ..Options::default() };
    Peer::connect(&lab.client, Routed::server_v4(PORT), &options)
}

fn write(client: &Peer) -> Result<Instant> {
    client.command("write 100")?;
    client.wait_event("written", SOON)?;
    Ok(Instant::now())
}

fn forget() {
    sleep(Routed::FIREWALL_REMEMBERS + Duration::from_secs(2));
}

fn own_output(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.firewall(&lab.client, &["output"])?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let _busy = busy(&lab)?;
    let probe = watch(&lab.client, &[])?;
    forget();
    let written = write(&client)?;
    let opened = finding(&probe, "opened", SOON)?;
    println!("opened {:.1} s after the write", written.elapsed().as_secs_f64());
    ensure!((opened.verdict.as_str(), opened.cause.as_str()) == ("half_open", "conntrack_expired"), "{opened:?}");
    ensure!(opened.confidence == "confirmed", "{opened:?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    let deadline = opened.deadline.as_ref().context("no deadline")?;
    // Nothing was ever sent, so it is not retransmitted but probed.
    ensure!((deadline.timer.as_str(), deadline.set_by.as_str()) == ("probe0", "tcp_retries2"), "{deadline:?}");
    let missing = opened.evidence.iter().find(|evidence| evidence.kind == "conntrack_entry_missing");
    let data = &missing.context("no evidence from conntrack")?.data;
    ensure!(data.get("timeout_established_seconds") == Some(&Routed::FIREWALL_REMEMBERS.as_secs().into()), "{data:?}");
    lab.client.nft("flush table inet firewall\n")?;
    recovered::<Connection>(&probe, SOON)?;
    stop(probe)?;
    Ok(())
}

fn tracked(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.firewall(&lab.client, &["output", "input"])?;
    lab.client.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", "600")?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    lab.cut()?;
    write(&client)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(opened.cause == "peer_silent", "{opened:?}");
    let entry = opened.evidence.iter().find(|evidence| evidence.kind == "conntrack_entry").context("no entry")?;
    ensure!(entry.data.get("state") == Some(&"established".into()), "{entry:?}");
    ensure!(entry.data.get("replied") == Some(&true.into()), "{entry:?}");
    stop(probe)?;
    Ok(())
}

fn zone(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let zoned = "type filter hook HOOK priority -300; ct zone set 7;";
    lab.client.nft(&format!(
        "table inet zones {{ chain out {{ {} }}; chain in {{ {} }}; chain use {{ type filter hook input priority 0; \
         ct state established accept; }}; }}\n",
        zoned.replace("HOOK", "output"),
        zoned.replace("HOOK", "prerouting"),
    ))?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    lab.cut()?;
    write(&client)?;
    let opened = finding(&probe, "opened", SOON)?;
    let entry = opened.evidence.iter().find(|evidence| evidence.kind == "conntrack_entry").context("no entry")?;
    ensure!(entry.data.get("zone") == Some(&7.into()), "{entry:?}");
    stop(probe)?;
    Ok(())
}
