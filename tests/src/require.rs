//! What a test needs of the machine, so that it can be skipped with a reason, or must not be.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, ensure};
use connprobe::{
    kernel::{Layout, Modules, Names, Privileges},
    model::Mechanism,
};
use nix::unistd::geteuid;

use crate::facts::KernelFacts;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::openvswitch;
use crate::probe::Probe;
use crate::registry::lock;
use crate::server;
use crate::{rsyslog, store};

/// Names, separated by commas, the groups of tests in which a skipped test is a failure, such as `kernel,vm`.
pub const REQUIRE_VARIABLE: &str = "CONNPROBE_REQUIRE";

/// Set in a guest of the kernel matrix, to the kernel's series.
pub const GUEST_VARIABLE: &str = "CONNPROBE_GUEST";

/// systemd's journal: where all distributions that have it put it.
pub const JOURNALD: &str = "/lib/systemd/systemd-journald";

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Something a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    /// The effective user is root.
    Root,
    /// Network namespaces can be made and named.
    Netns,
    /// The `ip` program runs and makes veth pairs.
    Veth,
    /// The `ip` program makes bridges.
    Bridge,
    /// IPv6 is on.
    Ipv6,
    /// The `nft` program loads rules.
    Nft,
    /// `nft` rules can ask for the state of a connection.
    Conntrack,
    /// The programs of iptables run, those of its older tables and those that make rules of nftables.
    Iptables,
    /// The capabilities to load kernel programs are there. Whether the kernel then accepts them, only loading shows.
    Bpf,
    /// The kernel describes its own types (BTF).
    Btf,
    /// Something tells whether sending a retransmission succeeded.
    SendResult,
    /// Programs can be attached by this mechanism.
    Attaching(Mechanism),
    /// Real server programs are there.
    Servers,
    /// Open vSwitch's programs are there, and the kernel has its datapath and Geneve tunnels.
    OpenVswitch,
    /// rsyslog is there.
    Rsyslog,
    /// Prometheus' own judge of alerts is there.
    Promtool,
    /// ClickHouse's engine is there.
    Store,
    /// `systemd-analyze` judges units.
    SystemdAnalyze,
    /// systemd's journal can be started, and read.
    Journald,
    /// The kernel is one of the matrix, in a guest.
    Guest,
}

/// What is missing and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The first requirement that is not met.
    pub requirement: Requirement,
    /// What the attempt said; empty if there is nothing to add.
    pub detail: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.requirement.sentence())?;
        if self.detail.is_empty() { Ok(()) } else { write!(formatter, " ({})", self.detail) }
    }
}

impl std::error::Error for Missing {}

impl Requirement {
    /// What a reader of the test report is told.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Root => "needs root",
            Self::Netns => "needs to make network namespaces",
            Self::Veth => "needs iproute2 and veth devices",
            Self::Bridge => "needs bridge devices",
            Self::Ipv6 => "needs IPv6",
            Self::Nft => "needs nftables",
            Self::Conntrack => "needs connection tracking in nftables",
            Self::Iptables => "needs iptables with both kinds of tables",
            Self::Bpf => "needs the capabilities to load kernel programs",
            Self::Btf => "needs a kernel with BTF",
            Self::SendResult => {
                "needs a kernel that tells the result of sending a retransmission: its tracepoint (Linux 6.17) or kprobes"
            }
            Self::Attaching(Mechanism::TpBtf) => "needs BTF tracepoints",
            Self::Attaching(Mechanism::Tracepoint) => "needs classic tracepoints",
            Self::Attaching(Mechanism::Fentry) => "needs trampolines at functions (fentry)",
            Self::Attaching(Mechanism::Kprobe) => "needs kprobes",
            Self::Servers => "needs HAProxy and nginx, which `cargo xtask test` unpacks",
            Self::OpenVswitch => {
                "needs Open vSwitch, which `cargo xtask test` unpacks, and a kernel with its datapath and Geneve tunnels"
            }
            Self::Promtool => "needs promtool, which `cargo xtask test` unpacks",
            Self::Rsyslog => "needs rsyslog, which `cargo xtask test` unpacks",
            Self::Store => "needs ClickHouse's engine (chDB), which `cargo xtask test` unpacks",
            Self::SystemdAnalyze => "needs systemd-analyze",
            Self::Journald => "needs systemd-journald and journalctl",
            Self::Guest => "needs a guest of the kernel matrix",
        }
    }

    fn attempt(self) -> Result<()> {
        match self {
            Self::Root => ensure!(geteuid().is_root(), ""),
            Self::Netns => in_namespace(|_| Ok(()))?,
            Self::Veth => in_namespace(|netns| netns.ip("link add name try0 type veth peer name try1\n"))?,
            Self::Bridge => in_namespace(|netns| netns.ip("link add name try0 type bridge\n"))?,
            Self::Ipv6 => ensure!(fs::exists("/proc/sys/net/ipv6")?, ""),
            Self::Nft => in_namespace(|netns| netns.nft("table inet t { chain c { accept; }; }\n"))?,
            Self::Conntrack => {
                in_namespace(|netns| netns.nft("table inet t { chain c { ct state established accept; }; }\n"))?;
            }
            Self::Iptables => in_namespace(|netns| {
                netns.iptables("legacy", "-A INPUT -p tcp -j DROP")?;
                netns.iptables("nft", "-A INPUT -p tcp -m conntrack --ctstate INVALID -j DROP")
            })?,
            Self::Bpf => ensure!(Privileges::of_this_process()?.bpf, ""),
            Self::Btf => fs::metadata(KERNEL_BTF).map(|_| ())?,
            Self::SendResult => {
                let layout = Layout::resolve(&fs::read(KERNEL_BTF)?, &Modules::default(), &Names::default())?;
                ensure!(layout.retransmit_has_result() || has_kprobes(), "");
            }
            Self::Attaching(Mechanism::TpBtf | Mechanism::Tracepoint) => {}
            Self::Attaching(Mechanism::Fentry) => {
                let finished = Probe::run(&["check", "--force-mechanism", "fentry"], Duration::from_secs(60))?;
                ensure!(finished.code != Some(2), "{}", finished.stderr.trim());
            }
            Self::Attaching(Mechanism::Kprobe) => ensure!(has_kprobes(), ""),
            Self::Servers => server::check()?,
            Self::OpenVswitch => {
                openvswitch::check()?;
                in_namespace(|netns| {
                    netns.ip("link add name try0 type geneve id 7 remote 192.0.2.1\n")?;
                    netns.run(openvswitch::check_kernel)?
                })?;
            }
            Self::Rsyslog => rsyslog::check()?,
            Self::Promtool => server::SERVERS.check(&[server::PROMTOOL])?,
            Self::Store => {
                ensure!(!is_guest(), "half a gigabyte of program is too much for a guest");
                store::check()?;
            }
            Self::SystemdAnalyze => {
                let output = Command::new("systemd-analyze").arg("--version").output()?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Self::Journald => {
                fs::metadata(JOURNALD)?;
                let output = Command::new("journalctl").arg("--version").output()?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Self::Guest => ensure!(is_guest(), ""),
        }
        Ok(())
    }
}

/// Whether this is a guest of the kernel matrix, whose one processor is emulated.
#[must_use]
pub fn is_guest() -> bool {
    std::env::var_os(GUEST_VARIABLE).is_some()
}

fn has_kprobes() -> bool {
    fs::exists("/sys/bus/event_source/devices/kprobe").unwrap_or(false)
}

impl Requirement {
    /// Whether a kernel may lack this by its configuration or a policy of its host, so that a test may be skipped even where
    /// the tests are required. What a kernel of the matrix offers is committed.
    fn may_be_lacking(self) -> bool {
        match self {
            Self::Guest | Self::SendResult => !is_guest(),
            // `cargo xtask test` installs systemd; guests see what their host has, which need not be Debian.
            Self::SystemdAnalyze | Self::Journald => cfg!(not(target_arch = "x86_64")) || is_guest(),
            // They are unpacked for this architecture alone.
            Self::Servers | Self::Rsyslog | Self::Promtool => cfg!(not(target_arch = "x86_64")),
            Self::Store => cfg!(not(target_arch = "x86_64")) || is_guest(),
            Self::OpenVswitch => cfg!(not(target_arch = "x86_64")) || !is_guest(),
            Self::Attaching(mechanism @ (Mechanism::Fentry | Mechanism::Kprobe)) => std::env::var(GUEST_VARIABLE)
                .map_or(true, |kernel| KernelFacts::committed(&kernel).is_ok_and(|facts| !facts.offers(mechanism))),
            Self::Root
            | Self::Netns
            | Self::Veth
            | Self::Bridge
            | Self::Ipv6
            | Self::Nft
            | Self::Conntrack
            | Self::Iptables
            | Self::Bpf
            | Self::Btf
            | Self::Attaching(Mechanism::TpBtf | Mechanism::Tracepoint) => false,
        }
    }
}

/// Checks requirements in the order given; each is tried once in a process.
///
/// # Errors
/// With the first that is not met.
pub fn check(requirements: &[Requirement]) -> Result<(), Missing> {
    static KNOWN: Mutex<BTreeMap<Requirement, Option<String>>> = Mutex::new(BTreeMap::new());
    let mut known = lock(&KNOWN);
    for &requirement in requirements {
        // One line: it stands in the report behind the name of the test.
        let attempt = || requirement.attempt().err().map(|error| format!("{error:#}").replace('\n', "; "));
        if let Some(detail) = known.entry(requirement).or_insert_with(attempt) {
            return Err(Missing { requirement, detail: detail.clone() });
        }
    }
    Ok(())
}

/// Whether a test of this group that is skipped for this reason is a failure.
#[must_use]
pub fn is_failure(missing: &Missing, group: &str) -> bool {
    !missing.requirement.may_be_lacking() && std::env::var(REQUIRE_VARIABLE).is_ok_and(|groups| names(&groups, group))
}

fn names(groups: &str, group: &str) -> bool {
    groups.split(',').any(|name| name.trim() == group)
}

fn in_namespace(attempt: impl FnOnce(&Netns) -> Result<()>) -> Result<()> {
    let lab = Lab::new("requirement")?;
    attempt(&lab.netns("try")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_separated_by_commas() {
        assert!(names("kernel,vm", "kernel") && names("kernel, vm", "vm"));
        assert!(!names("kernel,vm", "ker") && !names("", "kernel"));
    }

    #[test]
    fn a_missing_requirement_says_why_when_there_is_more_to_say() {
        let missing = |detail: &str| Missing { requirement: Requirement::Root, detail: detail.to_owned() };
        assert_eq!(missing("").to_string(), "needs root");
        assert_eq!(missing("no such file").to_string(), "needs root (no such file)");
    }
}
