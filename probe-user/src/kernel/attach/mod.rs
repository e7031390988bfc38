//! Loading the programs and attaching them by the plan.

mod closed;
mod failure;
mod filter;
mod memory;
mod object;
mod switch;

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex},
};

use aya::{
    Btf, Ebpf,
    programs::{Program, tp_btf::BtfTracePointLinkId},
};

pub use filter::{FilterError, check_filter};
pub use object::{LoadOptions, OpenError};

use failure::TryError;
use memory::give_back;
use object::open;
use switch::Switch;

use super::{
    facts::{Facts, Function, Point, missing_fields, missing_indispensable, spelled},
    plan::{HookPlan, Plan},
    read::{IdleScanner, Lifecycle, Ring, RingError, Scanner},
};
use crate::model::{Coverage, Hook, HookStatus, KernelModule, LifecycleStatus, Mechanism, ModuleStatus, ScanStatus};

/// Why nothing could be attached at all.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel's sockets lack a field that tells connections apart.
    #[error("cannot observe: {field} is unavailable ({why})")]
    Field {
        /// C spelling.
        field: String,
        /// Why.
        why: String,
    },
    /// The object or its maps were refused.
    #[error("cannot observe: the kernel programs could not be loaded: {0}")]
    Open(#[from] OpenError),
    /// The ring or the counters are not as expected.
    #[error("cannot observe: {0}")]
    Ring(#[from] RingError),
    /// Every hook is unsupported or broken.
    #[error("cannot observe: no hook could be attached; {0}")]
    NoHook(String),
}

/// The attached programs. Dropping it detaches them.
pub struct Probes {
    ring: Ring,
    coverage: Coverage,
    scanner: Option<Scanner>,
    idle_scanner: Option<IdleScanner>,
    lifecycle: Option<Lifecycle>,
    /// Where the hook can be taken away and put back at no cost.
    state_changes: Option<Switch>,
    // Holds programs and links: they end with it and the scanner.
    _ebpf: Arc<Mutex<Ebpf>>,
}

impl Probes {
    /// Loads the programs and attaches each hook by the first mechanism of the plan that works.
    ///
    /// # Errors
    ///
    /// When nothing can be observed. A single hook that fails is no error: [`Probes::coverage`] tells.
    pub fn attach(facts: &Facts, plan: &Plan, options: &LoadOptions) -> Result<Self, AttachError> {
        if let Some((field, why)) = missing_indispensable(&facts.layout) {
            return Err(AttachError::Field { field: spelled(field), why: why.to_owned() });
        }
        // Reading it takes longer than anything else here: once for all.
        let btf = if facts.kernel_has_btf { Btf::from_sys_fs().ok() } else { None };
        let mut ebpf = open(facts, options, btf.as_ref())?;
        // Counters and ring are taken before the first program runs, so that nothing is missed.
        let mut ring = Ring::take(&mut ebpf)?;
        let (mut hooks, mut state_changes) = (Vec::new(), None);
        for entry in &plan.hooks {
            let (status, link) = attach_hook(&mut ebpf, btf.as_ref(), entry, parts);
            if entry.hook == Hook::InetSockSetState {
                state_changes = link;
            }
            let status = match status {
                HookStatus::Unsupported(_) if is_absent(entry, facts) => HookStatus::NotLoaded(KernelModule::Conntrack),
                status => status,
            };
            if let HookStatus::Attached(mechanism) = status {
                for part in parts(entry, mechanism) {
                    if let Some(program) = descriptor(&ebpf, &part.program) {
                        ring.count_misses_of(entry.hook, program);
                    }
                }
            }
            hooks.push((entry.hook, status));
        }
        let lifecycle = match plan.hooks.iter().find(|entry| entry.hook == Hook::InetSockSetState) {
            Some(entry) if options.lifecycle => Some(closed::attach(&mut ebpf, btf.as_ref(), entry)?),
            Some(_) | None => None,
        };
        let (lifecycle_status, lifecycle) = lifecycle.unzip();
        let ebpf = Arc::new(Mutex::new(ebpf));
        let state_changes = state_changes.map(|link| Switch::new(Arc::clone(&ebpf), Hook::InetSockSetState, link));
        let scanner =
            if options.scan_by_sock_diag { Err("by request".to_owned()) } else { Scanner::load(&ebpf, btf.as_ref()) };
        // Where the one iterator works, so does the other.
        let idle_scanner =
            (options.risks && scanner.is_ok()).then(|| IdleScanner::load(&ebpf, btf.as_ref())).and_then(|loaded| {
                loaded.inspect_err(|error| tracing::warn!(error, "idle connections are looked for by sock_diag")).ok()
            });
        drop(btf);
        give_back();
        let coverage = Coverage {
            scan: match &scanner {
                Ok(_) => ScanStatus::Iterator,
                Err(why) => ScanStatus::SockDiag(why.clone()),
            },
            kernel_release: facts.release.clone(),
            hooks,
            missing_fields: missing_fields(&facts.layout),
            self_test: None,
            modules: facts.absent_modules.iter().map(|module| (*module, ModuleStatus::NotLoaded)).collect(),
            costs: BTreeMap::new(),
            lifecycle: lifecycle_status.map(|status| LifecycleStatus { status, cost: None }),
        };
        if !coverage.observes_something() {
            return Err(AttachError::NoHook(first_reason(&coverage)));
        }
        let (scanner, lifecycle) = (scanner.ok(), lifecycle.flatten());
        Ok(Self { ring, coverage, scanner, idle_scanner, lifecycle, state_changes, _ebpf: ebpf })
    }

    /// What became of every hook.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// What scans over all sockets, where this kernel has iterators.
    pub fn scanner(&self) -> Option<Scanner> {
        self.scanner.clone()
    }

    /// What looks for idle connections, where that was asked for and this kernel has iterators.
    pub fn idle_scanner(&self) -> Option<IdleScanner> {
        self.idle_scanner.clone()
    }

    /// See [`Ring::run_time`].
    pub fn run_time(&self) -> Option<std::time::Duration> {
        let own = self.lifecycle.as_ref().and_then(Lifecycle::cost).map(|cost| cost.time);
        Some(self.ring.run_time()? + own.unwrap_or_default())
    }

    /// The ring and the counters.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Whether the programs wake who waits, at the next record ([`Ring::is_asleep`]).
    pub const fn is_ring_asleep(&self) -> bool {
        self.ring.is_asleep()
    }
}

fn descriptor(ebpf: &Ebpf, program: &str) -> Option<OwnedFd> {
    ebpf.program(program)?.fd().ok()?.as_fd().try_clone_to_owned().ok()
}

/// A program and what it is attached to. A hook may need several.
struct Part {
    /// The program's name, as `probe-ebpf` spells it.
    program: String,
    target: Target,
}

enum Target {
    TpBtf { tracepoint: String },
    Tracepoint { subsystem: &'static str, tracepoint: String },
    Fentry { symbol: String },
    Fexit { symbol: String },
    Kprobe { symbol: String },
}

/// What serves the hook by this mechanism, in the order of attaching.
fn parts(entry: &HookPlan, mechanism: Mechanism) -> Vec<Part> {
    let name = entry.hook.name();
    match mechanism {
        Mechanism::TpBtf => {
            vec![Part { program: name.to_owned(), target: Target::TpBtf { tracepoint: entry.tracepoint.clone() } }]
        }
        Mechanism::Tracepoint => vec![Part {
            program: format!("{name}_classic"),
            target: Target::Tracepoint { subsystem: entry.hook.subsystem(), tracepoint: entry.tracepoint.clone() },
        }],
        Mechanism::Fentry => entry.functions.iter().map(|(symbol, function)| trampoline(symbol, *function)).collect(),
        Mechanism::Kprobe => entry.functions.iter().flat_map(|(symbol, function)| probes(symbol, *function)).collect(),
    }
}

fn trampoline(symbol: &str, function: Function) -> Part {
    let (symbol, own) = (symbol.to_owned(), function.symbol);
    match function.point {
        Point::Entry => Part { program: format!("{own}_fentry"), target: Target::Fentry { symbol } },
        Point::Return => Part { program: format!("{own}_fexit"), target: Target::Fexit { symbol } },
    }
}

fn probes(symbol: &str, function: Function) -> Vec<Part> {
    let probe = |kind: &str| Part {
        program: format!("{}_{kind}", function.symbol),
        target: Target::Kprobe { symbol: symbol.to_owned() },
    };
    match function.point {
        Point::Entry => vec![probe("kprobe")],
        // The return first: an entry that is remembered must not go unanswered.
        Point::Return => vec![probe("kretprobe"), probe("kprobe")],
    }
}

fn first_reason(coverage: &Coverage) -> String {
    coverage
        .hooks
        .iter()
        .find_map(|(hook, status)| match status {
            HookStatus::Broken(why) | HookStatus::Unsupported(why) => Some(format!("{}: {why}", hook.name())),
            HookStatus::Attached(_) | HookStatus::NotLoaded(_) => None,
        })
        .unwrap_or_else(|| "the plan is empty".to_owned())
}

fn attach_hook(
    ebpf: &mut Ebpf,
    btf: Option<&Btf>,
    entry: &HookPlan,
    parts: fn(&HookPlan, Mechanism) -> Vec<Part>,
) -> (HookStatus, Option<BtfTracePointLinkId>) {
    let mut failures = Vec::new();
    let mut all_unsupported = true;
    for mechanism in &entry.candidates {
        match try_attach(ebpf, btf, &parts(entry, *mechanism)) {
            Ok(link) => return (HookStatus::Attached(*mechanism), link),
            Err(error) => {
                tracing::debug!(hook = entry.hook.name(), %mechanism, ?error, "attaching failed");
                all_unsupported &= error.is_unsupported() || error.is_policy();
                failures.push(format!("{mechanism}: {}", error.text()));
            }
        }
    }
    failures.extend(entry.excluded.iter().map(|(mechanism, why)| format!("{mechanism}: {why}")));
    let why = failures.join("; ");
    (if all_unsupported { HookStatus::Unsupported(why) } else { HookStatus::Broken(why) }, None)
}

/// Whether it would be attached to functions of connection tracking, were that loaded.
fn is_absent(entry: &HookPlan, facts: &Facts) -> bool {
    entry.hook == Hook::NfCtLogInvalid
        && entry.candidates.contains(&Mechanism::Kprobe)
        && facts.absent_modules.contains(&KernelModule::Conntrack)
}

/// Attaches all parts, or none. The link of a BTF tracepoint, which is one part alone.
fn try_attach(ebpf: &mut Ebpf, btf: Option<&Btf>, parts: &[Part]) -> Result<Option<BtfTracePointLinkId>, TryError> {
    let mut link = None;
    for (index, part) in parts.iter().enumerate() {
        match attach_part(ebpf, btf, part) {
            Ok(attached) => link = attached,
            Err(error) => {
                for attached in parts.iter().take(index + 1) {
                    if let Some(program) = ebpf.program_mut(&attached.program) {
                        unload(program);
                    }
                }
                return Err(error);
            }
        }
    }
    Ok(link)
}

/// Detaches and unloads; one that was not loaded has nothing to lose.
fn unload(program: &mut Program) {
    let _ = match program {
        Program::BtfTracePoint(program) => program.unload(),
        Program::TracePoint(program) => program.unload(),
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        Program::KProbe(program) => program.unload(),
        // The object has no other kinds.
        _ => Ok(()),
    };
}

fn attach_part(ebpf: &mut Ebpf, btf: Option<&Btf>, part: &Part) -> Result<Option<BtfTracePointLinkId>, TryError> {
    use aya::programs::{BtfTracePoint, FEntry, FExit, KProbe, TracePoint};
    let name = &part.program;
    let program =
        ebpf.program_mut(name).ok_or_else(|| TryError::Internal(format!("the object has no program {name}")))?;
    let kernel_btf = || btf.ok_or_else(|| TryError::Internal("the kernel's BTF can no longer be read".to_owned()));
    match &part.target {
        Target::TpBtf { tracepoint } => {
            let program: &mut BtfTracePoint = program.try_into().map_err(TryError::Program)?;
            program.load(tracepoint, kernel_btf()?).map_err(TryError::Program)?;
            program.attach().map(Some).map_err(TryError::Program)
        }
        Target::Tracepoint { subsystem, tracepoint } => {
            let program: &mut TracePoint = program.try_into().map_err(TryError::Program)?;
            program.load().map_err(TryError::Program)?;
            program.attach(subsystem, tracepoint).map(|_| None).map_err(TryError::Program)
        }
        Target::Fentry { symbol } => {
            let program: &mut FEntry = program.try_into().map_err(TryError::Program)?;
            program.load(symbol, kernel_btf()?).map_err(TryError::Program)?;
            program.attach().map(|_| None).map_err(TryError::Program)
        }
        Target::Fexit { symbol } => {
            let program: &mut FExit = program.try_into().map_err(TryError::Program)?;
            program.load(symbol, kernel_btf()?).map_err(TryError::Program)?;
            program.attach().map(|_| None).map_err(TryError::Program)
        }
        Target::Kprobe { symbol } => {
            let program: &mut KProbe = program.try_into().map_err(TryError::Program)?;
            program.load().map_err(TryError::Program)?;
            program.attach(symbol, 0).map(|_| None).map_err(TryError::Program)
        }
    }
}
