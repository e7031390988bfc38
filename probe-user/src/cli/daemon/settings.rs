//! What a daemon may be told: by a file, by environment variables and by flags, each of the same name. A flag counts for more than a
//! variable, and that for more than the file.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::otlp;
use crate::{
    app::{HEARTBEAT_EVERY, SCAN_EVERY},
    cli::values::{Listen, PeerPrefix, Period, ScanEvery, Size, port},
    judge::Thresholds,
    kernel::check_filter,
    model::Filter,
    sink::{FileSpec, MetricsSpec, SinkSpec},
    witness::netns,
};

/// Everything a daemon may be told; `None` where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// Only this network namespace: a name under /run/netns, a path, an inode number, or all [default: all]
    #[arg(long, value_name = "NAME|PATH|INODE|all", env = "CONNPROBE_NETNS")]
    netns: Option<String>,
    /// Only connections with one of these ports at either end; may be given several times
    #[arg(long = "port", value_name = "N", value_delimiter = ',', env = "CONNPROBE_PORTS", value_parser = port)]
    #[serde(deserialize_with = "ports")]
    ports: Option<Vec<u16>>,
    /// Only connections to peers in one of these prefixes; may be given several times
    #[arg(long = "peer", value_name = "CIDR", value_delimiter = ',', env = "CONNPROBE_PEERS")]
    peers: Option<Vec<PeerPrefix>>,
    /// How often all sockets are scanned for those that wait, or never [default: 5s]
    #[arg(long, value_name = "TIME|never", env = "CONNPROBE_SCAN_EVERY")]
    #[serde(deserialize_with = "parsed")]
    scan_every: Option<ScanEvery>,
    /// Write a `connection` record of each connection that ends, besides what is in limbo: thousands a second on a busy host
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", env = "CONNPROBE_LIFECYCLE")]
    lifecycle: Option<bool>,
    /// How often a heartbeat is written [default: 1m]
    #[arg(long, value_name = "TIME", env = "CONNPROBE_HEARTBEAT_EVERY")]
    #[serde(deserialize_with = "parsed")]
    heartbeat_every: Option<Period>,
    /// Write records to standard output [default: true, where no other sink is named]
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", env = "CONNPROBE_STDOUT")]
    stdout: Option<bool>,
    /// Write records to this file
    #[arg(long, value_name = "PATH", env = "CONNPROBE_FILE")]
    file: Option<PathBuf>,
    /// At which size the file is turned over, such as 100MiB, or never, where logrotate does it [default: 100MiB]
    #[arg(long, value_name = "SIZE|never", env = "CONNPROBE_FILE_MAX_SIZE")]
    #[serde(deserialize_with = "parsed")]
    file_max_size: Option<Size>,
    /// How many older files are kept [default: 5]
    #[arg(long, value_name = "N", env = "CONNPROBE_FILE_KEEP")]
    file_keep: Option<u32>,
    /// Write records to the readers of this Unix domain socket
    #[arg(long, value_name = "PATH", env = "CONNPROBE_UNIX_SOCKET")]
    unix_socket: Option<PathBuf>,
    /// Write records to systemd's journal
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", env = "CONNPROBE_JOURNALD")]
    journald: Option<bool>,
    /// Send records to this OpenTelemetry collector, by OTLP over HTTP
    // It may hold a password, and both parsers repeat what they cannot take: any string will do for them.
    #[arg(long, value_name = "URL", env = "CONNPROBE_OTLP_ENDPOINT", hide_env_values = true)]
    otlp_endpoint: Option<String>,
    /// Add the header fields in this file to what is sent there, such as `Authorization: Bearer ...`, one a line
    #[arg(long, value_name = "PATH", env = "CONNPROBE_OTLP_HEADERS_FILE")]
    otlp_headers_file: Option<PathBuf>,
    /// How long the collector may take for an answer [default: 10s]
    #[arg(long, value_name = "TIME", env = "CONNPROBE_OTLP_TIMEOUT")]
    #[serde(deserialize_with = "parsed")]
    otlp_timeout: Option<Period>,
    /// Serve /metrics for Prometheus and /healthz at this address, or none; they are not encrypted and ask nobody who he is
    /// [default: 127.0.0.1:9758]
    #[arg(long, value_name = "ADDRESS:PORT|none", env = "CONNPROBE_METRICS_LISTEN")]
    #[serde(deserialize_with = "parsed")]
    metrics_listen: Option<Listen>,
    /// The file that a second daemon on this host finds locked [default: /run/connprobe/daemon.lock]
    #[arg(long, value_name = "PATH", env = "CONNPROBE_LOCK")]
    lock: Option<PathBuf>,
    /// Keep in this folder what is open, so that a daemon that is started again on this boot goes on with the same findings
    #[arg(long, value_name = "FOLDER", env = "CONNPROBE_STATE_DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    thresholds: ThresholdSettings,
}

/// From when on something is told: a table of the file. See the pages of the verdicts.
#[derive(Clone, Debug, Default, PartialEq, Args, Deserialize)]
#[command(next_help_heading = "Thresholds")]
#[serde(default, deny_unknown_fields)]
struct ThresholdSettings {
    /// Retransmission timeouts in a row, from which on data without an answer is suspicious [default: 4]
    #[arg(long, value_name = "N", env = "CONNPROBE_RETRANSMITS_SUSPECTED")]
    retransmits_suspected: Option<u8>,
    /// The same from which on it is a fact [default: 6]
    #[arg(long, value_name = "N", env = "CONNPROBE_RETRANSMITS_CONFIRMED")]
    retransmits_confirmed: Option<u8>,
    /// Keepalive probes in a row without an answer, from which on that is suspicious [default: 2]
    #[arg(long, value_name = "N", env = "CONNPROBE_PROBES_SUSPECTED")]
    probes_suspected: Option<u8>,
    /// The same of window probes [default: 3]
    #[arg(long, value_name = "N", env = "CONNPROBE_WINDOW_PROBES_SUSPECTED")]
    window_probes_suspected: Option<u8>,
    /// Probes of either kind from which on it is a fact [default: 4]
    #[arg(long, value_name = "N", env = "CONNPROBE_PROBES_CONFIRMED")]
    probes_confirmed: Option<u8>,
    /// For how long a window stays shut before that is suspicious [default: 6s]
    #[arg(long, value_name = "TIME", env = "CONNPROBE_WINDOW_SHUT_SUSPECTED")]
    #[serde(deserialize_with = "parsed")]
    window_shut_suspected: Option<Period>,
    /// The same before it is a fact [default: 30s]
    #[arg(long, value_name = "TIME", env = "CONNPROBE_WINDOW_SHUT_CONFIRMED")]
    #[serde(deserialize_with = "parsed")]
    window_shut_confirmed: Option<Period>,
    /// How long a peer has been silent that answers with a reset, to have forgotten the connection [default: 10s]
    #[arg(long, value_name = "TIME", env = "CONNPROBE_SILENCE_BEFORE_RESET")]
    #[serde(deserialize_with = "parsed")]
    silence_before_reset: Option<Period>,
    /// For how long a receiver waits for a FIN that was dropped once before that is a fact [default: 3s]
    #[arg(long, value_name = "TIME", env = "CONNPROBE_FIN_CONFIRMED")]
    #[serde(deserialize_with = "parsed")]
    fin_confirmed: Option<Period>,
    /// Copies of a forwarded FIN that were dropped, from which on it is a fact without another sign [default: 3]
    #[arg(long, value_name = "N", env = "CONNPROBE_FIN_COPIES_CONFIRMED")]
    fin_copies_confirmed: Option<u8>,
    /// How soon after the peer was last heard of a connection stalls, for its two paths to be suspected [default: 5m]
    #[arg(long, value_name = "TIME", env = "CONNPROBE_EMBRYONIC_WITHIN")]
    #[serde(deserialize_with = "parsed")]
    embryonic_within: Option<Period>,
}

impl ThresholdSettings {
    fn or(self, other: Self) -> Self {
        Self {
            retransmits_suspected: self.retransmits_suspected.or(other.retransmits_suspected),
            retransmits_confirmed: self.retransmits_confirmed.or(other.retransmits_confirmed),
            probes_suspected: self.probes_suspected.or(other.probes_suspected),
            window_probes_suspected: self.window_probes_suspected.or(other.window_probes_suspected),
            probes_confirmed: self.probes_confirmed.or(other.probes_confirmed),
            window_shut_suspected: self.window_shut_suspected.or(other.window_shut_suspected),
            window_shut_confirmed: self.window_shut_confirmed.or(other.window_shut_confirmed),
            silence_before_reset: self.silence_before_reset.or(other.silence_before_reset),
            fin_confirmed: self.fin_confirmed.or(other.fin_confirmed),
            fin_copies_confirmed: self.fin_copies_confirmed.or(other.fin_copies_confirmed),
            embryonic_within: self.embryonic_within.or(other.embryonic_within),
        }
    }

    fn resolve(&self) -> anyhow::Result<Thresholds> {
        let default = Thresholds::default();
        let time = |period: Option<Period>, default| period.map_or(default, |period| period.0);
        let thresholds = Thresholds {
            retransmits_suspected: self.retransmits_suspected.unwrap_or(default.retransmits_suspected),
            retransmits_confirmed: self.retransmits_confirmed.unwrap_or(default.retransmits_confirmed),
            probes_suspected: self.probes_suspected.unwrap_or(default.probes_suspected),
            window_probes_suspected: self.window_probes_suspected.unwrap_or(default.window_probes_suspected),
            probes_confirmed: self.probes_confirmed.unwrap_or(default.probes_confirmed),
            window_shut_suspected: time(self.window_shut_suspected, default.window_shut_suspected),
            window_shut_confirmed: time(self.window_shut_confirmed, default.window_shut_confirmed),
            silence_before_reset: time(self.silence_before_reset, default.silence_before_reset),
            fin_confirmed: time(self.fin_confirmed, default.fin_confirmed),
            fin_copies_confirmed: self.fin_copies_confirmed.unwrap_or(default.fin_copies_confirmed),
            embryonic_within: time(self.embryonic_within, default.embryonic_within),
        };
        thresholds.check().map_err(|why| anyhow!("thresholds: {why}"))?;
        Ok(thresholds)
    }
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Resolved {
    pub(super) filter: Filter,
    /// `None` for never.
    pub(super) scan_every: Option<Duration>,
    /// Whether connections that end are told.
    pub(super) lifecycle: bool,
    pub(super) heartbeat_every: Duration,
    pub(super) sinks: Vec<SinkSpec>,
    pub(super) lock: PathBuf,
    /// Where open findings are kept for the next run, if they are.
    pub(super) state_dir: Option<PathBuf>,
    pub(super) thresholds: Thresholds,
}

impl Settings {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Reads what a file holds.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        toml::from_str(text).map_err(|error| told(error, text))
    }

    /// Takes from `other` what is not said here.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            netns: self.netns.or(other.netns),
            ports: self.ports.or(other.ports),
            peers: self.peers.or(other.peers),
            scan_every: self.scan_every.or(other.scan_every),
            lifecycle: self.lifecycle.or(other.lifecycle),
            heartbeat_every: self.heartbeat_every.or(other.heartbeat_every),
            stdout: self.stdout.or(other.stdout),
            file: self.file.or(other.file),
            file_max_size: self.file_max_size.or(other.file_max_size),
            file_keep: self.file_keep.or(other.file_keep),
            unix_socket: self.unix_socket.or(other.unix_socket),
            journald: self.journald.or(other.journald),
            otlp_endpoint: self.otlp_endpoint.or(other.otlp_endpoint),
            otlp_headers_file: self.otlp_headers_file.or(other.otlp_headers_file),
            otlp_timeout: self.otlp_timeout.or(other.otlp_timeout),
            metrics_listen: self.metrics_listen.or(other.metrics_listen),
            lock: self.lock.or(other.lock),
            state_dir: self.state_dir.or(other.state_dir),
            thresholds: self.thresholds.or(other.thresholds),
        }
    }

    /// What it comes to on this host.
    pub(super) fn resolve(self) -> anyhow::Result<Resolved> {
        const MAX_SIZE: u64 = 100 << 20;
        const KEEP: u32 = 5;
        const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9758);
        if self.file.is_none() && (self.file_max_size.is_some() || self.file_keep.is_some()) {
            bail!("file_max_size and file_keep say how `file` is turned over: name that, too");
        }
        let netns = match self.netns.as_deref() {
            None | Some("all") => None,
            Some(spec) => Some(netns::resolve(spec)?.inode),
        };
        let peers = self.peers.unwrap_or_default().into_iter().map(|peer| peer.0).collect();
        let filter = Filter { netns, ports: self.ports.unwrap_or_default(), peers };
        check_filter(&filter)?;
        let file = self.file.map(|path| {
            let max_bytes = self.file_max_size.map_or(Some(MAX_SIZE), |size| size.0);
            SinkSpec::File(FileSpec { path, max_bytes, keep: self.file_keep.unwrap_or(KEEP) })
        });
        let journald = self.journald.unwrap_or(false).then_some(SinkSpec::Journald);
        let otlp = otlp::sink(self.otlp_endpoint.as_deref(), self.otlp_headers_file.as_deref(), self.otlp_timeout)?;
        let unix = self.unix_socket.map(SinkSpec::Unix);
        let mut sinks: Vec<_> = [file, unix, journald, otlp].into_iter().flatten().collect();
        if self.stdout.unwrap_or(sinks.is_empty()) {
            sinks.push(SinkSpec::Stdout);
        }
        if sinks.is_empty() {
            bail!("no sink is left: with `stdout = false` name a file, a unix_socket, journald or an otlp_endpoint");
        }
        let heartbeat_every = self.heartbeat_every.map_or(HEARTBEAT_EVERY, |period| period.0);
        let listen = self.metrics_listen.map_or_else(|| Some(METRICS), |listen| listen.0);
        sinks.extend(listen.map(|listen| SinkSpec::Metrics(MetricsSpec { listen, heartbeat_every })));
        Ok(Resolved {
            thresholds: self.thresholds.resolve()?,
            filter,
            scan_every: self.scan_every.map_or(Some(SCAN_EVERY), |every| every.0),
            lifecycle: self.lifecycle.unwrap_or(false),
            heartbeat_every,
            sinks,
            lock: self.lock.unwrap_or_else(|| PathBuf::from("/run/connprobe/daemon.lock")),
            state_dir: self.state_dir,
        })
    }
}

impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>| if items.is_empty() { "all".to_owned() } else { items.join(", ") };
        let Filter { netns, ports, peers } = &self.filter;
        writeln!(f, "  network namespaces  {}", netns.map_or("all".to_owned(), |inode| inode.to_string()))?;
        writeln!(f, "  ports               {}", list(ports.iter().map(ToString::to_string).collect()))?;
        writeln!(f, "  peers               {}", list(peers.iter().map(ToString::to_string).collect()))?;
        let scan = self.scan_every.map_or("never".to_owned(), |time| humantime::format_duration(time).to_string());
        writeln!(f, "  scan every          {scan}")?;
        writeln!(f, "  ended connections   {}", if self.lifecycle { "told" } else { "not told" })?;
        writeln!(f, "  heartbeat every     {}", humantime::format_duration(self.heartbeat_every))?;
        for sink in &self.sinks {
            writeln!(f, "  sink                {sink}")?;
        }
        let state = self.state_dir.as_deref().map_or("not kept".to_owned(), |folder| folder.display().to_string());
        writeln!(f, "  open findings       {state}")?;
        Ok(())
    }
}

/// What is wrong with a file, with the line; but not that line where it may be that of a collector, whose URL may hold a password.
fn told(error: toml::de::Error, text: &str) -> anyhow::Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let number = before.matches('\n').count();
    match text.lines().nth(number) {
        Some(line) if line.contains("otlp_endpoint") || line.contains("://") => {
            anyhow!("line {}, which is not shown, for a URL may hold a password: {}", number + 1, error.message())
        }
        _ => error.into(),
    }
}

/// Written as text: what it must look like is said by the type.
fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = String>,
{
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

fn ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u16>>, D::Error> {
    let ports = Vec::<u16>::deserialize(deserializer)?;
    if ports.contains(&0) { Err(D::Error::custom("a port is a number from 1 to 65535")) } else { Ok(Some(ports)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Settings> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("connprobe.toml");
        fs::write(&path, text).unwrap();
        Settings::read(&path)
    }

    #[test]
    fn a_flag_counts_for_more_than_the_file_and_the_file_for_more_than_the_default() {
        let file =
            read("ports = [5672, 443]\nscan_every = \"10s\"\nfile = \"/var/log/connprobe/events\"\nstdout = true\n")
                .unwrap();
        let flags = Settings { scan_every: Some("never".parse().unwrap()), ..Settings::default() };
        let resolved = flags.or(file).resolve().unwrap();
        assert_eq!((resolved.scan_every, resolved.heartbeat_every), (None, HEARTBEAT_EVERY));
        assert_eq!(resolved.filter.ports, [5672, 443]);
        let file = FileSpec { path: "/var/log/connprobe/events".into(), max_bytes: Some(100 << 20), keep: 5 };
        let listen = "127.0.0.1:9758".parse().unwrap();
        let metrics = SinkSpec::Metrics(MetricsSpec { listen, heartbeat_every: HEARTBEAT_EVERY });
        assert_eq!(resolved.sinks, [SinkSpec::File(file), SinkSpec::Stdout, metrics.clone()]);
        assert_eq!(Settings::default().resolve().unwrap().sinks, [SinkSpec::Stdout, metrics]);
        let unserved = read("metrics_listen = \"none\"\n").unwrap().resolve().unwrap();
        assert_eq!(unserved.sinks, [SinkSpec::Stdout]);
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_and_key() {
        for (text, line, what) in [
            ("\nprots = [1]\n", "line 2", "unknown field `prots`"),
            ("scan_every = \"5\"\n", "line 1", "scan_every"),
            ("scan_every = 5\n", "line 1", "scan_every"),
            ("stdout = true\nports = [0]\n", "line 2", "from 1 to 65535"),
            ("ports = [70000]\n", "line 1", "ports"),
            ("peers = [\"10.0.0.0/8\", \"nowhere\"]\n", "line 1", "not an address prefix"),
            ("heartbeat_every = \"10ms\"\n", "line 1", "at least 1s"),
            ("file_max_size = \"a lot\"\n", "line 1", "not a size"),
            ("stdout = \"yes\"\n", "line 1", "stdout"),
            ("metrics_listen = \"9758\"\n", "line 1", "an address and a port"),
            ("stdout = true\notlp_endpoint = 4317\n", "line 2", "expected a string"),
            ("otlp_timeout = 10\n", "line 1", "otlp_timeout"),
            ("[thresholds]\nretransmits = 3\n", "line 2", "unknown field `retransmits`"),
            ("[thresholds]\nfin_confirmed = \"soon\"\n", "line 2", "fin_confirmed"),
            ("file_keep = -1\n", "line 1", "file_keep"),
            ("[sinks]\n", "line 1", "unknown field `sinks`"),
            ("stdout = ", "line 1", "stdout"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains("connprobe.toml"), "{error}");
            assert!(error.contains(line) && error.contains(what), "{text:?}: {error}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let refused = |text: &str| read(text).unwrap().resolve().unwrap_err().to_string();
        assert!(refused("stdout = false\n").contains("no sink is left"));
        assert!(refused("file_keep = 3\n").contains("name that, too"));
        assert!(refused("otlp_timeout = \"3s\"\n").contains("otlp_endpoint"));
        assert!(
            refused("otlp_endpoint = \"grpc://collector:4317\"\n").contains("otlp_endpoint: OTLP is spoken over HTTP")
        );
        assert!(refused("[thresholds]\nretransmits_suspected = 9\n").contains("retransmits_confirmed (6)"));
    }

    #[test]
    fn a_password_in_a_collectors_url_is_never_told() {
        for (text, what) in [
            ("otlp_endpoint = \"http://me:secret@127.0.0.1:4318\"\n", "otlp_headers_file"),
            ("otlp_endpoint = \"https://me:secret@collector.example\"\n", "otlp_headers_file"),
            ("otlp_endpoint = \"https://me:secret@collector.example:x\"\n", "otlp_endpoint: "),
            ("otlp_endpoint = \"secret@collector\"\n", "otlp_endpoint: "),
            ("\notlp_endpoint = [\"https://me:secret@collector\"]\n", "line 2"),
            ("\notlp_endpont = \"https://me:secret@collector\"\n", "unknown field `otlp_endpont`"),
            ("\notlp_endpoint = \"https://me:secret@collector\n", "line 2"),
            ("\notlp_endpoint = https://me:secret@collector\n", "line 2"),
            ("otlp_endpoint = \"a\"\notlp_endpoint = \"https://me:secret@collector\"\n", "line 2"),
        ] {
            let error = read(text).and_then(Settings::resolve).unwrap_err();
            let error = format!("{error:#}\n{error:?}");
            assert!(error.contains(what) && !error.contains("secret"), "{text:?}: {error}");
        }
    }
}
