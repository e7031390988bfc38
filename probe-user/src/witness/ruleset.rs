//! Which rules of nftables can drop a packet: a walk through the chains of one hook, as far as the packet's headers and its
//! connection tracking state decide. Pure: the ruleset is an argument.
//!
//! Read as loosely as possible (`libnftables-json(5)`): what is not understood here neither rules a rule out nor makes it certain. A reader
//! by strict types would refuse the whole ruleset for one expression that is newer than it.

mod packet;

use std::collections::HashMap;

use serde_json::Value;

pub(super) use packet::Packet;

use crate::model::{FilterRule, FilterRules, NetfilterHook, Site};

/// More candidates than this help nobody.
const MOST_CANDIDATES: usize = 6;
/// How deep chains call each other at most (`NFT_JUMP_STACK_SIZE`, `include/net/netfilter/nf_tables.h`).
const MOST_JUMPS: usize = 16;
/// A rule's text is cut there.
const LONGEST_TEXT: usize = 240;

/// A table's chain: its family, table and name.
type ChainName = (String, String, String);

/// The rules at `site` that can drop `packet`. `ruleset` is what `nft -j list ruleset` writes, `text` what `nft -s -a list ruleset` does.
pub(super) fn candidates(ruleset: &Value, text: &str, site: Site, packet: &Packet) -> FilterRules {
    let chains = chains(ruleset);
    let texts = texts(text);
    let mut base: Vec<_> = chains.iter().filter(|(_, chain)| chain.is_at(site, packet)).collect();
    base.sort_by_key(|(_, chain)| chain.priority);
    let mut walk = Walk { chains: &chains, packet, found: Vec::new() };
    for (name, chain) in base {
        match walk.chain(name, 0) {
            End::Dropped => break,
            End::Accepted => {}
            End::Open | End::Returned => {
                if chain.drops_by_policy {
                    walk.found.push((name.clone(), None));
                }
            }
        }
    }
    let left_out = walk.found.len().saturating_sub(MOST_CANDIDATES);
    let candidates = walk.found.into_iter().take(MOST_CANDIDATES).map(|((family, table, chain), handle)| {
        let text = match handle {
            None => "policy drop".to_owned(),
            Some(handle) => {
                let key = (family.clone(), table.clone(), chain.clone(), handle);
                texts.get(&key).cloned().unwrap_or_else(|| "drop".to_owned())
            }
        };
        FilterRule { family, table, chain, handle, text }
    });
    FilterRules { candidates: candidates.collect(), left_out }
}

/// A chain with its rules.
#[derive(Debug, Default)]
struct Chain<'a> {
    family: &'a str,
    /// Where a base chain is attached.
    hook: Option<&'a str>,
    priority: i64,
    drops_by_policy: bool,
    rules: Vec<(u64, &'a [Value])>,
}

impl Chain<'_> {
    fn is_at(&self, site: Site, packet: &Packet) -> bool {
        let is_of_family = match site {
            Site::Netfilter(NetfilterHook::Ingress) => matches!(self.family, "netdev" | "inet"),
            Site::Netfilter(_) => self.family == "inet" || self.family == if packet.is_ipv4() { "ip" } else { "ip6" },
            Site::Bridge(_) => self.family == "bridge",
            Site::OpenVswitch | Site::TrafficControl => false,
        };
        is_of_family && self.hook.is_some() && self.hook == site.hook().map(NetfilterHook::name)
    }
}

fn chains(ruleset: &Value) -> HashMap<ChainName, Chain<'_>> {
    let mut chains: HashMap<ChainName, Chain<'_>> = HashMap::new();
    let objects = ruleset.get("nftables").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |object: &Value, name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
    for object in objects {
        if let Some(chain) = object.get("chain")
            && let (Some(family), Some(table), Some(name)) =
                (text(chain, "family"), text(chain, "table"), text(chain, "name"))
        {
            let entry = chains.entry((family, table, name)).or_default();
            entry.family = chain.get("family").and_then(Value::as_str).unwrap_or_default();
            entry.hook = chain.get("hook").and_then(Value::as_str);
            entry.priority = chain.get("prio").and_then(Value::as_i64).unwrap_or(0);
            entry.drops_by_policy = chain.get("policy").and_then(Value::as_str) == Some("drop");
        } else if let Some(rule) = object.get("rule")
            && let (Some(family), Some(table), Some(name)) =
                (text(rule, "family"), text(rule, "table"), text(rule, "chain"))
            && let (Some(handle), Some(expressions)) =
                (rule.get("handle").and_then(Value::as_u64), rule.get("expr").and_then(Value::as_array))
        {
            chains.entry((family, table, name)).or_default().rules.push((handle, expressions));
        }
    }
    chains
}

/// The rules' texts by family, table, chain and handle. A line is `RULE # handle N`; tables and chains open braces.
fn texts(listing: &str) -> HashMap<(String, String, String, u64), String> {
    let mut texts = HashMap::new();
    let (mut table, mut chain) = ((String::new(), String::new()), String::new());
    for line in listing.lines().map(str::trim) {
        let mut words = line.split_whitespace();
        match (words.next(), line.rsplit_once(" # handle ")) {
            (Some("table"), _) if line.contains('{') => {
                let mut word = || words.next().unwrap_or_default().to_owned();
                table = (word(), word());
            }
            (Some("chain"), _) if line.contains('{') => words.next().unwrap_or_default().clone_into(&mut chain),
            (_, Some((rule, handle))) => {
                if let Ok(handle) = handle.parse() {
                    let rule = rule.chars().take(LONGEST_TEXT).collect();
                    texts.insert((table.0.clone(), table.1.clone(), chain.clone(), handle), rule);
                }
            }
            _ => {}
        }
    }
    texts
}

/// How the walk through a chain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Certainly dropped.
    Dropped,
    /// Certainly accepted.
    Accepted,
    /// Certainly given back to the chain that called.
    Returned,
    /// It came to the chain's end, or may have.
    Open,
}

/// A rule that the walk has come to.
#[derive(Clone, Copy)]
struct Rule<'a> {
    chain: &'a ChainName,
    handle: u64,
    /// How many chains have called each other to come here.
    depth: usize,
}

struct Walk<'a> {
    chains: &'a HashMap<ChainName, Chain<'a>>,
    packet: &'a Packet,
    found: Vec<(ChainName, Option<u64>)>,
}

impl Walk<'_> {
    fn chain(&mut self, name: &ChainName, depth: usize) -> End {
        let chains = self.chains;
        let Some(chain) = chains.get(name).filter(|_| depth < MOST_JUMPS) else { return End::Open };
        for (handle, expressions) in &chain.rules {
            let end = self.rule(Rule { chain: name, handle: *handle, depth }, expressions);
            if end != End::Open {
                return end;
            }
        }
        End::Open
    }

    /// What becomes of the packet at a rule; `Open` when it goes on to the next, or may.
    fn rule(&mut self, rule: Rule<'_>, expressions: &[Value]) -> End {
        let mut is_certain = true;
        for expression in expressions {
            let Some((kind, body)) = expression.as_object().and_then(|object| object.iter().next()) else { continue };
            match kind.as_str() {
                "match" => match self.packet.matches(body) {
                    Some(true) => {}
                    Some(false) => return End::Open,
                    None => is_certain = false,
                },
                "vmap" => return self.verdict_map(rule, body, is_certain),
                "counter" | "log" | "mangle" | "notrack" | "comment" => {}
                "xt" if is_rejection(body) => return self.verdict(rule, "reject", body, is_certain),
                verdict @ ("drop" | "reject" | "accept" | "return" | "jump" | "goto") => {
                    return self.verdict(rule, verdict, body, is_certain);
                }
                // Limits, sets that are named, matches of xtables, and what is newer.
                _ => is_certain = false,
            }
        }
        End::Open
    }

    fn verdict(&mut self, rule: Rule<'_>, verdict: &str, body: &Value, is_certain: bool) -> End {
        let end = match verdict {
            "drop" | "reject" => {
                let found = (rule.chain.clone(), Some(rule.handle));
                if !self.found.contains(&found) {
                    self.found.push(found);
                }
                End::Dropped
            }
            "accept" => End::Accepted,
            "return" => End::Returned,
            _ => {
                let target = body.get("target").and_then(Value::as_str).unwrap_or_default().to_owned();
                let (family, table, _) = rule.chain.clone();
                match self.chain(&(family, table, target), rule.depth + 1) {
                    // Of a chain that was gone to, the end is the end of this one.
                    End::Returned | End::Open if verdict == "goto" => End::Returned,
                    End::Returned => End::Open,
                    end @ (End::Open | End::Dropped | End::Accepted) => end,
                }
            }
        };
        if is_certain { end } else { End::Open }
    }

    /// `ct state vmap { invalid : drop, established : accept }`
    fn verdict_map(&mut self, rule: Rule<'_>, body: &Value, is_certain: bool) -> End {
        let elements = body.get("data").and_then(|data| data.get("set")).and_then(Value::as_array);
        let Some(elements) = elements else {
            // A map with a name may hold anything.
            return self.verdict(rule, "drop", body, false);
        };
        let key = body.get("key").unwrap_or(&Value::Null);
        for element in elements {
            let Some([value, verdict]) = element.as_array().map(Vec::as_slice) else { continue };
            let Some((verdict, inner)) = verdict.as_object().and_then(|object| object.iter().next()) else { continue };
            let matches = self.packet.compare(key, value);
            if matches == Some(false) {
                continue;
            }
            let end = self.verdict(rule, verdict, inner, is_certain && matches == Some(true));
            if end != End::Open {
                return end;
            }
        }
        End::Open
    }
}

/// A target of xtables that answers and drops.
fn is_rejection(xt: &Value) -> bool {
    xt.get("name").and_then(Value::as_str) == Some("REJECT")
}

#[cfg(test)]
mod tests;
