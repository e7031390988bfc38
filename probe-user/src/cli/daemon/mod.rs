//! `connprobe daemon`: watch all year, and write records to every sink.

mod instance;
mod otlp;
mod service;
mod settings;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use clap::Args;
use signal_hook::consts::SIGHUP;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{Sender, channel},
};

use super::{
    Exit, KernelArgs,
    prepare::{load_options, prepare, runtime},
};
use crate::{
    app::{Attach, Change, Reload, State, Watch, WatchError, WatchOptions, clock, this_host},
    case::FindingState,
    kernel::LoadOptions,
    report::{
        Heartbeat, Printable, SinkHealth, Summary,
        record::{Record, Recorder},
    },
    sink::{SinkError, Sinks, Stdout},
};
use settings::{Resolved, Settings};

/// What was typed.
#[derive(Debug, Args)]
#[command(
    // `[env: NAME]`, whatever it holds where the help is read.
    mut_args(|argument| argument.hide_env_values(true)),
    after_help = "Every setting may also be a key of the configuration file, with underscores (`ports` and `peers` are lists there). SIGHUP reads \
    the file again, and opens files anew for logrotate; cases stay. SIGTERM ends the watch: findings that are open are written as left_open.\n\n\
    Examples:\n  connprobe daemon --file /var/log/connprobe/events.ndjson\n  connprobe daemon --config /etc/connprobe/connprobe.toml\n  \
    connprobe daemon --config /etc/connprobe/connprobe.toml --check-config\n\n\
    Exit codes:\n  0  ended by a signal, or --check-config finds the settings right\n  2  trouble"
)]
pub(super) struct DaemonArgs {
    /// Read settings from this TOML file
    #[arg(long, value_name = "PATH", env = "CONNPROBE_CONFIG")]
    config: Option<PathBuf>,
    /// Only say whether the settings are right
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    kernel: KernelArgs,
}

impl DaemonArgs {
    /// Everything that was said, as it is now.
    fn resolve(&self) -> anyhow::Result<Resolved> {
        let file = self.config.as_deref().map(Settings::read).transpose()?;
        let resolved = self.settings.clone().or(file.unwrap_or_default()).resolve();
        match &self.config {
            Some(path) => resolved.with_context(|| format!("with {}", path.display())),
            None => resolved,
        }
    }
}

/// What `--check-config` would say of a file that holds this.
///
/// # Errors
///
/// With what is wrong, and its line.
pub fn check_settings(text: &str) -> anyhow::Result<String> {
    Ok(Settings::parse(text)?.resolve()?.to_string())
}

pub(super) fn run(args: &DaemonArgs) -> anyhow::Result<Exit> {
    let kernel = &args.kernel;
    let resolved = args.resolve()?;
    if args.check_config {
        Stdout.text(&Printable::lines(&format!("the settings are right\n{resolved}")))?;
        return Ok(Exit::Clean);
    }
    service::give_up_privileges()?;
    let prepared = prepare(kernel)?;
    let _instance = instance::Lock::take(&resolved.lock)?;
    let host = this_host()?;
    resolved.state_dir.as_deref().map(State::make_folder).transpose()?;
    let _state_lock = resolved.state_dir.as_deref().map(instance::Lock::take_folder).transpose()?;
    let state = resolved.state_dir.as_deref().map(|folder| State::open(folder, host.boot_id)).transpose()?;
    let sinks = Sinks::start(&resolved.sinks)?;
    // From here on SIGHUP does not end the process.
    let hangup = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGHUP, Arc::clone(&hangup)).context("SIGHUP cannot be waited for")?;
    runtime()?.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("Ctrl-C cannot be waited for")?;
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
        let (reloads, receiver) = channel(1);
        let mut watch = Watch::start(&prepared.facts, &prepared.plan, &watch_options(kernel, &resolved))?
            .telling_only(resolved.filter.clone(), Vec::new())
            .with_thresholds(resolved.thresholds)
            .with_heartbeats(resolved.heartbeat_every)
            .with_reloads(receiver);
        if let Some((state, left_open)) = state {
            tracing::info!("{} findings of the run before are open", left_open.len());
            watch = watch.with_state(state, left_open);
        }
        let recorder = Recorder::new(host, clock::wall_clock());
        let mut daemon = Daemon { kernel, args, resolved, sinks, recorder, hangup, reloads, must_attach: false };
        let record = daemon.recorder.coverage(clock::now(), watch.coverage());
        daemon.publish(record)?;
        service::ready();
        let stop = async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            service::stopping();
        };
        let ended = watch.run(stop, |change| daemon.change(change)).await;
        // The programs are detached when all is written.
        daemon.end(ended.as_ref().map(|ended| &ended.summary))?;
        ended.map(|_| Exit::Clean).map_err(Into::into)
    })
}

fn watch_options(kernel: &KernelArgs, resolved: &Resolved) -> WatchOptions {
    let load = load_options(kernel, resolved.filter.clone(), false);
    WatchOptions { load: LoadOptions { lifecycle: resolved.lifecycle, ..load }, scan_every: resolved.scan_every }
}

/// What a daemon works with while it watches.
struct Daemon<'a> {
    kernel: &'a KernelArgs,
    args: &'a DaemonArgs,
    resolved: Resolved,
    sinks: Sinks,
    recorder: Recorder,
    /// Whether SIGHUP has come.
    hangup: Arc<AtomicBool>,
    reloads: Sender<Box<Reload>>,
    /// Whether the programs are not attached with the settings as they are.
    must_attach: bool,
}

impl Daemon<'_> {
    fn change(&mut self, change: Change<'_>) -> Result<(), SinkError> {
        let record = match change {
            Change::Finding(finding) => self.recorder.finding(finding),
            Change::Closed { closed, cgroup, findings } => self.recorder.connection(closed, cgroup, findings),
            Change::Lost { at, place, count } => self.recorder.loss(at, place, count),
            Change::Coverage { at, coverage } => self.recorder.coverage(at, coverage),
            Change::NotAttached => {
                self.must_attach = true;
                return Ok(());
            }
            Change::Heartbeat(heartbeat) => {
                let heartbeat = Heartbeat { sinks: self.health(), ..heartbeat };
                self.recorder.heartbeat(&heartbeat)
            }
            Change::Progress { clocks, .. } => {
                // The wall clock may be set, and the host suspended.
                if let Some(clocks) = clocks {
                    self.recorder.follow(clocks.mono, clocks.wall());
                }
                service::alive();
                if self.hangup.swap(false, Ordering::Relaxed) {
                    self.reload();
                }
                return if self.sinks.all_have_ended() { Err(SinkError::Closed) } else { Ok(()) };
            }
        };
        Ok(self.publish(record)?)
    }

    fn publish(&self, record: Record) -> serde_json::Result<()> {
        self.sinks.publish(record)
    }

    fn health(&self) -> Vec<SinkHealth> {
        let health = |(spec, health): (&crate::sink::SinkSpec, &crate::sink::Health)| SinkHealth {
            sink: spec.to_string(),
            written: health.counts.written(),
            dropped: health.counts.dropped(),
            errors: health.counts.errors(),
            failing: health.failing(),
        };
        self.sinks.health().map(health).collect()
    }

    /// Reads the settings anew. Those that are wrong change nothing, and a daemon goes on.
    fn reload(&mut self) {
        // Whatever is wrong with the settings: files may have been moved away.
        self.sinks.reopen();
        if let Err(error) = self.try_reload() {
            tracing::error!("the settings are not taken, the old ones stay: {error:#}");
        }
    }

    fn try_reload(&mut self) -> anyhow::Result<()> {
        let new = self.args.resolve()?;
        let programs = |of: &Resolved| (of.filter.clone(), of.scan_every, of.lifecycle);
        let watches_others = self.must_attach || programs(&new) != programs(&self.resolved);
        if (&new.lock, &new.state_dir) != (&self.resolved.lock, &self.resolved.state_dir) {
            tracing::warn!("`lock` and `state_dir` are taken at the start only: the old ones stay");
        }
        let attach = watches_others.then(|| prepare(self.kernel)).transpose()?.map(|prepared| Attach {
            facts: prepared.facts,
            plan: prepared.plan,
            options: watch_options(self.kernel, &new),
        });
        let room = self.reloads.try_reserve();
        let room = room.context("the settings before these are not taken in yet: send SIGHUP again")?;
        self.sinks.apply(&new.sinks)?;
        let Resolved { thresholds, heartbeat_every, .. } = new;
        self.must_attach = false;
        room.send(Box::new(Reload { attach, thresholds, heartbeat_every }));
        self.resolved = new;
        tracing::info!("the settings were read anew");
        Ok(())
    }

    /// Writes the end, and waits until the sinks have it.
    fn end(mut self, summary: Result<&Summary, &WatchError>) -> anyhow::Result<()> {
        if let Ok(summary) = summary {
            let now = clock::now();
            let is_open = |state| matches!(state, FindingState::Opened | FindingState::Updated);
            for finding in summary.findings.iter().filter(|finding| is_open(finding.state)) {
                let record = self.recorder.left_open(now, finding);
                self.publish(record)?;
            }
            let record = self.recorder.summary(now, summary);
            self.publish(record)?;
        }
        self.sinks.finish();
        Ok(())
    }
}
