//! Which kernel programs a process holds, as its descriptors tell of themselves.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result};

/// Numbers of the programs that a process holds, by descriptors of programs or of what they are attached by.
///
/// # Errors
/// When the process has ended.
pub fn held_by(pid: u32) -> Result<BTreeSet<u32>> {
    let numbers =
        |descriptor: &String| values(descriptor, "prog_id").filter_map(|id| id.parse().ok()).collect::<Vec<_>>();
    Ok(descriptors(pid)?.iter().flat_map(numbers).collect())
}

/// Whether a process holds a program that is attached to the BTF tracepoint of this name.
///
/// # Errors
/// When the process has ended.
pub fn is_attached_to(pid: u32, tracepoint: &str) -> Result<bool> {
    let is_it = |descriptor: &String| values(descriptor, "tp_name").any(|name| name == tracepoint);
    Ok(descriptors(pid)?.iter().any(is_it))
}

/// What the kernel tells of each descriptor of a process, in lines of a name and a value (`bpf_prog_show_fdinfo`, `bpf_link_show_fdinfo`,
/// `bpf_raw_tp_link_show_fdinfo` in `kernel/bpf/syscall.c`).
fn descriptors(pid: u32) -> Result<Vec<String>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))?;
    // One that is closed meanwhile cannot be read any more.
    Ok(entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect())
}

fn values<'a>(descriptor: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    descriptor.lines().filter_map(move |line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}
