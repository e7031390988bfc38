//! Traffic peers: `connprobe-peer` in a process of its own, so that a socket has another owner than the test.

use std::env;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use crate::child::ManagedChild;
use crate::lines::{Line, Lines, Missed};
use crate::netns::Netns;
use crate::registry::lock;

/// Where the peer's program is, if it is not beside the test's.
pub const PEER_VARIABLE: &str = "CONNPROBE_PEER";

/// How long starting, listening or connecting may take.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What a peer does with arriving data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Reads and forgets.
    #[default]
    Sink,
    /// Sends back.
    Echo,
    /// Never reads: its window shuts when its buffer is full.
    Mute,
    /// Reads 1 KiB every 100 ms through a small buffer.
    Slow,
}

/// Keepalive of a socket (tcp(7): TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Seconds without data before the first probe.
    pub time_s: u32,
    /// Seconds between probes.
    pub interval_s: u32,
    /// Unanswered probes after which the connection is given up.
    pub probes: u32,
}

/// Socket options and traffic, for both ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What is done with arriving data.
    pub mode: Mode,
    /// TCP_USER_TIMEOUT; the kernel counts milliseconds.
    pub user_timeout: Option<Duration>,
    /// Keepalive; off if `None`.
    pub keepalive: Option<Keepalive>,
    /// Writes again and again, at this interval (whole milliseconds).
    pub write_every: Option<Duration>,
    /// Bytes of each repeated write; 0 stands for 1.
    pub write_bytes: u64,
    /// For a connecting peer: its local address, if not the one that the route says.
    pub bind: Option<IpAddr>,
    /// For a connecting peer: how many connections it makes; 0 stands for 1. [`Peer::local`] is then that of the last to be established.
    pub count: usize,
    /// IP_TRANSPARENT: the local address need not be one of the namespace.
    pub transparent: bool,
    /// SO_MARK.
    pub mark: Option<u32>,
    /// For a listener: TCP_DEFER_ACCEPT in seconds.
    pub defer_accept_s: Option<u32>,
    /// For a connecting peer: TCP_FASTOPEN_CONNECT.
    pub fast_open: bool,
    /// SO_BINDTODEVICE: the name of an interface.
    pub device: Option<&'static str>,
    /// For a connecting peer: what the process calls itself, if not connprobe-peer.
    pub comm: Option<&'static str>,
    /// For a listener: keeps a connection open after the other end has closed its half. A connecting peer always does.
    pub keep_open: bool,
    /// For a listener: no events for single connections except errors.
    pub quiet: bool,
}

impl Options {
    /// No option set: what [`Options::default`] is, for constants.
    pub const NONE: Self = Self {
        mode: Mode::Sink,
        user_timeout: None,
        keepalive: None,
        write_every: None,
        write_bytes: 0,
        bind: None,
        count: 0,
        transparent: false,
        mark: None,
        defer_accept_s: None,
        fast_open: false,
        device: None,
        comm: None,
        keep_open: false,
        quiet: false,
    };
}

/// A running peer. Dropping it kills it; its sockets then close as the kernel closes them.
///
/// Commands, one a line: `write N`, `shutdown` (FIN), `close`, `abort` (reset), `status`, `close-listener`. They
/// concern every connection the peer has.
///
/// Events are JSON objects with `event` and `ktime_ns` (CLOCK_MONOTONIC), and mostly `local` and `remote`: `listening`,
/// `accepted`, `connecting`, `connected`, `written` (the kernel has taken all), `eof`, `error` (`errno`, `during`:
/// `connect` or `connection`), `shutdown`, `closed`, `aborted`, `status`, `churned`, `refused` (a command), `failed`.
#[derive(Debug)]
pub struct Peer {
    child: ManagedChild,
    stdin: Mutex<Option<ChildStdin>>,
    events: Lines,
    stderr: Lines,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
}

impl Peer {
    /// Starts a listener and waits until it listens. Port 0 lets the kernel choose, see [`Peer::local`].
    ///
    /// # Errors
    /// When the program is missing, or the address cannot be bound.
    pub fn listen(netns: &Netns, address: SocketAddr, options: &Options) -> Result<Self> {
        let mut arguments = end("listen", address);
        arguments.extend(options.arguments());
        for (given, argument) in [(options.keep_open, "--keep-open"), (options.quiet, "--quiet")] {
            arguments.extend(given.then(|| argument.to_owned()));
        }
        let mut peer = Self::start(netns, &arguments)?;
        peer.learn_addresses("listening")?;
        Ok(peer)
    }

    /// Makes a connection, or several, and waits until they are established.
    ///
    /// # Errors
    /// When the program is missing, or no connection comes about; the message holds the peer's events.
    pub fn connect(netns: &Netns, to: SocketAddr, options: &Options) -> Result<Self> {
        Self::connect_from(netns, None, to, options)
    }

    /// As [`Peer::connect`], from a given local address (port 0: any), whatever the options say of it.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub fn connect_from(netns: &Netns, from: Option<SocketAddr>, to: SocketAddr, options: &Options) -> Result<Self> {
        let mut peer = Self::start_connect(netns, from, to, options)?;
        for _ in 1..options.count {
            peer.wait_event("connected", START_LIMIT)?;
        }
        peer.learn_addresses("connected")?;
        Ok(peer)
    }

    /// Begins to connect and does not wait for the other end's answer; [`Peer::local`] is known.
    ///
    /// # Errors
    /// When the program is missing, or the kernel refuses at once (no route, address in use).
    pub fn start_connect(netns: &Netns, from: Option<SocketAddr>, to: SocketAddr, options: &Options) -> Result<Self> {
        let mut arguments = end("connect", to);
        arguments.extend(options.arguments());
        arguments.extend(
            (options.count > 1).then(|| ["--count".to_owned(), options.count.to_string()]).into_iter().flatten(),
        );
        let from = from.map(|address| address.to_string()).or(options.bind.map(|address| address.to_string()));
        arguments.extend(from.into_iter().flat_map(|address| ["--bind".to_owned(), address]));
        let mut peer = Self::start(netns, &arguments)?;
        peer.learn_addresses("connecting")?;
        Ok(peer)
    }

    /// Starts to make `count` short connections to an echoing listener, one after the other; the event `churned` follows
    /// the last.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn churn(netns: &Netns, to: SocketAddr, count: u64) -> Result<Self> {
        let mut arguments = end("churn", to);
        arguments.extend(["--count".to_owned(), count.to_string()]);
        Self::start(netns, &arguments)
    }

    /// The process that owns the sockets.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The peer's own address.
    ///
    /// # Errors
    /// For a churning peer, which has many.
    pub fn local(&self) -> Result<SocketAddr> {
        self.local.ok_or_else(|| anyhow!("this peer has no one local address"))
    }

    /// The other end of a connecting peer.
    ///
    /// # Errors
    /// For a listener or a churning peer.
    pub fn remote(&self) -> Result<SocketAddr> {
        self.remote.ok_or_else(|| anyhow!("this peer has no one remote address"))
    }

    /// Sends a command; what it brings about comes as an event.
    ///
    /// # Errors
    /// When the peer has ended.
    pub fn command(&self, command: &str) -> Result<()> {
        let mut stdin = lock(&self.stdin);
        let pipe = stdin.as_mut().ok_or_else(|| anyhow!("the peer was told to end"))?;
        writeln!(pipe, "{command}").with_context(|| format!("cannot tell the peer \"{command}\"\n{}", self.story()))
    }

    /// The first event of that name that was not returned before; waits for it. Other events stay for later calls.
    ///
    /// # Errors
    /// When it has not come in time, or the peer ended; the message holds the last events.
    pub fn wait_event(&self, name: &str, timeout: Duration) -> Result<Value> {
        self.wait_event_where(name, timeout, |_| true)
    }

    /// As [`Peer::wait_event`], for an event that also meets a condition, such as a certain `remote`.
    ///
    /// # Errors
    /// As [`Peer::wait_event`].
    pub fn wait_event_where(
        &self,
        name: &str,
        timeout: Duration,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let is_wanted = |line: &Line| {
            line.object.as_ref().is_some_and(|event| event.get("event").is_some_and(|is| is == name) && wanted(event))
        };
        let line = self.events.take(timeout, is_wanted).map_err(|missed| match missed {
            Missed::Timeout => anyhow!("no event \"{name}\" within {timeout:?}\n{}", self.story()),
            Missed::Ended => anyhow!("the peer ended without an event \"{name}\"\n{}", self.story()),
        })?;
        line.object.ok_or_else(|| anyhow!("an event is an object"))
    }

    /// Every event so far.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.events.objects()
    }

    /// Asks for the `status` and returns it: `accepted` and, for each connection, `sent`, `received`, `pending`, `eof`,
    /// `errno`.
    ///
    /// # Errors
    /// When the peer has ended or does not answer.
    pub fn status(&self) -> Result<Value> {
        self.command("status")?;
        self.wait_event("status", START_LIMIT)
    }

    /// Ends the peer in good order: its standard input ends, it exits, and the kernel closes its sockets.
    ///
    /// # Errors
    /// When it does not exit in time or fails.
    pub fn finish(&self, timeout: Duration) -> Result<()> {
        drop(lock(&self.stdin).take());
        let status = self.child.wait(timeout)?;
        if status.success() { Ok(()) } else { Err(anyhow!("the peer failed: {status}\n{}", self.story())) }
    }

    fn start(netns: &Netns, arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(program()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = netns.spawn(command)?;
        let events = Lines::collect(child.take_stdout().context("the peer has no standard output")?)?;
        let stderr = Lines::collect(child.take_stderr().context("the peer has no standard error")?)?;
        let stdin = Mutex::new(child.take_stdin());
        Ok(Self { child, stdin, events, stderr, local: None, remote: None })
    }

    fn learn_addresses(&mut self, event: &str) -> Result<()> {
        let event = self.wait_event(event, START_LIMIT)?;
        let address = |name: &str| event.get(name).and_then(Value::as_str).and_then(|text| text.parse().ok());
        self.local = address("local");
        self.remote = address("remote");
        Ok(())
    }

    /// The last the peer has said, for an error message.
    fn story(&self) -> String {
        format!("its last events:\n{}\n{}", self.events.tail(20), self.stderr.tail(20))
    }
}

impl Options {
    fn arguments(&self) -> Vec<String> {
        let mode = match self.mode {
            Mode::Sink => "sink",
            Mode::Echo => "echo",
            Mode::Mute => "mute",
            Mode::Slow => "slow",
        };
        let mut arguments = vec!["--mode".to_owned(), mode.to_owned()];
        let mut add = |name: &str, value: Option<String>| {
            arguments.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
        };
        let milliseconds = |duration: Duration| duration.as_millis().to_string();
        add("--user-timeout-ms", self.user_timeout.map(milliseconds));
        add("--write-every", self.write_every.map(milliseconds));
        add("--write-bytes", (self.write_bytes > 0).then(|| self.write_bytes.to_string()));
        let triple =
            |keepalive: Keepalive| format!("{},{},{}", keepalive.time_s, keepalive.interval_s, keepalive.probes);
        add("--keepalive", self.keepalive.map(triple));
        add("--comm", self.comm.map(str::to_owned));
        add("--device", self.device.map(str::to_owned));
        add("--defer-accept-s", self.defer_accept_s.map(|seconds| seconds.to_string()));
        add("--mark", self.mark.map(|mark| mark.to_string()));
        arguments.extend(self.fast_open.then(|| "--fast-open".to_owned()));
        arguments.extend(self.transparent.then(|| "--transparent".to_owned()));
        arguments
    }
}

fn end(task: &str, address: SocketAddr) -> Vec<String> {
    [task, "--addr", &address.ip().to_string(), "--port", &address.port().to_string()].map(str::to_owned).to_vec()
}

fn program() -> Result<PathBuf> {
    if let Some(path) = env::var_os(PEER_VARIABLE) {
        return Ok(PathBuf::from(path));
    }
    find_beside_executable("connprobe-peer")
        .ok_or_else(|| anyhow!("no connprobe-peer beside this program; `cargo build -p connprobe-tests` builds it"))
}

/// Finds a program of this build. Cargo puts tests into `deps`, one level below the programs.
pub(crate) fn find_beside_executable(name: &str) -> Option<PathBuf> {
    let executable = env::current_exe().ok()?;
    executable.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| Path::is_file(path))
}
