//! A flood of handshakes beside a connection in limbo.

use std::{net::Ipv4Addr, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use connprobe_tests::{
    clocks::{now_wall_seconds, wall_seconds},
    findings::wait as finding,
    labs::routed::Routed,
    peer::Options,
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, connect, stop, summary, watch},
    wire::{Evidence, Summary},
};

pub(crate) fn tests() -> Vec<Test> {
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    vec![
        test("what is dropped of a connection in limbo is told while a flood of SYNs comes in", flood_beside_a_case)
            .alone()
            .not_shared(),
    ]
}

fn seen(summary: &Summary, hook: &str) -> u64 {
    summary.hooks.iter().filter(|count| count.hook == hook).map(|count| count.seen).sum()
}

/// For nine seconds, SYNs of more hosts than are remembered, again and again in another order, so that each is remembered for more than one.
fn flood_server(lab: &Routed) -> Result<()> {
    /// A prime: multiples of each number below it are another order of them all.
    const HOSTS: usize = 127;
    lab.swallow_forged()?;
    for round in 1..=15 {
        let hosts = (1..HOSTS).filter_map(|index| u8::try_from(index * round % HOSTS).ok());
        let forged = hosts.map(|host| (Ipv4Addr::new(10, 77, 9, host), 1_000));
        lab.client.send_syns(Routed::server_v4(PORT), forged)?;
        // The kernel answers the copy of a SYN twice a second at most (`tcp_invalid_ratelimit`).
        sleep(Duration::from_millis(600));
    }
    Ok(())
}

fn flood_beside_a_case(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.server.sysctl("net.ipv4.tcp_syncookies", "0")?;
    let (server, _client) = connect(&lab, &Options::default())?;
    // Fewer than the flood has handshakes.
    let probe = watch(&lab.server, &["--scan-every", "never", "--test-suspects", "96"])?;
    lab.router.nft(
        "table inet lost { chain forward { type filter hook forward priority 0; ip daddr 10.77.1.1 meta l4proto tcp drop; }; }\n",
    )?;
    server.command("write 100")?;
    finding(&probe, "opened", SOON)?;
    // What a retransmission sends is dropped before its timeout is told: only one that is remembered from the last is told itself.
    lab.server.nft(
        "table inet drops { chain output { type filter hook output priority 0; ip daddr 10.77.1.1 tcp sport 5672 drop; }; }\n",
    )?;
    let flooded_at = now_wall_seconds()?;
    flood_server(&lab)?;
    // Meanwhile it was sent again twice, 3.2 and 9.6 s after the finding.
    sleep(Duration::from_secs(2));
    server.command("abort")?;
    let closed = finding(&probe, "closed", SOON)?;
    let (_, records) = stop(probe)?;
    let summary = summary(&records)?;
    ensure!(seen(summary, "tcp_retransmit_synack") > 200, "no flood: {summary:?}");
    let told = |evidence: &&Evidence| {
        is_dropped_data(evidence) && wall_seconds(&evidence.time).is_ok_and(|at| at > flooded_at + 1.5)
    };
    ensure!(closed.evidence.iter().filter(told).count() > 0, "nothing is told any more: {:#?}", closed.evidence);
    Ok(())
}

fn is_dropped_data(evidence: &Evidence) -> bool {
    evidence.kind == "segment_dropped" && evidence.data.get("message") == Some(&"data".into())
}
