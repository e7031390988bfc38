//! Where a packet was dropped: the calls by which the kernel got there, and the rules of the packet filter there.
//!
//! Asking must not change anything: where the kernel has no nftables, `nft` would load it, so it is asked only where the kernel has its
//! functions.

use std::{
    collections::HashMap,
    io::{self, Read as _},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    function::{Functions, NFTABLES},
    netns::Namespaces,
    ruleset::{Packet, candidates},
    xtables,
};
use crate::model::{ConnectionKey, DropPlace, DropTrace, FilterRules, Knowledge, Site};

/// A longer list of rules is not read: one of tens of thousands has some megabytes. In memory its JSON takes 26 times as much (measured
/// with 30,000 rules of three expressions each), and so the longest a fifth of the unit's `MemoryMax`.
const LONGEST_RULESET_BYTES: u64 = 8 << 20;

/// For so long a ruleset that was read serves other drops in its namespace: what one rule drops comes in numbers.
const RULESET_SERVES: Duration = Duration::from_secs(10);
/// Rulesets kept at once.
const MOST_RULESETS: usize = 16;
/// What the rulesets that are kept had when they were read, together: as much as the longest, which is therefore kept alone.
const MOST_RULESET_BYTES: usize = 8 << 20;
/// `nft` is ended when it has not listed the rules by then.
const LONGEST_LISTING: Duration = Duration::from_secs(5);
/// How often the end of `nft` is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A namespace's rules.
struct Ruleset {
    /// For machines.
    json: Value,
    /// For people.
    text: String,
    /// What both had when they were read.
    bytes: usize,
}

/// The rulesets that were read lately, by the inode number of their namespace, or why they could not be read.
#[derive(Default)]
struct Rulesets(HashMap<u32, (Instant, Result<Ruleset, String>)>);

impl Rulesets {
    /// That of a namespace, which `read` reads where it is not kept.
    fn of(&mut self, netns: u32, read: impl FnOnce() -> Result<Ruleset, String>) -> &Result<Ruleset, String> {
        self.0.retain(|_, (read_at, _)| read_at.elapsed() < RULESET_SERVES);
        let kept = self.0.remove(&netns).unwrap_or_else(|| (Instant::now(), read()));
        self.make_room(&kept.1);
        let (_, ruleset) = self.0.entry(netns).or_insert(kept);
        ruleset
    }

    /// Drops the oldest until this one fits in.
    fn make_room(&mut self, next: &Result<Ruleset, String>) {
        let bytes = |ruleset: &Result<Ruleset, String>| ruleset.as_ref().map_or(0, |ruleset| ruleset.bytes);
        loop {
            let kept: usize = self.0.values().map(|(_, ruleset)| bytes(ruleset)).sum();
            if self.0.len() < MOST_RULESETS && kept + bytes(next) <= MOST_RULESET_BYTES {
                return;
            }
            let oldest = self.0.iter().min_by_key(|(_, (read_at, _))| *read_at).map(|(netns, _)| *netns);
            let Some(oldest) = oldest else { return };
            self.0.remove(&oldest);
        }
    }
}

fn read_ruleset(namespaces: &mut Namespaces, netns: u32) -> Result<Ruleset, String> {
    let netns = namespaces.open(netns).map_err(|error| error.to_string())?;
    let listed =
        netns.run(|| Ok::<_, io::Error>((nft(&["-j", "list", "ruleset"])?, nft(&["-s", "-a", "list", "ruleset"])?)));
    let (json, text) = listed.flatten().map_err(|error| format!("nft: {error}"))?;
    let bytes = json.len() + text.len();
    let json = serde_json::from_slice(&json).map_err(|error| format!("nft: {error}"))?;
    Ok(Ruleset { json, text: String::from_utf8_lossy(&text).into_owned(), bytes })
}

/// What the places of drops are looked up by.
#[derive(Default)]
pub(super) struct Places {
    functions: Functions,
    rulesets: Rulesets,
    namespaces: Namespaces,
}

impl Places {
    /// The function that `address` lies in; `None` when it is in none.
    pub(super) fn function(&mut self, address: u64) -> Result<Option<String>, String> {
        self.functions.at(address)
    }

    /// The place of a drop.
    pub(super) fn look_up(&mut self, key: &ConnectionKey, trace: &DropTrace) -> Result<DropPlace, String> {
        let calls = self.functions.calls(&trace.stack)?;
        let site = Site::of_calls(&calls);
        let rules = match site {
            Some(site @ (Site::Netfilter(_) | Site::Bridge(_))) if trace.is_by_filter => {
                self.rules(key, trace, site, &calls).into()
            }
            Some(_) | None => Knowledge::NotAsked,
        };
        Ok(DropPlace { site, functions: calls, rules })
    }

    fn rules(
        &mut self,
        key: &ConnectionKey,
        trace: &DropTrace,
        site: Site,
        calls: &[String],
    ) -> Result<FilterRules, String> {
        let older = if calls.iter().any(|call| call == NFTABLES) { None } else { self.older_table(key, site)? };
        if !self.functions.has_nftables()? {
            return Err(
                older.unwrap_or_else(|| "this kernel has neither nftables nor a table of iptables there".to_owned())
            );
        }
        let (source, destination) = if trace.is_sent { (key.local, key.remote) } else { (key.remote, key.local) };
        let packet = Packet { source, destination, is_invalid: trace.is_invalid, is_reset: trace.is_reset };
        let read = || read_ruleset(&mut self.namespaces, key.netns);
        let ruleset = self.rulesets.of(key.netns, read).as_ref().map_err(Clone::clone)?;
        let found = candidates(&ruleset.json, &ruleset.text, site, &packet);
        match older {
            Some(older) if found.candidates.is_empty() => Err(older),
            // One of the older tables' rules may have done it as well.
            Some(_) => Ok(FilterRules { left_out: found.left_out + 1, ..found }),
            None => Ok(found),
        }
    }

    /// Where in the older tables of iptables it can have been.
    fn older_table(&mut self, key: &ConnectionKey, site: Site) -> Result<Option<String>, String> {
        let is_ipv4 = key.local.is_ipv4();
        let netns = self.namespaces.open(key.netns).map_err(|error| error.to_string())?;
        let in_use = xtables::in_use(&netns, is_ipv4).map_err(|error| format!("the tables of iptables: {error}"))?;
        Ok(xtables::place(site, &in_use, is_ipv4))
    }
}

/// What `nft` writes in the namespace this thread is in.
fn nft(arguments: &[&str]) -> io::Result<Vec<u8>> {
    let mut command = Command::new("nft");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("it is not installed, so that the rules were not read"),
        _ => error,
    })?;
    let stdout = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut output = Vec::new();
        // It ends when nobody reads any more.
        stdout.map_or(Ok(0), |stdout| stdout.take(LONGEST_RULESET_BYTES).read_to_end(&mut output)).map(|_| output)
    });
    let begin = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if begin.elapsed() < LONGEST_LISTING => thread::sleep(POLL_INTERVAL),
            None => {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::other(format!("it has not listed the rules within {LONGEST_LISTING:?}")));
            }
        }
    };
    let output = reader.join().map_err(|_| io::Error::other("its output could not be read"))??;
    if status.success() { Ok(output) } else { Err(io::Error::other(format!("it ended with {status}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset(bytes: usize) -> Result<Ruleset, String> {
        Ok(Ruleset { json: Value::Null, text: String::new(), bytes })
    }

    #[test]
    fn rulesets_are_kept_up_to_a_number_and_a_size_and_the_oldest_goes_first() {
        let kept = |rulesets: &Rulesets| {
            let mut kept: Vec<_> = rulesets.0.keys().copied().collect();
            kept.sort_unstable();
            kept
        };
        let mut rulesets = Rulesets::default();
        for netns in 1..=4 {
            rulesets.of(netns, || ruleset(MOST_RULESET_BYTES / 4)).as_ref().unwrap();
        }
        rulesets.of(1, || panic!("it is kept")).as_ref().unwrap();
        rulesets.of(5, || ruleset(MOST_RULESET_BYTES / 2)).as_ref().unwrap();
        assert_eq!(kept(&rulesets), [3, 4, 5]);
        rulesets.of(6, || ruleset(MOST_RULESET_BYTES + 1)).as_ref().unwrap();
        assert_eq!(kept(&rulesets), [6], "one that is larger than all may be serves alone");
        rulesets.of(6, || panic!("it is kept")).as_ref().unwrap();
        for netns in 100..200 {
            rulesets.of(netns, || Err("nft: it ended".to_owned())).as_ref().err().unwrap();
        }
        assert_eq!(kept(&rulesets), (184..200).collect::<Vec<_>>());
    }
}
