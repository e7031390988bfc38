use serde::Deserialize;

use super::{Endpoint, Owner, Remedy};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Risks {
    pub risks: usize,
    pub connections: usize,
    pub looked_by: String,
    pub idle_timeout_seconds: f64,
    pub left_out: usize,
    pub connections_left_out: usize,
    pub not_judged: usize,
    pub keepalive_unknown: usize,
    pub gaps: Vec<String>,
    pub gaps_left_out: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Risk {
    pub kind: String,
    pub text: String,
    pub netns: u32,
    pub owner: Option<Owner>,
    pub owner_unavailable: Option<String>,
    pub processes: usize,
    pub service_port: u16,
    pub direction: String,
    pub connections: usize,
    pub over_limit: usize,
    pub limit_seconds: f64,
    pub limit_set_by: String,
    pub longest_idle_seconds: f64,
    pub keepalive: Option<KeepaliveTimes>,
    pub looked_by: String,
    pub examples: Vec<Example>,
    pub examples_left_out: usize,
    pub remedies: Vec<Remedy>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepaliveTimes {
    pub shortest_seconds: f64,
    pub longest_seconds: f64,
    pub exact: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    pub local: Endpoint,
    pub remote: Endpoint,
    pub tcp_state: String,
    pub community_id: String,
    pub cookie: Option<String>,
    pub idle_seconds: f64,
}
