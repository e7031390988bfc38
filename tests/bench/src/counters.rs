//! The kernel's own counters of a namespace.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use connprobe_tests::netns::Netns;

/// Counters by name, such as `TcpExt.TCPTimeouts` and `Tcp.RetransSegs` (`nstat`).
pub(crate) struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// As they are now.
    pub(crate) fn read(netns: &Netns) -> Result<Self> {
        // `/proc/net` is of the process, whose namespace is another than this thread's.
        let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let text = netns.run(|| Ok::<_, std::io::Error>(read("snmp")? + &read("netstat")?))?;
        Ok(Self(parse(&text.context("the kernel does not tell its counters")?)))
    }

    /// How far one has come since.
    pub(crate) fn since(&self, before: &Self, name: &str) -> u64 {
        let at = |counters: &Self| counters.0.get(name).copied().unwrap_or(0);
        at(self).saturating_sub(at(before))
    }
}

/// Two lines each: names and values, both with the group in front.
fn parse(text: &str) -> BTreeMap<String, u64> {
    let lines: Vec<&str> = text.lines().collect();
    let pairs =
        lines.chunks_exact(2).filter_map(|pair| Some((pair.first()?.split_once(':')?, pair.last()?.split_once(':')?)));
    let values = pairs.flat_map(|((group, names), (_, values))| {
        let both = names.split_whitespace().zip(values.split_whitespace());
        both.filter_map(move |(name, value)| Some((format!("{group}.{name}"), value.parse().ok()?)))
    });
    values.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_stand_in_two_lines() {
        let counters = parse("Tcp: RetransSegs MaxConn\nTcp: 7 -1\nTcpExt: A B\nTcpExt: 1 2\n");
        let expected = [("Tcp.RetransSegs", 7), ("TcpExt.A", 1), ("TcpExt.B", 2)];
        assert_eq!(counters, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }
}
