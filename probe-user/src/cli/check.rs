//! `connprobe check`: what can be observed here.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets};

use super::{
    Exit, KernelArgs,
    prepare::{load_options, prepare, privileges, runtime},
    terminal_width,
};
use crate::{
    kernel::{Filter, Privileges, Probes},
    model::{Coverage, HookStatus, cost_of_missing},
    sink::Stdout,
};

/// Attaches everything for a moment, without a look at any event, and says what became of it.
pub(super) fn run(args: &KernelArgs) -> anyhow::Result<Exit> {
    let prepared = prepare(args)?;
    let privileges = privileges()?;
    // The namespace with inode 1 does not exist: attached for a moment, the programs let no event pass.
    let filter = Filter { netns: Some(1), ..Filter::default() };
    let coverage = runtime()?.block_on(async {
        Probes::attach(&prepared.facts, &prepared.plan, &load_options(args, filter))
            .map(|probes| probes.coverage().clone())
    })?;
    Stdout.text(&text(&coverage, privileges, prepared.facts.hz))?;
    let full = coverage.is_full() && privileges.enter_namespaces && privileges.see_owners;
    Ok(if full { Exit::Clean } else { Exit::Found })
}

fn text(coverage: &Coverage, privileges: Privileges, hz: u32) -> String {
    let mut out = format!("Linux {}, {hz} ticks a second\n\n", coverage.kernel_release);
    let mut table = Table::new();
    let width = u16::try_from(terminal_width()).unwrap_or(u16::MAX);
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
            HookStatus::Attached(mechanism) => row(hook.name(), "ok", format!("by {mechanism}")),
            HookStatus::Unsupported(why) => row(hook.name(), "unsupported", format!("costs: {cost}. {why}")),
            HookStatus::Broken(why) => row(hook.name(), "broken", format!("costs: {cost}. {why}")),
        }
    }
    for missing in &coverage.missing_fields {
        let state = if missing.harmless { "not needed" } else { "unavailable" };
        row(&missing.field, state, missing.why.clone());
    }
    let _ = writeln!(out, "{table}\n");
    out.push_str(if coverage.is_full() {
        "Everything connprobe can observe is observed here.\n"
    } else {
        "Degraded: some verdicts are not possible here, as said above.\n"
    });
    out
}
