//! `connprobe diagnose`: watch for a while, then report.

use std::time::Duration;

use clap::Args;

use super::{
    Exit, KernelArgs,
    observe::{Observation, ObserveArgs, duration, observe},
    prepare::{load_options, prepare, runtime},
    values::ScanEvery,
};
use crate::app::{Watch, WatchOptions};

/// What was typed.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  connprobe diagnose --port 5672\n  connprobe diagnose --netns qrouter-1 --duration 2m\n  \
    connprobe diagnose --risks --idle-timeout 1h\n  connprobe diagnose --follow --format ndjson --peer 10.3.0.0/24\n\n\
    Exit codes:\n  0  nothing found, or only what recovered or was closed meanwhile\n  1  found, at or above --fail-on\n  2  trouble"
)]
pub(super) struct DiagnoseArgs {
    /// How long to watch, for example 30s or 5m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, conflicts_with = "follow")]
    duration: Duration,
    /// Watch until interrupted, and report each finding as it happens
    #[arg(long)]
    follow: bool,
    /// How often all sockets are scanned for those that wait, for example 5s; never: only what raises an event is found
    #[arg(long, value_name = "TIME|never", default_value = "5s")]
    scan_every: ScanEvery,
    #[command(flatten)]
    observe: ObserveArgs,
    #[command(flatten)]
    kernel: KernelArgs,
}

pub(super) fn run(args: DiagnoseArgs) -> anyhow::Result<Exit> {
    let kernel = &args.kernel;
    let observation = Observation::resolve(args.observe, (!args.follow).then_some(args.duration))?;
    let prepared = prepare(kernel)?;
    let options = WatchOptions {
        load: load_options(kernel, observation.filter.clone(), observation.risks.is_some()),
        scan_every: args.scan_every.0,
    };
    runtime()?.block_on(observe(&observation, || Watch::start(&prepared.facts, &prepared.plan, &options)))
}
