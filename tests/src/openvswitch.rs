//! Open vSwitch: its database server and its daemon, which sets up the kernel's datapath of the namespace it runs in.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::socket::SockProtocol,
    time::{ClockId, clock_gettime},
};

use crate::{child::ManagedChild, netlink::Connection, netns::Netns, server::SERVERS};

const DATABASE_SERVER: &str = "usr/sbin/ovsdb-server";
const DAEMON: &str = "usr/lib/openvswitch-switch/ovs-vswitchd";
const DATABASE_TOOL: &str = "usr/bin/ovsdb-tool";
const CONFIGURE: &str = "usr/bin/ovs-vsctl";
const FLOWS: &str = "usr/bin/ovs-ofctl";
const CONTROL: &str = "usr/bin/ovs-appctl";

/// How long a daemon may take to start, and to do as it is told: a guest starts programs slowly.
const STARTING: Duration = Duration::from_secs(60);

/// Whether the programs are there.
pub(crate) fn check() -> Result<()> {
    SERVERS.check(&[DATABASE_SERVER, DAEMON, DATABASE_TOOL, CONFIGURE, FLOWS, CONTROL])
}

/// Whether the kernel has a datapath for the namespace of this thread.
pub(crate) fn check_kernel() -> Result<()> {
    Connection::open(SockProtocol::NetlinkGeneric)?.generic_family("ovs_datapath").map(drop)
}

/// Both daemons at work. Dropping it kills them; what they have set up in the kernel goes with the namespace.
#[derive(Debug)]
pub(crate) struct OpenVswitch {
    netns: Netns,
    folder: PathBuf,
    _daemons: [ManagedChild; 2],
}

impl OpenVswitch {
    /// Starts the daemons in a namespace, with their sockets, database and log in `folder`.
    pub(crate) fn start(netns: &Netns, folder: &Path) -> Result<Self> {
        let database = folder.join("conf.db");
        let mut create = program(DATABASE_TOOL, folder)?;
        create.arg("create").arg(&database).arg(SERVERS.file("usr/share/openvswitch/vswitch.ovsschema")?);
        netns.check_output(create, "")?;

        let socket = folder.join("db.sock");
        let mut command = program(DATABASE_SERVER, folder)?;
        command.arg(&database).arg(format!("--remote=punix:{}", socket.display()));
        let database = spawn(netns, command, &folder.join("ovsdb-server.log"))?;
        wait_for(&socket, &database)?;

        wait_until_processors_are_counted()?;
        let mut command = program(DAEMON, folder)?;
        command.arg(remote(folder)).arg(format!("--unixctl={}", control(folder).display()));
        let daemon = spawn(netns, command, &folder.join("ovs-vswitchd.log"))?;
        Ok(Self { netns: netns.clone(), folder: folder.to_owned(), _daemons: [database, daemon] })
    }

    /// Makes changes of the configuration (`ovs-vsctl`), and waits until the daemon has made them.
    pub(crate) fn configure(&self, words: &str) -> Result<()> {
        let mut command = program(CONFIGURE, &self.folder)?;
        command.arg(format!("--db={}", remote(&self.folder))).arg(format!("--timeout={}", STARTING.as_secs()));
        self.run(command.args(words.split_whitespace()), "").map(drop)
    }

    /// Adds OpenFlow's flows to a bridge, one a line.
    pub(crate) fn add_flows(&self, bridge: &str, flows: &str) -> Result<()> {
        let mut command = program(FLOWS, &self.folder)?;
        command.arg("add-flows").arg(self.folder.join(format!("{bridge}.mgmt"))).arg("-");
        self.run(&mut command, flows).map(drop)
    }

    /// What the daemon answers (`ovs-appctl`).
    pub(crate) fn ask(&self, words: &str) -> Result<String> {
        let mut command = program(CONTROL, &self.folder)?;
        command.arg(format!("--target={}", control(&self.folder).display()));
        self.run(command.args(words.split_whitespace()), "")
    }

    fn run(&self, command: &mut Command, input: &str) -> Result<String> {
        let command = std::mem::replace(command, Command::new(""));
        let log = || {
            let log = fs::read_to_string(self.folder.join("ovs-vswitchd.log")).unwrap_or_default();
            let skipped = log.lines().count().saturating_sub(20);
            format!("ovs-vswitchd's log ends:\n{}", log.lines().skip(skipped).collect::<Vec<_>>().join("\n"))
        };
        self.netns.check_output(command, input).with_context(log)
    }
}

/// A command with all of Open vSwitch's folders in one.
fn program(path: &str, folder: &Path) -> Result<Command> {
    let mut command = SERVERS.command(path)?;
    for name in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"] {
        command.env(name, folder);
    }
    Ok(command)
}

fn remote(folder: &Path) -> String {
    format!("unix:{}", folder.join("db.sock").display())
}

fn control(folder: &Path) -> PathBuf {
    folder.join("ovs-vswitchd.ctl")
}

fn spawn(netns: &Netns, mut command: Command, log: &Path) -> Result<ManagedChild> {
    command.args(["-vconsole:off", "-vsyslog:off"]).arg(format!("--log-file={}", log.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    netns.spawn(command)
}

fn wait_for(path: &Path, child: &ManagedChild) -> Result<()> {
    let end = Instant::now() + STARTING;
    while !path.exists() {
        if let Some(status) = child.try_wait()? {
            bail!("ovsdb-server ended: {status}");
        }
        if Instant::now() > end {
            bail!("no {} after {STARTING:?}", path.display());
        }
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The daemon counts processors once its clock has passed ten seconds (`COUNT_CPU_UPDATE_TIME_MS`, `lib/ovs-thread.c` of Open vSwitch
/// 3.1); started before, it finds none, and takes no packet from the kernel.
fn wait_until_processors_are_counted() -> Result<()> {
    const ENOUGH: Duration = Duration::from_secs(11);
    let up = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    sleep(ENOUGH.saturating_sub(up));
    Ok(())
}
