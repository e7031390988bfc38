//! What goes between a sink's thread and who started it.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::{health::Health, otlp::Client, spec::SinkSpec};

/// What a sink is told beside its records.
#[derive(Debug)]
pub(super) enum Command {
    /// Open the file anew.
    Reopen,
    /// Go on at the same place, in another way.
    Change(SinkSpec),
    /// Go on with this collector, by this client.
    Collector(Box<(SinkSpec, Client)>),
    /// Write what there is by now, and no more.
    Stop,
    /// There will be no more records: write those that there are.
    Finish,
}

/// What a sink's thread is told by, and tells by how it does.
pub(super) struct Control {
    pub(super) spec: SinkSpec,
    pub(super) health: Arc<Health>,
    pub(super) commands: UnboundedReceiver<Command>,
}

impl Control {
    /// An attempt to write has failed.
    pub(super) fn fails(&self, why: String) {
        self.health.counts.add_error();
        self.health.take(&self.spec, Err(why));
    }
}
