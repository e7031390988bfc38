//! How long a run may take, and that it goes on.

use std::time::Duration;

/// How often and how long is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effort {
    /// Pairs of a measurement with and one without.
    pub(crate) pairs: usize,
    /// How long each takes.
    pub(crate) slice: Duration,
    /// Whether the rest is made smaller, too.
    pub(crate) quick: bool,
}

impl Effort {
    pub(crate) const FULL: Self = Self { pairs: 15, slice: Duration::from_secs(1), quick: false };
    pub(crate) const QUICK: Self = Self { pairs: 2, slice: Duration::from_millis(400), quick: true };
}

/// Says what is done now, to whoever waits.
#[expect(clippy::print_stderr, reason = "results go to standard output")]
pub(crate) fn progress(what: &str) {
    eprintln!("{what}");
}
