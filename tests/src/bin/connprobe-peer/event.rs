//! What the peer tells: one JSON object a line, with the time of CLOCK_MONOTONIC in nanoseconds.

use std::io::Write as _;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Prints an event with these fields beside `event` and `ktime_ns`.
pub(crate) fn emit(name: &str, fields: Value) -> Result<()> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("no monotonic clock")?;
    let ktime_ns = now.tv_sec() * 1_000_000_000 + now.tv_nsec();
    let mut event = json!({ "event": name, "ktime_ns": ktime_ns });
    if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
        event.extend(fields);
    }
    let mut output = std::io::stdout().lock();
    writeln!(output, "{event}").and_then(|()| output.flush()).context("nobody reads the events")
}
