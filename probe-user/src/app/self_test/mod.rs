//! The self-test: a connection is made to stall and is reset, in a network namespace of its own, while the programs watch
//! that namespace. What they tell of it must be what was done to it.
//!
//! Attaching only proves that the kernel took the programs. This proves that the hooks fire, that events come through, and
//! that fields are read where they are: a wrong offset gives wrong bytes and no error. No packet leaves the namespace,
//! which ends with the test.

mod comparison;
mod connection;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use self::{comparison::compare, connection::Rehearsal};
use super::watch::units;
use crate::{
    decode::{decode, decode_closed},
    kernel::{AttachError, Facts, Lifecycle, LoadOptions, Plan, Probes, Statistics},
    model::{
        ConnectionEvent, ConnectionKey, Coverage, Ending, EventKind, Filter, Hook, LifecycleStatus, SelfTest, Side,
    },
};

/// How long an event may take. The retransmission timer fires after 0.2 to 0.5 s; an emulated host may be slow.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the ring is read meanwhile.
const READ_EVERY: Duration = Duration::from_millis(10);
/// The hooks through which the connection passes. The others need seconds to provoke.
const REHEARSED: [Hook; 3] = [Hook::TcpRetransmitSkb, Hook::TcpReceiveReset, Hook::InetSockSetState];

/// Attaches by `plan`, rehearses, and detaches; the result is part of the coverage. Meanwhile the kernel takes the time of every BPF program
/// of the host, which costs each run some dozen nanoseconds (`BPF_ENABLE_STATS`, from Linux 5.8).
///
/// # Errors
///
/// When nothing can be attached.
pub async fn self_test(facts: &Facts, plan: &Plan, options: &LoadOptions) -> Result<Coverage, AttachError> {
    let rehearsal = Rehearsal::prepare();
    // Without a connection, the namespace with inode 1, which does not exist: the programs let no event pass.
    let netns = rehearsal.as_ref().map_or(1, |rehearsal| rehearsal.expected().key.netns);
    let filter = Filter { netns: Some(netns), ..Filter::default() };
    let statistics = Statistics::take();
    let mut probes = Probes::attach(facts, plan, &LoadOptions { filter, ..options.clone() })?;
    let result = match rehearsal {
        Ok(rehearsal) => rehearse(rehearsal, &mut probes, facts).await,
        Err(error) => SelfTest::NotPossible(format!("{error:#}")),
    };
    let costs = match &statistics {
        Ok(statistics) => statistics.costs(probes.ring()),
        Err(error) => {
            tracing::debug!(%error, "the kernel takes no statistics");
            BTreeMap::new()
        }
    };
    let lifecycle = probes.coverage().lifecycle.clone().map(|own| {
        let cost = statistics.is_ok().then(|| probes.lifecycle().and_then(|lifecycle| lifecycle.cost())).flatten();
        LifecycleStatus { cost, ..own }
    });
    Ok(Coverage { self_test: Some(result), costs, lifecycle, ..probes.coverage().clone() })
}

async fn rehearse(rehearsal: Rehearsal, probes: &mut Probes, facts: &Facts) -> SelfTest {
    let expected = rehearsal.expected().clone();
    let mut events = Vec::new();
    let stalled = rehearsal.stall();
    let attached: Vec<Hook> = REHEARSED.into_iter().filter(|hook| probes.coverage().has(*hook)).collect();
    let (retransmits, ends): (Vec<_>, Vec<_>) =
        attached.iter().copied().partition(|hook| *hook == Hook::TcpRetransmitSkb);
    collect(probes, facts, &mut events, &retransmits).await;
    drop(stalled);
    collect(probes, facts, &mut events, &ends).await;
    let unclosed = probes.lifecycle().is_some_and(|lifecycle| !has_told(lifecycle, &expected.key, facts));
    let silent = unseen(&attached, &events);
    // What was told is looked at first: an event with a wrong tuple is why another seems to be missing.
    let (values, mismatches) = compare(&expected, &events);
    if !mismatches.is_empty() {
        SelfTest::Wrong(mismatches.iter().map(ToString::to_string).collect())
    } else if !silent.is_empty() {
        SelfTest::Silent(silent)
    } else if unclosed {
        SelfTest::Wrong(vec!["no record came of the connection's end".to_owned()])
    } else {
        SelfTest::Passed { values }
    }
}

/// Whether the end of this connection was told, from its own end, as it was: reset by its peer.
fn has_told(lifecycle: &mut Lifecycle, key: &ConnectionKey, facts: &Facts) -> bool {
    let mut is_told = false;
    lifecycle.drain(usize::MAX, |bytes| match decode_closed(bytes, units(facts)) {
        Ok(closed) => is_told |= closed.key == *key && closed.ending() == Ending::Reset(Some(Side::Remote)),
        Err(error) => tracing::debug!(%error, "self-test"),
    });
    is_told
}

/// Those of the hooks that have told nothing.
fn unseen(hooks: &[Hook], events: &[ConnectionEvent]) -> Vec<Hook> {
    hooks.iter().copied().filter(|hook| !events.iter().any(|event| hook_of(event) == Some(*hook))).collect()
}

/// Reads events until each of these hooks has told one or patience ends.
async fn collect(probes: &mut Probes, facts: &Facts, events: &mut Vec<ConnectionEvent>, hooks: &[Hook]) {
    let deadline = Instant::now() + PATIENCE;
    while !unseen(hooks, events).is_empty() && Instant::now() < deadline {
        sleep(READ_EVERY).await;
        probes.ring().drain(|bytes| match decode(bytes, units(facts)) {
            Ok(event) => events.push(event),
            Err(error) => tracing::debug!(%error, "self-test"),
        });
    }
}

const fn hook_of(event: &ConnectionEvent) -> Option<Hook> {
    match event.kind {
        EventKind::RetransmissionTimeout { .. } => Some(Hook::TcpRetransmitSkb),
        EventKind::ResetReceived => Some(Hook::TcpReceiveReset),
        EventKind::StateChange { .. } => Some(Hook::InetSockSetState),
        EventKind::Scanned
        | EventKind::ProbeSent { .. }
        | EventKind::SynReceived
        | EventKind::SynAckReceived
        | EventKind::SegmentDropped(_)
        | EventKind::SegmentInvalid(_)
        | EventKind::SynAckRetransmission
        | EventKind::ResetSent
        | EventKind::SocketError => None,
    }
}
