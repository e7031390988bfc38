//! The programs that tell of connections that are over.

use aya::{Btf, Ebpf};

use super::{Part, Probes, attach_hook, descriptor, parts};
use crate::{
    kernel::{HookPlan, Lifecycle, RingError},
    model::{HookStatus, Mechanism},
};

impl Probes {
    /// What tells of connections that are over, where that was asked for and is possible.
    pub fn lifecycle(&mut self) -> Option<&mut Lifecycle> {
        self.lifecycle.as_mut()
    }

    /// Waits until the programs ask for one of the rings to be read. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When a ring can no longer be waited for.
    pub async fn half_full(&self) -> std::io::Result<()> {
        match &self.lifecycle {
            None => self.ring.half_full().await,
            Some(lifecycle) => tokio::select! {
                ready = self.ring.half_full() => ready,
                ready = lifecycle.half_full() => ready,
            },
        }
    }
}

/// The programs for records of connections that are over stand at the same places as those of state changes.
fn own_parts(entry: &HookPlan, mechanism: Mechanism) -> Vec<Part> {
    let own = |part: Part| Part { program: format!("lifecycle_{}", part.program), ..part };
    parts(entry, mechanism).into_iter().map(own).collect()
}

/// Attaches them by the mechanisms of `entry`, the hook of state changes.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    btf: Option<&Btf>,
    entry: &HookPlan,
) -> Result<(HookStatus, Option<Lifecycle>), RingError> {
    let mut lifecycle = Lifecycle::take(ebpf)?;
    let (status, _) = attach_hook(ebpf, btf, entry, own_parts);
    let HookStatus::Attached(mechanism) = status else { return Ok((status, None)) };
    for part in own_parts(entry, mechanism) {
        if let Some(program) = descriptor(ebpf, &part.program) {
            lifecycle.count_misses_of(program);
        }
    }
    Ok((status, Some(lifecycle)))
}
