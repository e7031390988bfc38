//! Who is measured.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use connprobe_tests::netns::Netns;

use crate::peer::{PEERS, Peer};
use crate::watcher::{Reading, Watcher};

/// After so long without anything under suspicion connprobe no longer looks at changes of state (`CALM_AFTER` in
/// `probe-user/src/app/watch/attention.rs`, and some turns of its loop).
const COMES_TO_REST: Duration = Duration::from_millis(11_500);

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
        /// Whether it is measured when it has come to rest, as on a host where nothing is under suspicion.
        at_rest: bool,
    },
    /// Another tool.
    Peer(&'static Peer),
}

impl Subject {
    /// connprobe as it is without settings.
    const DEFAULT: Self =
        Self::Daemon { name: "connprobe", arguments: &[], target: "≤ 1.02, ≤ 0.35 µs", at_rest: true };
    /// The same while something is under suspicion, as it is taken to be at the start.
    const AWAKE: Self = Self::Daemon { name: "connprobe-awake", arguments: &[], target: "", at_rest: false };
    /// connprobe that tells of every connection that ends.
    const LIFECYCLE: Self = Self::Daemon {
        name: "connprobe-lifecycle",
        arguments: &["--lifecycle", "true"],
        target: "≤ 1.05, ≤ 0.9 µs",
        at_rest: true,
    };

    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::Nobody, Self::DEFAULT, Self::AWAKE, Self::LIFECYCLE];
        all.extend(PEERS.iter().map(Self::Peer));
        all
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Nobody => "none",
            Self::Daemon { name, .. } => name,
            Self::Peer(peer) => peer.name,
        }
    }

    /// Whether it is measured, too, where little time is.
    pub(crate) fn is_quick(&self) -> bool {
        matches!(self.name(), "none" | "connprobe" | "connprobe-lifecycle" | "tcplife")
    }

    /// What is wanted of it with short connections: of the load's processor time, and of the kernel programs' run time.
    pub(crate) fn targets(&self) -> &'static str {
        match self {
            Self::Nobody => "the noise",
            Self::Daemon { target, .. } => target,
            Self::Peer(_) => "",
        }
    }

    /// Starts it; it is attached when this returns.
    pub(crate) fn start(&self, netns: &Netns) -> Result<Running> {
        let watcher = match self {
            Self::Nobody => None,
            Self::Daemon { arguments, at_rest, .. } => {
                let watcher = Watcher::daemon(netns, arguments, Reading::Nobody)?;
                if *at_rest {
                    thread::sleep(COMES_TO_REST);
                }
                Some(watcher)
            }
            Self::Peer(peer) => {
                peer.prepare(netns)?;
                Watcher::peer(netns, peer, Reading::Nobody).inspect_err(|_| drop(peer.undo(netns)))?
            }
        };
        let prepared = if let Self::Peer(peer) = self { Some((*peer, netns.clone())) } else { None };
        Ok(Running { prepared, watcher })
    }
}

/// A subject at work. To be stopped, where another follows in the same namespace: only that tells of errors.
pub(crate) struct Running {
    /// What is to be undone of it, and where.
    prepared: Option<(&'static Peer, Netns)>,
    /// Its process, if it is one.
    pub(crate) watcher: Option<Watcher>,
}

impl Running {
    /// Ends it, and waits until nothing of it is attached.
    pub(crate) fn stop(mut self) -> Result<()> {
        let stopped = self.watcher.take().map_or(Ok(()), Watcher::stop);
        if let Some((peer, netns)) = self.prepared.take() {
            peer.undo(&netns)?;
        }
        stopped
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.watcher.take());
        if let Some((peer, netns)) = self.prepared.take() {
            // Whoever drops it has an error to tell already.
            let _ = peer.undo(&netns);
        }
    }
}
