//! `docs/performance.md`: what is measured stands between two marks, what is written by hand around them stays.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;

use crate::table::Table;

const BEGIN: &str = "<!-- written by `cargo xtask bench --write`: begin -->\n";
const END: &str = "<!-- end -->\n";

/// Puts the tables in the place of earlier ones.
pub(crate) fn write(path: &Path, machine: &str, tables: &[Table]) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let tables: Vec<String> = tables.iter().map(Table::markdown).collect();
    let measured = format!("\n{machine}\n\n{}\n", tables.join("\n"));
    let text = replace(&text, &measured).with_context(|| format!("{} has lost its marks", path.display()))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn replace(text: &str, measured: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some([before, BEGIN, measured, END, after].concat())
}

/// What the figures are of.
pub(crate) fn machine() -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':').map(str::trim));
        line.unwrap_or("?").to_owned()
    };
    let (cpu, memory, load) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?, read("/proc/loadavg")?);
    let processors = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let is_guest = if cpu.contains(" hypervisor ") { ", a virtual machine" } else { "" };
    let (model, memory) = (field(&cpu, "model name"), field(&memory, "MemTotal"));
    let gigabytes = memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0).div_ceil(1 << 20);
    Ok(format!(
        "Linux {}, {processors} processors ({model}{is_guest}), {gigabytes} GB; load average at the start {}, {} tracing programs of others attached.",
        read("/proc/sys/kernel/osrelease")?.trim(),
        load.split_whitespace().next().unwrap_or("?"),
        tracing_programs(),
    ))
}

/// Programs at kprobes, tracepoints (classic, raw) or functions that somebody else has loaded: each costs whoever passes there.
fn tracing_programs() -> usize {
    /// `enum bpf_prog_type` (`linux/bpf.h`): KPROBE, TRACEPOINT, RAW_TRACEPOINT, TRACING.
    const KINDS: [u32; 4] = [2, 5, 17, 26];
    let programs = loaded_programs().filter_map(Result::ok);
    programs.filter(|program| KINDS.contains(&(program.program_type() as u32))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_by_hand_stays() {
        let text = format!("hand\n{BEGIN}old\n{END}more\n");
        assert_eq!(replace(&text, "new\n").unwrap(), format!("hand\n{BEGIN}new\n{END}more\n"));
        assert_eq!(replace("hand\n", "new\n"), None);
    }
}
