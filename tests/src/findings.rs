//! Findings of a running program: waited for, and held against the peer they should be about.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    netns::Netns,
    peer::Peer,
    probe::Probe,
    wire::{self, Body, Finding, ForwardedConnection},
};

/// Waits for a finding in this state.
///
/// # Errors
/// When none has come in time, or it is not as the contract says.
pub fn wait(probe: &Probe, state: &str, timeout: Duration) -> Result<Finding> {
    match wait_any(probe, "endpoint", state, timeout)? {
        Body::Finding(finding) => Ok(*finding),
        other => bail!("not a finding: {other:?}"),
    }
}

/// Waits for a finding in this state about a connection that this host only forwards.
///
/// # Errors
/// As [`wait`].
pub fn wait_forwarded(probe: &Probe, state: &str, timeout: Duration) -> Result<Finding<ForwardedConnection>> {
    match wait_any(probe, "forwarder", state, timeout)? {
        Body::Forwarded(finding) => Ok(*finding),
        other => bail!("not a finding: {other:?}"),
    }
}

fn wait_any(probe: &Probe, vantage: &str, state: &str, timeout: Duration) -> Result<Body> {
    let is = |record: &Value, name: &str, value: &str| record.get(name).is_some_and(|is| is == value);
    let is_it =
        |record: &Value| is(record, "type", "finding") && is(record, "state", state) && is(record, "vantage", vantage);
    let record = probe.wait_record(timeout, is_it).with_context(|| format!("waiting for a finding {state}"))?;
    Ok(wire::read(&record)?.body)
}

/// Checks that a finding is about this peer's connection, by tuple, namespace and owner.
///
/// # Errors
/// With what is another's.
pub fn ensure_is_about(finding: &Finding, peer: &Peer, netns: &Netns) -> Result<()> {
    let connection = &finding.connection;
    let (local, remote) = (peer.local()?, peer.remote()?);
    ensure!((connection.local.address, connection.local.port) == (local.ip(), local.port()), "{connection:?}");
    ensure!((connection.remote.address, connection.remote.port) == (remote.ip(), remote.port()), "{connection:?}");
    ensure!(connection.netns == netns.inode(), "{connection:?}");
    let owner = finding.owner.as_ref().with_context(|| format!("no owner: {:?}", finding.owner_unavailable))?;
    ensure!(owner.pid == peer.pid(), "owner {owner:?}, but the peer is {}", peer.pid());
    ensure!(owner.comm == "connprobe-peer", "{owner:?}");
    Ok(())
}
