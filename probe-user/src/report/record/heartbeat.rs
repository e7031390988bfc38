use schemars::JsonSchema;
use serde::Serialize;

use super::summary::HookCountBody;
use crate::report::{ConnectionCounts, Heartbeat, SinkHealth};

/// How a daemon does, every so often: as long as these come, it is at work.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct HeartbeatBody {
    /// Since the watch began.
    pub watched_seconds: f64,
    /// Connections under suspicion, whether or not there is a finding about them.
    pub open_cases: usize,
    /// Findings that are not over.
    pub open_findings: usize,
    /// Findings opened since the watch began.
    pub findings: u64,
    /// Events lost since then, at whatever place, also by programs that are no longer attached.
    pub lost: u64,
    /// Of those, records that could not be decoded.
    pub undecodable: u64,
    /// Questions that wait for a witness.
    pub questions_waiting: usize,
    /// What the program costs.
    pub cost: CostBody,
    /// What each hook did since the watch began.
    pub hooks: Vec<HookCountBody>,
    /// Connections that are over; `null` unless `connection` records are asked for.
    pub connections: Option<ConnectionCountsBody>,
    /// How the sinks do.
    pub sinks: Vec<SinkHealthBody>,
}

/// Connections that are over, since the watch began.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ConnectionCountsBody {
    /// `connection` records.
    pub told: u64,
    /// Of those, with `opened` `null`.
    pub opening_unseen: u64,
    /// Connections whose record found no room on the ring.
    pub lost: u64,
    /// State changes that the program was not run for, because it was running on that CPU already.
    pub missed: u64,
}

/// What the program itself has cost since its start.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CostBody {
    /// Processor time of this process, without that of the kernel programs; `null` where it cannot be read.
    pub cpu_seconds: Option<f64>,
    /// Memory that this process has in RAM; `null` where it cannot be read.
    pub rss_bytes: Option<u64>,
    /// Run time of the kernel programs; `null` unless the kernel counts it (`kernel.bpf_stats_enabled`).
    pub bpf_seconds: Option<f64>,
}

/// How a sink does.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SinkHealthBody {
    /// Its kind (`stdout`, `file`, `unix_socket`, `journald`, `otlp` or `metrics`), and where it writes to.
    pub sink: String,
    /// Records written; by a socket with several readers to any of them.
    pub written: u64,
    /// Records not written, for it was behind or failed.
    pub dropped: u64,
    /// How often writing failed.
    pub errors: u64,
    /// Why it fails at present; `null` where it does not.
    pub failing: Option<String>,
}

impl HeartbeatBody {
    pub(super) fn new(heartbeat: &Heartbeat) -> Self {
        Self {
            watched_seconds: heartbeat.watched.as_secs_f64(),
            open_cases: heartbeat.open_cases,
            open_findings: heartbeat.open_findings,
            findings: heartbeat.findings,
            lost: heartbeat.lost,
            undecodable: heartbeat.undecodable,
            questions_waiting: heartbeat.questions_waiting,
            cost: CostBody {
                cpu_seconds: heartbeat.cost.cpu.map(|time| time.as_secs_f64()),
                rss_bytes: heartbeat.cost.rss_bytes,
                bpf_seconds: heartbeat.cost.bpf.map(|time| time.as_secs_f64()),
            },
            hooks: heartbeat.hooks.iter().map(HookCountBody::new).collect(),
            connections: heartbeat.connections.map(|counts| {
                let ConnectionCounts { told, opening_unseen, lost, missed } = counts;
                ConnectionCountsBody { told, opening_unseen, lost, missed }
            }),
            sinks: heartbeat.sinks.iter().cloned().map(sink).collect(),
        }
    }
}

fn sink(health: SinkHealth) -> SinkHealthBody {
    let SinkHealth { sink, written, dropped, errors, failing } = health;
    SinkHealthBody { sink, written, dropped, errors, failing }
}
