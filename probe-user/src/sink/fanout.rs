//! Several sinks at once, each on a thread of its own: a slow or dead one keeps neither the probe nor another sink waiting.

use std::{
    io,
    sync::{Arc, atomic::Ordering, mpsc::RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{
    control::{Command, Control},
    file::Lines,
    health::Health,
    metrics::{MetricsSpec, Server},
    otlp::{Client, Exporter},
    output::Output,
    own_runtime::OwnRuntime,
    queue::Queue,
    raw_stdout::RawStdout,
    spec::SinkSpec,
    unix::Listener,
};
use crate::report::record::Record;

/// How long the sinks may take at the end for what they have not written yet, all together.
const LAST_LINES: Duration = Duration::from_secs(5);

/// A sink that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the sink {sink} cannot be used: {error}")]
pub struct StartError {
    /// Which.
    pub sink: String,
    /// Why.
    pub error: io::Error,
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

impl Running {
    fn tell(&self, command: Command) {
        // One whose thread has ended takes no commands any more.
        let _ = self.commands.send(command);
    }

    fn has_ended(&self) -> bool {
        self.health.has_ended.load(Ordering::Relaxed)
    }

    /// Whether it goes on as this.
    fn goes_on_as(&self, spec: &SinkSpec) -> bool {
        !self.has_ended() && self.spec.is_same_place(spec)
    }

    /// What it is to be told, where these are the sinks from now on. What this takes is made here, where it may still fail.
    fn command(&self, specs: &[SinkSpec]) -> Result<Option<Command>, StartError> {
        match specs.iter().find(|spec| self.goes_on_as(spec)) {
            None => Ok(Some(Command::Stop)),
            Some(spec) if *spec == self.spec => Ok(None),
            Some(spec @ SinkSpec::Otlp(otlp)) => match Client::new(otlp.clone()) {
                Ok(client) => Ok(Some(Command::Collector(Box::new((spec.clone(), client))))),
                Err(error) => Err(StartError { sink: spec.to_string(), error }),
            },
            Some(spec) => Ok(Some(Command::Change(spec.clone()))),
        }
    }

    /// Tells it, and says whether it goes on.
    fn take(&mut self, command: Command) -> bool {
        let spec = match &command {
            Command::Stop => None,
            Command::Change(spec) => Some(spec.clone()),
            Command::Collector(collector) => Some(collector.0.clone()),
            Command::Reopen | Command::Finish => Some(self.spec.clone()),
        };
        self.tell(command);
        spec.map(|spec| self.spec = spec).is_some()
    }
}

/// A sink that is open, and does not write yet.
struct Opened {
    spec: SinkSpec,
    health: Arc<Health>,
    commands: UnboundedSender<Command>,
    work: Box<dyn FnOnce() + Send>,
}

impl Opened {
    fn start(self) -> Result<Running, StartError> {
        let Self { spec, health, commands, work } = self;
        let (ending, alive) = std::sync::mpsc::channel::<()>();
        let thread = thread::Builder::new().name(format!("sink {}", spec.name()));
        let started = thread.spawn(move || {
            give_up_capabilities();
            work();
            drop(ending);
        });
        match started {
            Ok(_) => Ok(Running { spec, health, commands, alive }),
            Err(error) => Err(StartError { sink: spec.to_string(), error }),
        }
    }
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

    /// Starts those that are new, or have ended, and ends those that are no longer wanted. All others go on.
    ///
    /// # Errors
    ///
    /// When a new one cannot be opened, or one cannot go on in another way: then nothing is changed.
    pub fn apply(&mut self, specs: &[SinkSpec]) -> Result<(), StartError> {
        let is_new = |spec: &&SinkSpec| !self.running.iter().any(|running| running.goes_on_as(spec));
        let commands = self.running.iter().map(|running| running.command(specs)).collect::<Result<Vec<_>, _>>()?;
        // All are opened before the first writes.
        let opened = specs.iter().filter(is_new).map(|spec| self.open(spec)).collect::<Result<Vec<_>, _>>()?;
        let started = opened.into_iter().map(Opened::start).collect::<Result<Vec<_>, _>>()?;
        let mut commands = commands.into_iter();
        self.running.retain_mut(|running| commands.next().flatten().is_none_or(|command| running.take(command)));
        self.running.extend(started);
        Ok(())
    }

    /// Opens files anew, after somebody has moved them away.
    pub fn reopen(&self) {
        self.running.iter().for_each(|running| running.tell(Command::Reopen));
    }

    fn open(&self, spec: &SinkSpec) -> Result<Opened, StartError> {
        let failed = |error| StartError { sink: spec.to_string(), error };
        let health = Arc::new(Health::default());
        let (commands, receiver) = unbounded_channel();
        let runtime = OwnRuntime::new().map_err(failed)?;
        let control = Control { spec: spec.clone(), health: Arc::clone(&health), commands: receiver };
        let reader = self.queue.reader(&health.counts);
        let work: Box<dyn FnOnce() + Send> = match spec {
            SinkSpec::Stdout => {
                let stdout = RawStdout::open().map_err(failed)?;
                Box::new(move || runtime.block_on(Output::Stdout(stdout).run(control, reader)))
            }
            SinkSpec::Journald => Box::new(move || runtime.block_on(Output::Journald.run(control, reader))),
            SinkSpec::File(file) => {
                let lines = Lines::open(file.clone()).map_err(failed)?;
                Box::new(move || runtime.block_on(Output::File(lines).run(control, reader)))
            }
            SinkSpec::Otlp(otlp) => {
                let exporter = Exporter::new(otlp.clone()).map_err(failed)?;
                Box::new(move || runtime.block_on(exporter.run(control, reader)))
            }
            SinkSpec::Metrics(metrics) => {
                let server = Server::bind(*metrics).map_err(|error| failed(self.told(*metrics, error)))?;
                Box::new(move || runtime.block_on(server.run(control, reader)))
            }
            SinkSpec::Unix(path) => {
                drop(reader);
                let listener = Listener::bind(path.clone()).map_err(failed)?;
                let queue = self.queue.clone();
                Box::new(move || runtime.block_on(listener.run(control, queue)))
            }
        };
        Ok(Opened { spec: spec.clone(), health, commands, work })
    }

    /// Why there is no listening, also where that is for this daemon itself: a port at all addresses and at one of them exclude each other.
    fn told(&self, new: MetricsSpec, error: io::Error) -> io::Error {
        let is_same_port = |running: &Running| matches!(&running.spec, SinkSpec::Metrics(old) if old.listen.port() == new.listen.port());
        if error.kind() == io::ErrorKind::AddrInUse && self.running.iter().any(is_same_port) {
            let what =
                "this daemon listens at that port already, at another address: restart it, or choose another port";
            return io::Error::new(error.kind(), what);
        }
        error
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

    /// Whether none of those that keep records will ever write again.
    pub fn all_have_ended(&self) -> bool {
        let mut keeping =
            self.running.iter().filter(|running| !matches!(running.spec, SinkSpec::Metrics(_))).peekable();
        keeping.peek().is_some() && keeping.all(Running::has_ended)
    }

    /// Waits until all have written what they have, but not for ever: a reader that has stopped reading keeps nobody.
    pub fn finish(self) {
        let Self { queue, running } = self;
        running.iter().for_each(|sink| sink.tell(Command::Finish));
        drop(queue);
        let until = Instant::now() + LAST_LINES;
        for sink in running {
            let ended = sink.alive.recv_timeout(until.saturating_duration_since(Instant::now()));
            if ended == Err(RecvTimeoutError::Timeout) {
                tracing::error!(sink = %sink.spec, "the last records could not be written in time, and are lost");
            }
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

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::{
        model::{LossPlace, MonoTime},
        report::{Host, WallClock, record::Recorder},
        sink::{FileSpec, OtlpSpec},
    };

    fn recorder() -> Recorder {
        let host = Host { name: "a".to_owned(), machine_id: None, boot_id: uuid::Uuid::nil() };
        Recorder::new(host, WallClock::aligned(MonoTime::default(), jiff::Timestamp::UNIX_EPOCH))
    }

    fn file(path: PathBuf, keep: u32) -> SinkSpec {
        SinkSpec::File(FileSpec { path, max_bytes: None, keep })
    }

    fn lines(path: &std::path::Path) -> usize {
        fs::read_to_string(path).unwrap().lines().count()
    }

    #[test]
    fn new_settings_that_are_refused_leave_no_sink_behind_and_those_that_change_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("events"), folder.path().join("other"));
        let mut recorder = recorder();
        let mut loss = || recorder.loss(MonoTime::default(), LossPlace::Decode, 1);
        let mut sinks = Sinks::start(&[file(path.clone(), 1)]).unwrap();
        (0..100).for_each(|_| sinks.publish(loss()).unwrap());
        let nowhere = SinkSpec::Unix(folder.path().join("no/such/folder"));
        let error = sinks.apply(&[file(other.clone(), 1), nowhere]).unwrap_err();
        assert!(error.to_string().contains("no/such/folder"), "{error}");
        // The same file, kept in another way.
        sinks.apply(&[file(path.clone(), 7)]).unwrap();
        (0..100).for_each(|_| sinks.publish(loss()).unwrap());
        sinks.apply(&[file(path.clone(), 7), file(other.clone(), 1)]).unwrap();
        sinks.publish(loss()).unwrap();
        // One that is ended writes what it has.
        sinks.apply(&[file(other.clone(), 1)]).unwrap();
        sinks.publish(loss()).unwrap();
        sinks.finish();
        // Nobody waits for the thread of one that is ended.
        let start = Instant::now();
        while lines(&path) < 201 && start.elapsed() < Duration::from_secs(30) {
            thread::sleep(Duration::from_millis(10));
        }
        // What comes while one ends it may still write.
        assert!((201..=202).contains(&lines(&path)), "{}", lines(&path));
        assert_eq!(lines(&other), 2);
    }

    // As a daemon does: from within a runtime, in which no other may be dropped.
    #[tokio::test]
    async fn a_port_that_the_daemon_holds_itself_is_told_as_that() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let metrics = |address: &str| {
            let listen = format!("{address}:{free}").parse().unwrap();
            SinkSpec::Metrics(MetricsSpec { listen, heartbeat_every: Duration::from_secs(1) })
        };
        let (old, new) = (metrics("127.0.0.1"), metrics("0.0.0.0"));
        let mut sinks = Sinks::start(std::slice::from_ref(&old)).unwrap();
        let error = sinks.apply(&[new]).unwrap_err();
        assert!(error.to_string().contains("this daemon listens at that port already"), "{error}");
        assert_eq!(sinks.health().map(|(spec, _)| spec).collect::<Vec<_>>(), [&old]);
    }

    fn otlp(url: &str) -> SinkSpec {
        let endpoint = url.parse().unwrap();
        SinkSpec::Otlp(OtlpSpec { endpoint, headers: http::HeaderMap::new(), timeout: Duration::from_secs(1) })
    }

    #[test]
    fn a_collector_that_cannot_be_verified_is_refused_and_the_old_one_stays() {
        const WITHOUT_CERTIFICATES: &str = "SSL_CERT_FILE";
        const NONE: &str = "/dev/null";
        if std::env::var_os(WITHOUT_CERTIFICATES).is_none_or(|file| file != NONE) {
            // The environment is one for all tests of a process.
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let module = module_path!().trim_start_matches("connprobe::");
            let name = format!("{module}::a_collector_that_cannot_be_verified_is_refused_and_the_old_one_stays");
            alone.args(["--exact", &name]).env(WITHOUT_CERTIFICATES, NONE);
            let output = alone.env_remove("SSL_CERT_DIR").output().unwrap();
            let told = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && told.contains("1 passed"), "{told}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (otlp("http://127.0.0.1:1"), otlp("https://127.0.0.1:1"));
        let mut sinks = Sinks::start(std::slice::from_ref(&old)).unwrap();
        for _ in 0..2 {
            let error = sinks.apply(&[file(folder.path().join("events"), 1), new.clone()]).unwrap_err();
            assert!(error.to_string().contains("install ca-certificates"), "{error}");
            assert_eq!(sinks.health().map(|(spec, _)| spec).collect::<Vec<_>>(), [&old]);
        }
    }
}
