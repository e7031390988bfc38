//! How soon a suspicion is told.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use connprobe_tests::clocks::wall_seconds;
use connprobe_tests::{lab::Lab, labs::routed::Routed};
use serde_json::Value;

use crate::effort::{Effort, progress};
use crate::stalled::Connections;
use crate::statistics::Spread;
use crate::table::Table;
use crate::watcher::{Reading, Watcher};

/// Cuts the path of many connections and looks when each is told.
pub(crate) fn measure(effort: Effort) -> Result<Table> {
    let mut rows = Vec::new();
    for connections in if effort.quick { vec![1_000] } else { vec![100, 1_000] } {
        progress(&format!("suspicion: {connections} connections"));
        rows.push(told(connections)?);
    }
    Ok(Table {
        title: "From the first evidence to a suspicion",
        how: "Connections write after their path was cut, 500 a second. The fourth retransmission timeout in a row makes a suspicion, as the default thresholds say, about 3 s after the \
              first: it is the deciding one. Told is when the record's reader has it."
            .to_owned(),
        head: vec!["connections", "target", "told", "deciding timeout to told, ms", "first retransmission to told, s"],
        rows,
        notes: Vec::new(),
    })
}

fn told(count: usize) -> Result<Vec<String>> {
    let own = Lab::new("suspicion")?;
    let lab = Routed::new(&own)?;
    let connections = Connections::open(&lab, count)?;
    let watcher = Watcher::daemon(&lab.client, &[], Reading::Counted)?;
    lab.cut()?;
    connections.write(500.0)?;
    let start = Instant::now();
    while watcher.opened().len() < count && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let opened = watcher.opened();
    watcher.stop()?;
    let mut decided = Vec::new();
    let mut begun = Vec::new();
    for (read, line) in &opened {
        let record: Value = serde_json::from_str(line).context("a finding is no JSON")?;
        let time = |pointer: &str| record.pointer(pointer).and_then(Value::as_str).map(wall_seconds).transpose();
        let evidence = record.pointer("/evidence").and_then(Value::as_array).map_or(0, Vec::len);
        let last = evidence.checked_sub(1).map(|last| time(&format!("/evidence/{last}/time"))).transpose()?.flatten();
        decided.extend(last.map(|last| (read - last) * 1e3));
        begun.extend(time("/since")?.map(|since| read - since));
    }
    let text = |values: Vec<f64>, digits: usize| {
        Spread::of(values).map_or("–".to_owned(), |spread| format!("{spread:.digits$}"))
    };
    Ok(vec![count.to_string(), "≤ 250 ms".to_owned(), opened.len().to_string(), text(decided, 0), text(begun, 2)])
}
