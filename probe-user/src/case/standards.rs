use crate::judge::Thresholds;

/// What cases are judged by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standards {
    pub(super) thresholds: Thresholds,
    /// Events lost anywhere since the tracker began.
    pub(super) events_lost: u64,
}
