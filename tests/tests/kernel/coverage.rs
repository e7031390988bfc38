//! What is observed, what it costs, and what is not there to be observed.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use connprobe::model::Mechanism;
use connprobe_tests::{
    facts,
    probe::Probe,
    require::Requirement::{Attaching, Guest},
    runner::{Test, TestContext},
    watching::{SOON, WATCHING, attached},
    wire::{self, Body, Coverage},
};

pub(crate) fn tests() -> Vec<Test> {
    let tests = [
        Test::new("check says when each hook runs, and what a run of those it has tried costs", WATCHING, costs),
        Test::new(
            "connection tracking that is not loaded is no lack, and when it comes that is told",
            &[WATCHING, &[Attaching(Mechanism::Kprobe), Guest]].concat(),
            loaded_late,
        ),
    ];
    tests.into_iter().map(Test::on_every_kernel).collect()
}

fn costs(_: &TestContext) -> Result<()> {
    let (coverage, _) = facts::check(&[])?.context("nothing can be observed")?;
    ensure!(coverage.hooks.iter().all(|hook| hook.runs_for.starts_with("each ")), "{coverage:?}");
    for name in ["tcp_retransmit_skb", "tcp_receive_reset", "inet_sock_set_state"] {
        let hook = coverage.hooks.iter().find(|hook| hook.hook == name).context("no such hook")?;
        ensure!(hook.runs.is_some_and(|runs| runs > 0), "{hook:?}");
        // A run that takes no time, or a tenth of a second, was not measured.
        ensure!(hook.run_ns.is_some_and(|ns| (1..100_000_000).contains(&ns)), "{hook:?}");
    }
    let text = Probe::run(&["check"], SOON)?.stdout;
    ensure!(text.contains("No hook runs for a packet of a connection in order"), "{text}");
    ensure!(text.contains("for each segment that is sent again: "), "{text}");
    Ok(())
}

const CONNTRACK: &str = "/sys/module/nf_conntrack";

/// Takes connection tracking out of the guest's kernel, with what holds it.
fn unload(module: &str) -> Result<()> {
    let folder = Path::new("/sys/module").join(module);
    for holder in fs::read_dir(folder.join("holders")).into_iter().flatten() {
        unload(&holder?.file_name().to_string_lossy())?;
    }
    if folder.exists() {
        let status = Command::new("rmmod").arg(module).status()?;
        ensure!(status.success(), "rmmod {module}: {status}");
    }
    Ok(())
}

fn modules(coverage: &Coverage) -> Option<&str> {
    coverage.modules.iter().find(|module| module.module == "nf_conntrack").map(|module| module.status.as_str())
}

fn loaded_late(_: &TestContext) -> Result<()> {
    unload("nf_conntrack")?;
    let (coverage, code) = facts::check(&[])?.context("nothing can be observed")?;
    ensure!(!Path::new(CONNTRACK).exists(), "looking has loaded it");
    let hook = coverage.hooks.iter().find(|hook| hook.hook == "nf_ct_log_invalid").context("no such hook")?;
    ensure!((hook.status.as_str(), hook.mechanism.as_deref()) == ("not_loaded", None), "{hook:?}");
    ensure!(hook.why.as_ref().is_some_and(|why| why.contains("nf_l4proto_log_invalid")), "{hook:?}");
    ensure!((code, coverage.degraded) == (0, false), "exit code {code}: {coverage:?}");
    ensure!(modules(&coverage) == Some("not_loaded"), "{coverage:?}");
    let text = Probe::run(&["check"], SOON)?.stdout;
    ensure!(text.contains("Not loaded: nf_conntrack") && text.contains("of what is loaded is observed"), "{text}");

    let probe = Probe::diagnose(&["--follow", "--format", "ndjson"])?;
    attached(&probe)?;
    let status = Command::new("modprobe").arg("nf_conntrack").status()?;
    ensure!(status.success(), "modprobe: {status}");
    let is_degraded = |record: &serde_json::Value| record.get("degraded").is_some_and(|degraded| degraded == true);
    let Body::Coverage(coverage) = wire::read(&probe.wait_record(SOON, is_degraded)?)?.body else {
        anyhow::bail!("not a coverage record")
    };
    ensure!(modules(&coverage) == Some("loaded_since"), "{coverage:?}");
    connprobe_tests::watching::stop(probe)?;
    let (coverage, _) = facts::check(&[])?.context("nothing can be observed")?;
    ensure!(coverage.hooks.iter().all(|hook| hook.status != "not_loaded"), "{coverage:?}");
    ensure!(modules(&coverage).is_none(), "{coverage:?}");
    Ok(())
}
