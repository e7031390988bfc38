//! Names of kernel functions, from `/proc/kallsyms`.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader},
};

/// Where the kernel shows its symbols, with addresses to those who may see them (`kptr_restrict`).
const SYMBOLS: &str = "/proc/kallsyms";
/// There are a few places in the kernel where packets are dropped; a whole table of its symbols would take some megabytes.
const MOST_REMEMBERED: usize = 256;

/// Looks functions up, each address once.
#[derive(Debug, Default)]
pub(super) struct Functions {
    known: HashMap<u64, Option<String>>,
}

impl Functions {
    /// The function that `address` lies in; `None` when it is in none.
    pub(super) fn at(&mut self, address: u64) -> Result<Option<String>, String> {
        if let Some(known) = self.known.get(&address) {
            return Ok(known.clone());
        }
        let found = File::open(SYMBOLS).and_then(|file| nearest(BufReader::new(file), address));
        let found = found.map_err(|error| format!("{SYMBOLS}: {error}"))?;
        if self.known.len() >= MOST_REMEMBERED {
            self.known.clear();
        }
        self.known.insert(address, found.clone());
        Ok(found)
    }
}

/// The last symbol of code that begins at or before `address`. A line is `ADDRESS TYPE NAME [MODULE]`, in any order.
fn nearest(mut symbols: impl io::BufRead, address: u64) -> io::Result<Option<String>> {
    let (mut best, mut name) = (0, None);
    let mut line = String::new();
    while symbols.read_line(&mut line)? > 0 {
        let mut words = line.split_ascii_whitespace();
        let start = words.next().and_then(|start| u64::from_str_radix(start, 16).ok());
        let is_code = matches!(words.next(), Some("t" | "T" | "w" | "W"));
        // 0 is what those see who may not see addresses.
        if let Some(start) = start.filter(|start| is_code && (best + 1..=address).contains(start)) {
            (best, name) = (start, words.next().map(str::to_owned));
        }
        line.clear();
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_symbol_of_code_before_the_address_is_its_function() {
        let symbols = "0000000000001000 T first\n0000000000003000 t third\t[module]\n0000000000002000 T second\n\
                       0000000000002800 d data\n0000000000000000 T hidden\nnot a line\n";
        let at = |address| nearest(symbols.as_bytes(), address).unwrap();
        assert_eq!(at(0x2fff).as_deref(), Some("second"));
        assert_eq!(at(0x3001).as_deref(), Some("third"));
        assert_eq!(at(0x0fff), None);
    }
}
