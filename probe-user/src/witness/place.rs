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

/// A longer list of rules is not read: a host with tens of thousands of them has some megabytes.
const LONGEST_RULESET_BYTES: u64 = 64 << 20;

/// For so long a ruleset that was read serves other drops in its namespace: what one rule drops comes in numbers.
const RULESET_SERVES: Duration = Duration::from_secs(10);
/// Rulesets kept at once.
const MOST_RULESETS: usize = 16;
/// `nft` is ended when it has not listed the rules by then.
const LONGEST_LISTING: Duration = Duration::from_secs(5);
/// How often the end of `nft` is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A namespace's rules, for machines and for people.
type Ruleset = (Value, String);

/// The rulesets that were read lately, by the inode number of their namespace, or why they could not be read.
#[derive(Default)]
struct Rulesets(HashMap<u32, (Instant, Result<Ruleset, String>)>);

impl Rulesets {
    fn of(&mut self, namespaces: &mut Namespaces, netns: u32) -> &Result<Ruleset, String> {
        self.0.retain(|_, (read_at, _)| read_at.elapsed() < RULESET_SERVES);
        if self.0.len() >= MOST_RULESETS && !self.0.contains_key(&netns) {
            self.0.clear();
        }
        let (_, ruleset) = self.0.entry(netns).or_insert_with(|| {
            let ruleset = read_ruleset(namespaces, netns);
            (Instant::now(), ruleset)
        });
        ruleset
    }
}

fn read_ruleset(namespaces: &mut Namespaces, netns: u32) -> Result<Ruleset, String> {
    let netns = namespaces.open(netns).map_err(|error| error.to_string())?;
    let listed =
        netns.run(|| Ok::<_, io::Error>((nft(&["-j", "list", "ruleset"])?, nft(&["-s", "-a", "list", "ruleset"])?)));
    let (json, text) = listed.flatten().map_err(|error| format!("nft: {error}"))?;
    let ruleset = serde_json::from_slice(&json).map_err(|error| format!("nft: {error}"))?;
    Ok((ruleset, String::from_utf8_lossy(&text).into_owned()))
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
        let (ruleset, text) = self.rulesets.of(&mut self.namespaces, key.netns).as_ref().map_err(Clone::clone)?;
        let found = candidates(ruleset, text, site, &packet);
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
