//! What is watched only while something is under suspicion.

use std::time::Duration;

use super::{Tell, Watch, WatchError};
use crate::{
    app::clock,
    model::{Hook, HookStatus, Mechanism, MonoTime},
};

/// How long nothing must have been under suspicion for the hook to go: each time it comes or goes the kernel patches its own text.
const CALM_AFTER: Duration = Duration::from_secs(10);

/// Whether the changes of sockets' states are looked at, which on a host with short connections cost more than all else.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Attention {
    /// They are, as at the start.
    #[default]
    Awake,
    /// They are, and nothing has been under suspicion since this moment.
    Calm(MonoTime),
    /// They are not.
    Asleep,
}

impl Watch {
    /// Looks at changes of state while there are cases. What happens to a connection in the moments between its first suspicious event and this is
    /// not missed for long: a reset says itself that the connection has ended, and for the rest its socket is looked up.
    pub(super) fn pay_attention(&mut self, tell: &mut impl Tell) -> Result<(), WatchError> {
        let now = clock::now();
        let falls_asleep = matches!(self.attention, Attention::Calm(since) if now.since(since) >= CALM_AFTER);
        if falls_asleep {
            // What is on the ring may be what begins the next case.
            self.read_ring();
        }
        let Some(programs) = &mut self.programs else { return Ok(()) };
        let (next, is_on) = match (self.attention, self.tracker.open_cases()) {
            (Attention::Asleep, 1..) => (Attention::Awake, Some(true)),
            (_, 1..) => (Attention::Awake, None),
            (Attention::Awake, 0) => (Attention::Calm(now), None),
            (Attention::Calm(_), 0) if falls_asleep => (Attention::Asleep, Some(false)),
            (stays @ (Attention::Calm(_) | Attention::Asleep), 0) => (stays, None),
        };
        let Some(is_on) = is_on else {
            self.attention = next;
            return Ok(());
        };
        let switched = programs.probes.watch_state_changes(is_on);
        let status = match &switched {
            // It is tried again at the next turn of the loop.
            Err(error) => HookStatus::Broken(error.to_string()),
            Ok(()) => HookStatus::Attached(Mechanism::TpBtf),
        };
        if switched.is_ok() {
            self.attention = next;
        }
        if programs.probes.can_switch_state_changes() && self.coverage.set_status(Hook::InetSockSetState, status) {
            self.tell_coverage(tell)?;
        }
        Ok(())
    }
}
