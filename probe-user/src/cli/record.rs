//! `connprobe record`: watch, and write everything that the findings follow from to a file.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::Args;

use super::{
    Exit, KernelArgs, complain,
    observe::{FailOn, Format, Observation, SelectArgs, duration, exit, watch},
    prepare::{load_options, prepare, runtime},
    values::ScanEvery,
};
use crate::{
    app::{Ended, Recorded, RecordingOptions, Watch, WatchOptions},
    report::Printable,
    sink::Stdout,
};

/// What was typed.
#[derive(Debug, Args)]
#[command(
    after_help = "What --anonymize hides: IP and Ethernet addresses (the same address is replaced by the same one, and common prefixes stay \
    common; loopback, unspecified, multicast and reserved addresses stay), the host's name, machine id and boot id, cgroups, \
    containers, pods, units, virtual machines, folders of programs, the texts of nftables' rules, and where the kernel lies in memory. \
    What stays: ports, names of interfaces and programs, process ids, inode numbers, the kernel's release, names of tables and chains, \
    times and sequence numbers.\n\n\
    Examples:\n  connprobe record -o stuck.rec --port 5672 --duration 5m\n  connprobe replay stuck.rec\n  \
    connprobe record -o report.rec --anonymize\n\n\
    Exit codes:\n  0  nothing found\n  1  found, at or above --fail-on\n  2  trouble; also when the recording could not be written to its end"
)]
pub(super) struct RecordArgs {
    /// The file to write; only its owner may read it
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Write over a file that is there already
    #[arg(long)]
    force: bool,
    /// Replace addresses and names, so that the recording can be shared
    #[arg(long)]
    anonymize: bool,
    /// How long to watch, for example 30s or 5m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, conflicts_with = "follow")]
    duration: Duration,
    /// Watch until interrupted
    #[arg(long)]
    follow: bool,
    /// How often all sockets are scanned for those that wait, for example 5s; never: only what raises an event is found
    #[arg(long, value_name = "TIME|never", default_value = "5s")]
    scan_every: ScanEvery,
    #[command(flatten)]
    select: SelectArgs,
    /// Report also, as diagnose does, with the addresses as they are
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// From which confidence on a finding makes the exit code 1
    #[arg(long, value_name = "CONFIDENCE", default_value = "suspected")]
    fail_on: FailOn,
    #[command(flatten)]
    kernel: KernelArgs,
}

pub(super) fn run(args: RecordArgs) -> anyhow::Result<Exit> {
    let RecordArgs { output: file, force: overwrite, anonymize, format, fail_on, kernel, .. } = args;
    let recording = RecordingOptions { file: file.clone(), overwrite, anonymize };
    let duration = (!args.follow).then_some(args.duration);
    let observation = Observation::recorded(args.select, duration, format, fail_on, recording)?;
    let prepared = prepare(&kernel)?;
    let options =
        WatchOptions { load: load_options(&kernel, observation.filter.clone(), false), scan_every: args.scan_every.0 };
    let ended = runtime()?.block_on(watch(&observation, || Watch::start(&prepared.facts, &prepared.plan, &options)))?;
    let Some(recorded) = &ended.recorded else { return Ok(Exit::Trouble) };
    let line = line(recorded, &ended, &file.display().to_string());
    match &recorded.error {
        Some(error) => {
            complain(&format!("{line} It ends before the watch did: {error}"));
            Ok(Exit::Trouble)
        }
        None => {
            // A report on standard output stays by itself.
            match format {
                Some(_) => complain(&line),
                None => Stdout.text(&Printable::lines(&format!("{line}\n")))?,
            }
            Ok(exit(&ended.summary, fail_on))
        }
    }
}

fn line(recorded: &Recorded, ended: &Ended, file: &str) -> String {
    let Recorded { inputs, bytes, missed, error: _ } = recorded;
    let (findings, unresolved) = ended.summary.counts();
    let found = match findings {
        0 => "nothing found".to_owned(),
        1 => format!("1 finding, {unresolved} unresolved"),
        _ => format!("{findings} findings, {unresolved} unresolved"),
    };
    let missing = match missed {
        0 => String::new(),
        missed => format!(" {missed} inputs are missing, for the disk was too slow."),
    };
    format!("recorded {inputs} inputs ({}) in {file}; {found}.{missing}", ByteSize(*bytes).display().si())
}
