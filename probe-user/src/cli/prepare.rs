//! What every subcommand that observes needs first: privileges, facts, a plan.

use anyhow::{Context as _, bail};

use super::KernelArgs;
use crate::{
    kernel::{Facts, LoadOptions, Plan, Privileges, plan},
    model::{Filter, Mechanism},
};

/// A kernel that can be observed, and how.
pub(super) struct Prepared {
    pub(super) facts: Facts,
    pub(super) plan: Plan,
}

/// Checks privileges, reads the facts and plans. Nothing is attached yet.
pub(super) fn prepare(args: &KernelArgs) -> anyhow::Result<Prepared> {
    if !privileges()?.bpf {
        bail!("cannot observe: loading kernel programs needs root, or the capabilities CAP_BPF and CAP_PERFMON");
    }
    let facts = Facts::read(args.btf.as_deref(), &args.faults())?;
    let plan = plan(&facts.for_plan(), args.force_mechanism.map(Mechanism::from));
    Ok(Prepared { facts, plan })
}

pub(super) fn privileges() -> anyhow::Result<Privileges> {
    Privileges::of_this_process().context("cannot tell what this process may do: /proc/self/status cannot be read")
}

pub(super) fn load_options(args: &KernelArgs, filter: Filter, risks: bool) -> LoadOptions {
    LoadOptions {
        filter,
        ring_bytes: args.ring_bytes,
        suspects: args.test_suspects,
        object: args.bpf_object.clone(),
        scan_by_sock_diag: args.test_scan_by_sock_diag,
        risks,
        lifecycle: false,
    }
}

/// The runtime of the one event loop: everything runs on this thread.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("the event loop cannot be started")
}
