//! Connections that are over, on their way through a watch.

use std::time::Instant;

use super::{Change, Programs, Tell, Watch, WatchError};
use crate::{
    app::clock,
    decode::decode_closed,
    kernel::{Lifecycle, Probes},
    model::{HookCount, MonoTime},
};

/// Told at once; the rest when the ring is read next, 50 ms later: events, timers and signals must not wait for a host that closes
/// connections as fast as they are told.
const MOST_AT_ONCE: usize = 2_000;
/// More than fit on the ring.
const ALL: usize = 32_768;

impl Watch {
    /// Tells of those that are on their ring.
    pub(super) fn read_closed(&mut self, tell: &mut impl Tell) -> Result<(), WatchError> {
        self.read_closed_before(None, MOST_AT_ONCE, tell)
    }

    /// Tells of all that are on their ring.
    pub(super) fn read_all_closed(&mut self, tell: &mut impl Tell) -> Result<(), WatchError> {
        self.read_closed_before(None, ALL, tell)
    }

    /// Tells of those that were over before then.
    fn read_closed_before(
        &mut self,
        before: Option<MonoTime>,
        most: usize,
        tell: &mut impl Tell,
    ) -> Result<(), WatchError> {
        let Some(Programs { probes, units }) = &mut self.programs else { return Ok(()) };
        let Some(lifecycle) = probes.lifecycle() else { return Ok(()) };
        let (connections, losses) = (&mut self.closed, &mut self.losses);
        let mut result = Ok(());
        lifecycle.drain(most, |bytes| {
            let closed = match decode_closed(bytes, *units) {
                Ok(closed) => closed,
                Err(error) => {
                    tracing::warn!(%error, "a record of a connection could not be decoded");
                    losses.undecodable();
                    return;
                }
            };
            if result.is_err() || before.is_some_and(|before| closed.at >= before) {
                return;
            }
            if let Some(findings) = connections.take(&closed) {
                let cgroup = closed.cgroup_id.and_then(|id| connections.cgroups.of(id, Instant::now()));
                result = tell(Change::Closed { closed: &closed, cgroup, findings: &findings });
            }
        });
        Ok(result?)
    }

    /// Other programs tell from now on, and both are attached: each connection is told by one of them.
    pub(super) fn hand_over_closed(&mut self, to: &mut Probes, tell: &mut impl Tell) -> Result<(), WatchError> {
        if let Some(from) = self.programs.as_mut().and_then(|programs| programs.probes.lifecycle())
            && let Some(to) = to.lifecycle()
        {
            to.take_over(from);
        }
        let now = clock::now();
        self.read_closed_before(Some(now), ALL, tell)?;
        self.count_lost_closed(tell)?;
        self.closed.begin_anew(now);
        Ok(())
    }

    pub(super) fn count_lost_closed(&mut self, tell: &mut impl Tell) -> Result<(), WatchError> {
        let totals =
            |programs: &mut Programs| programs.probes.lifecycle().map(|lifecycle| Lifecycle::totals(lifecycle));
        let Some(totals) = self.programs.as_mut().and_then(totals) else { return Ok(()) };
        let totals: HookCount = totals.map_err(|error| WatchError::Kernel(error.to_string()))?;
        let at = clock::now();
        for (place, count) in self.closed.new_losses(totals) {
            tell(Change::Lost { at, place, count })?;
        }
        Ok(())
    }
}
