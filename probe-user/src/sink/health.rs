use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicBool};

use super::{queue::Counts, spec::SinkSpec};

/// How a sink does.
#[derive(Debug, Default)]
pub struct Health {
    /// What it has done.
    pub counts: Arc<Counts>,
    /// Why the latest attempt to write failed; `None` where it did not.
    failing: Mutex<Option<String>>,
    /// Whether it will never write again: its reader has gone.
    pub(super) has_ended: AtomicBool,
}

impl Health {
    /// Why it fails at present.
    pub fn failing(&self) -> Option<String> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers how an attempt went. Only changes are logged.
    pub(super) fn take(&self, sink: &SinkSpec, result: Result<(), String>) {
        let now = result.as_ref().err().cloned();
        let before = std::mem::replace(&mut *self.failing.lock().unwrap_or_else(PoisonError::into_inner), now);
        match (before, result) {
            (None, Err(why)) => {
                tracing::error!(%sink, why, "{}", sink.while_it_fails());
            }
            (Some(_), Ok(())) => tracing::warn!(%sink, dropped = self.counts.dropped(), "records can be written again"),
            (None, Ok(())) | (Some(_), Err(_)) => {}
        }
    }
}
