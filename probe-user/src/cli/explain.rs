//! `connprobe explain`: the handbook, at the place where the report names a verdict.

use clap::Args;

use super::{Exit, layout};
use crate::{
    report::handbook::{self, Topic},
    sink::Stdout,
};

/// What was typed.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  connprobe explain\n  connprobe explain half_open\n  connprobe explain half_open/peer_reset\n  \
    connprobe explain risk\n\n\
    Exit codes:\n  0  explained\n  2  there is no such verdict or cause"
)]
pub(super) struct ExplainArgs {
    /// A verdict, or one of its causes, or risk, as the report names them; without it all are listed, each with a sentence
    #[arg(value_name = "VERDICT[/CAUSE]")]
    topic: Option<Topic>,
}

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let text = match args.topic {
        Some(topic) => handbook::explain(topic, layout()),
        None => handbook::overview(layout()),
    };
    Stdout.text(&text)?;
    Ok(Exit::Clean)
}
