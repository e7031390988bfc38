//! `connprobe snapshot`, and the scan through sock_diag that it shares with kernels without iterators.

use std::{process::Command, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    findings::all as findings,
    labs::routed::Routed,
    netns::Netns,
    peer::{Mode, Options, Peer},
    probe::{self, Finished, Probe},
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, connect, cut_and_write},
    wire::{self, Body},
};

pub(crate) fn tests() -> Vec<Test> {
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    vec![
        test("a snapshot finds a silent peer, a lost address and a shut window", everything),
        test("a snapshot without privileges finds what waits in its own namespace, and says what it cannot know", bare),
        test("a snapshot of healthy traffic and idle connections is empty", healthy).not_shared(),
        test("a process that is named by an escape sequence is told by its letters, and in records by its name", named)
            .not_shared(),
        test("diagnose scans through sock_diag where there is no iterator", fallback),
    ]
}

fn snapshot(netns: &Netns) -> Result<Finished> {
    let inode = netns.inode().to_string();
    Probe::run(&["snapshot", "--netns", &inode, "--format", "ndjson"], SOON)
}

fn everything(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.add_address("uplink", &format!("{}/32", Routed::VIP))?;
    let mute = Options { mode: Mode::Mute, ..Options::default() };
    let _mute = Peer::listen(&lab.server, Routed::server_v4(PORT + 1), &mute)?;
    let flooded = Peer::connect(&lab.client, Routed::server_v4(PORT + 1), &Options::default())?;
    flooded.command("write 20000000")?;
    let (_server, moved) = connect(&lab, &Options { bind: Some(Routed::VIP.parse()?), ..Options::default() })?;
    let silent = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    // Answered probes of the window for so long that its reader is not only slow.
    sleep(Duration::from_secs(8));
    lab.client.del_address("uplink", &format!("{}/32", Routed::VIP))?;
    moved.command("write 100")?;
    // What the shut window's peer answers must still come back.
    lab.router.nft(&format!(
        "table inet cut {{ chain forward {{ type filter hook forward priority 0; tcp dport {PORT} drop; }}; }}\n"
    ))?;
    silent.command("write 100")?;
    sleep(Duration::from_secs(4));
    let finished = snapshot(&lab.client)?;
    ensure!(finished.code == Some(1), "exit code {:?}: {}{}", finished.code, finished.stdout, finished.stderr);
    let findings = findings(&wire::read_all(&finished.records)?);
    for (peer, cause) in [(&flooded, "peer_window_shut"), (&moved, "source_address_lost"), (&silent, "peer_silent")] {
        let port = peer.local()?.port();
        let found = findings.iter().find(|finding| finding.connection.local.port == port);
        let found = found.with_context(|| format!("nothing of {cause}: {}", finished.stdout))?;
        ensure!(found.cause == cause, "{found:?}");
        ensure!(found.owner.as_ref().is_some_and(|owner| owner.pid == peer.pid()), "{found:?}");
        ensure!(found.socket.snd_una.is_none(), "what is not told is null: {:?}", found.socket);
        ensure!(found.deadline.is_none(), "{:?}", found.deadline);
    }
    Ok(())
}

fn bare(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options::default())?;
    cut_and_write(&lab, &client)?;
    sleep(Duration::from_secs(4));
    let run = |format: &str| -> Result<String> {
        let mut command = probe::unprivileged()?;
        command.args(["snapshot", "--format", format]);
        let output = lab.client.output(command, "")?;
        ensure!(output.status.code() == Some(1), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let text = run("text")?;
    for words in ["peer_silent", "100 bytes", "sock_diag", "a snapshot loads no kernel programs"] {
        ensure!(text.contains(words), "no {words:?} in:\n{text}");
    }
    let records = run("ndjson")?;
    let coverage = serde_json::from_str(records.lines().next().context("no record")?)?;
    let Body::Coverage(coverage) = wire::read(&coverage)?.body else { anyhow::bail!("no coverage: {records}") };
    ensure!(coverage.degraded && coverage.scan.by == "sock_diag", "{coverage:?}");
    Ok(())
}

fn named(test: &TestContext) -> Result<()> {
    /// Clears the screen, turns what follows around, colours it, and begins a line of its own.
    const NAME: &str = "\x1b[2J\u{202e}\x1b[31mx\ny";
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, &Options { comm: Some(NAME), ..Options::default() })?;
    cut_and_write(&lab, &client)?;
    sleep(Duration::from_secs(4));
    let inode = lab.client.inode().to_string();
    let mut command = Command::new(probe::program()?);
    command.args(["snapshot", "--netns", &inode]).env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR");
    let text = Probe::start_command(command)?.finish(SOON)?.stdout;
    let shown = r"held by \u{1b}[2J\u{202e}\u{1b}[31mx\ny (pid ";
    // Wherever the line was broken.
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(words.contains(shown), "no {shown:?} in:\n{text}");
    ensure!(text.contains("\x1b[1m"), "no colours: {text}");
    ensure!(!text.contains("\x1b[2J") && !text.contains('\u{202e}'), "{text:?}");
    let finished = snapshot(&lab.client)?;
    ensure!(finished.stdout.contains("\\u202e") && !finished.stdout.contains('\u{202e}'), "{}", finished.stdout);
    let findings = findings(&wire::read_all(&finished.records)?);
    let owner = findings.first().and_then(|finding| finding.owner.as_ref()).context("no owner")?;
    ensure!(owner.comm == NAME, "{owner:?}");
    Ok(())
}

fn healthy(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let echo = Options { mode: Mode::Echo, ..Options::default() };
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &echo)?;
    let busy = Options { write_every: Some(Duration::from_millis(5)), write_bytes: 4_000, ..Options::default() };
    let _busy = Peer::connect(&lab.client, Routed::server_v4(PORT), &busy)?;
    let _idle = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    let slow = Options { mode: Mode::Slow, ..Options::default() };
    let _slow = Peer::listen(&lab.server, Routed::server_v4(PORT + 1), &slow)?;
    let flooding = Peer::connect(&lab.client, Routed::server_v4(PORT + 1), &Options::default())?;
    flooding.command("write 20000000")?;
    sleep(Duration::from_secs(4));
    let finished = snapshot(&lab.client)?;
    ensure!(finished.code == Some(0), "exit code {:?}: {}{}", finished.code, finished.stdout, finished.stderr);
    ensure!(findings(&wire::read_all(&finished.records)?).is_empty(), "{}", finished.stdout);
    Ok(())
}

fn fallback(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.add_address("uplink", &format!("{}/32", Routed::VIP))?;
    let (_server, client) = connect(&lab, &Options { bind: Some(Routed::VIP.parse()?), ..Options::default() })?;
    lab.client.del_address("uplink", &format!("{}/32", Routed::VIP))?;
    client.command("write 100")?;
    sleep(Duration::from_secs(3));
    let inode = lab.client.inode().to_string();
    let arguments = ["diagnose", "--test-scan-by-sock-diag", "--netns", &inode, "--duration", "3s"];
    let finished = Probe::run(&arguments, SOON)?;
    ensure!(finished.code == Some(1), "exit code {:?}: {}{}", finished.code, finished.stdout, finished.stderr);
    for words in ["source_address_lost (confirmed)", "100 bytes have waited to be sent", "by sock_diag (by request)"] {
        ensure!(finished.stdout.contains(words), "no {words:?} in:\n{}", finished.stdout);
    }
    Ok(())
}
