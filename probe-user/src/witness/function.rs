//! Names of kernel functions, from `/proc/kallsyms`.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader},
};

use crate::model::Stack;

/// Where the kernel shows its symbols, with addresses to those who may see them (`kptr_restrict`).
const SYMBOLS: &str = "/proc/kallsyms";
/// What a packet passes in nftables, whatever its family; in newer kernels it also frees one that a rule drops (`NF_DROP_REASON`; seen on
/// 6.18). In older ones `nf_hook_slow` does, as with any other rule.
pub(super) const NFTABLES: &str = "nft_do_chain";
/// There are a few places in the kernel where packets are dropped, and a few ways to each; a whole table of its symbols would take some
/// megabytes.
const MOST_REMEMBERED: usize = 1024;

/// Looks functions up, each address once.
#[derive(Debug, Default)]
pub(super) struct Functions {
    known: HashMap<u64, Option<String>>,
    has_nftables: bool,
}

impl Functions {
    /// The function that `address` lies in; `None` when it is in none.
    pub(super) fn at(&mut self, address: u64) -> Result<Option<String>, String> {
        self.learn(&[address])?;
        Ok(self.known.get(&address).cloned().flatten())
    }

    /// The functions that called each other, the innermost first, without those of BPF programs and what leads to them: of this program's
    /// own, that is.
    pub(super) fn calls(&mut self, stack: &Stack) -> Result<Vec<String>, String> {
        let addresses: Vec<u64> = stack.iter().copied().take_while(|address| *address != 0).collect();
        self.learn(&addresses)?;
        let names = addresses.iter().filter_map(|address| self.known.get(address).cloned().flatten());
        Ok(names.skip_while(|name| is_of_tracing(name)).collect())
    }

    /// Whether the kernel has nftables, as a loaded module or built in. Modules come: what is not there is looked for again.
    pub(super) fn has_nftables(&mut self) -> Result<bool, String> {
        if !self.has_nftables {
            self.walk(&[])?;
        }
        Ok(self.has_nftables)
    }

    fn learn(&mut self, addresses: &[u64]) -> Result<(), String> {
        if addresses.iter().all(|address| self.known.contains_key(address)) {
            return Ok(());
        }
        let found = self.walk(addresses)?;
        if self.known.len() >= MOST_REMEMBERED {
            self.known.clear();
        }
        self.known.extend(addresses.iter().copied().zip(found));
        Ok(())
    }

    /// Goes through all symbols once.
    fn walk(&mut self, addresses: &[u64]) -> Result<Vec<Option<String>>, String> {
        let walked = File::open(SYMBOLS).and_then(|file| walk(BufReader::new(file), addresses));
        let (names, has_nftables) = walked.map_err(|error| format!("{SYMBOLS}: {error}"))?;
        self.has_nftables |= has_nftables;
        Ok(names)
    }
}

/// What stands between a tracepoint and the program on it (`kernel/trace/bpf_trace.c`, `kernel/bpf/trampoline.c`).
fn is_of_tracing(name: &str) -> bool {
    const STARTS: [&str; 5] = ["bpf_", "__bpf_", "__traceiter_", "trace_", "perf_trace_"];
    STARTS.iter().any(|start| name.starts_with(start))
}

/// For each address the last symbol of code that begins at or before it, and whether there are those of nftables. A line is
/// `ADDRESS TYPE NAME [MODULE]`, in any order.
fn walk(mut symbols: impl io::BufRead, addresses: &[u64]) -> io::Result<(Vec<Option<String>>, bool)> {
    let mut has_nftables = false;
    let mut best: Vec<(u64, Option<String>)> = vec![(0, None); addresses.len()];
    let mut line = String::new();
    while symbols.read_line(&mut line)? > 0 {
        let mut words = line.split_ascii_whitespace();
        let start = words.next().and_then(|start| u64::from_str_radix(start, 16).ok());
        let is_code = matches!(words.next(), Some("t" | "T" | "w" | "W"));
        // 0 is what those see who may not see addresses.
        let name = words.next();
        has_nftables |= name == Some(NFTABLES);
        if let (Some(start), Some(name)) = (start.filter(|start| is_code && *start != 0), name) {
            for (address, (nearest, named)) in addresses.iter().zip(&mut best) {
                if (*nearest + 1..=*address).contains(&start) {
                    (*nearest, *named) = (start, Some(name.to_owned()));
                }
            }
        }
        line.clear();
    }
    Ok((best.into_iter().map(|(_, name)| name).collect(), has_nftables))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "0000000000001000 T first\n0000000000003000 t third\t[module]\n0000000000002000 T second\n\
                         0000000000002800 d data\n0000000000000000 T hidden\nnot a line\n";

    #[test]
    fn the_nearest_symbol_of_code_before_the_address_is_its_function() {
        let (found, has_nftables) = walk(TABLE.as_bytes(), &[0x2fff, 0x3001, 0x0fff]).unwrap();
        assert_eq!(found.iter().map(Option::as_deref).collect::<Vec<_>>(), [Some("second"), Some("third"), None]);
        assert!(!has_nftables);
        assert!(walk("0000000000001000 t nft_do_chain\t[nf_tables]\n".as_bytes(), &[]).unwrap().1);
    }

    #[test]
    fn what_belongs_to_this_program_is_no_part_of_the_calls() {
        let mut functions = Functions::default();
        let names =
            ["bpf_prog_6deef7357e7b4530_kfree_skb", "bpf_trace_run4", "sk_skb_reason_drop", "bpf_like", "ip_rcv"];
        functions.known = names.iter().zip(1..).map(|(name, address)| (address, Some((*name).to_owned()))).collect();
        let mut stack = Stack::default();
        stack[..5].copy_from_slice(&[1, 2, 3, 4, 5]);
        assert_eq!(functions.calls(&stack).unwrap(), ["sk_skb_reason_drop", "bpf_like", "ip_rcv"]);
    }
}
