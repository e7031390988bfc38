//! `docs/performance.md`: what is measured stands between two marks, what is written by hand around them stays.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;

use crate::table::Table;

const BEGIN: &str = "<!-- written by `cargo xtask bench --write`: begin -->\n";
const END: &str = "<!-- end -->\n";

/// Puts the tables in the place of earlier ones with the same titles, or after the others.
pub(crate) fn write(path: &Path, tables: &[Table]) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let sections: Vec<String> = tables.iter().map(|table| format!("{}\n", table.markdown())).collect();
    let text = replace(&text, &sections).with_context(|| format!("{} has lost its marks", path.display()))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn replace(text: &str, sections: &[String]) -> Option<String> {
    const HEADING: &str = "\n## ";
    let (before, rest) = text.split_once(BEGIN)?;
    let (measured, after) = rest.split_once(END)?;
    let title = |section: &str| section.lines().next().unwrap_or_default().to_owned();
    let mut kept: Vec<String> =
        measured.split(HEADING).skip(1).map(|section| format!("## {}\n\n", section.trim_end())).collect();
    for section in sections {
        match kept.iter_mut().find(|kept| title(kept) == title(section)) {
            Some(kept) => kept.clone_from(section),
            None => kept.push(section.clone()),
        }
    }
    Some([before, BEGIN, "\n", &kept.concat(), END, after].concat())
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
        "Measured on Linux {}, {processors} processors ({model}{is_guest}), {gigabytes} GB; load average at the start {}, with {} tracing programs of others loaded.",
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
    fn what_is_written_by_hand_and_what_is_not_measured_anew_stay() {
        let text = format!("hand\n{BEGIN}\n## a\n\nold a\n\n## b\n\nold b\n\n{END}more\n");
        let new = ["## a\n\nnew a\n\n".to_owned(), "## c\n\nnew c\n\n".to_owned()];
        let expected = format!("hand\n{BEGIN}\n## a\n\nnew a\n\n## b\n\nold b\n\n## c\n\nnew c\n\n{END}more\n");
        assert_eq!(replace(&text, &new).unwrap(), expected);
        assert_eq!(replace("hand\n", &new), None);
    }
}
