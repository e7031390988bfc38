use std::time::Duration;

use super::HookCount;
use crate::model::MonoTime;

/// How a long watch does.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// When.
    pub at: MonoTime,
    /// Since the watch began.
    pub watched: Duration,
    /// Connections under suspicion, whether or not there is a finding about them.
    pub open_cases: usize,
    /// Findings that are not over.
    pub open_findings: usize,
    /// Findings opened since the watch began.
    pub findings: u64,
    /// Events lost since then, at whatever place.
    pub lost: u64,
    /// Of those, records that could not be decoded.
    pub undecodable: u64,
    /// Questions that wait for a witness.
    pub questions_waiting: usize,
    /// What each hook did.
    pub hooks: Vec<HookCount>,
    /// What it costs.
    pub cost: Cost,
    /// Connections that are over, where those are told.
    pub connections: Option<ConnectionCounts>,
    /// How the sinks do.
    pub sinks: Vec<SinkHealth>,
}

/// What has been told of connections that are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// Records.
    pub told: u64,
    /// Of those, without the moment when it was opened.
    pub opening_unseen: u64,
    /// Connections whose record found no room on the ring.
    pub lost: u64,
    /// State changes that the program was not run for, because it was running on that CPU already.
    pub missed: u64,
}

/// What the program itself has cost since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Processor time of this process, in the kernel and outside of it, without that of the kernel programs.
    pub cpu: Option<Duration>,
    /// Memory that this process has in RAM.
    pub rss_bytes: Option<u64>,
    /// Run time of the kernel programs, where the kernel counts it (`kernel.bpf_stats_enabled`).
    pub bpf: Option<Duration>,
}

/// How a sink does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkHealth {
    /// Its kind, and where it writes to.
    pub sink: String,
    /// Records written.
    pub written: u64,
    /// Records not written, for it was behind or failed.
    pub dropped: u64,
    /// How often writing failed.
    pub errors: u64,
    /// Why it fails at present.
    pub failing: Option<String>,
}
