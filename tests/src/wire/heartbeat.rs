use serde::Deserialize;

use super::HookCount;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    pub watched_seconds: f64,
    pub open_cases: usize,
    pub open_findings: usize,
    pub findings: u64,
    pub lost: u64,
    pub undecodable: u64,
    pub questions_waiting: usize,
    pub cost: Cost,
    pub hooks: Vec<HookCount>,
    pub connections: Option<ConnectionCounts>,
    pub sinks: Vec<Sink>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionCounts {
    pub told: u64,
    pub opening_unseen: u64,
    pub lost: u64,
    pub missed: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    pub cpu_seconds: Option<f64>,
    pub rss_bytes: Option<u64>,
    pub bpf_seconds: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    pub sink: String,
    pub written: u64,
    pub dropped: u64,
    pub errors: u64,
    pub failing: Option<String>,
}
