use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Hook, KernelModule, ModuleStatus};

/// How a program is attached to a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Mechanism {
    /// A BTF tracepoint (`tp_btf`, from Linux 5.5): the arguments themselves, cheapest.
    TpBtf,
    /// A classic tracepoint through tracefs and perf: a record, no cookie of sockets that have none yet.
    Tracepoint,
    /// A BPF trampoline at the entry of a kernel function (`fentry`, from Linux 5.5 on x86-64) or at its return (`fexit`):
    /// arguments and result.
    Fentry,
    /// A probe at the entry of a kernel function, or at its return (kretprobe): registers, no cookie of sockets that have
    /// none yet.
    Kprobe,
}

impl Mechanism {
    /// Every mechanism.
    pub const ALL: [Self; 4] = [Self::TpBtf, Self::Tracepoint, Self::Fentry, Self::Kprobe];

    /// The name used on the command line and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What became of one hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookStatus {
    /// Its program is attached.
    Attached(Mechanism),
    /// It belongs to a part of the kernel that is not loaded.
    NotLoaded(KernelModule),
    /// This kernel has no such hook, or none of the mechanisms for it.
    Unsupported(String),
    /// It should have worked and did not.
    Broken(String),
}

/// A kernel field that cannot be read here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingField {
    /// C spelling.
    pub field: String,
    /// Why.
    pub why: String,
    /// Whether something else serves, so that nothing is lost.
    pub harmless: bool,
}

/// What is observed of what could be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Kernel release.
    pub kernel_release: String,
    /// One entry a hook, in the order of [`Hook::ALL`]; none when no programs are loaded at all.
    pub hooks: Vec<(Hook, HookStatus)>,
    /// Fields that could not be resolved.
    pub missing_fields: Vec<MissingField>,
    /// How sockets are scanned.
    pub scan: ScanStatus,
    /// What the self-test found; `None` where none was made.
    pub self_test: Option<SelfTest>,
    /// Parts of the kernel that were not there at the start, in the order of [`KernelModule::ALL`].
    pub modules: Vec<(KernelModule, ModuleStatus)>,
    /// What the attached hooks' programs cost while the self-test was made, by the kernel's own statistics; empty where they were not taken.
    pub costs: BTreeMap<Hook, RunCost>,
    /// The programs that tell of connections that are over; `None` where that was not asked for.
    #[serde(default)]
    pub lifecycle: Option<LifecycleStatus>,
}

/// The programs that tell of connections that are over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleStatus {
    /// What became of them.
    pub status: HookStatus,
    /// What they cost while the self-test was made, where that was taken.
    pub cost: Option<RunCost>,
}

/// What one hook's programs did, on all CPUs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCount {
    /// The hook.
    pub hook: Hook,
    /// Suspicious events that asked for a place on the ring; `emitted + lost`.
    pub seen: u64,
    /// Those that got it.
    pub emitted: u64,
    /// Those that found the ring full.
    pub lost: u64,
    /// Suspicious events held back by a limit.
    pub suppressed: u64,
    /// Firings at which the kernel did not run the program, because it was running on that CPU already.
    pub missed: u64,
}

impl HookCount {
    /// Of one that has done nothing.
    pub const fn none(hook: Hook) -> Self {
        Self { hook, seen: 0, emitted: 0, lost: 0, suppressed: 0, missed: 0 }
    }

    /// Together with what other programs of this hook did.
    #[must_use]
    pub const fn with(self, other: &Self) -> Self {
        Self {
            hook: self.hook,
            seen: self.seen + other.seen,
            emitted: self.emitted + other.emitted,
            lost: self.lost + other.lost,
            suppressed: self.suppressed + other.suppressed,
            missed: self.missed + other.missed,
        }
    }

    /// How many have found the ring full, and how many were missed, since the counters stood at `told`, or since they began.
    pub fn lost_since(&self, told: Option<&Self>) -> (u64, u64) {
        let (lost, missed) = told.map_or((0, 0), |told| (told.lost, told.missed));
        (self.lost.saturating_sub(lost), self.missed.saturating_sub(missed))
    }
}

/// How often a hook's programs ran, and for how long, for whatever connection of this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCost {
    /// Runs.
    pub runs: u64,
    /// All of them together.
    pub time: Duration,
}

impl RunCost {
    /// On average, in nanoseconds; `None` where there was no run.
    pub fn per_run_ns(&self) -> Option<u64> {
        let all = u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX);
        all.checked_div(self.runs)
    }
}

/// How the sockets of a namespace are scanned for those that wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScanStatus {
    /// By a BPF iterator.
    Iterator,
    /// Through `NETLINK_SOCK_DIAG`, which tells less of each; why not by an iterator.
    SockDiag(String),
}

impl ScanStatus {
    /// The name of the way in records.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Iterator => "iterator",
            Self::SockDiag(_) => "sock_diag",
        }
    }
}

/// What a scan without an iterator costs, for people.
pub const COST_OF_SOCK_DIAG: &str =
    "it tells neither TCP_USER_TIMEOUT nor how keepalive is set, so that there is no deadline, and no ICMP errors";

/// What was told of a connection that was made to stall and was reset, in a network namespace of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SelfTest {
    /// The events came, and what they said was right.
    Passed {
        /// How many kinds of value were held against what they should be.
        values: usize,
    },
    /// These hooks are attached, and nothing came from them.
    Silent(Vec<Hook>),
    /// What was read wrongly, each with both values.
    Wrong(Vec<String>),
    /// No connection could be made to test with: why.
    NotPossible(String),
}

impl SelfTest {
    /// The word for it: `ok`, `broken` or `skipped`.
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Passed { .. } => "ok",
            Self::Silent(_) | Self::Wrong(_) => "broken",
            Self::NotPossible(_) => "skipped",
        }
    }
}

impl fmt::Display for SelfTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { values } => write!(
                f,
                "a connection that stalled and was reset in a namespace of its own was told so, {values} values right"
            ),
            Self::Silent(hooks) => {
                let names = hooks.iter().map(|hook| hook.name()).collect::<Vec<_>>().join(", ");
                write!(f, "a connection stalled and was reset in a namespace of its own, and nothing came from {names}")
            }
            Self::Wrong(wrong) => f.write_str(&wrong.join("; ")),
            Self::NotPossible(why) => write!(f, "no connection could be made to test with: {why}"),
        }
    }
}

impl Coverage {
    /// Of who loads no kernel programs.
    pub fn of_sock_diag_alone(kernel_release: String, why: &str) -> Self {
        Self {
            kernel_release,
            hooks: Vec::new(),
            missing_fields: Vec::new(),
            scan: ScanStatus::SockDiag(why.to_owned()),
            self_test: None,
            modules: Vec::new(),
            costs: BTreeMap::new(),
            lifecycle: None,
        }
    }

    /// Takes in how a hook is now; whether that is new.
    pub fn set_status(&mut self, hook: Hook, status: HookStatus) -> bool {
        match self.hooks.iter_mut().find(|(this, _)| *this == hook) {
            Some((_, before)) if *before != status => {
                *before = status;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Takes in which modules are loaded now; whether one has come since.
    pub fn note_loaded(&mut self, is_loaded: impl Fn(KernelModule) -> bool) -> bool {
        let mut has_come = false;
        for (module, status) in &mut self.modules {
            if *status == ModuleStatus::NotLoaded && is_loaded(*module) {
                (*status, has_come) = (ModuleStatus::LoadedSince, true);
            }
        }
        has_come
    }

    fn is_loaded_since(&self, module: KernelModule) -> bool {
        self.modules.contains(&(module, ModuleStatus::LoadedSince))
    }

    /// Whether every hook is attached, or something else serves, or what it belongs to is not loaded; whether nothing was loaded since that is not observed, every
    /// field that matters can be read, and a self-test, where made, has passed.
    pub fn is_full(&self) -> bool {
        self.hooks.iter().all(|(hook, status)| match status {
            HookStatus::Attached(_) => true,
            HookStatus::NotLoaded(module) => !self.is_loaded_since(*module),
            HookStatus::Unsupported(_) | HookStatus::Broken(_) => self.is_served_otherwise(*hook),
        }) && !self.modules.iter().any(|(_, status)| *status == ModuleStatus::LoadedSince)
            && self.missing_fields.iter().all(|missing| missing.harmless)
            && self.scan == ScanStatus::Iterator
            && self.lifecycle.as_ref().is_none_or(|own| matches!(own.status, HookStatus::Attached(_)))
            && self.self_test.as_ref().is_none_or(|test| matches!(test, SelfTest::Passed { .. }))
    }

    /// Whether the scan does what `hook` would do.
    pub fn is_served_by_scan(&self, hook: Hook) -> bool {
        hook.is_served_by_scan() && self.scan == ScanStatus::Iterator
    }

    /// Whether something else does what `hook` would do, or nearly.
    pub fn is_served_otherwise(&self, hook: Hook) -> bool {
        self.is_served_by_scan(hook) || hook.is_served_by_drops() && self.has(Hook::KfreeSkb)
    }

    /// Whether anything at all is observed.
    pub fn observes_something(&self) -> bool {
        self.hooks.iter().any(|(_, status)| matches!(status, HookStatus::Attached(_)))
    }

    /// Whether `hook` is attached.
    pub fn has(&self, hook: Hook) -> bool {
        self.hooks.iter().any(|(this, status)| *this == hook && matches!(status, HookStatus::Attached(_)))
    }
}

/// What the lack of a hook costs, for people.
pub const fn cost_of_missing(hook: Hook) -> &'static str {
    match hook {
        Hook::InetSockSetState => "how a suspicious connection ends is found out late, by asking for its socket",
        Hook::TcpRetransmitSkb => "no retransmit_stalled",
        Hook::TcpRetransmitSynack => "no evidence of repeated SYN-ACKs",
        Hook::TcpReceiveReset => "a peer's reset is seen only on a connection already under suspicion",
        Hook::TcpSendReset => "resets sent by this host are not seen",
        Hook::KfreeSkb => "no peer_restarted; of silently_dropped_fin only unacknowledged_fin",
        Hook::TcpWriteWakeup => "unanswered probes are told by the next scan, not at once",
        Hook::NfCtLogInvalid => {
            "why connection tracking holds a FIN for invalid is concluded from the packet and its settings; one that is then dropped \
             without a reason, as by Open vSwitch before Linux 6.6, is not seen"
        }
        Hook::InetSkErrorReport => "errors are seen only on connections already under suspicion",
    }
}

/// When the program of a hook runs. None does for a packet of a connection in order.
pub const fn runs_for(hook: Hook) -> &'static str {
    match hook {
        Hook::InetSockSetState => "each change of a TCP socket's state, while a connection is under suspicion",
        Hook::TcpRetransmitSkb => "each segment that is sent again",
        Hook::TcpRetransmitSynack => "each SYN-ACK that is sent again",
        Hook::TcpReceiveReset => "each RST that ends a connection",
        Hook::TcpSendReset => "each RST that is sent",
        Hook::InetSkErrorReport => "each error that a socket reports",
        Hook::KfreeSkb => "each packet that is dropped, or freed unread",
        Hook::TcpWriteWakeup => "each keepalive or window probe",
        Hook::NfCtLogInvalid => "each packet that connection tracking holds for invalid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(status: HookStatus, modules: &[KernelModule]) -> Coverage {
        Coverage {
            hooks: vec![(Hook::KfreeSkb, HookStatus::Attached(Mechanism::TpBtf)), (Hook::NfCtLogInvalid, status)],
            scan: ScanStatus::Iterator,
            modules: modules.iter().map(|module| (*module, ModuleStatus::NotLoaded)).collect(),
            ..Coverage::of_sock_diag_alone("6.12".to_owned(), "")
        }
    }

    #[test]
    fn a_module_that_is_not_loaded_is_no_lack_until_it_is_loaded() {
        let mut coverage = coverage(
            HookStatus::NotLoaded(KernelModule::Conntrack),
            &[KernelModule::Conntrack, KernelModule::OpenVswitch],
        );
        assert!(coverage.is_full());
        assert!(!coverage.note_loaded(|_| false) && coverage.is_full());
        assert!(coverage.note_loaded(|module| module == KernelModule::Conntrack));
        assert!(!coverage.is_full());
        assert!(!coverage.note_loaded(|module| module == KernelModule::Conntrack), "it is told once");
        assert!(coverage.note_loaded(|_| true));
    }

    #[test]
    fn what_never_ran_has_no_average() {
        assert_eq!(RunCost::default().per_run_ns(), None);
        assert_eq!(RunCost { runs: 4, time: Duration::from_nanos(1_001) }.per_run_ns(), Some(250));
    }
}
