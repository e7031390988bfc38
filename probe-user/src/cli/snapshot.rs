//! `connprobe snapshot`: what waits now, without privileges.

use std::time::Duration;

use clap::Args;

use super::{
    Exit,
    observe::{ALL, Observation, ObserveArgs, duration, observe},
    prepare::{privileges, runtime},
};
use crate::app::Watch;

/// How often the sockets are looked at: often enough that one that makes progress is told from one that does not.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The namespace of this process.
const OWN: &str = "/proc/self/ns/net";

/// What was typed.
#[derive(Debug, Args)]
#[command(
    after_help = "Loads nothing into the kernel and needs no privileges: it looks at the sockets through NETLINK_SOCK_DIAG, as ss \
    does. Without root it sees only its own network namespace, and only its own user's processes as owners. It sees no ICMP \
    error, no reset and no deadline; `connprobe diagnose` does.\n\n\
    Examples:\n  connprobe snapshot\n  connprobe snapshot --port 5672 --duration 10s\n  connprobe snapshot --format json --fail-on confirmed\n\n\
    Exit codes:\n  0  nothing found, or only what recovered or was closed meanwhile\n  1  found, at or above --fail-on\n  2  trouble"
)]
pub(super) struct SnapshotArgs {
    /// How long to look: what only hesitates makes progress meanwhile
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    duration: Duration,
    #[command(flatten)]
    observe: ObserveArgs,
}

pub(super) fn run(mut args: SnapshotArgs) -> anyhow::Result<Exit> {
    if args.observe.select.netns == ALL && !privileges()?.enter_namespaces {
        args.observe.select.netns = OWN.to_owned();
    }
    let observation = Observation::resolve(args.observe, Some(args.duration))?;
    let filter = observation.filter.clone();
    let release = nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned());
    runtime()?.block_on(observe(&observation, || Watch::by_scan_alone(release, filter, LOOK_EVERY)))
}
