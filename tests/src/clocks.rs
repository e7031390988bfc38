//! Times of records and of peers, compared: records tell wall-clock time, peers CLOCK_MONOTONIC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// Seconds since 1970 of a record's time.
///
/// # Errors
/// When it is no time.
pub fn wall_seconds(time: &str) -> Result<f64> {
    let time: jiff::Timestamp = time.parse()?;
    Ok(time.as_duration().as_secs_f64())
}

/// Seconds since 1970, now.
///
/// # Errors
/// When the clock is set before 1970.
pub fn now_wall_seconds() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// Seconds since 1970 of an event of a peer.
///
/// # Errors
/// When it has no `ktime_ns`.
pub fn wall_of_event(event: &Value) -> Result<f64> {
    let ktime_ns = event.get("ktime_ns").and_then(Value::as_u64).context("the event has no ktime_ns")?;
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(now_wall_seconds()? - (now.as_secs_f64() - Duration::from_nanos(ktime_ns).as_secs_f64()))
}
