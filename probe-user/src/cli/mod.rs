//! The command line: arguments as typed, then as resolved; one file per subcommand; exit codes decided in one place.

mod check;
mod completions;
mod daemon;
mod diagnose;
mod explain;
mod man;
mod observe;
mod prepare;
mod record;
mod replay;
mod schema;
mod snapshot;
mod values;

pub use daemon::check_settings;

use std::{ffi::OsStr, io::IsTerminal as _, path::PathBuf, process::ExitCode};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use clap::{Args, Parser, Subcommand, ValueEnum};
use connprobe_common::fields::Field;
use tracing_subscriber::{field::MakeExt as _, fmt::format::debug_fn};

use crate::{
    kernel::{Faults, Names, field_named},
    model::{Hook, Mechanism},
    report::{
        Printable,
        text::{Layout, WIDEST},
    },
};

/// Tells which TCP connections of this host are in limbo, why, since when, how long the kernel will go on waiting, and what to
/// do about it.
#[derive(Debug, Parser)]
#[command(
    name = "connprobe",
    version,
    max_term_width = WIDEST,
    after_help = "Examples:\n  connprobe check\n  connprobe diagnose\n  connprobe diagnose --port 5672 --duration 5m\n  connprobe snapshot\n  \
    connprobe explain half_open/peer_reset\n\n\
    Exit codes:\n  0  nothing found\n  1  found; check: degraded\n  2  trouble, or wrong arguments\n\n\
    Environment:\n  CONNPROBE_LOG   which of its own log lines are written, such as debug\n  \
    NO_COLOR        no colours\n  CLICOLOR_FORCE  colours also where the output is no terminal"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more about what connprobe itself does, on standard error (twice for every event)
    // Below the options of any subcommand.
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = 100)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch for a while and report the connections in limbo
    Diagnose(diagnose::DiagnoseArgs),
    /// Watch all year as a service, and write what is found to files, sockets and the journal
    Daemon(Box<daemon::DaemonArgs>),
    /// Look for a moment, without privileges and without loading anything, and report the connections in limbo
    Snapshot(snapshot::SnapshotArgs),
    /// Say what can be observed on this kernel, by which mechanism, and what is missing
    Check(check::CheckArgs),
    /// Say what a verdict or a cause means, which evidence it takes, what it is not, and what to do
    Explain(explain::ExplainArgs),
    /// Watch for a while and write what was seen to a file, to be replayed elsewhere
    Record(record::RecordArgs),
    /// Report once more what a recorded run found
    Replay(replay::ReplayArgs),
    /// Print the JSON Schema of the records
    #[command(after_help = "Examples:\n  connprobe schema > connprobe-1.schema.json")]
    Schema,
    /// Print what makes a shell complete connprobe's commands and options
    Completions(completions::CompletionsArgs),
    /// Print a manual page, or write all of them
    Man(man::ManArgs),
}

/// How to meet this kernel.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kernel")]
struct KernelArgs {
    /// Read the kernel's type information from this file instead of /sys/kernel/btf/vmlinux
    #[arg(long, value_name = "PATH")]
    btf: Option<PathBuf>,
    /// Attach by this mechanism only, to try a fallback where it is not needed
    #[arg(long, value_name = "MECHANISM")]
    force_mechanism: Option<MechanismArg>,
    /// Load the kernel programs from this object file instead of the built-in one
    #[arg(long, value_name = "PATH", hide = true, env = "CONNPROBE_BPF_OBJECT")]
    bpf_object: Option<PathBuf>,
    /// Tests: look for everything this hook can be attached to under this name
    #[arg(long, value_name = "HOOK=NAME", hide = true, value_parser = renamed_hook)]
    test_rename_hook: Option<(Hook, String)>,
    /// Tests: read this kernel field so many bytes from where it is
    #[arg(long, value_name = "FIELD=BYTES", hide = true, value_parser = shifted_field)]
    test_shift_field: Option<(Field, u32)>,
    /// Tests: scan through NETLINK_SOCK_DIAG, as where there are no iterators
    #[arg(long, hide = true)]
    test_scan_by_sock_diag: bool,
    /// Tests: tell any dropped segment of so many established connections at most
    #[arg(long, value_name = "COUNT", hide = true, value_parser = clap::value_parser!(u32).range(1..))]
    test_suspects: Option<u32>,
    /// Size of the ring between kernel and user space, in bytes
    #[arg(long, value_name = "BYTES", hide = true, value_parser = ring_bytes)]
    ring_bytes: Option<u32>,
}

impl KernelArgs {
    fn faults(&self) -> Faults {
        Faults { names: Names { renamed: self.test_rename_hook.clone() }, shifted_field: self.test_shift_field }
    }
}

fn renamed_hook(text: &str) -> Result<(Hook, String), String> {
    let (name, other) = text.split_once('=').ok_or("a hook is renamed by HOOK=NAME")?;
    let hook =
        Hook::ALL.into_iter().find(|hook| hook.name() == name).ok_or_else(|| format!("there is no hook {name:?}"))?;
    Ok((hook, other.to_owned()))
}

fn shifted_field(text: &str) -> Result<(Field, u32), String> {
    let (name, bytes) = text.split_once('=').ok_or("a field is moved by FIELD=BYTES")?;
    let field = field_named(name).ok_or_else(|| format!("there is no field {name:?}"))?;
    Ok((field, bytes.parse().map_err(|error| format!("{bytes:?}: {error}"))?))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum MechanismArg {
    /// BTF tracepoints
    TpBtf,
    /// Classic tracepoints
    Tracepoint,
    /// Trampolines at functions (fentry and fexit)
    Fentry,
    /// Probes at functions (kprobes and kretprobes)
    Kprobe,
}

impl From<MechanismArg> for Mechanism {
    fn from(mechanism: MechanismArg) -> Self {
        match mechanism {
            MechanismArg::TpBtf => Self::TpBtf,
            MechanismArg::Tracepoint => Self::Tracepoint,
            MechanismArg::Fentry => Self::Fentry,
            MechanismArg::Kprobe => Self::Kprobe,
        }
    }
}

/// The kernel takes ring sizes that are a power of two and a multiple of the page size (`ringbuf_map_alloc`).
fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes: u32 = text.parse().map_err(|error| format!("{error}"))?;
    if bytes.is_power_of_two() && bytes >= 4096 {
        Ok(bytes)
    } else {
        Err("a ring's size is a power of two of at least 4096 bytes".to_owned())
    }
}

/// How many columns text may take on standard output. A terminal that does not know its size, as a serial console, has 80 by
/// convention; what is no terminal has as many as read well.
fn terminal_width() -> usize {
    const NARROWEST: usize = 60;
    const CONVENTIONAL: usize = 80;
    let stdout = std::io::stdout();
    match terminal_size::terminal_size_of(&stdout) {
        Some((width, _)) => usize::from(width.0).clamp(NARROWEST, WIDEST),
        None if stdout.is_terminal() => CONVENTIONAL,
        None => WIDEST,
    }
}

/// How to lay text out on standard output.
fn layout() -> Layout {
    Layout { width: terminal_width(), color: wants_color(&std::io::stdout()) }
}

/// Whether this is a terminal that shows colours, or everything is asked to have them: by `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE` and
/// `TERM`, as everybody's programs understand them.
fn wants_color(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Nothing was found; everything can be observed.
    Clean,
    /// Something was found; something cannot be observed.
    Found,
    /// The program could not do what it was asked to.
    Trouble,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Clean => Self::from(0),
            Exit::Found => Self::from(1),
            Exit::Trouble => Self::from(2),
        }
    }
}

/// Runs the program with the arguments of this process.
pub fn run() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // clap repeats what was typed, and a script may have typed a name that it has found.
        Err(error) if std::env::args_os().any(|argument| acts_on_terminal(&argument)) => {
            complain(&error.render().to_string());
            return Exit::Trouble;
        }
        // Help, or wrong arguments: a message and exit code 2.
        Err(error) => error.exit(),
    };
    start_logging(cli.verbose);
    let result = match cli.command {
        Command::Diagnose(args) => diagnose::run(args),
        Command::Daemon(args) => daemon::run(&args),
        Command::Snapshot(args) => snapshot::run(args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Record(args) => record::run(args),
        Command::Replay(args) => replay::run(&args),
        Command::Schema => schema::run(),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    result.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        Exit::Trouble
    })
}

fn acts_on_terminal(text: &OsStr) -> bool {
    let text = text.to_string_lossy();
    *Printable::from(&*text) != *text
}

#[expect(clippy::print_stderr, reason = "the one place where trouble is told")]
fn complain(text: &str) {
    eprintln!("connprobe: {}", Printable::lines(text.trim_end()));
}

fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "connprobe=info,warn",
        _ => "connprobe=debug,warn",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("CONNPROBE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    // What is logged of errors comes from outside, too, and only colours of the log's own may stay.
    let fields = debug_fn(|writer, field, value| {
        let value = Printable::from(format!("{value:?}"));
        match field.name() {
            "message" => write!(writer, "{value}"),
            name => write!(writer, "{name}={value}"),
        }
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(wants_color(&std::io::stderr()))
        .fmt_fields(fields.delimited(" "))
        .with_writer(std::io::stderr)
        .init();
}
