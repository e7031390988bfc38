//! `retransmit_stalled`: data that is never acknowledged.

use std::{
    io::Write as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    clocks::{now_wall_seconds, wall_of_event, wall_seconds},
    findings::{ensure_is_about, recovered, wait as finding},
    labs::routed::Routed,
    peer::{Options, Peer},
    probe::Probe,
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, connect, cut_and_write, stop, stop_silent, summary, watch},
    wire::{Connection, Finding},
};

pub(crate) fn tests() -> Vec<Test> {
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    vec![
        test("a connection whose peer falls silent is suspected, confirmed, and recovers when the path heals", cut_off),
        test("a connection that was dying before the watch began is found by the first scan", dying_before),
        test("a path cut for some seconds is opened and then recovered, and the exit code is 0", flap),
        test("the finding names IPv6 connections", ipv6).not_shared(),
        test("what the filters leave out makes no event", filtered),
        test("the kernel gives up at the stated time set by tcp_retries2", deadline_by_retries),
        test("the kernel gives up at the stated time set by TCP_USER_TIMEOUT", deadline_by_user_timeout),
        test("a user timeout too short for a suspicion is reported when it ends the connection", short_user_timeout),
        test("an application that gives up closes the finding", given_up),
        test("an operator who ends the connection closes the finding as one who gives up does", ended_from_outside)
            .not_shared(),
        test("a connection that outlives its container is followed until the kernel gives it up", container_killed),
        test("a peer that has forgotten the connection closes the finding by its reset", reset),
        test("the report for people says who, since when, until when and what to do", report).not_shared(),
    ]
}

fn cut_off(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    cut_and_write(&lab, &client)?;

    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.verdict.as_str(), opened.cause.as_str()) == ("retransmit_stalled", "peer_silent"), "{opened:?}");
    ensure!(opened.confidence == "suspected", "{opened:?}");
    ensure!(opened.missing_evidence.iter().any(|missing| missing.kind == "more_timeouts"), "{opened:?}");
    ensure!(opened.socket.unacknowledged_bytes == Some(100), "{:?}", opened.socket);
    ensure_is_about(&opened, &client, &lab.client)?;
    let deadline = opened.deadline.as_ref().context("no deadline")?;
    ensure!((deadline.set_by.as_str(), deadline.setting) == ("tcp_retries2", 15), "{deadline:?}");
    // 924.6 s after the first retransmission at the earliest, one RTO of 120 s later at the latest.
    ensure!((900.0..1060.0).contains(&deadline.in_seconds), "{deadline:?}");

    let updated = finding(&probe, "updated", SOON)?;
    ensure!(updated.confidence == "confirmed", "{updated:?}");
    ensure!(updated.finding_id == opened.finding_id, "another id");

    lab.heal()?;
    recovered::<Connection>(&probe, SOON)?;
    let (finished, records) = stop(probe)?;
    ensure!(finished.code == Some(0), "a recovered connection is no failure: exit code {:?}", finished.code);
    let summary = summary(&records)?;
    ensure!((summary.findings, summary.unresolved) == (1, 0), "{summary:?}");
    Ok(())
}

fn dying_before(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    // The fifth timeout comes 6.2 s after the write, the sixth 12.6 s.
    sleep(Duration::from_secs(7));
    let probe = watch(&lab.client, &[])?;
    let opened = finding(&probe, "opened", Duration::from_secs(4))?;
    ensure_is_about(&opened, &client, &lab.client)?;
    ensure!(opened.evidence.iter().all(|evidence| evidence.kind == "scanned"), "{opened:?}");
    let age = now_wall_seconds()? - wall_seconds(&opened.since)?;
    ensure!((6.0..60.0).contains(&age), "since {age} s ago");
    if opened.confidence == "suspected" {
        let updated = finding(&probe, "updated", SOON)?;
        ensure!(updated.confidence == "confirmed", "{updated:?}");
    }
    let (finished, _) = stop(probe)?;
    ensure!(finished.code == Some(1), "exit code {:?}", finished.code);
    Ok(())
}

fn ipv6(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let _server = Peer::listen(&lab.server, Routed::server_v6(PORT), &Options::default())?;
    lab.warm_up_v6()?;
    let client = Peer::connect(&lab.client, Routed::server_v6(PORT), &Options::default())?;
    let probe = watch(&lab.client, &["--port", "5672", "--peer", "fd77:2::/64"])?;
    cut_and_write(&lab, &client)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure_is_about(&opened, &client, &lab.client)?;
    stop(probe)?;
    Ok(())
}

fn filtered(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let other = own.netns("other")?;
    let let_through = watch(&lab.client, &["--port", "1", "--port", "5672", "--peer", "10.77.2.0/24"])?;
    let left_out = [
        watch(&lab.client, &["--port", "5673"])?,
        watch(&lab.client, &["--peer", "10.77.3.0/24"])?,
        watch(&other, &[])?,
    ];
    cut_and_write(&lab, &client)?;
    finding(&let_through, "opened", SOON)?;
    stop(let_through)?;
    for probe in left_out {
        let summary = stop_silent(probe)?;
        ensure!(summary.hooks.iter().all(|hook| hook.seen == 0), "{summary:?}");
    }
    Ok(())
}

/// How far the kernel's giving up was from the stated time, in seconds, and the RTO then in force.
fn deadline_error(finding: &Finding, client: &Peer) -> Result<(f64, f64)> {
    let stated = wall_seconds(&finding.deadline.as_ref().context("no deadline")?.time)?;
    let rto_seconds = finding.socket.rto_us.context("no RTO")? as f64 / 1e6;
    let error = client.wait_event("error", Duration::from_secs(100))?;
    ensure!(error.get("errno").is_some_and(|errno| errno == 110), "{error}");
    Ok((wall_of_event(&error)? - stated, rto_seconds))
}

fn deadline_by_retries(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.sysctl("net.ipv4.tcp_retries2", "5")?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    cut_and_write(&lab, &client)?;
    let opened = finding(&probe, "opened", SOON)?;
    let deadline = opened.deadline.as_ref().context("no deadline")?;
    ensure!((deadline.set_by.as_str(), deadline.setting) == ("tcp_retries2", 5), "{deadline:?}");
    let (error, rto) = deadline_error(&opened, &client)?;
    println!("tcp_retries2 = 5: stated {:.1} s ahead, the kernel gave up {error:+.3} s from it", deadline.in_seconds);
    ensure!(error.abs() <= 2.0 * rto, "{error:+.3} s from the stated time, the RTO was {rto:.3} s, then doubled");
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:?}");
    let (finished, _) = stop(probe)?;
    ensure!(finished.code == Some(1), "a connection given up counts as found: exit code {:?}", finished.code);
    Ok(())
}

fn deadline_by_user_timeout(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let options = Options { user_timeout: Some(Duration::from_secs(10)), ..Options::default() };
    let (_server, client) = connect(&lab, &options)?;
    let probe = watch(&lab.client, &[])?;
    cut_and_write(&lab, &client)?;
    let opened = finding(&probe, "opened", SOON)?;
    let deadline = opened.deadline.as_ref().context("no deadline")?;
    ensure!((deadline.set_by.as_str(), deadline.setting) == ("tcp_user_timeout", 10_000), "{deadline:?}");
    let (error, rto) = deadline_error(&opened, &client)?;
    println!(
        "TCP_USER_TIMEOUT = 10 s: stated {:.1} s ahead, the kernel gave up {error:+.3} s from it",
        deadline.in_seconds
    );
    ensure!(error.abs() <= rto, "{error:+.3} s from the stated time, the RTO was {rto:.3} s");
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:?}");
    stop(probe)?;
    Ok(())
}

fn short_user_timeout(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    // What py-amqp sets by default.
    let options = Options { user_timeout: Some(Duration::from_secs(1)), ..Options::default() };
    let (_server, client) = connect(&lab, &options)?;
    let probe = watch(&lab.client, &[])?;
    cut_and_write(&lab, &client)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(opened.confidence == "confirmed", "{opened:?}");
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:?}");
    ensure!(closed.finding_id == opened.finding_id, "another id");
    stop(probe)?;
    Ok(())
}

fn ended_from_outside(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    cut_and_write(&lab, &client)?;
    finding(&probe, "opened", SOON)?;
    let mut kill = Command::new("ss");
    kill.args(["-K", "dport", "=", &PORT.to_string()]);
    lab.client.check_output(kill, "")?;
    let error = client.wait_event("error", SOON)?;
    ensure!(error.get("errno") == Some(&(nix::errno::Errno::ECONNABORTED as i32).into()), "{error}");
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("closed_normally"), "{closed:?}");
    stop(probe)?;
    Ok(())
}

fn given_up(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    cut_and_write(&lab, &client)?;
    finding(&probe, "opened", SOON)?;
    client.command("abort")?;
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("closed_normally"), "{closed:?}");
    let (finished, _) = stop(probe)?;
    ensure!(finished.code == Some(0), "exit code {:?}", finished.code);
    Ok(())
}

/// What a killed container leaves: a namespace that nobody names and no process is in, held by connections whose FINs are not acknowledged.
fn container_killed(test: &TestContext) -> Result<()> {
    let container = test.lab()?;
    let netns = container.netns("container")?;
    // The kernel gives up 12.6 s after the write.
    netns.sysctl("net.ipv4.tcp_retries2", "5")?;
    netns.sysctl("net.ipv4.tcp_orphan_retries", "5")?;
    let probe = watch(&netns, &[])?;
    let (mut client, server) = netns.run(|| -> Result<_> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok((TcpStream::connect(listener.local_addr()?)?, listener.accept()?.0))
    })??;
    netns.nft("table inet cut { chain input { type filter hook input priority 0; meta l4proto tcp drop; }; }\n")?;
    client.write_all(&[1; 100])?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!((opened.verdict.as_str(), opened.cause.as_str()) == ("retransmit_stalled", "peer_silent"), "{opened:?}");

    drop((client, server));
    container.close()?;
    let mut closed = finding(&probe, "closed", SOON)?;
    // The server's own FIN is one, too.
    while closed.finding_id != opened.finding_id {
        closed = finding(&probe, "closed", SOON)?;
    }
    ensure!(closed.outcome.as_deref() == Some("timed_out"), "{closed:#?}");
    stop(probe)?;
    Ok(())
}

fn reset(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (server, client) = connect(&lab, &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    cut_and_write(&lab, &client)?;
    finding(&probe, "opened", SOON)?;
    // The server forgets the connection while the path is cut: its own reset is lost on the way.
    server.command("abort")?;
    server.wait_event("aborted", SOON)?;
    lab.heal()?;
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("reset"), "{closed:?}");
    ensure!(closed.evidence.iter().any(|evidence| evidence.kind == "reset_received"), "{closed:?}");
    stop(probe)?;
    Ok(())
}

fn report(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    let inode = lab.client.inode().to_string();
    let finished = Probe::run(&["diagnose", "--netns", &inode, "--duration", "15s"], Duration::from_secs(60))?;
    ensure!(finished.code == Some(1), "exit code {:?}: {}", finished.code, finished.stderr);
    let text = &finished.stdout;
    for wanted in [
        "1 connection in limbo".to_owned(),
        "retransmit_stalled, peer_silent (confirmed)".to_owned(),
        format!("{} -> {}", client.local()?, client.remote()?),
        format!("held by connprobe-peer (pid {})", client.pid()),
        "100 bytes have waited for an acknowledgment".to_owned(),
        "The kernel goes on trying until".to_owned(),
        "net.ipv4.tcp_retries2 = 15".to_owned(),
        "what to do".to_owned(),
    ] {
        ensure!(text.contains(&wanted), "no {wanted:?} in:\n{text}");
    }
    ensure!(!text.contains('\u{1b}'), "colours, though it is no terminal");
    Ok(())
}

fn flap(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &Options::default())?;
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    let probe = watch(&lab.client, &[])?;
    lab.cut()?;
    client.command("write 100")?;
    // The fourth timeout makes it a suspicion, 3 s after the write; the sixth, 12.6 s after it, would make it a fact.
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(opened.confidence == "suspected", "{opened:?}");
    lab.heal()?;
    let healed = Instant::now();
    recovered::<Connection>(&probe, SOON)?;
    // The next retransmission comes 3.2 s after the fourth; its answer is looked for within a second or so.
    println!("recovery was told {:.1} s after the path was healed", healed.elapsed().as_secs_f64());
    let (finished, records) = stop(probe)?;
    ensure!(finished.code == Some(0), "exit code {:?}", finished.code);
    let summary = summary(&records)?;
    ensure!((summary.findings, summary.unresolved) == (1, 0), "{summary:?}");
    Ok(())
}
