//! `connprobe replay`: what a recorded run told, told again.

use std::{fs::File, io::BufReader, path::PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::{
    Exit, complain,
    observe::{FailOn, Format, Output, exit, verdict},
};
use crate::{
    app::{Replay, Replayed},
    judge::Verdict,
    recording::Reader,
};

/// What was typed.
#[derive(Debug, Args)]
#[command(
    after_help = "The findings, their times and their ids are those of the recorded run; nothing is observed, and no privileges are \
    needed. A recording that breaks off is replayed as far as it can be read, with a warning.\n\n\
    Examples:\n  connprobe replay stuck.rec\n  connprobe replay stuck.rec --follow --speed 10x\n  \
    connprobe replay stuck.rec --format ndjson --verdict half_open\n\n\
    Exit codes:\n  0  nothing found, or only what recovered or was closed meanwhile\n  1  found, at or above --fail-on\n  2  trouble"
)]
pub(super) struct ReplayArgs {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How to report
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// In text, report each finding as it happens, too
    #[arg(long)]
    follow: bool,
    /// Only these verdicts, as silently_dropped_fin,half_open; the exit code counts only these
    #[arg(long = "verdict", value_name = "VERDICT", value_delimiter = ',', value_parser = verdict())]
    verdicts: Vec<Verdict>,
    /// How fast, for example 1x or 10x as it happened, or max
    #[arg(long, value_name = "Nx|max", default_value = "max", value_parser = speed)]
    speed: Speed,
    /// From which confidence on a finding makes the exit code 1
    #[arg(long, value_name = "CONFIDENCE", default_value = "suspected")]
    fail_on: FailOn,
}

/// So many times as fast as it happened; `None` for as fast as can be.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Speed(Option<f64>);

fn speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed(None));
    }
    let times: Option<f64> = text.strip_suffix('x').and_then(|times| times.parse().ok());
    match times {
        Some(times) if (0.01..=1_000_000.0).contains(&times) => Ok(Speed(Some(times))),
        Some(_) | None => Err("give for example 1x, 10x, 0.5x, or max".to_owned()),
    }
}

pub(super) fn run(args: &ReplayArgs) -> anyhow::Result<Exit> {
    let shown = args.file.display();
    let file = File::open(&args.file).with_context(|| format!("{shown} cannot be opened"))?;
    let reader = Reader::new(BufReader::new(file)).with_context(|| format!("{shown} cannot be replayed"))?;
    let replay = Replay::new(reader).with_context(|| format!("{shown} cannot be replayed"))?;
    let mut output = Output::new(args.format, args.follow, replay.opening());
    output.begin(replay.opening())?;
    let Replayed { summary, at, clocks, coverage, remarks } =
        replay.run(args.speed.0, args.verdicts.clone(), |change| output.change(&change))?;
    output.end(&summary, &coverage, at, clocks)?;
    for remark in remarks {
        complain(&format!("{shown}: {remark}"));
    }
    Ok(exit(&summary, args.fail_on))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_factors() {
        assert_eq!(speed("max"), Ok(Speed(None)));
        assert_eq!(speed("10x"), Ok(Speed(Some(10.0))));
        assert_eq!(speed("0.5x"), Ok(Speed(Some(0.5))));
        for wrong in ["", "x", "0x", "-1x", "10", "fast", "nanx", "infx"] {
            assert!(speed(wrong).is_err(), "{wrong}");
        }
    }
}
