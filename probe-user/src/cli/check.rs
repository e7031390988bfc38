//! `connprobe check`: what can be observed here.

use anstyle::Style;
use clap::{Args, ValueEnum};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

use super::{
    Exit, KernelArgs, layout,
    prepare::{load_options, prepare, privileges, runtime},
};
use crate::{
    app::{clock, self_test, this_host},
    kernel::{LoadOptions, Privileges},
    model::{COST_OF_SOCK_DIAG, Coverage, Filter, Hook, HookStatus, RunCost, ScanStatus, cost_of_missing, runs_for},
    report::{Printable, record::Recorder},
    sink::Stdout,
};

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  connprobe check\n  connprobe check --lifecycle --format json\n\n\
    Exit codes:\n  0  everything is observed; what is not loaded has nothing to be observed\n  1  degraded\n  2  nothing can be observed")]
pub(super) struct CheckArgs {
    /// How to report
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Attach also what tells a daemon of every connection that ends (`lifecycle`), which is off otherwise
    #[arg(long)]
    lifecycle: bool,
    #[command(flatten)]
    kernel: KernelArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// The `coverage` record
    Json,
}

/// Attaches everything for a moment, lets a connection of its own fail, and says what became of it.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let prepared = prepare(&args.kernel)?;
    let privileges = privileges()?;
    let options = LoadOptions { lifecycle: args.lifecycle, ..load_options(&args.kernel, Filter::default(), false) };
    let coverage = runtime()?.block_on(self_test(&prepared.facts, &prepared.plan, &options))?;
    let full = coverage.is_full() && privileges.enter_namespaces && privileges.see_owners;
    match args.format {
        Format::Text => Stdout.text(&text(&coverage, privileges, prepared.facts.hz, full))?,
        Format::Json => {
            let mut recorder = Recorder::new(this_host()?, clock::wall_clock());
            Stdout.record(&recorder.coverage(clock::now(), &coverage))?;
        }
    }
    Ok(if full { Exit::Clean } else { Exit::Found })
}

fn text(coverage: &Coverage, privileges: Privileges, hz: u32, full: bool) -> Printable {
    let layout = layout();
    let mut out = Printable::default();
    let absent: Vec<_> = coverage.modules.iter().map(|(module, _)| module.name()).collect();
    let headline = match (full, absent.is_empty()) {
        (true, true) => "Everything connprobe can observe is observed here.",
        (true, false) => "Everything connprobe can observe of what is loaded is observed here.",
        (false, _) => "Degraded: some verdicts are not possible here, as said below.",
    };
    out.hanging(layout.width, "", "", layout.styled(Style::new().bold(), headline));
    let kernel = format!("Linux {}, {hz} ticks a second", coverage.kernel_release);
    out.hanging(layout.width, "", "", kernel);
    out.end_line();
    let mut table = Table::new();
    let width = u16::try_from(layout.width).unwrap_or(u16::MAX);
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    let mut row = |what: &str, state: &str, means: String| {
        table.add_row([what.to_owned(), state.to_owned(), means]);
    };
    let privilege = |granted: bool| if granted { "ok" } else { "missing" };
    row("privilege", privilege(privileges.bpf), "load kernel programs".to_owned());
    row("privilege", privilege(privileges.enter_namespaces), "look sockets up in other network namespaces".to_owned());
    row("privilege", privilege(privileges.see_owners), "name the processes that hold sockets".to_owned());
    for (hook, status) in &coverage.hooks {
        let cost = cost_of_missing(*hook);
        match status {
            HookStatus::Attached(mechanism) => {
                row(hook.name(), "ok", format!("by {mechanism}, for {}{}", runs_for(*hook), measured(coverage, *hook)));
            }
            HookStatus::NotLoaded(module) => {
                row(hook.name(), "not loaded", format!("{} is not loaded", module.name()));
            }
            HookStatus::Unsupported(why) if coverage.is_served_by_scan(*hook) => {
                row(hook.name(), "by scan", format!("{cost}. {why}"));
            }
            HookStatus::Unsupported(why) if coverage.is_served_otherwise(*hook) => {
                row(hook.name(), "by drops", format!("{cost}. {why}"));
            }
            HookStatus::Unsupported(why) => row(hook.name(), "unsupported", format!("costs: {cost}. {why}")),
            HookStatus::Broken(why) => row(hook.name(), "broken", format!("costs: {cost}. {why}")),
        }
    }
    let (state, means) = lifecycle(coverage);
    row("lifecycle", state, means);
    for (module, _) in &coverage.modules {
        row(module.name(), "not loaded", module.meaning().to_owned());
    }
    for missing in &coverage.missing_fields {
        let state = if missing.harmless { "not needed" } else { "unavailable" };
        row(&missing.field, state, missing.why.clone());
    }
    match &coverage.scan {
        ScanStatus::Iterator => row("scan", "ok", "all sockets of a namespace, by a BPF iterator".to_owned()),
        ScanStatus::SockDiag(why) => row("scan", "sock_diag", format!("costs: {COST_OF_SOCK_DIAG}. {why}")),
    }
    if let Some(test) = &coverage.self_test {
        row("self-test", test.status(), test.to_string());
    }
    // Names stay whole; what it means is what wraps.
    for column in table.column_iter_mut().take(2) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    out.push(Printable::lines(&format!("{table}\n\n")));
    out.hanging(layout.width, "", "", COSTS);
    if !absent.is_empty() {
        let text = format!(
            "Not loaded: {}. As long as that is so, nothing is missed. When it is loaded while connprobe watches, connprobe says so, and \
             is to be started anew.",
            absent.join(", ")
        );
        out.hanging(layout.width, "", "", text);
    }
    out
}

/// The programs that tell of connections that end.
fn lifecycle(coverage: &Coverage) -> (&'static str, String) {
    let runs_for = runs_for(Hook::InetSockSetState);
    let Some(own) = &coverage.lifecycle else {
        return (
            "off",
            format!(
                "a daemon's `connection` records, not asked for (--lifecycle): nothing is loaded that would run for {runs_for}"
            ),
        );
    };
    match &own.status {
        HookStatus::Attached(mechanism) => ("ok", format!("by {mechanism}, for {runs_for}{}", told(own.cost))),
        HookStatus::NotLoaded(module) => ("not loaded", format!("{} is not loaded", module.name())),
        HookStatus::Unsupported(why) => ("unsupported", format!("costs: no `connection` records. {why}")),
        HookStatus::Broken(why) => ("broken", format!("costs: no `connection` records. {why}")),
    }
}

/// What the hooks cost who has no trouble.
const COSTS: &str = "No hook runs for a packet of a connection in order: none is attached where every packet passes. Times are averages over \
                     all of this host's runs during the self-test, by the kernel's own statistics; a program's first runs are its \
                     slowest.";

/// What a run of the hook's program has cost, where that was measured.
fn measured(coverage: &Coverage, hook: Hook) -> String {
    told(coverage.costs.get(&hook).copied())
}

fn told(cost: Option<RunCost>) -> String {
    match cost.map(|cost| (cost.runs, cost.per_run_ns())) {
        Some((1, Some(ns))) => format!(": {ns} ns (1 run)"),
        Some((runs, Some(ns))) => format!(": {ns} ns ({runs} runs)"),
        Some((_, None)) => ": none in the self-test".to_owned(),
        None => String::new(),
    }
}
