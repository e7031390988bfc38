//! Who is measured.

use anyhow::Result;
use connprobe_tests::netns::Netns;

use crate::watcher::{Reading, Watcher};

/// Somebody who watches, or nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Nobody watches: what differs then is noise.
    Nobody,
    /// `connprobe daemon` with these arguments.
    Daemon {
        /// What it is called in tables and on the command line.
        name: &'static str,
        /// Beside those that every daemon here has.
        arguments: &'static [&'static str],
        /// What is wanted of it with short connections.
        target: &'static str,
    },
}

impl Subject {
    /// connprobe as it is without settings.
    const DEFAULT: Self = Self::Daemon { name: "connprobe", arguments: &[], target: "≤ 1.02, ≤ 0.35 µs" };
    /// connprobe that tells of every connection that ends.
    const LIFECYCLE: Self =
        Self::Daemon {
            name: "connprobe-lifecycle", arguments: &["--lifecycle", "true"], target: "≤ 1.05, ≤ 0.9 µs"
        };

    pub(crate) fn all() -> Vec<Self> {
        vec![Self::Nobody, Self::DEFAULT, Self::LIFECYCLE]
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Nobody => "none",
            Self::Daemon { name, .. } => name,
        }
    }

    /// What is wanted of it with short connections: of the load's processor time, and of the kernel programs' run time.
    pub(crate) fn targets(&self) -> &'static str {
        match self {
            Self::Nobody => "the noise",
            Self::Daemon { target, .. } => target,
        }
    }

    /// Starts it; it is attached when this returns.
    pub(crate) fn start(&self, netns: &Netns) -> Result<Option<Watcher>> {
        match self {
            Self::Nobody => Ok(None),
            Self::Daemon { arguments, .. } => Watcher::daemon(netns, arguments, Reading::Nobody).map(Some),
        }
    }
}
