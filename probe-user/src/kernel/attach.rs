//! Loading the programs and attaching them by the plan.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::{Btf, Ebpf, programs::ProgramError};

use super::{
    facts::Facts,
    fields::spelled,
    missing::{missing_fields, missing_indispensable},
    object::{LoadOptions, OpenError, open},
    plan::{HookPlan, Plan},
    ring::{Ring, RingError},
};
use crate::model::{Coverage, Hook, HookStatus, Mechanism};

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
    // Holds programs and links: they end with it.
    _ebpf: Ebpf,
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
        let mut ebpf = open(facts, options)?;
        // Counters and ring are taken before the first program runs, so that nothing is missed.
        let mut ring = Ring::take(&mut ebpf)?;
        let btf = if facts.kernel_has_btf { Btf::from_sys_fs().ok() } else { None };
        let mut hooks = Vec::new();
        for entry in &plan.hooks {
            let status = attach_hook(&mut ebpf, btf.as_ref(), entry);
            if let HookStatus::Attached(mechanism) = status
                && let Some(program) = descriptor(&ebpf, entry.hook, mechanism)
            {
                ring.count_misses_of(entry.hook, program);
            }
            hooks.push((entry.hook, status));
        }
        let coverage =
            Coverage { kernel_release: facts.release.clone(), hooks, missing_fields: missing_fields(&facts.layout) };
        if !coverage.observes_something() {
            return Err(AttachError::NoHook(first_reason(&coverage)));
        }
        Ok(Self { ring, coverage, _ebpf: ebpf })
    }

    /// What became of every hook.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// The ring and the counters.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }
}

fn descriptor(ebpf: &Ebpf, hook: Hook, mechanism: Mechanism) -> Option<OwnedFd> {
    ebpf.program(&program_name(hook, mechanism))?.fd().ok()?.as_fd().try_clone_to_owned().ok()
}

/// The name of the program that serves `hook` by `mechanism`, as `probe-ebpf` spells it.
fn program_name(hook: Hook, mechanism: Mechanism) -> String {
    match mechanism {
        Mechanism::TpBtf => hook.name().to_owned(),
        Mechanism::Tracepoint => format!("{}_classic", hook.name()),
    }
}

fn first_reason(coverage: &Coverage) -> String {
    coverage
        .hooks
        .iter()
        .find_map(|(hook, status)| match status {
            HookStatus::Broken(why) | HookStatus::Unsupported(why) => Some(format!("{}: {why}", hook.name())),
            HookStatus::Attached(_) => None,
        })
        .unwrap_or_else(|| "the plan is empty".to_owned())
}

fn attach_hook(ebpf: &mut Ebpf, btf: Option<&Btf>, entry: &HookPlan) -> HookStatus {
    let mut failures = Vec::new();
    let mut all_unsupported = true;
    for mechanism in &entry.candidates {
        match try_attach(ebpf, btf, entry.hook, *mechanism) {
            Ok(()) => return HookStatus::Attached(*mechanism),
            Err(error) => {
                tracing::debug!(hook = entry.hook.name(), %mechanism, ?error, "attaching failed");
                all_unsupported &= error.is_unsupported();
                failures.push(format!("{mechanism}: {}", error.text()));
            }
        }
    }
    failures.extend(entry.excluded.iter().map(|(mechanism, why)| format!("{mechanism}: {why}")));
    let why = failures.join("; ");
    if all_unsupported { HookStatus::Unsupported(why) } else { HookStatus::Broken(why) }
}

#[derive(Debug)]
enum TryError {
    /// The object has no such program, or BTF went missing between planning and attaching.
    Internal(String),
    Program(ProgramError),
}

impl TryError {
    /// ENOENT says that this kernel has no such hook; anything else says that something is wrong.
    fn is_unsupported(&self) -> bool {
        match self {
            Self::Internal(_) => false,
            Self::Program(error) => errno_of(error) == Some(nix::errno::Errno::ENOENT as i32),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Internal(text) => text.clone(),
            Self::Program(error) => chain(error),
        }
    }
}

fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        current = error.source();
    }
    None
}

/// An error with its causes on one line; a verifier log only as far as its end, where the reason stands.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    const MOST_BYTES: usize = 600;
    let mut text = error.to_string();
    let mut current = error.source();
    while let Some(cause) = current {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        current = cause.source();
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().rev().nth(MOST_BYTES) {
        None => line,
        Some((start, _)) => format!("…{}", line.get(start..).unwrap_or_default()),
    }
}

fn try_attach(ebpf: &mut Ebpf, btf: Option<&Btf>, hook: Hook, mechanism: Mechanism) -> Result<(), TryError> {
    use aya::programs::{BtfTracePoint, TracePoint};
    let name = program_name(hook, mechanism);
    let program =
        ebpf.program_mut(&name).ok_or_else(|| TryError::Internal(format!("the object has no program {name}")))?;
    match mechanism {
        Mechanism::TpBtf => {
            let btf = btf.ok_or_else(|| TryError::Internal("the kernel's BTF can no longer be read".to_owned()))?;
            let program: &mut BtfTracePoint = program.try_into().map_err(TryError::Program)?;
            program.load(hook.name(), btf).map_err(TryError::Program)?;
            program.attach().map(drop).map_err(TryError::Program)
        }
        Mechanism::Tracepoint => {
            let program: &mut TracePoint = program.try_into().map_err(TryError::Program)?;
            program.load().map_err(TryError::Program)?;
            program.attach(hook.subsystem(), hook.name()).map(drop).map_err(TryError::Program)
        }
    }
}
