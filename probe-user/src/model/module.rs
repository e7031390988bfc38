use serde::{Deserialize, Serialize};

/// A part of the kernel that is looked at once, when a watch begins, and that may be loaded later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KernelModule {
    /// Connection tracking: the functions on its error paths, and where it keeps the zone.
    Conntrack,
    /// Open vSwitch: the numbers of its drop reasons (from Linux 6.6).
    OpenVswitch,
}

impl KernelModule {
    /// Every module.
    pub const ALL: [Self; 2] = [Self::Conntrack, Self::OpenVswitch];

    /// The kernel's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conntrack => "nf_conntrack",
            Self::OpenVswitch => "openvswitch",
        }
    }

    /// What is not there while it is not loaded, and what that means.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Conntrack => {
                "without it nothing is held for invalid; nf_l4proto_log_invalid and nf_ct_l4proto_log_invalid are not there to attach to"
            }
            Self::OpenVswitch => {
                "without it no bridge of Open vSwitch drops anything; the numbers of its drop reasons are not known"
            }
        }
    }

    /// What is not observed when it is loaded after a watch has begun.
    pub const fn cost_of_loading_late(self) -> &'static str {
        match self {
            Self::Conntrack => super::coverage::cost_of_missing(super::Hook::NfCtLogInvalid),
            Self::OpenVswitch => "what Open vSwitch drops is not seen",
        }
    }
}

/// A module that was not there when the watch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleStatus {
    /// It is not loaded, or this kernel has none: nothing is missed.
    NotLoaded,
    /// It has been loaded since: what it does is not observed until connprobe is started anew.
    LoadedSince,
}

impl ModuleStatus {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotLoaded => "not_loaded",
            Self::LoadedSince => "loaded_since",
        }
    }
}
