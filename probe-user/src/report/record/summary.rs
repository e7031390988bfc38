use schemars::JsonSchema;
use serde::Serialize;

use super::{risk::RisksBody, schema::one_of_or_null};

use crate::report::{HookCount, Summary};

/// The end of a run.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SummaryBody {
    /// How long was watched.
    pub watched_seconds: f64,
    /// Findings opened.
    pub findings: usize,
    /// Of those, still open or badly ended.
    pub unresolved: usize,
    /// `suspected` or `confirmed`: the highest among the unresolved; `null` when there are none.
    #[schemars(extend("enum" = one_of_or_null(["suspected", "confirmed"])))]
    pub highest_confidence: Option<&'static str>,
    /// Events lost, at whatever place.
    pub lost: u64,
    /// Of those, records that could not be decoded.
    pub undecodable: u64,
    /// Questions that were never put to a witness because too many were waiting.
    pub unasked: u64,
    /// What may go wrong later, as a whole; `null` when that was not asked.
    pub risks: Option<RisksBody>,
    /// What each hook did.
    pub hooks: Vec<HookCountBody>,
}

/// What one hook did: `seen` = `emitted` + `lost`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct HookCountBody {
    /// The kernel's name for it.
    pub hook: &'static str,
    /// Suspicious events that asked for a place on the ring.
    pub seen: u64,
    /// Those that got it.
    pub emitted: u64,
    /// Those that found the ring full.
    pub lost: u64,
    /// Suspicious events held back by a limit.
    pub suppressed: u64,
    /// Firings the program was not run for, because it was running on that CPU already.
    pub missed: u64,
}

impl SummaryBody {
    pub(super) fn new(summary: &Summary) -> Self {
        Self {
            watched_seconds: summary.watched.as_secs_f64(),
            findings: summary.findings.len(),
            unresolved: summary.unresolved().count(),
            highest_confidence: summary.highest_confidence().map(crate::judge::Confidence::name),
            lost: summary.lost(),
            undecodable: summary.undecodable,
            unasked: summary.unasked,
            risks: summary.risks.as_ref().map(RisksBody::new),
            hooks: summary.hooks.iter().map(HookCountBody::new).collect(),
        }
    }
}

impl HookCountBody {
    pub(super) const fn new(count: &HookCount) -> Self {
        let HookCount { hook, seen, emitted, lost, suppressed, missed } = *count;
        Self { hook: hook.name(), seen, emitted, lost, suppressed, missed }
    }
}
