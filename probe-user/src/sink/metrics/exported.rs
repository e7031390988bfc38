//! What `/metrics` tells: counted from records, and named here.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use uuid::Uuid;

use crate::{
    model::Hook,
    report::record::{Body, CoverageBody, FindingBody, HeartbeatBody, LossBody, Record},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    verdict: &'static str,
    cause: &'static str,
    confidence: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    verdict: &'static str,
    cause: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfHook {
    hook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attached {
    hook: &'static str,
    status: &'static str,
    /// Empty where it is not attached.
    mechanism: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPlace {
    place: &'static str,
    /// Empty where it is not known.
    hook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSink {
    sink: String,
}

fn seconds_since_1970() -> i64 {
    let passed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(passed.as_secs()).unwrap_or(i64::MAX)
}

/// What has been counted, and how it is told.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    opened: Family<Kind, Counter>,
    open: Family<Kind, Gauge>,
    ended: Family<Ended, Counter>,
    lost: Family<OfPlace, Counter>,
    connections_lost: Family<OfPlace, Counter>,
    connections: Family<OfOutcome, Counter>,
    cases: Gauge,
    hooks: Family<Attached, Gauge>,
    degraded: Gauge,
    emitted: Family<OfHook, Counter>,
    suppressed: Family<OfHook, Counter>,
    written: Family<OfSink, Counter>,
    dropped: Family<OfSink, Counter>,
    failing: Family<OfSink, Gauge>,
    cpu: Counter<f64, AtomicU64>,
    rss: Gauge,
    /// When the latest heartbeat came; before the first, when this began.
    heartbeat_at: Gauge,
    /// As what each open finding is counted.
    known: HashMap<Uuid, Kind>,
    heartbeat_every: Duration,
    latest: Instant,
}

impl Metrics {
    pub(super) fn new(heartbeat_every: Duration) -> Self {
        let mut registry = Registry::with_prefix("connprobe");
        let mut metrics = Self {
            registry: Registry::default(),
            opened: Family::default(),
            open: Family::default(),
            ended: Family::default(),
            lost: Family::default(),
            connections_lost: Family::default(),
            connections: Family::default(),
            cases: Gauge::default(),
            hooks: Family::default(),
            degraded: Gauge::default(),
            emitted: Family::default(),
            suppressed: Family::default(),
            written: Family::default(),
            dropped: Family::default(),
            failing: Family::default(),
            cpu: Counter::default(),
            rss: Gauge::default(),
            heartbeat_at: Gauge::default(),
            known: HashMap::new(),
            heartbeat_every,
            latest: Instant::now(),
        };
        registry.register("findings", "Findings opened, by what they were first", metrics.opened.clone());
        registry.register("open_findings", "Findings that are not over, by what they are now", metrics.open.clone());
        registry.register("findings_closed", "Findings that are over, by how they ended", metrics.ended.clone());
        // A series that begins with its first loss would hide that loss from whoever looks at the increase.
        for hook in Hook::ALL.map(Hook::name) {
            for place in ["ring", "recursion"] {
                drop(metrics.lost.get_or_create(&OfPlace { place, hook }));
            }
        }
        drop(metrics.lost.get_or_create(&OfPlace { place: "decode", hook: "" }));
        for place in ["connection_ring", "connection_recursion"] {
            drop(metrics.connections_lost.get_or_create(&OfPlace { place, hook: "" }));
        }
        let help = "Events lost between the kernel and the tracker, by where";
        registry.register("events_lost", help, metrics.lost.clone());
        let help = "Connections that are over, where those are told, by how they ended";
        registry.register("connections", help, metrics.connections.clone());
        let help = "Connections that are over and could not be told, as far as that is known";
        registry.register("connections_lost", help, metrics.connections_lost.clone());
        registry.register("open_cases", "Connections under suspicion", metrics.cases.clone());
        let help = "1 for each hook, with what became of it";
        registry.register("hook_status", help, metrics.hooks.clone());
        let help = "Whether something that should be observed is not";
        registry.register("coverage_degraded", help, metrics.degraded.clone());
        registry.register("hook_emitted", "Events a hook has told since it was attached", metrics.emitted.clone());
        registry.register("hook_suppressed", "Events held back by a limit since then", metrics.suppressed.clone());
        registry.register("sink_written", "Records a sink has written", metrics.written.clone());
        registry.register("sink_dropped", "Records a sink could not write", metrics.dropped.clone());
        registry.register("sink_failing", "Whether a sink fails at present", metrics.failing.clone());
        registry.register_with_unit("cpu", "Processor time of the daemon", Unit::Seconds, metrics.cpu.clone());
        registry.register_with_unit("resident_memory", "Memory of the daemon", Unit::Bytes, metrics.rss.clone());
        let help = "When the latest heartbeat came, or the start where none has come yet, since 1970";
        registry.register_with_unit("heartbeat_timestamp", help, Unit::Seconds, metrics.heartbeat_at.clone());
        registry.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        metrics.heartbeat_at.set(seconds_since_1970());
        metrics.registry = registry;
        metrics
    }

    /// Everything, as OpenMetrics text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // A `String` takes everything.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(super) fn come_every(&mut self, time: Duration) {
        self.heartbeat_every = time;
    }

    pub(super) fn take(&mut self, record: &Record) {
        match &record.body {
            Body::Finding(finding) => self.finding(finding),
            Body::Heartbeat(heartbeat) => self.heartbeat(heartbeat),
            Body::Connection(closed) => {
                self.connections.get_or_create(&OfOutcome { outcome: closed.outcome }).inc();
            }
            Body::Loss(loss) => self.loss(loss),
            Body::Coverage(coverage) => self.coverage(coverage),
            Body::Risk(_) | Body::Summary(_) => {}
        }
    }

    fn coverage(&mut self, coverage: &CoverageBody) {
        self.degraded.set(i64::from(coverage.degraded));
        // Each record is whole, and new settings may have attached them anew.
        self.hooks.clear();
        for hook in &coverage.hooks {
            let attached =
                Attached { hook: hook.hook, status: hook.status, mechanism: hook.mechanism.unwrap_or_default() };
            self.hooks.get_or_create(&attached).set(1);
        }
    }

    fn loss(&mut self, loss: &LossBody) {
        let place = OfPlace { place: loss.place, hook: loss.hook.unwrap_or_default() };
        match loss.place {
            // What this sink itself has not taken in is counted with the others' (`sink_dropped`).
            "sink" => {}
            of_connections if of_connections.starts_with("connection_") => {
                self.connections_lost.get_or_create(&place).inc_by(loss.count);
            }
            _ => {
                self.lost.get_or_create(&place).inc_by(loss.count);
            }
        }
    }

    fn finding(&mut self, finding: &FindingBody) {
        let FindingBody { verdict, cause, confidence, .. } = *finding;
        let kind = Kind { verdict, cause, confidence };
        match self.known.remove(&finding.finding_id) {
            Some(before) => {
                self.open.get_or_create(&before).dec();
            }
            None => {
                self.opened.get_or_create(&kind).inc();
            }
        }
        match finding.outcome {
            Some(outcome) => {
                self.ended.get_or_create(&Ended { verdict, cause, outcome }).inc();
            }
            None => {
                self.open.get_or_create(&kind).inc();
                self.known.insert(finding.finding_id, kind);
            }
        }
    }

    fn heartbeat(&mut self, heartbeat: &HeartbeatBody) {
        self.latest = Instant::now();
        self.heartbeat_at.set(seconds_since_1970());
        let set = |counter: &Counter, count: u64| counter.inner().store(count, Ordering::Relaxed);
        self.cases.set(i64::try_from(heartbeat.open_cases).unwrap_or(i64::MAX));
        for count in &heartbeat.hooks {
            let hook = OfHook { hook: count.hook };
            set(&self.emitted.get_or_create(&hook), count.emitted);
            set(&self.suppressed.get_or_create(&hook), count.suppressed);
        }
        // A sink may have been taken away by new settings.
        self.written.clear();
        self.dropped.clear();
        self.failing.clear();
        for health in &heartbeat.sinks {
            let sink = OfSink { sink: health.sink.clone() };
            set(&self.written.get_or_create(&sink), health.written);
            set(&self.dropped.get_or_create(&sink), health.dropped);
            self.failing.get_or_create(&sink).set(i64::from(health.failing.is_some()));
        }
        if let Some(seconds) = heartbeat.cost.cpu_seconds {
            self.cpu.inner().store(seconds.to_bits(), Ordering::Relaxed);
        }
        if let Some(bytes) = heartbeat.cost.rss_bytes {
            self.rss.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// What is wrong with the daemon; `None` where it does its work.
    pub(super) fn ill(&self) -> Option<String> {
        let silence = self.latest.elapsed();
        (silence > self.heartbeat_every.saturating_mul(3)).then(|| format!("no heartbeat for {} s", silence.as_secs()))
    }
}
