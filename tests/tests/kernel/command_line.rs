//! Wrong input and missing means: one clear sentence, exit code 2, nothing attached.

use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use connprobe_tests::{
    probe::{self, Finished, Probe},
    require::Requirement::{Bpf, Btf, Root},
    runner::{Test, TestContext},
    watching::{SOON, WATCHING, watch},
};

pub(crate) fn tests() -> Vec<Test> {
    let tests = vec![
        Test::new(
            "a bad prefix, an unknown namespace or verdict, or no time to watch is refused in a sentence",
            &[],
            bad_input,
        ),
        Test::new("without the privileges it says which are missing", &[Root], unprivileged),
        Test::new("without BTF it says what it needs, hidden by an option or in fact", &[Root, Bpf], without_btf),
        Test::new("check says what is observed, and its exit code whether that is all", &[Root, Bpf, Btf], check),
        Test::new("a reader that goes away or a full disk ends the watch with a sentence", WATCHING, vanished_sink),
        Test::new("SIGINT ends a watch early and it still reports", WATCHING, interrupted),
        Test::new("the json format is one array that ends with the summary", WATCHING, json),
    ];
    tests.into_iter().map(Test::not_shared).collect()
}

/// Trouble is told in one sentence on standard error, with these words, and nothing on standard output.
fn ensure_trouble(finished: &Finished, words: &[&str]) -> Result<()> {
    ensure!(finished.code == Some(2), "exit code {:?}: {}", finished.code, finished.stderr);
    ensure!(finished.stdout.is_empty(), "standard output: {}", finished.stdout);
    for word in words {
        ensure!(finished.stderr.contains(word), "no {word:?} in: {}", finished.stderr);
    }
    ensure!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    Ok(())
}

fn bad_input(_: &TestContext) -> Result<()> {
    for (arguments, words) in [
        (&["--peer", "10.3.0.0/33"][..], &["10.3.0.0/33", "10.3.0.0/24"][..]),
        (&["--netns", "no-such-namespace"], &["no-such-namespace", "/run/netns"]),
        (&["--netns", "/etc/passwd"], &["/etc/passwd", "not a network namespace"]),
        (&["--netns", "1"], &["inode 1"]),
        (&["--duration", "0s"], &["no time at all"]),
        (&["--duration", "soon"], &["soon", "30s"]),
        (&["--port", "0"], &["0"]),
        (&["--port", "70000"], &["70000"]),
        (&["--follow", "--duration", "5s"], &["--follow", "--duration"]),
        (&["--format", "xml"], &["xml", "ndjson"]),
        (&["--idle-timeout", "30m"], &["--idle-timeout", "--risks"]),
        (&["--risks", "--idle-timeout", "0s"], &["at least 1s"]),
        (&["--risks", "--idle-timeout", "long"], &["long", "1h"]),
    ] {
        let finished = Probe::run(&[&["diagnose"], arguments].concat(), SOON)?;
        ensure_trouble(&finished, words)?;
    }
    for (topic, words) in [
        ("half_closed", &["half_closed", "half_open", "retransmit_stalled", "zero_window_stalled"][..]),
        ("risk/peer_asleep", &["idle_without_keepalive", "keepalive_too_late", "close_wait_leak"]),
        ("half_open/peer_asleep", &["peer_asleep", "peer_reset", "keepalive_unanswered"]),
    ] {
        ensure_trouble(&Probe::run(&["explain", topic], SOON)?, words)?;
    }
    let ports: Vec<_> = (1..=17).flat_map(|port| ["--port".to_owned(), port.to_string()]).collect();
    let arguments: Vec<_> = ["diagnose"].into_iter().chain(ports.iter().map(String::as_str)).collect();
    ensure_trouble(&Probe::run(&arguments, SOON)?, &["17 ports", "16"])
}

fn unprivileged(_: &TestContext) -> Result<()> {
    for subcommand in ["diagnose", "check"] {
        let mut command = probe::unprivileged()?;
        command.arg(subcommand);
        let finished = Probe::start_command(command)?.finish(SOON)?;
        ensure_trouble(&finished, &["CAP_BPF", "CAP_PERFMON", "root"])?;
        ensure!(finished.stderr.lines().count() == 1, "{}", finished.stderr);
    }
    Ok(())
}

fn without_btf(_: &TestContext) -> Result<()> {
    let finished = Probe::run(&["diagnose", "--btf", "/nonexistent/vmlinux"], SOON)?;
    ensure_trouble(&finished, &["/nonexistent/vmlinux", "CONFIG_DEBUG_INFO_BTF", "--btf"])?;
    let finished = Probe::run(&["diagnose", "--btf", "/etc/passwd"], SOON)?;
    ensure_trouble(&finished, &["/etc/passwd", "BTF"])?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"", "sh"]);
    command.arg(probe::program()?).arg("diagnose");
    let finished = Probe::start_command(command)?.finish(SOON)?;
    ensure_trouble(&finished, &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"])?;
    ensure!(finished.stderr.lines().count() == 1, "{}", finished.stderr);
    Ok(())
}

fn check(_: &TestContext) -> Result<()> {
    let finished = Probe::run(&["check"], SOON)?;
    ensure!(finished.code == Some(0), "exit code {:?}\n{}{}", finished.code, finished.stdout, finished.stderr);
    for hook in connprobe::model::Hook::ALL {
        ensure!(finished.stdout.contains(hook.name()), "no {} in:\n{}", hook.name(), finished.stdout);
    }
    let finished = Probe::start_with_tracefs(&["check", "--force-mechanism", "tracepoint"])?.finish(SOON)?;
    ensure!(finished.code == Some(1), "exit code {:?}\n{}{}", finished.code, finished.stdout, finished.stderr);
    ensure!(finished.stdout.contains("unsupported") && finished.stdout.contains("skaddr"), "{}", finished.stdout);
    Ok(())
}

fn vanished_sink(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let inode = own.netns("quiet")?.inode().to_string();
    let program = probe::program()?;
    let arguments = format!("diagnose --netns {inode} --duration 2s --format ndjson");
    for (script, words) in [
        ("\"$0\" $1 > /dev/full; echo $? >&2", &["cannot be written", "No space left on device"][..]),
        ("{ \"$0\" $1; echo $? >&2; } | head -n 1 > /dev/null", &["closed by its reader"]),
    ] {
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&program).arg(&arguments);
        let finished = Probe::start_command(command)?.finish(SOON)?;
        for word in words {
            ensure!(finished.stderr.contains(word), "no {word:?} in: {}", finished.stderr);
        }
        ensure!(finished.stderr.ends_with("\n2\n"), "exit code: {}", finished.stderr);
    }
    Ok(())
}

fn interrupted(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let netns = own.netns("quiet")?;
    let probe = watch(&netns, &[])?;
    let finished = probe.stop(Duration::from_secs(10))?;
    ensure!(finished.code == Some(0), "exit code {:?}", finished.code);
    ensure!(finished.stdout.contains("\"type\":\"summary\""), "{}", finished.stdout);
    Ok(())
}

fn json(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let inode = own.netns("quiet")?.inode().to_string();
    let finished = Probe::run(&["diagnose", "--netns", &inode, "--duration", "1s", "--format", "json"], SOON)?;
    ensure!(finished.code == Some(0), "exit code {:?}", finished.code);
    let records: Vec<serde_json::Value> = serde_json::from_str(&finished.stdout)?;
    let records = connprobe_tests::wire::read_all(&records)?;
    connprobe_tests::watching::summary(&records)?;
    Ok(())
}
