//! What `diagnose`, `snapshot` and `record` share: which connections, how to report, and the course of a watch.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{
    Args, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Exit, layout,
    values::{PeerPrefix, port},
};
use crate::{
    app::{Change, Ended, Recording, RecordingOptions, Watch, WatchError, clock, this_host},
    judge::{Confidence, Verdict},
    kernel::check_filter,
    model::{Coverage, Filter, MonoTime},
    recording::{Opening, SameMoment},
    report::{
        Printable, Summary, WallClock,
        record::{Record, Recorder},
        text::{self, Layout, Told},
    },
    sink::{SinkError, Stdout},
    witness::netns,
};

/// Which connections.
#[derive(Debug, Args)]
pub(super) struct SelectArgs {
    /// Only this network namespace: a name under /run/netns, a path, an inode number, or all
    #[arg(long, value_name = "NAME|PATH|INODE|all", default_value = ALL)]
    pub(super) netns: String,
    /// Only connections with this port at either end; may be given several times
    #[arg(long = "port", value_name = "N", value_parser = port)]
    ports: Vec<u16>,
    /// Only connections to peers in this prefix, of those that are only forwarded to or from; may be given several times
    #[arg(long = "peer", value_name = "CIDR")]
    peers: Vec<PeerPrefix>,
}

/// Which connections, and how to report.
#[derive(Debug, Args)]
pub(super) struct ObserveArgs {
    #[command(flatten)]
    pub(super) select: SelectArgs,
    /// Only these verdicts, as silently_dropped_fin,half_open; the exit code counts only these
    #[arg(long = "verdict", value_name = "VERDICT", value_delimiter = ',', value_parser = verdict())]
    verdicts: Vec<Verdict>,
    /// How to report
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// From which confidence on a finding makes the exit code 1
    #[arg(long, value_name = "CONFIDENCE", default_value = "suspected")]
    fail_on: FailOn,
    /// Tell also, at the end, which idle connections may be forgotten on the way without notice, and which were never closed; they
    /// are no findings and do not change the exit code
    #[arg(long)]
    risks: bool,
    /// For --risks: after how long without traffic a firewall, NAT or load balancer on the way forgets a connection [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = idle_timeout)]
    idle_timeout: Option<Duration>,
}

/// For `--netns`: every network namespace.
pub(super) const ALL: &str = "all";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Nothing
    #[value(skip)]
    Silent,
    /// For people
    Text,
    /// One JSON array of records at the end
    Json,
    /// One JSON record a line, each as it happens
    Ndjson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FailOn {
    /// Any finding
    Suspected,
    /// Only findings that admit no other explanation
    Confirmed,
    /// None
    Never,
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; give a number with a unit, for example 30s, 5m or 1h"))?;
    if duration.is_zero() { Err("watching for no time at all finds nothing".to_owned()) } else { Ok(duration) }
}

/// What many firewalls have.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);

fn idle_timeout(text: &str) -> Result<Duration, String> {
    // Nothing on the way forgets sooner, and the kernel keeps some of the times in steps of 10 ms.
    const SHORTEST: Duration = Duration::from_secs(1);
    match humantime::parse_duration(text) {
        Ok(time) if time >= SHORTEST => Ok(time),
        Ok(_) => Err("an idle timeout is at least 1s".to_owned()),
        Err(error) => Err(format!("{error}; give a number with a unit, for example 5m or 1h")),
    }
}

/// A verdict by its name.
pub(super) fn verdict() -> impl TypedValueParser<Value = Verdict> {
    PossibleValuesParser::new(Verdict::ALL.map(Verdict::name))
        .try_map(|name| Verdict::ALL.into_iter().find(|verdict| verdict.name() == name).ok_or("no such verdict"))
}

/// What was meant.
pub(super) struct Observation {
    pub(super) filter: Filter,
    /// The idle timeout that risks are to be looked for by; `None` when they are not.
    pub(super) risks: Option<Duration>,
    /// How long; `None` until interrupted, with each finding told as it happens.
    duration: Option<Duration>,
    verdicts: Vec<Verdict>,
    format: Format,
    fail_on: FailOn,
    /// Where what is taken in is recorded.
    pub(super) recording: Option<RecordingOptions>,
}

impl SelectArgs {
    fn resolve(self) -> anyhow::Result<Filter> {
        let netns = match self.netns.as_str() {
            ALL => None,
            spec => Some(netns::resolve(spec)?.inode),
        };
        let filter = Filter { netns, ports: self.ports, peers: self.peers.into_iter().map(|peer| peer.0).collect() };
        check_filter(&filter)?;
        Ok(filter)
    }
}

impl Observation {
    /// Resolves what was typed.
    pub(super) fn resolve(args: ObserveArgs, duration: Option<Duration>) -> anyhow::Result<Self> {
        let filter = args.select.resolve()?;
        let risks = match (args.risks, args.idle_timeout) {
            (true, time) => Some(time.unwrap_or(IDLE_TIMEOUT)),
            (false, None) => None,
            (false, Some(_)) => {
                bail!("--idle-timeout is what --risks holds idle connections against: give --risks, too")
            }
        };
        let (verdicts, format, fail_on) = (args.verdicts, args.format, args.fail_on);
        Ok(Self { filter, risks, duration, verdicts, format, fail_on, recording: None })
    }

    /// A watch of these connections that writes what it takes in to a file, and reports only where a format is given.
    pub(super) fn recorded(
        select: SelectArgs,
        duration: Option<Duration>,
        format: Option<Format>,
        fail_on: FailOn,
        recording: RecordingOptions,
    ) -> anyhow::Result<Self> {
        let (filter, format) = (select.resolve()?, format.unwrap_or(Format::Silent));
        let (risks, verdicts, recording) = (None, Vec::new(), Some(recording));
        Ok(Self { filter, risks, duration, verdicts, format, fail_on, recording })
    }
}

/// Starts a watch, lets it run as long as was meant, and reports.
pub(super) async fn observe(
    observation: &Observation,
    start: impl FnOnce() -> Result<Watch, WatchError>,
) -> anyhow::Result<Exit> {
    let ended = watch(observation, start).await?;
    Ok(exit(&ended.summary, observation.fail_on))
}

/// The same; how it ended.
pub(super) async fn watch(
    observation: &Observation,
    start: impl FnOnce() -> Result<Watch, WatchError>,
) -> anyhow::Result<Ended> {
    // Before anything is attached, so that an early Ctrl-C still ends in a report.
    let mut interrupt = signal(SignalKind::interrupt()).context("Ctrl-C cannot be waited for")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let mut watch = start()?.telling_only(observation.filter.clone(), observation.verdicts.clone());
    if let Some(idle_timeout) = observation.risks {
        watch = watch.with_risks(idle_timeout, observation.filter.clone());
    }
    let (host, clocks, coverage) = (this_host()?, clock::same_moment(), watch.coverage().clone());
    let filter = observation.filter.clone();
    let opening = Opening { host, clocks, at: clock::now(), coverage, filter, is_anonymized: false };
    let shows_progress = matches!(observation.format, Format::Text | Format::Silent) && stderr().is_terminal();
    let mut output = Output::new(observation.format, observation.duration.is_none(), &opening);
    output.only = only(&observation.verdicts);
    output.progress = shows_progress.then(|| progress(observation.duration));
    output.begin(&opening)?;
    if let Some(options) = &observation.recording {
        watch = watch.with_recording(Recording::create(options)?, opening);
    }
    let stop = async {
        let end = async {
            match observation.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = end => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let ended = watch.run(stop, |change| output.change(&change)).await?;
    output.end(&ended.summary, &ended.coverage, ended.at, ended.clocks)?;
    Ok(ended)
}

/// The exit code for what was found.
pub(super) fn exit(summary: &Summary, fail_on: FailOn) -> Exit {
    let least = match fail_on {
        FailOn::Suspected => Confidence::Suspected,
        FailOn::Confirmed => Confidence::Confirmed,
        FailOn::Never => return Exit::Clean,
    };
    if summary.highest_confidence() >= Some(least) { Exit::Found } else { Exit::Clean }
}

/// Says what was asked for, where that is not everything.
fn only(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return String::new();
    }
    let names: Vec<_> = verdicts.iter().copied().map(Verdict::name).collect();
    format!("\nOnly what is {} is told (--verdict).\n", names.join(" or "))
}

/// Tells what happens in the format asked for.
pub(super) struct Output {
    format: Format,
    follow: bool,
    recorder: Recorder,
    layout: Layout,
    told: Told,
    progress: Option<ProgressBar>,
    collected: Vec<Record>,
    /// What else was left out, to stand below the report.
    only: String,
    stdout: Stdout,
}

impl Output {
    /// `follow`: also in text, each finding is told as it happens.
    pub(super) fn new(format: Format, follow: bool, opening: &Opening) -> Self {
        let Opening { host, clocks, .. } = opening;
        Self {
            format,
            follow,
            recorder: Recorder::new(host.clone(), WallClock::aligned(clocks.mono, clocks.wall())),
            layout: layout(),
            told: Told::default(),
            progress: None,
            collected: Vec::new(),
            only: String::new(),
            stdout: Stdout,
        }
    }

    pub(super) fn begin(&mut self, opening: &Opening) -> Result<(), SinkError> {
        let record = self.recorder.coverage(opening.at, &opening.coverage);
        self.record(record)
    }

    pub(super) fn change(&mut self, change: &Change<'_>) -> Result<(), SinkError> {
        match change {
            Change::Finding(finding) => {
                let record = self.recorder.finding(finding);
                self.record(record)?;
                if self.format == Format::Text && self.follow {
                    let text = text::change(finding, &mut self.told, self.recorder.clock(), self.layout);
                    match &self.progress {
                        Some(progress) => progress.suspend(|| self.stdout.text(&text))?,
                        None => self.stdout.text(&text)?,
                    }
                }
            }
            Change::Lost { at, place, count } => {
                let record = self.recorder.loss(*at, *place, *count);
                self.record(record)?;
            }
            Change::Coverage { at, coverage } => {
                let record = self.recorder.coverage(*at, coverage);
                self.record(record)?;
            }
            // Only a daemon asks for them.
            Change::Heartbeat(_) | Change::NotAttached | Change::Closed { .. } => {}
            Change::Progress { findings, open, clocks } => {
                self.follow_wall_clock(*clocks);
                if let Some(progress) = &self.progress {
                    progress.set_message(format!("{open} in limbo, {findings} found so far"));
                    progress.tick();
                }
            }
        }
        Ok(())
    }

    /// Tells how it ended, at `now`.
    pub(super) fn end(
        mut self,
        summary: &Summary,
        coverage: &Coverage,
        now: MonoTime,
        clocks: Option<SameMoment>,
    ) -> Result<(), SinkError> {
        if let Some(progress) = self.progress.take() {
            progress.finish_and_clear();
        }
        self.follow_wall_clock(clocks);
        if let Some(risks) = &summary.risks {
            for risk in &risks.risks {
                let record = self.recorder.risk(risks, risk);
                self.record(record)?;
            }
        }
        let record = self.recorder.summary(now, summary);
        self.record(record)?;
        match self.format {
            Format::Text => {
                let mut text = Printable::default();
                // What was told while it happened is set apart from the whole.
                if self.follow && !summary.findings.is_empty() {
                    text.end_line();
                }
                text.push(text::report(summary, coverage, self.recorder.clock(), now, self.layout));
                text.push(Printable::lines(&self.only));
                self.stdout.text(&text)
            }
            Format::Json => self.stdout.array(&self.collected),
            Format::Ndjson | Format::Silent => Ok(()),
        }
    }

    /// A wall clock may be set while a watch goes on for days, and a host suspended.
    fn follow_wall_clock(&mut self, clocks: Option<SameMoment>) {
        if let Some(clocks) = clocks {
            self.recorder.follow(clocks.mono, clocks.wall());
        }
    }

    fn record(&mut self, record: Record) -> Result<(), SinkError> {
        match self.format {
            Format::Text | Format::Silent => Ok(()),
            Format::Json => {
                self.collected.push(record);
                Ok(())
            }
            Format::Ndjson => self.stdout.record(&record),
        }
    }
}

fn progress(duration: Option<Duration>) -> ProgressBar {
    let progress = ProgressBar::new_spinner();
    let wanted = duration
        .map_or_else(|| "until Ctrl-C".to_owned(), |duration| format!("for {}", humantime::format_duration(duration)));
    // Both templates are constants; were one wrong, the spinner would only look plain.
    if let Ok(style) = ProgressStyle::with_template("{spinner} watching {prefix}: {elapsed}, {msg}") {
        progress.set_style(style);
    }
    progress.set_prefix(wanted);
    progress.set_message("nothing found so far");
    progress
}
