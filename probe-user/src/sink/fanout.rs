//! Several sinks at once, each on a thread of its own: a slow or dead one keeps neither the probe nor another sink waiting.

use std::{
    fmt,
    io::{self, Write as _},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc::RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};

use super::{
    file::{FileSpec, Lines},
    journald,
    metrics::{MetricsSpec, Server},
    queue::{Counts, Next, Queue, Reader},
    unix::Listener,
};
use crate::report::record::Record;

/// How long the sinks may take at the end for what they have not written yet, all together.
const LAST_LINES: Duration = Duration::from_secs(5);

/// One sink, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkSpec {
    /// Standard output.
    Stdout,
    /// A file.
    File(FileSpec),
    /// A Unix domain socket (`SOCK_STREAM`).
    Unix(PathBuf),
    /// systemd's journal.
    Journald,
    /// Prometheus.
    Metrics(MetricsSpec),
}

impl SinkSpec {
    /// Its name in heartbeats and messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::File(_) => "file",
            Self::Unix(_) => "unix_socket",
            Self::Journald => "journald",
            Self::Metrics(_) => "metrics",
        }
    }
}

impl fmt::Display for SinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout | Self::Journald => f.write_str(self.name()),
            Self::Metrics(MetricsSpec { listen, .. }) => write!(f, "{} {listen}", self.name()),
            Self::File(FileSpec { path, .. }) | Self::Unix(path) => write!(f, "{} {}", self.name(), path.display()),
        }
    }
}

/// A sink that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the sink {sink} cannot be used: {error}")]
pub struct StartError {
    /// Which.
    pub sink: String,
    /// Why.
    pub error: io::Error,
}

/// How a sink does.
#[derive(Debug, Default)]
pub struct Health {
    /// What it has done.
    pub counts: Arc<Counts>,
    /// Why the latest attempt to write failed; `None` where it did not.
    failing: Mutex<Option<String>>,
}

impl Health {
    /// Why it fails at present.
    pub fn failing(&self) -> Option<String> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers how an attempt went. Only changes are logged.
    fn take(&self, sink: &SinkSpec, result: Result<(), String>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*failing, &result) {
            (None, Err(why)) => {
                tracing::error!(%sink, why, "records cannot be written, and are dropped until they can be")
            }
            (Some(_), Ok(())) => tracing::warn!(%sink, dropped = self.counts.dropped(), "records can be written again"),
            (None, Ok(())) | (Some(_), Err(_)) => {}
        }
        *failing = result.err();
    }
}

/// What a sink is told beside its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    /// Open the file anew.
    Reopen,
    /// Write no more.
    Stop,
    /// There will be no more records: write those that there are.
    Finish,
}

/// One sink at work.
#[derive(Debug)]
struct Running {
    spec: SinkSpec,
    health: Arc<Health>,
    commands: UnboundedSender<Command>,
    /// Disconnects when the thread ends.
    alive: std::sync::mpsc::Receiver<()>,
}

/// All sinks.
#[derive(Debug)]
pub struct Sinks {
    queue: Queue,
    running: Vec<Running>,
}

impl Sinks {
    /// Starts all of them.
    ///
    /// # Errors
    ///
    /// When one cannot be opened.
    pub fn start(specs: &[SinkSpec]) -> Result<Self, StartError> {
        let mut sinks = Self { queue: Queue::new(), running: Vec::new() };
        sinks.apply(specs)?;
        Ok(sinks)
    }

    /// Starts those that are new and ends those that are no longer wanted. All others go on; files are opened anew.
    ///
    /// # Errors
    ///
    /// When a new one cannot be opened: then nothing is changed.
    pub fn apply(&mut self, specs: &[SinkSpec]) -> Result<(), StartError> {
        let is_new = |spec: &&SinkSpec| !self.running.iter().any(|running| running.spec == **spec);
        let started = specs.iter().filter(is_new).map(|spec| self.start_one(spec)).collect::<Result<Vec<_>, _>>()?;
        self.running.retain(|running| {
            let stays = specs.contains(&running.spec);
            // A sink that has ended takes no commands any more.
            let _ = running.commands.send(if stays { Command::Reopen } else { Command::Stop });
            stays
        });
        self.running.extend(started);
        Ok(())
    }

    fn start_one(&self, spec: &SinkSpec) -> Result<Running, StartError> {
        let failed = |error| StartError { sink: spec.to_string(), error };
        let health = Arc::new(Health::default());
        let (commands, receiver) = unbounded_channel();
        let (ending, alive) = std::sync::mpsc::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let body = Body { spec: spec.clone(), health: Arc::clone(&health), commands: receiver };
        let reader = self.queue.reader(&health.counts);
        let work: Box<dyn FnOnce() + Send> = match spec {
            SinkSpec::Stdout => Box::new(move || runtime.block_on(body.write_lines(reader, Output::Stdout))),
            SinkSpec::Journald => Box::new(move || runtime.block_on(body.write_lines(reader, Output::Journald))),
            SinkSpec::File(file) => {
                let lines = Lines::open(file.clone()).map_err(failed)?;
                Box::new(move || runtime.block_on(body.write_lines(reader, Output::File(lines))))
            }
            SinkSpec::Metrics(metrics) => {
                let server = Server::bind(*metrics).map_err(failed)?;
                Box::new(move || runtime.block_on(body.serve_metrics(server, reader)))
            }
            SinkSpec::Unix(path) => {
                drop(reader);
                let listener = Listener::bind(path.clone()).map_err(failed)?;
                let queue = self.queue.clone();
                Box::new(move || runtime.block_on(body.serve(listener, queue)))
            }
        };
        let thread = thread::Builder::new().name(format!("sink {}", spec.name()));
        thread
            .spawn(move || {
                give_up_capabilities();
                work();
                drop(ending);
            })
            .map_err(failed)?;
        Ok(Running { spec: spec.clone(), health, commands, alive })
    }

    /// Hands a record to all of them.
    ///
    /// # Errors
    ///
    /// When it cannot be turned into JSON.
    pub fn publish(&self, record: Record) -> serde_json::Result<()> {
        self.queue.publish(record)
    }

    /// How each does.
    pub fn health(&self) -> impl Iterator<Item = (&SinkSpec, &Health)> {
        self.running.iter().map(|running| (&running.spec, &*running.health))
    }

    /// Whether there are sinks, and none of them will ever write again.
    pub fn all_have_ended(&self) -> bool {
        let has_ended = |running: &Running| {
            matches!(running.alive.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Disconnected))
        };
        !self.running.is_empty() && self.running.iter().all(has_ended)
    }

    /// Waits until all have written what they have, but not for ever: a reader that has stopped reading keeps nobody.
    pub fn finish(self) {
        let Self { queue, running } = self;
        for sink in &running {
            // One that has ended already is told nothing.
            let _ = sink.commands.send(Command::Finish);
        }
        drop(queue);
        let until = Instant::now() + LAST_LINES;
        for sink in running {
            let _ = sink.alive.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
}

/// What a sink may do is what its user may: it looks into nothing.
fn give_up_capabilities() {
    for set in [caps::CapSet::Effective, caps::CapSet::Permitted] {
        if let Err(error) = caps::clear(None, set) {
            tracing::debug!(%error, "a sink's thread keeps its capabilities");
        }
    }
}

/// Where one writes.
enum Output {
    Stdout,
    File(Lines),
    Journald,
}

impl Output {
    fn write(&mut self, next: &Next) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(next.lines().as_bytes())?;
                stdout.flush()
            }
            Self::File(lines) => lines.write(&next.lines()),
            Self::Journald => {
                if let Some((loss, line)) = next.loss() {
                    journald::write(&loss, &line)?;
                }
                journald::write(&next.entry.record, &next.entry.line)
            }
        }
    }
}

/// What a sink's thread works with.
struct Body {
    spec: SinkSpec,
    health: Arc<Health>,
    commands: UnboundedReceiver<Command>,
}

impl Body {
    async fn write_lines(mut self, mut reader: Reader, mut output: Output) {
        loop {
            let next = tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Reopen) => {
                        self.reopen(&mut output);
                        continue;
                    }
                    Some(Command::Stop) => return,
                    Some(Command::Finish) | None => reader.next().await,
                },
                next = reader.next() => next,
            };
            let Some(next) = next else { return };
            match output.write(&next) {
                Ok(()) => {
                    self.health.counts.add_written();
                    self.health.take(&self.spec, Ok(()));
                }
                Err(error) => {
                    self.health.counts.add_error();
                    reader.give_up(&next);
                    self.health.take(&self.spec, Err(error.to_string()));
                    if error.kind() == io::ErrorKind::BrokenPipe {
                        return;
                    }
                }
            }
        }
    }

    fn reopen(&self, output: &mut Output) {
        if let Output::File(lines) = output
            && let Err(error) = lines.reopen()
        {
            self.health.take(&self.spec, Err(format!("it cannot be opened anew: {error}")));
        }
    }

    async fn serve_metrics(mut self, server: Server, reader: Reader) {
        let stop = async { while !matches!(self.commands.recv().await, Some(Command::Stop) | None) {} };
        tokio::select! {
            result = server.serve(reader) => if let Err(error) = result {
                self.health.take(&self.spec, Err(error.to_string()));
            },
            () = stop => {}
        }
    }

    async fn serve(mut self, listener: Listener, queue: Queue) {
        let (finish, finished) = oneshot::channel::<()>();
        let mut finish = Some(finish);
        let counts = Arc::clone(&self.health.counts);
        let serve = listener.serve(queue, counts, async { finished.await.unwrap_or_default() });
        let stop = async {
            loop {
                match self.commands.recv().await {
                    Some(Command::Reopen) => {}
                    Some(Command::Finish) => drop(finish.take()),
                    Some(Command::Stop) | None => return,
                }
            }
        };
        tokio::select! {
            result = serve => if let Err(error) = result {
                self.health.take(&self.spec, Err(error.to_string()));
            },
            () = stop => {}
        }
    }
}
