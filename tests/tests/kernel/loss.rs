//! Loss of events: counted exactly, and said.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    labs::routed::Routed,
    peer::{Options, Peer},
    probe::Probe,
    runner::{Test, TestContext},
    watching::{SOON, WATCHING, summary, watch},
    wire::{self, Body},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const PORT: u16 = 5672;
/// More connections than a ring of one page holds records (23), so that one round of timeouts overflows it.
const CONNECTIONS: usize = 60;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("every event is either taken in or counted as lost, and the records say so", WATCHING, records)
            .alone(),
        Test::new("the report for people says what was lost", WATCHING, report).alone(),
    ]
}

/// Many connections that all time out while the program cannot read its ring.
fn flood(lab: &Routed, probe: &Probe, clients: &[Peer]) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(probe.pid())?);
    lab.cut()?;
    kill(pid, Signal::SIGSTOP)?;
    for client in clients {
        client.command("write 100")?;
    }
    // Three timeouts of each.
    sleep(Duration::from_secs(3));
    kill(pid, Signal::SIGCONT)?;
    Ok(())
}

fn connect(lab: &Routed) -> Result<(Peer, Vec<Peer>)> {
    let server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let connect = |_| Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default());
    let clients = (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>>>()?;
    Ok((server, clients))
}

fn records(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, clients) = connect(&lab)?;
    let probe = watch(&lab.client, &["--ring-bytes", "4096"])?;
    flood(&lab, &probe, &clients)?;
    probe.wait_type("loss", SOON)?;
    let finished = probe.stop(SOON)?;
    let records = wire::read_all(&finished.records)?;
    let summary = summary(&records)?;
    for hook in &summary.hooks {
        ensure!(hook.seen == hook.emitted + hook.lost, "{hook:?}");
    }
    let timeouts =
        summary.hooks.iter().find(|hook| hook.hook == "tcp_retransmit_skb").context("no count of timeouts")?;
    ensure!(timeouts.lost > 0 && timeouts.emitted > 0, "{timeouts:?}");
    // Each connection has made its first three timeouts at the least.
    ensure!(timeouts.seen >= 3 * u64::try_from(CONNECTIONS)?, "{timeouts:?}");
    let told: u64 = records.iter().map(|record| if let Body::Loss(loss) = &record.body { loss.count } else { 0 }).sum();
    ensure!(told == summary.lost, "{told} told in loss records, {} in the summary", summary.lost);
    println!("{} seen = {} emitted + {} lost", timeouts.seen, timeouts.emitted, timeouts.lost);
    Ok(())
}

fn report(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, clients) = connect(&lab)?;
    let inode = lab.client.inode().to_string();
    let probe = Probe::diagnose(&["--netns", &inode, "--duration", "20s", "--ring-bytes", "4096"])?;
    // It says nothing before its report; attaching takes well under two seconds on the host and in a guest.
    sleep(Duration::from_secs(5));
    flood(&lab, &probe, &clients)?;
    let finished = probe.finish(Duration::from_secs(60))?;
    ensure!(finished.stdout.contains("Events were lost:"), "{}{}", finished.stdout, finished.stderr);
    ensure!(finished.stdout.contains("tcp_retransmit_skb lost"), "{}", finished.stdout);
    Ok(())
}
