//! Other tools, from Debian's packages as `cargo xtask bench` has unpacked them below `target/peers`: run with their own libraries, never
//! installed.

use std::process::Command;

use anyhow::Result;
use connprobe_tests::netns::Netns;
use connprobe_tests::unpacked::Tree;

/// Where they are unpacked.
pub(crate) const TREE: Tree = Tree::new("peers");

/// Tracing tools look for tracefs where it once was, below debugfs. Mounted where only this one process sees it.
const WITH_TRACEFS: &str =
    "mount -t debugfs debugfs /sys/kernel/debug && mount -t tracefs tracefs /sys/kernel/tracing; exec \"$@\"";

/// What makes connection tracking work in a namespace: a rule that asks for its state.
const TRACKED: &str =
    "table inet tracked { chain input { type filter hook input priority 0; ct state new accept; }; }\n";

/// Settings of connection tracking that keep its table from filling up with what is over.
const SOON_FORGOTTEN: [&str; 4] = ["close", "close_wait", "last_ack", "time_wait"];

/// A tool that tells of connections.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// As in tables and on the command line; with the package, where two have one of that name.
    pub(crate) name: &'static str,
    kind: Kind,
    arguments: &'static [&'static str],
    /// How many lines with the addresses it prints of a connection with both its ends on this host.
    pub(crate) lines_a_connection: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Loads programs into the kernel, and sees every namespace.
    Tracing,
    /// The same, as a Python script that compiles its programs when it is started.
    Python,
    /// Listens to the kernel in one namespace.
    Listening,
    /// Listens where connections are tracked, which costs something by itself.
    ListeningTracked,
    /// Is no process: connections are tracked, and nobody listens.
    Tracked,
}

/// All of them. What the package has of the kind for this purpose stands here, also where it needs what some kernels lack.
pub(crate) const PEERS: [Peer; 12] = [
    Peer::new("tcplife", Kind::Tracing, &["usr/sbin/tcplife"]).telling(2),
    Peer::new("tcpstates", Kind::Tracing, &["usr/sbin/tcpstates"]).telling(10),
    Peer::new("tcptracer", Kind::Tracing, &["usr/sbin/tcptracer"]),
    Peer::new("tcplife-bpfcc", Kind::Python, &["usr/sbin/tcplife-bpfcc"]),
    Peer::new("tcpstates-bpfcc", Kind::Python, &["usr/sbin/tcpstates-bpfcc"]),
    Peer::new("tcpretrans-bpfcc", Kind::Python, &["usr/sbin/tcpretrans-bpfcc"]),
    Peer::new("tcplife.bt", Kind::Tracing, &["usr/bin/bpftrace", "usr/sbin/tcplife.bt"]),
    Peer::new("tcpretrans.bt", Kind::Tracing, &["usr/bin/bpftrace", "usr/sbin/tcpretrans.bt"]),
    Peer::new(
        "bpftrace",
        Kind::Tracing,
        &[
            "usr/bin/bpftrace",
            "-e",
            "tracepoint:sock:inet_sock_set_state { printf(\"%d %d %d %d\\n\", args->sport, args->dport, args->oldstate, args->newstate); }",
        ],
    ),
    Peer::new("conntrack-alone", Kind::Tracked, &[]),
    Peer::new("conntrack-E", Kind::ListeningTracked, &["usr/sbin/conntrack", "-E"]),
    Peer::new("ss-E", Kind::Listening, &["bin/ss", "-E", "-t", "-n"]),
];

impl Peer {
    const fn new(name: &'static str, kind: Kind, arguments: &'static [&'static str]) -> Self {
        Self { name, kind, arguments, lines_a_connection: None }
    }

    const fn telling(self, lines_a_connection: u64) -> Self {
        Self { lines_a_connection: Some(lines_a_connection), ..self }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// How it is started; where tracing tools need tracefs, it is there. `None` for what is no process.
    pub(crate) fn command(&self) -> Result<Option<Command>> {
        let Some((program, arguments)) = self.arguments.split_first() else { return Ok(None) };
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c"]);
        command.arg(match self.kind {
            Kind::Tracing | Kind::Python => WITH_TRACEFS,
            Kind::Listening | Kind::ListeningTracked | Kind::Tracked => "exec \"$@\"",
        });
        command.arg("sh");
        let is_script = self.kind == Kind::Python;
        let tool = TREE.command(if is_script { "usr/bin/python3.11" } else { program })?;
        command.arg(tool.get_program()).args(tool.get_args());
        if is_script {
            command.env("PYTHONHOME", TREE.file("usr")?);
            command.env("PYTHONPATH", TREE.file("usr/lib/python3/dist-packages")?);
            command.arg(TREE.file(program)?);
        }
        for argument in arguments {
            // A script is a file of the tree, too.
            if argument.starts_with("usr/") {
                command.arg(TREE.file(argument)?)
            } else {
                command.arg(argument)
            };
        }
        Ok(Some(command))
    }

    /// Makes the namespace what it works in.
    pub(crate) fn prepare(&self, netns: &Netns) -> Result<()> {
        if !self.is_tracked() {
            return Ok(());
        }
        netns.nft(TRACKED)?;
        for state in SOON_FORGOTTEN {
            netns.sysctl(&format!("net.netfilter.nf_conntrack_tcp_timeout_{state}"), "1")?;
        }
        Ok(())
    }

    /// Makes the namespace what it was before.
    pub(crate) fn undo(&self, netns: &Netns) -> Result<()> {
        if self.is_tracked() { netns.nft("delete table inet tracked\n") } else { Ok(()) }
    }

    fn is_tracked(&self) -> bool {
        matches!(self.kind, Kind::Tracked | Kind::ListeningTracked)
    }
}

/// The line of a tool's errors that says why it does not run here.
pub(crate) fn reason(errors: &str) -> String {
    // bcc prints its own reason to standard output.
    if errors.contains("Failed to compile BPF module") {
        return "it compiles its programs with this kernel's headers, which are not here".to_owned();
    }
    let lines = || errors.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = ["kprobe", "rror", "failed"];
    let line = telling.iter().find_map(|part| lines().find(|line| line.contains(part))).or_else(|| lines().next_back());
    line.unwrap_or("it says nothing").chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_names_what_the_kernel_lacks_is_the_reason() {
        assert!(reason("Traceback\nException: Failed to compile BPF module <text>\n").contains("headers"));
        let bpftrace =
            "ERROR: memlock\ncreate_probe_event: open(kprobe_events): No such file\nERROR: Error attaching\n";
        assert_eq!(reason(bpftrace), "create_probe_event: open(kprobe_events): No such file");
        assert_eq!(reason(""), "it says nothing");
    }
}
