use std::time::Duration;

use crate::model::MonoTime;

/// What is allowed comes anew after that time.
const WINDOW: Duration = Duration::from_secs(10);

/// How often something dear was done lately that any number of strangers' packets may ask for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance {
    since: MonoTime,
    count: u32,
}

impl Allowance {
    /// Takes one more, if there may be one: so many in ten seconds.
    pub(super) fn take(&mut self, now: MonoTime, most: u32) -> bool {
        if now.since(self.since) >= WINDOW {
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= most
    }
}
