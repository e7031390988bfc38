//! `/metrics` for Prometheus and `/healthz`, made from the records that every sink gets.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use uuid::Uuid;

use super::{
    control::{Command, Control},
    queue::Reader,
    spec::SinkSpec,
};
use crate::{
    model::Hook,
    report::record::{Body, FindingBody, HeartbeatBody, LossBody, Record},
};

/// Where to listen, and how often heartbeats come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsSpec {
    /// The address.
    pub listen: SocketAddr,
    /// Without a heartbeat for three times as long the daemon is ill.
    pub heartbeat_every: Duration,
}

/// The listener, before its thread runs.
#[derive(Debug)]
pub(super) struct Server {
    listener: TcpListener,
    shared: Arc<Mutex<Metrics>>,
}

impl Server {
    pub(super) fn bind(spec: MetricsSpec) -> io::Result<Self> {
        let listener = TcpListener::bind(spec.listen)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, shared: Arc::new(Mutex::new(Metrics::new(spec.heartbeat_every))) })
    }

    /// Serves until it is told to end.
    pub(super) async fn run(self, mut control: Control, reader: Reader) {
        let shared = Arc::clone(&self.shared);
        let stop = async {
            loop {
                match control.commands.recv().await {
                    Some(Command::Change(SinkSpec::Metrics(spec))) => {
                        lock(&shared).heartbeat_every = spec.heartbeat_every;
                    }
                    // It ends with the records.
                    Some(Command::Change(_) | Command::Collector(_) | Command::Reopen | Command::Finish) => {}
                    Some(Command::Stop) | None => return,
                }
            }
        };
        tokio::select! {
            result = self.serve(reader) => if let Err(error) = result {
                control.health.take(&control.spec, Err(error.to_string()));
            },
            () = stop => {}
        }
    }

    /// Serves until there are no more records, or the task is ended.
    async fn serve(self, mut records: Reader) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let listener = Few { listener, free: Arc::new(Semaphore::new(MOST_CONNECTIONS)) };
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .with_state(Arc::clone(&self.shared));
        let take = async {
            while let Some(next) = records.next().await {
                lock(&self.shared).take(&next.entry.record);
                records.counts().add_written();
            }
        };
        tokio::select! {
            result = async { axum::serve(listener, router).await } => result,
            () = take => Ok(()),
        }
    }
}

/// Connections at once: whoever may connect may hold as many open, and the process has only so many descriptors.
const MOST_CONNECTIONS: usize = 32;

/// A listener that accepts only so many connections at once.
struct Few {
    listener: tokio::net::TcpListener,
    free: Arc<Semaphore>,
}

impl axum::serve::Listener for Few {
    type Io = Accepted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Accepted, SocketAddr) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.free).acquire_owned().await.ok();
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        (Accepted { stream, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection, and its place among them.
struct Accepted {
    stream: TcpStream,
    _place: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn lock(shared: &Mutex<Metrics>) -> MutexGuard<'_, Metrics> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn metrics(State(shared): State<Arc<Mutex<Metrics>>>) -> impl IntoResponse {
    let mut text = String::new();
    // A `String` takes everything.
    let _ = encode(&mut text, &lock(&shared).registry);
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

async fn healthz(State(shared): State<Arc<Mutex<Metrics>>>) -> impl IntoResponse {
    match lock(&shared).ill() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

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
struct OfPlace {
    place: &'static str,
    /// Empty where it is not known.
    hook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSink {
    sink: String,
}

/// What has been counted, and how it is told.
#[derive(Debug)]
struct Metrics {
    registry: Registry,
    opened: Family<Kind, Counter>,
    open: Family<Kind, Gauge>,
    ended: Family<Ended, Counter>,
    lost: Family<OfPlace, Counter>,
    connections_lost: Family<OfPlace, Counter>,
    connections: Family<OfOutcome, Counter>,
    cases: Gauge,
    emitted: Family<OfHook, Counter>,
    suppressed: Family<OfHook, Counter>,
    written: Family<OfSink, Counter>,
    dropped: Family<OfSink, Counter>,
    failing: Family<OfSink, Gauge>,
    cpu: Counter<f64, AtomicU64>,
    rss: Gauge,
    /// As what each open finding is counted.
    known: HashMap<Uuid, Kind>,
    heartbeat_every: Duration,
    latest: Instant,
}

impl Metrics {
    fn new(heartbeat_every: Duration) -> Self {
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
            emitted: Family::default(),
            suppressed: Family::default(),
            written: Family::default(),
            dropped: Family::default(),
            failing: Family::default(),
            cpu: Counter::default(),
            rss: Gauge::default(),
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
        registry.register("hook_emitted", "Events a hook has told since it was attached", metrics.emitted.clone());
        registry.register("hook_suppressed", "Events held back by a limit since then", metrics.suppressed.clone());
        registry.register("sink_written", "Records a sink has written", metrics.written.clone());
        registry.register("sink_dropped", "Records a sink could not write", metrics.dropped.clone());
        registry.register("sink_failing", "Whether a sink fails at present", metrics.failing.clone());
        registry.register_with_unit("cpu", "Processor time of the daemon", Unit::Seconds, metrics.cpu.clone());
        registry.register_with_unit("resident_memory", "Memory of the daemon", Unit::Bytes, metrics.rss.clone());
        metrics.registry = registry;
        metrics
    }

    fn take(&mut self, record: &Record) {
        match &record.body {
            Body::Finding(finding) => self.finding(finding),
            Body::Heartbeat(heartbeat) => self.heartbeat(heartbeat),
            Body::Connection(closed) => {
                self.connections.get_or_create(&OfOutcome { outcome: closed.outcome }).inc();
            }
            Body::Loss(loss) => self.loss(loss),
            Body::Coverage(_) | Body::Risk(_) | Body::Summary(_) => {}
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
    fn ill(&self) -> Option<String> {
        let silence = self.latest.elapsed();
        (silence > self.heartbeat_every.saturating_mul(3)).then(|| format!("no heartbeat for {} s", silence.as_secs()))
    }
}
