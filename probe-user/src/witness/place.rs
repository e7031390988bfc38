//! Where a packet was dropped: the calls by which the kernel got there, and the rules of the packet filter there.
//!
//! Asking must not change anything: where the kernel has no nftables, `nft` would load it, so it is asked only where the kernel has its
//! functions.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{
    function::Functions,
    netns::Namespaces,
    ruleset::{Packet, candidates},
};
use crate::model::{ConnectionKey, DropPlace, DropTrace, FilterRules, Knowledge, Site};

/// What it passes in the older tables, of which `nft` knows nothing.
const XTABLES: [&str; 2] = ["ipt_do_table", "ip6t_do_table"];
/// A longer list of rules is not read: a host with tens of thousands of them has some megabytes.
const LONGEST_RULESET_BYTES: u64 = 64 << 20;

/// Finds the place of a drop.
pub(super) fn look_up(
    functions: &mut Functions,
    namespaces: &mut Namespaces,
    key: &ConnectionKey,
    trace: &DropTrace,
) -> Result<DropPlace, String> {
    let calls = functions.calls(&trace.stack)?;
    let site = Site::of_calls(&calls);
    let rules = match site {
        Some(site @ (Site::Netfilter(_) | Site::Bridge(_))) if trace.is_by_filter => {
            rules(functions, namespaces, key, trace, site, &calls).into()
        }
        Some(_) | None => Knowledge::NotAsked,
    };
    Ok(DropPlace { site, functions: calls, rules })
}

fn rules(
    functions: &mut Functions,
    namespaces: &mut Namespaces,
    key: &ConnectionKey,
    trace: &DropTrace,
    site: Site,
    calls: &[String],
) -> Result<FilterRules, String> {
    if calls.iter().any(|call| XTABLES.contains(&call.as_str())) {
        return Err("a rule of the older iptables dropped it (`iptables-legacy-save -c` lists them)".to_owned());
    }
    if !functions.has_nftables()? {
        return Err(
            "this kernel has no nftables; `iptables-legacy-save -c` lists the rules of the older iptables".to_owned()
        );
    }
    let (source, destination) = if trace.is_sent { (key.local, key.remote) } else { (key.remote, key.local) };
    let packet = packet(source, destination, trace);
    let netns = namespaces.open(key.netns).map_err(|error| error.to_string())?;
    let listed =
        netns.run(|| Ok::<_, io::Error>((nft(&["-j", "list", "ruleset"])?, nft(&["-s", "-a", "list", "ruleset"])?)));
    let (json, text) = listed.flatten().map_err(|error| format!("nft: {error}"))?;
    let ruleset: Value = serde_json::from_slice(&json).map_err(|error| format!("nft: {error}"))?;
    Ok(candidates(&ruleset, &String::from_utf8_lossy(&text), site, &packet))
}

const fn packet(source: SocketAddr, destination: SocketAddr, trace: &DropTrace) -> Packet {
    Packet { source, destination, is_invalid: trace.is_invalid, is_reset: trace.is_reset }
}

/// What `nft` writes in the namespace this thread is in.
fn nft(arguments: &[&str]) -> io::Result<Vec<u8>> {
    let mut command = Command::new("nft");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("it is not installed, so that the rules were not read"),
        _ => error,
    })?;
    let mut output = Vec::new();
    let read = child.stdout.take().map_or(Ok(0), |stdout| stdout.take(LONGEST_RULESET_BYTES).read_to_end(&mut output));
    // It ends when nobody reads any more.
    let status = child.wait()?;
    read?;
    if status.success() { Ok(output) } else { Err(io::Error::other(format!("it ended with {status}"))) }
}
