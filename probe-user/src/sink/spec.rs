use std::{fmt, path::PathBuf};

use super::{FileSpec, MetricsSpec};

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
            Self::Metrics(_) => "metrics",
        }
    }
}

impl SinkSpec {
    /// Whether both write to the same place.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Stdout, Self::Stdout) | (Self::Journald, Self::Journald) => true,
            (Self::File(one), Self::File(other)) => one.path == other.path,
            (Self::Unix(one), Self::Unix(other)) => one == other,
            (Self::Metrics(one), Self::Metrics(other)) => one.listen == other.listen,
            (Self::Stdout | Self::Journald | Self::File(_) | Self::Unix(_) | Self::Metrics(_), _) => false,
        }
    }
}

impl fmt::Display for SinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout | Self::Journald => f.write_str(self.name()),
            Self::Metrics(MetricsSpec { listen, .. }) => write!(f, "{} {listen}", self.name()),
            Self::File(FileSpec { path, .. }) | Self::Unix(path) => write!(f, "{} {}", self.name(), path.display()),
        }
    }
}
