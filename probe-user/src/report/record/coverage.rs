use schemars::JsonSchema;
use serde::Serialize;

use super::schema::one_of_or_null;
use crate::model::{Coverage, HookStatus, LossPlace, Mechanism, RunCost, ScanStatus, runs_for};

/// What is observed and what is not.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CoverageBody {
    /// As `uname -r`.
    pub kernel_release: String,
    /// Whether something that should be observed is not.
    pub degraded: bool,
    /// One entry a hook; none in a snapshot, which loads no programs.
    pub hooks: Vec<HookBody>,
    /// Kernel fields that cannot be read here.
    pub missing_fields: Vec<MissingFieldBody>,
    /// How all sockets are scanned for those that wait.
    pub scan: ScanBody,
    /// What became of a connection that was made to stall and was reset; `null` where this was not tried.
    pub self_test: Option<SelfTestBody>,
    /// Parts of the kernel that were not loaded at the start.
    pub modules: Vec<ModuleBody>,
    /// The programs behind `connection` records; `null` where such records were not asked for, and nothing is loaded for them.
    pub lifecycle: Option<LifecycleBody>,
}

/// What became of the programs behind `connection` records.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LifecycleBody {
    /// As of a hook.
    #[schemars(extend("enum" = ["ok", "not_loaded", "unsupported", "broken"]))]
    pub status: &'static str,
    /// How they are attached; `null` when they are not.
    #[schemars(extend("enum" = one_of_or_null(Mechanism::ALL.map(Mechanism::name))))]
    pub mechanism: Option<&'static str>,
    /// Why they are not attached; `null` when they are.
    pub why: Option<String>,
    /// As of a hook.
    pub runs: Option<u64>,
    /// As of a hook.
    pub run_ns: Option<u64>,
}

/// A part of the kernel that was not loaded at the start.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ModuleBody {
    /// The kernel's name for it.
    pub module: &'static str,
    /// `not_loaded` (nothing is missed), or `loaded_since`: what it does is not observed.
    pub status: &'static str,
}

/// The scan over all sockets.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ScanBody {
    /// `iterator` (a BPF iterator), or `sock_diag` (`NETLINK_SOCK_DIAG`, which tells less of each socket).
    #[schemars(extend("enum" = ["iterator", "sock_diag"]))]
    pub by: &'static str,
    /// Why not by an iterator; `null` when it is.
    pub why: Option<String>,
}

/// What the self-test found.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SelfTestBody {
    /// `ok`, `broken` (a hook did not fire, or a field was read wrongly) or `skipped`.
    #[schemars(extend("enum" = ["ok", "broken", "skipped"]))]
    pub status: &'static str,
    /// For people.
    pub text: String,
}

/// What became of one hook.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct HookBody {
    /// The kernel's name for it.
    pub hook: &'static str,
    /// `ok`, `not_loaded` (what it belongs to is not), `unsupported` (this kernel has none) or `broken` (it should have worked).
    #[schemars(extend("enum" = ["ok", "not_loaded", "unsupported", "broken"]))]
    pub status: &'static str,
    /// How it is attached; `null` when it is not.
    #[schemars(extend("enum" = one_of_or_null(Mechanism::ALL.map(Mechanism::name))))]
    pub mechanism: Option<&'static str>,
    /// Why it is not attached; `null` when it is.
    pub why: Option<String>,
    /// When its program runs.
    pub runs_for: &'static str,
    /// How often it ran while the self-test was made, for whatever connection of this host; `null` where that was not counted.
    pub runs: Option<u64>,
    /// How long a run took on average, in nanoseconds; `null` where there was none.
    pub run_ns: Option<u64>,
}

/// A kernel field that cannot be read here.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct MissingFieldBody {
    /// C spelling.
    pub field: String,
    /// Why.
    pub why: String,
    /// Whether nothing is lost by it.
    pub harmless: bool,
}

impl CoverageBody {
    pub(super) fn new(coverage: &Coverage) -> Self {
        Self {
            kernel_release: coverage.kernel_release.clone(),
            degraded: !coverage.is_full(),
            hooks: coverage
                .hooks
                .iter()
                .map(|(hook, status)| {
                    let (status, mechanism, why) = told(status);
                    let cost = coverage.costs.get(hook);
                    let (runs, run_ns) = (cost.map(|cost| cost.runs), cost.and_then(RunCost::per_run_ns));
                    HookBody { hook: hook.name(), status, mechanism, why, runs_for: runs_for(*hook), runs, run_ns }
                })
                .collect(),
            missing_fields: coverage
                .missing_fields
                .iter()
                .map(|missing| MissingFieldBody {
                    field: missing.field.clone(),
                    why: missing.why.clone(),
                    harmless: missing.harmless,
                })
                .collect(),
            scan: ScanBody {
                by: coverage.scan.name(),
                why: match &coverage.scan {
                    ScanStatus::Iterator => None,
                    ScanStatus::SockDiag(why) => Some(why.clone()),
                },
            },
            self_test: coverage
                .self_test
                .as_ref()
                .map(|test| SelfTestBody { status: test.status(), text: test.to_string() }),
            modules: coverage
                .modules
                .iter()
                .map(|(module, status)| ModuleBody { module: module.name(), status: status.name() })
                .collect(),
            lifecycle: coverage.lifecycle.as_ref().map(|own| {
                let (status, mechanism, why) = told(&own.status);
                let (runs, run_ns) = (own.cost.map(|cost| cost.runs), own.cost.as_ref().and_then(RunCost::per_run_ns));
                LifecycleBody { status, mechanism, why, runs, run_ns }
            }),
        }
    }
}

/// A status with the mechanism, or the reason why there is none.
fn told(status: &HookStatus) -> (&'static str, Option<&'static str>, Option<String>) {
    match status {
        HookStatus::Attached(mechanism) => ("ok", Some(mechanism.name()), None),
        HookStatus::NotLoaded(module) => {
            ("not_loaded", None, Some(format!("{} is not loaded: {}", module.name(), module.meaning())))
        }
        HookStatus::Unsupported(why) => ("unsupported", None, Some(why.clone())),
        HookStatus::Broken(why) => ("broken", None, Some(why.clone())),
    }
}

/// Events were lost between the kernel and the tracker, or records on their way to this sink.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LossBody {
    /// `ring` (it was full), `recursion` (the hook's program was running on that CPU already), `decode` (a record of the kernel made no
    /// sense), `connection_ring` and `connection_recursion` (the same two of `connection` records alone) or `sink` (records that could not be written here; this one has the `seq` of the last of them).
    #[schemars(extend("enum" = ["ring", "recursion", "decode", "connection_ring", "connection_recursion", "sink"]))]
    pub place: &'static str,
    /// The hook whose events were lost; `null` where that is not known.
    pub hook: Option<&'static str>,
    /// How many since the last such record.
    pub count: u64,
}

impl LossBody {
    pub(super) const fn of_sink(count: u64) -> Self {
        Self { place: "sink", hook: None, count }
    }

    pub(super) fn new(place: LossPlace, count: u64) -> Self {
        match place {
            LossPlace::Ring(hook) => Self { place: "ring", hook: Some(hook.name()), count },
            LossPlace::Recursion(hook) => Self { place: "recursion", hook: Some(hook.name()), count },
            LossPlace::ConnectionRing => Self { place: "connection_ring", hook: None, count },
            LossPlace::ConnectionRecursion => Self { place: "connection_recursion", hook: None, count },
            LossPlace::Decode => Self { place: "decode", hook: None, count },
        }
    }
}
