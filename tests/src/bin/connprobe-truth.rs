//! Plays the catalogue of scenarios and prints what came of it, as TOML (`cargo xtask truth` runs it on the host and in guests). Lines
//! about single plays go before it, as comments.
#![expect(clippy::print_stdout, reason = "what it prints is its result")]

use std::io;

use anyhow::{Result, ensure};
use clap::Parser;
use connprobe_tests::scenario::{self, truth};

/// Plays scenarios and prints what came of it.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each is played
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// How many are played at once
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    /// Only those whose names contain one of these
    parts: Vec<String>,
}

fn main() -> Result<()> {
    let Arguments { times, at_once, parts } = Arguments::parse();
    let mut scenarios = scenario::all();
    scenarios.retain(|scenario| parts.is_empty() || parts.iter().any(|part| scenario.name.contains(part.as_str())));
    ensure!(!scenarios.is_empty(), "no scenario has a name that contains {}", parts.join(" or "));
    let truth = truth::measure(&scenarios, times, at_once, &mut io::stdout())?;
    print!("{}", toml::to_string(&truth)?);
    Ok(())
}
