//! What comes in from the kernel programs: by the ring, and by scans.

use connprobe_common::abi::SocketRecord;

use super::{Programs, Watch};
use crate::{app::scan::Scanned, decode::decode, model::Event};

impl Watch {
    /// Takes in what is on the ring, in the order of the kernel's clock: each CPU writes its own events in order, but not all
    /// of them together.
    pub(super) fn read_ring(&mut self) {
        let Some(Programs { probes, units }) = &mut self.programs else { return };
        let mut events = Vec::new();
        let (units, losses) = (*units, &mut self.losses);
        probes.ring().drain(|bytes| match decode(bytes, units) {
            Ok(event) => events.push(event),
            Err(error) => {
                tracing::warn!(%error, "a record could not be decoded");
                losses.undecodable();
            }
        });
        events.sort_by_key(|event| event.at);
        for event in events {
            tracing::debug!(key = %event.key, netns = event.key.netns, kind = ?event.kind, "event");
            self.tracker.handle_event(Event::Connection(event));
        }
    }

    /// Takes in what a scan has found. What the ring holds is older, or about the same moment.
    pub(super) fn take_scan(&mut self, scanned: Scanned) {
        self.read_ring();
        let mut events = scanned.events;
        let units = self.programs.as_ref().map(|programs| programs.units).unwrap_or_default();
        for record in scanned.records.iter().flat_map(|records| records.chunks(size_of::<SocketRecord>())) {
            match decode(record, units) {
                Ok(event) => events.push(event),
                Err(error) => {
                    tracing::warn!(%error, "a scanned record could not be decoded");
                    self.losses.undecodable();
                }
            }
        }
        for event in events {
            tracing::debug!(key = %event.key, netns = event.key.netns, "scanned");
            self.tracker.handle_event(Event::Connection(event));
        }
    }

    /// Whether the kernel programs wake us for the next record. They do not for connections that end.
    pub(super) fn ring_wakes(&self) -> bool {
        let wakes = |programs: &Programs| programs.probes.is_ring_asleep();
        self.coverage.lifecycle.is_none() && self.programs.as_ref().is_none_or(wakes)
    }
}
