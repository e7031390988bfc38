use std::{fmt, path::PathBuf};

use super::{FileSpec, MetricsSpec, OtlpSpec};

/// One sink, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkSpec {
    /// Standard output.
    Stdout,
    /// A file.
    File(FileSpec),
    /// A Unix domain socket (`SOCK_STREAM`).
    Unix(PathBuf),
    /// systemd's journal.
    Journald,
    /// A collector of OpenTelemetry.
    Otlp(OtlpSpec),
    /// Prometheus.
    Metrics(MetricsSpec),
}

impl SinkSpec {
    /// Its name in heartbeats and messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::File(_) => "file",
            Self::Unix(_) => "unix_socket",
            Self::Journald => "journald",
            Self::Otlp(_) => "otlp",
            Self::Metrics(_) => "metrics",
        }
    }

    /// What becomes of records while it fails.
    pub(super) const fn while_it_fails(&self) -> &'static str {
        match self {
            Self::Otlp(_) => "records cannot be sent, and are kept or dropped until they can be",
            Self::Stdout | Self::File(_) | Self::Unix(_) | Self::Journald | Self::Metrics(_) => {
                "records cannot be written, and are dropped until they can be"
            }
        }
    }
}

impl SinkSpec {
    /// Whether both write to the same place, so that the one may go on as the other. Of collectors there is one at most, and what is kept for
    /// an old one goes to the new.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Stdout, Self::Stdout) | (Self::Journald, Self::Journald) | (Self::Otlp(_), Self::Otlp(_)) => true,
            (Self::File(one), Self::File(other)) => one.path == other.path,
            (Self::Unix(one), Self::Unix(other)) => one == other,
            (Self::Metrics(one), Self::Metrics(other)) => one.listen == other.listen,
            (Self::Stdout | Self::Journald | Self::File(_) | Self::Unix(_) | Self::Otlp(_) | Self::Metrics(_), _) => {
                false
            }
        }
    }
}

impl fmt::Display for SinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout | Self::Journald => f.write_str(self.name()),
            Self::Otlp(OtlpSpec { endpoint, .. }) => write!(f, "{} {endpoint}", self.name()),
            Self::Metrics(MetricsSpec { listen, .. }) => write!(f, "{} {listen}", self.name()),
            Self::File(FileSpec { path, .. }) | Self::Unix(path) => write!(f, "{} {}", self.name(), path.display()),
        }
    }
}
