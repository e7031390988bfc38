//! Findings of a running program: waited for, and held against the peer they should be about.

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    netns::Netns,
    peer::Peer,
    probe::Probe,
    wire::{self, Body, Connection, Evidence, Finding, ForwardedConnection, Record},
};

/// The findings among these records that are about connections of this host's own.
#[must_use]
pub fn all(records: &[Record]) -> Vec<Finding> {
    let own = |record: &Record| Connection::finding(record.body.clone());
    records.iter().filter_map(own).collect()
}

/// Waits for a finding in this state.
///
/// # Errors
/// When none has come in time, or it is not as the contract says.
pub fn wait(probe: &Probe, state: &str, timeout: Duration) -> Result<Finding> {
    wait_at(probe, state, timeout)
}

/// Waits for a finding in this state about a connection that this host only forwards.
///
/// # Errors
/// As [`wait`].
pub fn wait_forwarded(probe: &Probe, state: &str, timeout: Duration) -> Result<Finding<ForwardedConnection>> {
    wait_at(probe, state, timeout)
}

/// Waits until the finding is a fact, if it is not yet.
///
/// # Errors
/// When it does not become one, or another cause is told first.
pub fn confirmed<C: Vantage>(probe: &Probe, opened: Finding<C>, timeout: Duration) -> Result<Finding<C>> {
    if opened.confidence == "confirmed" {
        return Ok(opened);
    }
    let updated = wait_at(probe, "updated", timeout)?;
    ensure!(updated.confidence == "confirmed" && updated.cause == opened.cause, "{updated:#?}");
    Ok(updated)
}

/// Waits until the finding is closed because its connection goes on.
///
/// # Errors
/// When it is not closed, or for another reason.
pub fn recovered<C: Vantage>(probe: &Probe, timeout: Duration) -> Result<Finding<C>> {
    let closed = wait_at(probe, "closed", timeout)?;
    ensure!(closed.outcome.as_deref() == Some("recovered"), "{closed:#?}");
    Ok(closed)
}

/// From where a connection is seen, by how it is written.
pub trait Vantage: fmt::Debug + Sized {
    /// Its name in records.
    const NAME: &str;

    /// The finding in a record from there.
    fn finding(body: Body) -> Option<Finding<Self>>;
}

impl Vantage for Connection {
    const NAME: &str = "endpoint";

    fn finding(body: Body) -> Option<Finding> {
        if let Body::Finding(finding) = body { Some(*finding) } else { None }
    }
}

impl Vantage for ForwardedConnection {
    const NAME: &str = "forwarder";

    fn finding(body: Body) -> Option<Finding<Self>> {
        if let Body::Forwarded(finding) = body { Some(*finding) } else { None }
    }
}

fn wait_at<C: Vantage>(probe: &Probe, state: &str, timeout: Duration) -> Result<Finding<C>> {
    let is = |record: &Value, name: &str, value: &str| record.get(name).is_some_and(|is| is == value);
    let is_it =
        |record: &Value| is(record, "type", "finding") && is(record, "state", state) && is(record, "vantage", C::NAME);
    let record = probe.wait_record(timeout, is_it).with_context(|| format!("waiting for a finding {state}"))?;
    C::finding(wire::read(&record)?.body).context("a finding from elsewhere")
}

impl<C: fmt::Debug> Finding<C> {
    /// The latest evidence of this kind.
    ///
    /// # Errors
    /// When there is none.
    pub fn evidence_of(&self, kind: &str) -> Result<&Evidence> {
        let latest = self.evidence.iter().rev().find(|evidence| evidence.kind == kind);
        latest.with_context(|| format!("no {kind}: {self:#?}"))
    }
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
