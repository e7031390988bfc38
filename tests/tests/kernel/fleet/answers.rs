//! What the store answers.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use connprobe_tests::store::{SHIPPED, Store};
use serde_json::Value;

use super::column;

/// What is asked at three in the morning, while everything fails.
pub(super) fn answers(store: &Store) -> Result<()> {
    let hosts =
        column(store, "SELECT host FROM connprobe.hosts WHERE status IN ('ok', 'losing', 'degraded') ORDER BY host")?;
    ensure!(
        hosts == ["compute-1", "controller-1", "firewall-1"],
        "{:#?}",
        store.rows("SELECT * FROM connprobe.hosts")?
    );
    let open =
        column(store, "SELECT concat(host, ' ', verdict) AS finding FROM connprobe.open_findings ORDER BY finding")?;
    let expected = [
        "compute-1 retransmit_stalled",
        "compute-1 silently_dropped_fin",
        "compute-1 zero_window_stalled",
        "controller-1 retransmit_stalled",
        "firewall-1 asymmetric_handshake",
        "firewall-1 silently_dropped_fin",
    ];
    ensure!(open == expected, "{open:?}");
    let connections = column(store, "SELECT arrayStringConcat(hosts, ' ') FROM connprobe.connections ORDER BY begin")?;
    ensure!(connections.len() == 3, "what has nothing to do with each other does not meet: {connections:?}");

    let several = store.rows("SELECT * FROM connprobe.seen_from_several_hosts ORDER BY length(hosts)")?;
    let [fin, silent] = several.as_slice() else { bail!("{several:#?}") };
    ensure_says(fin, "told", "compute-1: silently_dropped_fin/unacknowledged_fin")?;
    ensure_says(fin, "told", "firewall-1 (forwards it): silently_dropped_fin/firewall_drop")?;
    ensure_says(fin, "dropped_on", "firewall-1: NETFILTER_DROP by inet firewall forward: tcp dport 5673")?;
    ensure_says(silent, "told", "compute-1: retransmit_stalled/peer_silent")?;
    ensure_says(silent, "told", "controller-1: retransmit_stalled/peer_silent")?;
    ensure_says(silent, "told", "firewall-1 (forwards it): asymmetric_handshake/embryonic_expired")?;
    ensure_says(silent, "dropped_on", "firewall-1: NETFILTER_DROP by inet firewall")?;
    ensure_says(silent, "owners", "controller-1 connprobe-peer")?;

    let drops = column(store, "SELECT DISTINCT host FROM connprobe.drops_by_rule")?;
    ensure!(drops == ["firewall-1"], "{drops:?}");
    let causes = column(
        store,
        "SELECT concat(cause, ' ', peer, ' ', toString(service_port), ' ', owner) FROM connprobe.causes_by_day \
         WHERE cause = 'peer_silent' AND service_port = 5672 ORDER BY peer",
    )?;
    ensure!(
        causes == ["peer_silent 10.78.1.1 5672 connprobe-peer", "peer_silent 10.78.2.1 5672 connprobe-peer"],
        "{causes:?}"
    );
    documented(store)?;
    for nothing in ["missing_records", "rejected"] {
        let rows = store.rows(&format!("SELECT * FROM connprobe.{nothing}"))?;
        ensure!(rows.is_empty(), "{nothing}: {rows:#?}");
    }
    Ok(())
}

/// Each query of the document is one that the store takes, and those about what is in limbo have an answer.
fn documented(store: &Store) -> Result<()> {
    let document = fs::read_to_string(Path::new(SHIPPED).join("README.md"))?;
    let blocks = document.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut answered = 0;
    for query in blocks.flat_map(|block| block.split_terminator(";\n").flat_map(|line| line.split("; "))) {
        let query = query.replace("FORMAT Vertical", "").replace('…', "00000000-0000-0000-0000-000000000000");
        answered += usize::from(!store.rows(&query)?.is_empty());
    }
    println!("{answered} of the document's queries have an answer");
    ensure!(answered >= 4, "{answered}");
    Ok(())
}

fn ensure_says(row: &Value, column: &str, what: &str) -> Result<()> {
    let said = row.get(column).and_then(Value::as_array).context("no such column")?;
    let is_it = |text: &Value| text.as_str().is_some_and(|text| text.starts_with(what));
    ensure!(said.iter().any(is_it), "no {what:?} in {row:#}");
    Ok(())
}
