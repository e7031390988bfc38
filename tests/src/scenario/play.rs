//! A scenario from beginning to end, with connprobe watching.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use serde::Serialize;
use serde_json::Value;

use super::{
    Deadline, Expectation, Scenario, Seat, Stage, Told, View,
    script::Counts,
    told::{GivenUp, Outcome},
};
use crate::{
    clocks::{now_wall_seconds, wall_of_event},
    lab::Lab,
    peer::Peer,
    probe::Probe,
    runner::FalseAlarm,
    watching::{self, stop, summary},
    wire::Summary,
};

/// How long after it has happened the last watch begins.
const LATE: Duration = Duration::from_secs(4);
/// How long after it has happened that one is sure at the latest. Where attaching takes a guest so long that it misses the fifth copy of a
/// segment, which comes after 6 s, it sees the next ones after 13 and 26 s.
const LATE_SURE: Duration = Duration::from_secs(30);
/// How long the kernel's giving up may take.
const LONG: Duration = Duration::from_secs(60);

/// What is healthy is scanned often, so that it is looked at in many moments.
const OFTEN: &[&str] = &["--scan-every", "500ms"];

/// When a watch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// Before it happened.
    On,
    /// Some seconds after.
    Late,
}

/// What one watch from one seat came to.
#[derive(Debug)]
pub struct Watched {
    /// From where.
    pub seat: Seat,
    /// When it began.
    pub watch: Watch,
    /// Of each connection that had to be told, what was right, or what was wrong.
    pub connections: Vec<Result<Outcome>>,
    /// What was told beside: of connections that nothing is wrong with, or a cause that is another.
    pub false_findings: Vec<Told>,
    /// What the program says of the whole watch.
    pub summary: Summary,
}

/// Plays it once, in a lab of its own.
///
/// # Errors
/// When it could not be set up or made to happen, or what was told is not as the contract says. What was told wrongly, or not at all, is no
/// error here: see [`ensure_right`].
pub fn play(scenario: &Scenario) -> Result<Vec<Watched>> {
    let own = Lab::new(scenario.name)?;
    let mut performance = Performance::begin(scenario, scenario.set(&own)?)?;
    performance.act()?;
    performance.watch_late()?;
    performance.end()
}

/// A scenario that is being played. [`Performance::act`] once, [`Performance::watch_late`] perhaps, then [`Performance::end`].
pub struct Performance<'a> {
    scenario: &'a Scenario,
    stage: Box<dyn Stage>,
    watches: Vec<(&'a View, Watch, Probe)>,
    /// When it had happened, in seconds since 1970.
    acted: f64,
}

impl<'a> Performance<'a> {
    /// Makes the connections, one before and one after the first watches begin.
    ///
    /// # Errors
    /// When a connection or a watch does not come about.
    pub fn begin(scenario: &'a Scenario, mut stage: Box<dyn Stage>) -> Result<Self> {
        if scenario.connects_first {
            stage.connect()?;
        }
        let mut performance = Self { scenario, stage, watches: Vec::new(), acted: 0.0 };
        for view in &scenario.views {
            performance.watch(view, Watch::On)?;
        }
        if scenario.connects_first {
            performance.stage.connect()?;
        }
        Ok(performance)
    }

    /// Lets it happen.
    ///
    /// # Errors
    /// When it could not be made to happen.
    pub fn act(&mut self) -> Result<()> {
        self.stage.act().with_context(|| format!("{} could not be made to happen", self.scenario.name))?;
        self.acted = now_wall_seconds()?;
        Ok(())
    }

    /// Watches, too, from some seconds after, whatever can be found then.
    ///
    /// # Errors
    /// When a watch does not come about.
    pub fn watch_late(&mut self) -> Result<()> {
        let is_found_late = |view: &&View| view.expected.as_ref().is_some_and(|expected| expected.is_found_late);
        if self.scenario.views.iter().any(|view| view.expected.is_some()) {
            sleep(LATE);
        }
        self.scenario.views.iter().filter(is_found_late).try_for_each(|view| self.watch(view, Watch::Late))
    }

    /// Waits until all must be told and the kernel has given up, if it does, and returns what was told.
    ///
    /// # Errors
    /// When the kernel does not give up, or a record is not as the contract says.
    pub fn end(&mut self) -> Result<Vec<Watched>> {
        let gives_up = |expected: &Expectation| matches!(expected.deadline, Deadline::GivesUp { .. });
        let clients = self.stage.clients();
        let given_up = if self.expected().any(gives_up) {
            clients.iter().map(|client| give_up(client).map(Some)).collect::<Result<Vec<_>>>()?
        } else {
            wait_until_sure(self.expected(), self.acted)?;
            clients.iter().map(|_| None).collect()
        };
        // What ended them is told within a moment.
        sleep(Duration::from_secs(1));
        std::mem::take(&mut self.watches)
            .into_iter()
            .map(|(view, watch, probe)| {
                let seen = Seen { stage: &*self.stage, seat: view.seat, acted: self.acted, given_up: &given_up };
                judge(&seen, watch, view.expected.as_ref(), probe)
            })
            .collect()
    }

    /// What is being played.
    pub fn stage(&mut self) -> &mut dyn Stage {
        &mut *self.stage
    }

    fn watch(&mut self, view: &'a View, watch: Watch) -> Result<()> {
        let options = if self.scenario.is_control() { OFTEN } else { &[] };
        self.watches.push((view, watch, watching::watch(self.stage.netns(view.seat), options)?));
        Ok(())
    }

    fn expected(&self) -> impl Iterator<Item = &'a Expectation> {
        self.scenario.views.iter().filter_map(|view| view.expected.as_ref())
    }
}

/// How and when this client's kernel has given its connection up.
fn give_up(client: &Peer) -> Result<GivenUp> {
    let error = client.wait_event("error", LONG)?;
    let errno = error.get("errno").and_then(Value::as_i64).context("no errno")?;
    Ok(GivenUp { at: wall_of_event(&error)?, errno: Errno::from_raw(i32::try_from(errno)?) })
}

fn wait_until_sure<'a>(expected: impl Iterator<Item = &'a Expectation>, acted: f64) -> Result<()> {
    let longest = expected
        .map(|expected| match expected.is_found_late {
            true => expected.sure_within_seconds.max(LATE_SURE.as_secs_f64()),
            false => expected.sure_within_seconds,
        })
        .fold(0.0, f64::max);
    let left = acted + longest - now_wall_seconds()?;
    sleep(Duration::from_secs_f64(left.max(0.0)));
    Ok(())
}

/// What is seen from one seat.
struct Seen<'a> {
    stage: &'a dyn Stage,
    seat: Seat,
    acted: f64,
    given_up: &'a [Option<GivenUp>],
}

fn judge(seen: &Seen<'_>, watch: Watch, expected: Option<&Expectation>, probe: Probe) -> Result<Watched> {
    let (_, records) = stop(probe)?;
    let summary = summary(&records)?.clone();
    let mut others = Told::all(records)?;
    let mut connections = Vec::new();
    if let Some(expected) = expected {
        for (client, given_up) in seen.stage.clients().iter().zip(seen.given_up) {
            let mut ours = Vec::new();
            for told in std::mem::take(&mut others) {
                if told.is_about(client)? { ours.push(told) } else { others.push(told) }
            }
            let outcome = expected
                .check(&ours, (seen.stage, seen.seat, watch), client, seen.acted, *given_up)
                .with_context(|| format!("{}, {watch:?}: {ours:#?}", seen.seat));
            connections.push(outcome);
        }
    }
    Ok(Watched { seat: seen.seat, watch, connections, false_findings: others, summary })
}

/// Nothing is wrong with what was told: each connection that had to be, in time, and no other.
///
/// # Errors
/// With what is wrong; a [`FalseAlarm`] where something was found that is not there.
pub fn ensure_right(scenario: &Scenario, watched: &[Watched]) -> Result<()> {
    for Watched { seat, watch, connections, false_findings, summary } in watched {
        if !false_findings.is_empty() {
            let alarm = FalseAlarm(format!("{seat}, {watch:?}: told of what is not there: {false_findings:#?}"));
            return Err(alarm.into());
        }
        let lost: u64 = summary.hooks.iter().map(|hook| hook.lost).sum();
        ensure!(lost == 0 && summary.undecodable == 0, "{seat}, {watch:?}: lost events: {summary:?}");
        let Some(expected) =
            scenario.views.iter().find(|view| view.seat == *seat).and_then(|view| view.expected.as_ref())
        else {
            continue;
        };
        ensure!(!connections.is_empty(), "no connection was looked for");
        for outcome in connections {
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(error) => bail!("{error:#}"),
            };
            if *watch == Watch::On {
                ensure!(outcome.told_seconds <= expected.told_within_seconds, "{seat}: told too late: {outcome:?}");
                ensure!(outcome.sure_seconds <= expected.sure_within_seconds, "{seat}: sure too late: {outcome:?}");
            }
        }
    }
    let counts = Counts(watched.iter().map(|watched| (watched.seat, &watched.summary)).collect());
    (scenario.also)(&counts).with_context(|| format!("{counts:?}"))
}
