//! Connection tracking's own word for why it holds a FIN for invalid, where its functions can be probed.

use anyhow::{Result, ensure};
use connprobe::model::Mechanism;
use connprobe_tests::{
    findings::{ensure_is_about, wait as finding},
    firewall::drops_invalid,
    labs::routed::Routed,
    peer::Options,
    require::Requirement::{Attaching, Conntrack},
    runner::{Test, TestContext},
    watching::{SOON, WATCHING, connect, stop, watch},
    wire::{Evidence, Finding},
};

pub(crate) fn tests() -> Vec<Test> {
    let probed = [WATCHING, &[Conntrack, Attaching(Mechanism::Kprobe)]].concat();
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, &probed, function);
    vec![
        test("connection tracking itself says that a FIN's checksum is wrong", checksum),
        test("connection tracking itself says that a FIN lies outside of the window, and in which zone", window),
        test(
            "a FIN that is held for invalid and vanishes without a word is told, and that nobody was seen to drop it",
            unseen,
        ),
    ]
}

/// All the client's connections are in this zone.
const ZONE: &str = "table inet zone { \
                    chain in { type filter hook prerouting priority raw; ct zone set 7; }; \
                    chain out { type filter hook output priority raw; ct zone set 7; }; }\n";

fn ensure_says(evidence: &Evidence, expected: &[(&str, serde_json::Value)]) -> Result<()> {
    for (name, value) in expected {
        ensure!(evidence.data.get(*name) == Some(value), "{name}: {evidence:?}");
    }
    Ok(())
}

/// Lets the server close, its FIN changed so, with these rules at the client.
fn close(test: &TestContext, rules: &str, statement: &str, check: impl Fn(&Finding) -> Result<()>) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.nft(rules)?;
    let (server, client) = connect(&lab, &Options::default())?;
    lab.mangle_fins(statement)?;
    let probe = watch(&lab.client, &[])?;
    server.command("close")?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(opened.verdict == "silently_dropped_fin", "{opened:#?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    check(&opened)?;
    stop(probe)?;
    Ok(())
}

fn checksum(test: &TestContext) -> Result<()> {
    close(test, &drops_invalid("input"), "tcp checksum set 0xbad", |opened| {
        ensure!(opened.cause == "conntrack_bad_checksum", "{opened:#?}");
        let expected = [
            ("why", "bad checksum".into()),
            ("message", "FIN".into()),
            ("hook", "prerouting".into()),
            ("zone", serde_json::Value::Null),
            ("checksum", "wrong".into()),
        ];
        ensure_says(opened.evidence_of("segment_invalid")?, &expected)
    })
}

fn window(test: &TestContext) -> Result<()> {
    // Half of the sequence numbers ahead (RFC 9293 section 3.4): nothing is farther outside; nft keeps the checksum right.
    let rules = drops_invalid("input") + ZONE;
    close(test, &rules, "tcp sequence set tcp sequence ^ 0x80000000", |opened| {
        ensure!(opened.cause == "conntrack_invalid", "{opened:#?}");
        let invalid = opened.evidence_of("segment_invalid")?;
        ensure_says(invalid, &[("zone", 7.into()), ("hook", "prerouting".into()), ("checksum", "right".into())])?;
        let why = invalid.data.get("why").and_then(|why| why.as_str()).unwrap_or_default();
        ensure!(why.starts_with("SEQ is over") && why.contains("window of the receiver"), "{why}");
        ensure!(opened.missing_evidence.iter().all(|missing| missing.kind != "why_invalid"), "{opened:#?}");
        Ok(())
    })
}

fn unseen(test: &TestContext) -> Result<()> {
    // No rule drops it, and TCP does, for a reason that says nothing here: it takes no segment without an ACK
    // (`tcp_rcv_established`).
    let rules =
        "table inet tracks { chain input { type filter hook input priority 0; ct state established accept; }; }\n";
    close(test, rules, "tcp flags set fin", |opened| {
        ensure!(
            (opened.cause.as_str(), opened.confidence.as_str()) == ("conntrack_invalid", "suspected"),
            "{opened:#?}"
        );
        ensure_says(opened.evidence_of("segment_invalid")?, &[("why", "invalid tcp flag combination".into())])?;
        ensure!(opened.missing_evidence.iter().any(|missing| missing.kind == "who_dropped"), "{opened:#?}");
        ensure!(opened.evidence.iter().all(|evidence| evidence.kind != "segment_dropped"), "{opened:#?}");
        Ok(())
    })
}
