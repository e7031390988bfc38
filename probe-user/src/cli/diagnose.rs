//! `connprobe diagnose`: watch for a while, then report.

use std::{
    io::{IsTerminal as _, stderr, stdout},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Exit, KernelArgs,
    prepare::{Prepared, load_options, prepare, runtime},
    terminal_width,
};
use crate::{
    app::{Change, Watch, WatchOptions, clock, this_host},
    judge::Confidence,
    kernel::Filter,
    model::Coverage,
    report::{
        Summary, WallClock,
        record::{Record, Recorder},
        text::{self, Layout},
    },
    sink::{SinkError, Stdout},
    witness::netns,
};

/// What was typed.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  connprobe diagnose --port 5672\n  connprobe diagnose --netns qrouter-1 --duration 2m\n  \
    connprobe diagnose --follow --format ndjson --peer 10.3.0.0/24\n\n\
    Exit code: 0 nothing found, 1 found at or above --fail-on, 2 trouble. A connection that recovered or was closed while \
    watching is reported, but does not count as found."
)]
pub(super) struct DiagnoseArgs {
    /// How long to watch, for example 30s or 5m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, conflicts_with = "follow")]
    duration: Duration,
    /// Watch until interrupted, and report each finding as it happens
    #[arg(long)]
    follow: bool,
    /// Only this network namespace: a name under /run/netns, a path, an inode number, or all
    #[arg(long, value_name = "NAME|PATH|INODE|all", default_value = "all")]
    netns: String,
    /// Only connections with this port at either end; may be given several times
    #[arg(long = "port", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,
    /// Only connections to peers in this prefix; may be given several times
    #[arg(long = "peer", value_name = "CIDR", value_parser = cidr)]
    peers: Vec<IpNet>,
    /// How to report
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// From which confidence on a finding makes the exit code 1
    #[arg(long, value_name = "CONFIDENCE", default_value = "suspected")]
    fail_on: FailOn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON array of records at the end
    Json,
    /// One JSON record a line, each as it happens
    Ndjson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Any finding
    Suspected,
    /// Only findings that admit no other explanation
    Confirmed,
    /// None
    Never,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; give a number with a unit, for example 30s, 5m or 1h"))?;
    if duration.is_zero() { Err("watching for no time at all finds nothing".to_owned()) } else { Ok(duration) }
}

/// A prefix, or a single address.
fn cidr(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)).map_err(|_| {
        "not an address prefix; give for example 10.3.0.0/24, 2001:db8::/32, or a single address".to_owned()
    })
}

/// What was meant.
struct Resolved {
    filter: Filter,
    duration: Option<Duration>,
    format: Format,
    follow: bool,
    fail_on: FailOn,
}

fn resolve(args: DiagnoseArgs) -> anyhow::Result<Resolved> {
    let netns = match args.netns.as_str() {
        "all" => None,
        spec => Some(netns::resolve(spec)?.inode),
    };
    let filter = Filter { netns, ports: args.ports, peers: args.peers };
    filter.check()?;
    Ok(Resolved {
        filter,
        duration: (!args.follow).then_some(args.duration),
        format: args.format,
        follow: args.follow,
        fail_on: args.fail_on,
    })
}

pub(super) fn run(kernel: &KernelArgs, args: DiagnoseArgs) -> anyhow::Result<Exit> {
    let resolved = resolve(args)?;
    let prepared = prepare(kernel)?;
    runtime()?.block_on(diagnose(kernel, &resolved, &prepared))
}

async fn diagnose(kernel: &KernelArgs, resolved: &Resolved, prepared: &Prepared) -> anyhow::Result<Exit> {
    // Before anything is attached, so that an early Ctrl-C still ends in a report.
    let mut interrupt = signal(SignalKind::interrupt()).context("Ctrl-C cannot be waited for")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let options = WatchOptions { load: load_options(kernel, resolved.filter.clone()) };
    let watch = Watch::start(&prepared.facts, &prepared.plan, &options)?;
    let coverage = watch.coverage().clone();
    let clock = clock::wall_clock();
    let mut output = Output::new(resolved, Recorder::new(this_host()?, clock), clock);
    output.begin(&coverage)?;
    let stop = async {
        let end = async {
            match resolved.duration {
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
    let summary = watch.run(stop, |change| output.change(&change)).await?;
    output.end(&summary, &coverage)?;
    Ok(exit(&summary, resolved.fail_on))
}

fn exit(summary: &Summary, fail_on: FailOn) -> Exit {
    let least = match fail_on {
        FailOn::Suspected => Confidence::Suspected,
        FailOn::Confirmed => Confidence::Confirmed,
        FailOn::Never => return Exit::Clean,
    };
    if summary.highest_confidence() >= Some(least) { Exit::Found } else { Exit::Clean }
}

/// Tells what happens in the format asked for.
struct Output {
    format: Format,
    follow: bool,
    recorder: Recorder,
    clock: WallClock,
    layout: Layout,
    progress: Option<ProgressBar>,
    collected: Vec<Record>,
    stdout: Stdout,
}

impl Output {
    fn new(resolved: &Resolved, recorder: Recorder, clock: WallClock) -> Self {
        let to_terminal = stdout().is_terminal();
        let color = to_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = terminal_width();
        Self {
            format: resolved.format,
            follow: resolved.follow,
            recorder,
            clock,
            layout: Layout { width, color },
            progress: (resolved.format == Format::Text && stderr().is_terminal()).then(|| progress(resolved.duration)),
            collected: Vec::new(),
            stdout: Stdout,
        }
    }

    fn begin(&mut self, coverage: &Coverage) -> Result<(), SinkError> {
        let record = self.recorder.coverage(clock::now(), coverage);
        self.record(record)
    }

    fn change(&mut self, change: &Change<'_>) -> Result<(), SinkError> {
        match change {
            Change::Finding(finding) => {
                let record = self.recorder.finding(finding);
                self.record(record)?;
                if self.format == Format::Text && self.follow {
                    let text = text::change(finding, &self.clock, self.layout);
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
            Change::Progress { findings, open } => {
                if let Some(progress) = &self.progress {
                    progress.set_message(format!("{open} in limbo, {findings} found so far"));
                    progress.tick();
                }
            }
        }
        Ok(())
    }

    fn end(mut self, summary: &Summary, coverage: &Coverage) -> Result<(), SinkError> {
        if let Some(progress) = self.progress.take() {
            progress.finish_and_clear();
        }
        let now = clock::now();
        let record = self.recorder.summary(now, summary);
        self.record(record)?;
        match self.format {
            Format::Text => {
                let report = text::report(summary, coverage, &self.clock, now, self.layout);
                // What was told while it happened is set apart from the whole.
                let gap = if self.follow && !summary.findings.is_empty() { "\n" } else { "" };
                self.stdout.text(&format!("{gap}{report}"))
            }
            Format::Json => self.stdout.array(&self.collected),
            Format::Ndjson => Ok(()),
        }
    }

    fn record(&mut self, record: Record) -> Result<(), SinkError> {
        match self.format {
            Format::Text => Ok(()),
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
