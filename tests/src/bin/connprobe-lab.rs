//! Plays a scenario for a person: makes its namespaces, lets it happen, shows what `connprobe diagnose` says of it, and checks that against
//! what is known here. With `--keep` the topology stays, to be looked into by hand. Run by `cargo xtask lab`; playing needs root. The program
//! is taken from `CONNPROBE_BIN`, or from beside this one.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "showing is what a lab is for")]

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    process::{Command, ExitCode},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use connprobe_tests::{
    lab::Lab,
    netns::Netns,
    peer::Peer,
    probe::Probe,
    require,
    scenario::{
        self, Deadline, Expectation, Scenario, Seat, Stage, View,
        play::{Performance, Watched, ensure_right},
    },
    watching::SOON,
};

/// Plays a failure, or a healthy workload, in network namespaces of its own.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask lab")]
struct Arguments {
    /// Which scenario; all are listed if none is named
    name: Option<String>,
    /// From where connprobe looks; by default where the first finding is expected
    #[arg(long, value_enum, value_name = "SEAT")]
    seat: Option<SeatArgument>,
    /// How long connprobe watches after it has happened
    #[arg(long, value_name = "SECONDS", default_value_t = 16)]
    watch: u64,
    /// Keep the namespaces and connections to look into, until told to end
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SeatArgument {
    Client,
    Middle,
    Server,
}

impl From<SeatArgument> for Seat {
    fn from(seat: SeatArgument) -> Self {
        match seat {
            SeatArgument::Client => Self::Client,
            SeatArgument::Middle => Self::Middle,
            SeatArgument::Server => Self::Server,
        }
    }
}

/// Exit codes: 0 it was told as it should be, 1 it was not, 2 it could not be played.
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let played = match &arguments.name {
        Some(name) => play(name, &arguments),
        None => {
            list();
            Ok(true)
        }
    };
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn list() {
    let scenarios = scenario::all();
    println!("cargo xtask lab NAME plays one of these; --keep leaves it for you to look into.\n");
    println!("Failures:");
    for scenario in scenarios.iter().filter(|scenario| !scenario.is_control()) {
        println!("  {:<30} {}", scenario.name, scenario.summary);
    }
    println!("\nHealthy workloads, of which nothing may be told:");
    for scenario in scenarios.iter().filter(|scenario| scenario.is_control()) {
        println!("  {:<30} {}", scenario.name, scenario.summary);
    }
}

fn play(name: &str, arguments: &Arguments) -> Result<bool> {
    let scenario = scenario::named(name)?;
    if let Err(missing) = require::check(&scenario.needs) {
        bail!("{name} cannot be played here: {missing}");
    }
    let view = seen_from(&scenario, arguments.seat)?;
    println!("# {name}: {}\n", scenario.summary);
    let own = Lab::new(name)?;
    let stage = scenario.set(&own)?;
    if arguments.keep {
        // The kernel's default, so that there is time to look.
        stage.netns(Seat::Client).sysctl("net.ipv4.tcp_retries2", "15")?;
    }
    let netns = stage.netns(view.seat).clone();
    let shown = Probe::diagnose(&["--netns", netns.name(), "--duration", "1h"])?;
    // By the time those that begin later are attached, it is, too.
    let mut performance = Performance::begin(&scenario, stage)?;
    performance.act()?;
    sleep(Duration::from_secs(arguments.watch));
    println!("$ connprobe diagnose --netns {}    # in the network namespace of the {}\n", netns.name(), view.seat);
    print!("{}", shown.stop(SOON)?.stdout);
    if arguments.keep {
        keep(&scenario, performance.stage())?;
        return Ok(true);
    }
    println!();
    if view.expected.is_none() {
        println!("nothing is expected at this seat");
    }
    if let Some(Expectation { deadline: Deadline::GivesUp { .. }, .. }) = view.expected {
        println!("checked next: whether the kernel gives up at the stated time");
    }
    let watched = performance.end()?;
    let is_right = match ensure_right(&scenario, &watched) {
        Ok(()) => true,
        Err(error) => {
            println!("wrong: {error:#}");
            false
        }
    };
    watched.iter().for_each(tell);
    own.close()?;
    Ok(is_right)
}

fn seen_from(scenario: &Scenario, seat: Option<SeatArgument>) -> Result<View> {
    match seat.map(Seat::from) {
        Some(seat) => {
            Ok(scenario.views.iter().find(|view| view.seat == seat).cloned().unwrap_or(View { seat, expected: None }))
        }
        None => scenario.views.first().cloned().context("a scenario that nobody watches"),
    }
}

/// What was right.
fn tell(watched: &Watched) {
    let Watched { seat, connections, false_findings, summary, .. } = watched;
    for (number, outcome) in (1..).zip(connections.iter().flatten()) {
        println!(
            "checked: connection {number}, seen from the {seat}: told {:.1} s after it happened, as sure as it becomes after {:.1} s; \
             verdict, cause, connection, namespace and owner are right",
            outcome.told_seconds.max(0.0),
            outcome.sure_seconds.max(0.0)
        );
        if let Some(off) = outcome.off_deadline_seconds {
            println!(
                "checked: the kernel gave it up {off:+.3} s from the stated time, and the finding was closed as timed_out"
            );
        }
    }
    if connections.is_empty() && false_findings.is_empty() {
        let seen: u64 = summary.hooks.iter().map(|hook| hook.seen).sum();
        println!("checked: seen from the {seat}: nothing was told, of {seen} events");
    }
}

/// What can be typed while it is kept.
const COMMANDS: &str = "connect, heal, again, client COMMAND, server COMMAND, in SEAT COMMAND, end";

/// Lets a person look into the topology until it is told to end.
fn keep(scenario: &Scenario, stage: &mut dyn Stage) -> Result<()> {
    println!("\nIt is kept. As root, from another terminal:\n");
    for seat in Seat::ALL {
        println!("  the {seat}: ip netns exec {} bash", stage.netns(seat).name());
    }
    println!("\nand there, side by side with connprobe diagnose --netns NAME --follow:\n");
    println!("  ss -tnoi                   sockets with their timers");
    println!("  conntrack -L -p tcp        what connection tracking knows (package conntrack)");
    println!("  tcpdump -lnni any tcp      packets (package tcpdump)");
    println!("  nft -a list ruleset        rules");
    println!("  nstat -az 'TcpExt*'        the kernel's counters\n");
    println!("Here: {COMMANDS}");
    println!("  connect          make one connection more");
    match scenario.can_be_healed {
        true => println!("  heal, again      undo what happened; let it happen again"),
        false => println!("  heal             not for this one"),
    }
    println!("  client COMMAND   of each client: write N, shutdown, close, abort, status; server likewise");
    println!("  in SEAT COMMAND  run a shell command there: in middle nft list ruleset");
    let prompts = io::stdin().is_terminal();
    let mut lines = io::stdin().lock().lines();
    loop {
        if prompts {
            print!("> ");
            io::stdout().flush()?;
        }
        let Some(line) = lines.next().transpose()? else { return Ok(()) };
        match command(line.trim(), stage) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => println!("{error:#}"),
        }
    }
}

/// Carries out one line; whether it was the last.
fn command(line: &str, stage: &mut dyn Stage) -> Result<bool> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "" => {}
        "end" | "exit" | "quit" => return Ok(true),
        "connect" => stage.connect()?,
        "heal" => stage.heal()?,
        "again" => stage.act()?,
        "in" => {
            let (seat, line) = rest.split_once(' ').context("in SEAT COMMAND")?;
            let seat = Seat::ALL.into_iter().find(|known| known.name() == seat);
            run_in(stage.netns(seat.context("a seat is client, middle or server")?), line)?;
        }
        "client" => {
            ensure!(!stage.clients().is_empty(), "there is no client");
            stage.clients().iter().try_for_each(|client| tell_peer(client, rest))?;
        }
        "server" => tell_peer(stage.server().context("there is no server of ours")?, rest)?,
        other => bail!("{other:?} is none of: {COMMANDS}"),
    }
    Ok(false)
}

fn run_in(netns: &Netns, line: &str) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", line]);
    let output = netns.output(shell, "")?;
    print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn tell_peer(peer: &Peer, command: &str) -> Result<()> {
    if command == "status" {
        println!("{}", peer.status()?);
        return Ok(());
    }
    peer.command(command)
}
