//! A daemon as a service of systemd, and what it may do.

use std::time::Duration;

use anyhow::Context as _;
use caps::{CapSet, Capability, CapsHashSet};
use libsystemd::daemon::{NotifyState, notify, watchdog_enabled};

/// What a daemon needs: to load programs and read the kernel's memory through them (`BPF`, `PERFMON`), to enter network namespaces
/// (`SYS_ADMIN`), to look into the processes of others (`SYS_PTRACE`, `DAC_READ_SEARCH`), to ask connection tracking and the firewall
/// (`NET_ADMIN`), to name functions of the kernel (`SYSLOG`).
const NEEDED: [Capability; 7] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYSLOG,
];

/// Keeps what is needed and nothing else, for good: also what this process would start gets no more. Must be called before there are
/// other threads, for each has its own.
pub(super) fn give_up_privileges() -> anyhow::Result<()> {
    let keep = || -> Result<(), caps::errors::CapsError> {
        let has = caps::read(None, CapSet::Permitted)?;
        let kept: CapsHashSet = NEEDED.into_iter().filter(|capability| has.contains(capability)).collect();
        caps::clear(None, CapSet::Ambient)?;
        caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
        caps::set(None, CapSet::Effective, &kept)?;
        caps::set(None, CapSet::Permitted, &kept)
    };
    nix::sys::prctl::set_no_new_privs().context("no_new_privs cannot be set")?;
    keep().context("capabilities that are not needed cannot be given up")
}

/// The programs are attached.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The daemon is ending.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The event loop is at work.
pub(super) fn alive() {
    if watchdog_enabled(false).is_some_and(|interval| interval > Duration::ZERO) {
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(states: &[NotifyState]) {
    if let Err(error) = notify(false, states) {
        tracing::warn!(%error, "systemd cannot be told how the service does");
    }
}
