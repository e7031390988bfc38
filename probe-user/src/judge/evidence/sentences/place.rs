//! Where something was dropped, in a sentence.

use std::fmt;

use crate::model::{DropPlace, FilterRule, Knowledge, Site};

/// So many of the calls are told; the rest is how packets come in or leave.
const TOLD_CALLS: usize = 4;

pub(super) fn fmt(place: &DropPlace, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Where only connection tracking's word is known, that is where it was looked at, not where it was dropped.
    let is_held = place.functions.first().is_some_and(|name| name.ends_with("log_invalid"));
    f.write_str(if is_held { "it was held for invalid" } else { "it was dropped" })?;
    let calls: Vec<_> = place.functions.iter().take(TOLD_CALLS).map(String::as_str).collect();
    let calls = if calls.is_empty() { String::new() } else { format!("in {}", calls.join(", called by ")) };
    match place.site {
        Some(Site::Netfilter(hook)) => write!(f, " on netfilter's hook {}", hook.name())?,
        Some(Site::Bridge(hook)) => write!(f, " on a bridge, on netfilter's hook {}", hook.name())?,
        Some(Site::OpenVswitch) => f.write_str(" by Open vSwitch")?,
        Some(Site::TrafficControl) => f.write_str(" by tc")?,
        None if calls.is_empty() => f.write_str(" at a place that is not known")?,
        None => write!(f, " {calls}")?,
    }
    if place.site.is_some() && !calls.is_empty() {
        write!(f, " ({calls})")?;
    }
    match &place.rules {
        Knowledge::NotAsked => Ok(()),
        Knowledge::Unavailable(why) => write!(f, "; by which rule is not known: {why}"),
        Knowledge::Known(rules) => match rules.candidates.as_slice() {
            [] => f.write_str(
                "; no rule of nftables there drops it, nor is there a table of iptables-legacy: a BPF program may",
            ),
            [only] if rules.left_out == 0 => write!(f, ", by {only}"),
            several => {
                f.write_str("; these can have done it: ")?;
                f.write_str(&several.iter().map(FilterRule::to_string).collect::<Vec<_>>().join(", or "))?;
                if rules.left_out > 0 {
                    write!(f, ", or {} more", rules.left_out)?;
                }
                Ok(())
            }
        },
    }
}

impl fmt::Display for FilterRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain, handle, text } = self;
        match handle {
            Some(handle) => write!(f, "the rule {text:?} (handle {handle}) of chain {chain} in table {family} {table}"),
            None => write!(f, "the policy of chain {chain} in table {family} {table}"),
        }
    }
}
