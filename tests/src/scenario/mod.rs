//! What can be played: a failure of every kind that connprobe tells, and healthy workloads of which it must say nothing.
//!
//! One catalogue ([`all`]) serves the kernel tests, the truth table (`cargo xtask truth`) and people (`cargo xtask lab`). A
//! [`Scenario`] says what happens and what each end of it must be told; it is set up as a [`Stage`] in namespaces of its own.
//! [`play::play`] does so from beginning to end, with connprobe watching, and returns what was told and when.
//!
//! To drive a [`Stage`] by hand: [`Stage::connect`] as often as there shall be connections (where
//! [`Scenario::connects_first`]), then [`Stage::act`], which returns when all has happened, then perhaps [`Stage::heal`].

mod controls;
mod failures;
pub mod play;
mod script;
mod told;
pub mod truth;

use std::{fmt, time::Duration};

use anyhow::{Result, bail};

pub use script::{Seat, Stage};
pub use told::Told;

use crate::{lab::Lab, require::Requirement};
use script::Counts;

/// Sets a scenario up.
type SetUp = Box<dyn Fn(&Lab) -> Result<Box<dyn Stage>> + Send + Sync>;

/// A failure or a healthy workload.
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What happens, in a sentence without its end.
    pub summary: &'static str,
    /// What it needs of the machine.
    pub needs: Vec<Requirement>,
    /// From where it is watched, and what must be told there.
    pub views: Vec<View>,
    /// Whether there are connections before it happens; else they are part of it.
    pub connects_first: bool,
    /// Whether it can be undone.
    pub can_be_healed: bool,
    /// Whether it keeps the machine so busy that others' times would suffer.
    pub is_alone: bool,
    /// Whether guests of the kernel matrix play it where they share the tests.
    pub is_shared: bool,
    /// How long playing it may take.
    pub limit: Duration,
    also: fn(&Counts<'_>) -> Result<()>,
    set: SetUp,
}

/// What is seen from one namespace.
#[derive(Clone, Debug)]
pub struct View {
    /// Whose namespace it is.
    pub seat: Seat,
    /// What must be told there; nothing if `None`.
    pub expected: Option<Expectation>,
}

/// What must be told of each connection.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The verdict, in all that is told.
    pub verdict: &'static str,
    /// The cause, in all that is told.
    pub cause: &'static str,
    /// How sure it must become, and may remain: any of these.
    pub confidence: &'static [&'static str],
    /// The same of a watch that begins after it has happened, which may have seen less.
    pub confidence_late: &'static [&'static str],
    /// Whether and when the kernel gives up.
    pub deadline: Deadline,
    /// How long after the failure it must be told at the latest, in seconds.
    pub told_within_seconds: f64,
    /// How long after the failure it must be as sure as that at the latest, in seconds.
    pub sure_within_seconds: f64,
    /// How far the kernel's giving up may be from the stated time, in seconds.
    pub off_deadline_seconds: f64,
    /// Whether it is found, too, by a watch that begins after it has happened.
    pub is_found_late: bool,
}

/// What must be said of the kernel's giving up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// That nothing ends it.
    Nothing,
    /// The time, at which it then happens.
    GivesUp {
        /// The kernel's timer.
        timer: &'static str,
        /// The setting that decides.
        set_by: &'static str,
    },
    /// Anything: the kernel's giving up is not waited for.
    NotLookedAt,
}

impl Expectation {
    /// Told by the fourth timeout and certain by the sixth, which are 3 s and 12.6 s after the first segment; a scan comes every 5 s.
    const fn new(verdict: &'static str, cause: &'static str) -> Self {
        Self {
            verdict,
            cause,
            confidence: &["confirmed"],
            confidence_late: &["confirmed"],
            deadline: Deadline::NotLookedAt,
            told_within_seconds: 8.0,
            sure_within_seconds: 16.0,
            // A guest that is starved of its processor fires its timers late.
            off_deadline_seconds: 1.0,
            is_found_late: true,
        }
    }

    /// Ended by the kernel, by this timer and setting.
    const fn given_up(self, timer: &'static str, set_by: &'static str) -> Self {
        Self { deadline: Deadline::GivesUp { timer, set_by }, ..self }
    }

    /// Never more than a suspicion.
    const fn suspected(self) -> Self {
        Self { confidence: &["suspected"], confidence_late: &["suspected"], ..self }
    }

    /// Told, and as sure as it becomes, within so many seconds.
    const fn within(self, told: f64, sure: f64) -> Self {
        Self { told_within_seconds: told, sure_within_seconds: sure, ..self }
    }

    /// Seen only by a watch that was there when it happened.
    const fn only_as_it_happens(self) -> Self {
        Self { is_found_late: false, ..self }
    }
}

impl Scenario {
    /// Whether nothing may be told of it.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.views.iter().all(|view| view.expected.is_none())
    }

    /// Makes its namespaces, prepares them and starts its server.
    ///
    /// # Errors
    /// When the machine lacks what it needs.
    pub fn set(&self, lab: &Lab) -> Result<Box<dyn Stage>> {
        (self.set)(lab)
    }
}

impl fmt::Debug for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scenario").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Every scenario: the failures by verdict, then the controls.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [failures::all(), controls::all()].into_iter().flatten().collect()
}

/// The scenario of this name.
///
/// # Errors
/// With the names there are.
pub fn named(name: &str) -> Result<Scenario> {
    let scenarios = all();
    let names: Vec<_> = scenarios.iter().map(|scenario| scenario.name).collect();
    match scenarios.into_iter().find(|scenario| scenario.name == name) {
        Some(scenario) => Ok(scenario),
        None => bail!("there is no scenario {name:?}; there are {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use connprobe::judge::Cause;

    use super::*;

    #[test]
    fn every_cause_is_expected_of_some_failure_and_nothing_else_is() {
        let expected: BTreeSet<_> = all()
            .into_iter()
            .flat_map(|scenario| scenario.views)
            .filter_map(|view| view.expected)
            .map(|expected| (expected.verdict, expected.cause))
            .collect();
        let told: BTreeSet<_> = Cause::ALL.into_iter().map(|cause| (cause.verdict().name(), cause.name())).collect();
        assert_eq!(expected, told);
    }

    #[test]
    fn names_are_unique_and_can_be_typed() {
        let names: Vec<_> = all().iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        let can_be_typed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(names.iter().all(|name| name.bytes().all(can_be_typed)), "{names:?}");
    }
}
