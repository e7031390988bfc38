use std::fmt;

use super::Hook;

/// How a program is attached to a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// A BTF tracepoint (`tp_btf`, from Linux 5.5): the arguments themselves, cheapest.
    TpBtf,
    /// A classic tracepoint through tracefs and perf: a record, no cookie of sockets that have none yet.
    Tracepoint,
}

impl Mechanism {
    /// Every mechanism, the preferred first.
    pub const ALL: [Self; 2] = [Self::TpBtf, Self::Tracepoint];

    /// The name used on the command line and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::Tracepoint => "tracepoint",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What became of one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookStatus {
    /// Its program is attached.
    Attached(Mechanism),
    /// This kernel has no such hook, or none of the mechanisms for it.
    Unsupported(String),
    /// It should have worked and did not.
    Broken(String),
}

/// A kernel field that cannot be read here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingField {
    /// C spelling.
    pub field: String,
    /// Why.
    pub why: String,
    /// Whether something else serves, so that nothing is lost.
    pub harmless: bool,
}

/// What is observed of what could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Kernel release.
    pub kernel_release: String,
    /// One entry a hook, in the order of [`Hook::ALL`].
    pub hooks: Vec<(Hook, HookStatus)>,
    /// Fields that could not be resolved.
    pub missing_fields: Vec<MissingField>,
}

impl Coverage {
    /// Whether every hook is attached and every field that matters can be read.
    pub fn is_full(&self) -> bool {
        self.hooks.iter().all(|(_, status)| matches!(status, HookStatus::Attached(_)))
            && self.missing_fields.iter().all(|missing| missing.harmless)
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
        Hook::InetSkErrorReport => "errors are seen only on connections already under suspicion",
    }
}
