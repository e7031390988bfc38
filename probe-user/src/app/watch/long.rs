//! What a watch needs that goes on for months: heartbeats, new settings on the way, and what one run leaves to the next.

use std::time::Duration;

use nix::{
    sys::resource::{UsageWho, getrusage},
    sys::time::TimeValLike as _,
};
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep_until},
};

use super::{Attention, Change, Programs, Tell, Watch, WatchError, WatchOptions, start_scans, units};
use crate::{
    app::{State, clock},
    case::Finding,
    judge::Thresholds,
    kernel::{Facts, Plan, Probes},
    model::Coverage,
    report::{Cost, Heartbeat},
};

/// How often a heartbeat comes, where nothing else is said.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(60);

/// What is to be watched from now on, and how.
pub struct Reload {
    /// Where other connections are to be watched, or scans to come otherwise.
    pub attach: Option<Attach>,
    /// From when on something is told.
    pub thresholds: Thresholds,
    /// How often a heartbeat comes.
    pub heartbeat_every: Duration,
}

/// What the programs are attached with.
pub struct Attach {
    /// The kernel.
    pub facts: Facts,
    /// How to attach to it.
    pub plan: Plan,
    /// Filter and scans.
    pub options: WatchOptions,
}

/// Heartbeats, new settings, and what is kept for the next run.
#[derive(Default)]
pub(super) struct Long {
    pub(super) state: Option<State>,
    heartbeats: Option<(Duration, Instant)>,
    reloads: Option<Receiver<Box<Reload>>>,
}

/// Something that is due in a long watch.
pub(super) enum Due {
    Heartbeat,
    Reload(Box<Reload>),
}

impl Long {
    /// Waits for the next thing to do; for ever where there is none.
    pub(super) async fn next(&mut self) -> Due {
        let heartbeat = self.heartbeats.map(|(_, at)| at);
        let reload = async {
            match &mut self.reloads {
                Some(reloads) => reloads.recv().await,
                None => None,
            }
        };
        tokio::select! {
            Some(reload) = reload => Due::Reload(reload),
            () = sleep_until(heartbeat.unwrap_or_else(Instant::now)), if heartbeat.is_some() => Due::Heartbeat,
            else => std::future::pending().await,
        }
    }
}

impl Watch {
    /// Tells every so often how it does. Of findings that are over only their number is remembered.
    #[must_use]
    pub fn with_heartbeats(mut self, every: Duration) -> Self {
        self.findings.keep_open_only();
        self.long.heartbeats = Some((every, Instant::now() + every));
        self
    }

    /// Judges by these thresholds.
    #[must_use]
    pub fn with_thresholds(mut self, thresholds: Thresholds) -> Self {
        self.tracker.set_thresholds(thresholds);
        self
    }

    /// Goes on with what the run before has left open, and keeps for the next what is open here.
    #[must_use]
    pub fn with_state(mut self, state: State, left_open: Vec<Finding>) -> Self {
        for finding in left_open {
            if self.tracker.resume(clock::now(), finding.clone()) {
                self.findings.take(finding);
            } else {
                state.forget(&finding.id);
            }
        }
        self.long.state = Some(state);
        self
    }

    /// Takes new settings on the way. Cases and findings stay.
    #[must_use]
    pub fn with_reloads(mut self, reloads: Receiver<Box<Reload>>) -> Self {
        self.long.reloads = Some(reloads);
        self
    }

    pub(super) fn do_due(&mut self, due: Due, tell: &mut impl Tell) -> Result<(), WatchError> {
        match due {
            Due::Heartbeat => {
                if let Some((every, at)) = &mut self.long.heartbeats {
                    *at = Instant::now() + *every;
                }
                let heartbeat = self.heartbeat()?;
                tell(Change::Heartbeat(heartbeat))?;
            }
            Due::Reload(reload) => {
                let Reload { attach, thresholds, heartbeat_every } = *reload;
                self.tracker.set_thresholds(thresholds);
                self.long.heartbeats = Some((heartbeat_every, Instant::now() + heartbeat_every));
                let Some(attach) = attach else { return Ok(()) };
                if self.attach_anew(&attach, tell)? {
                    self.tell_coverage(tell)?;
                } else {
                    tell(Change::NotAttached)?;
                }
            }
        }
        Ok(())
    }

    fn heartbeat(&mut self) -> Result<Heartbeat, WatchError> {
        let totals = self.programs.as_mut().map(Programs::totals).transpose()?;
        let hooks = self.losses.hook_counts(totals);
        let (at, (findings, open_findings)) = (clock::now(), self.findings.count());
        let undecodable = self.losses.undecodable_total();
        Ok(Heartbeat {
            at,
            watched: at.since(self.started),
            open_cases: self.tracker.open_cases(),
            open_findings,
            findings: u64::try_from(findings).unwrap_or(u64::MAX),
            lost: hooks.iter().map(|hook| hook.lost + hook.missed).sum::<u64>() + undecodable,
            undecodable,
            questions_waiting: self.tracker.questions_waiting(),
            hooks,
            cost: Cost { bpf: self.programs.as_ref().and_then(Programs::run_time), ..cost() },
            connections: self.coverage.lifecycle.as_ref().map(|_| self.closed.counts()),
            sinks: Vec::new(),
        })
    }

    /// Attaches programs with the new settings before those with the old ones go. Where that fails, the old ones stay; `false` then.
    fn attach_anew(&mut self, attach: &Attach, tell: &mut impl Tell) -> Result<bool, WatchError> {
        let Attach { facts, plan, options } = attach;
        let mut probes = match Probes::attach(facts, plan, &options.load) {
            Ok(probes) => probes,
            Err(error) => {
                tracing::error!(%error, "the programs cannot be attached with the new settings; the old ones stay");
                return Ok(false);
            }
        };
        let scans = match start_scans(&probes, options) {
            Ok(scans) => scans,
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "no scan can be started with the new settings; the old ones stay"
                );
                return Ok(false);
            }
        };
        self.findings.ask_about(options.load.filter.clone());
        // What the old programs have told until now is not lost, and what they have lost is told.
        self.read_ring();
        self.count_losses(tell)?;
        self.hand_over_closed(&mut probes, tell)?;
        self.coverage = Coverage::clone(probes.coverage());
        self.programs = Some(Programs { probes, units: units(facts) });
        self.attention = Attention::default();
        self.scans = scans;
        self.scan_every = options.scan_every.unwrap_or(self.scan_every);
        self.losses.begin_anew();
        self.request_scan();
        Ok(true)
    }
}

/// What this process has cost until now.
fn cost() -> Cost {
    let cpu = getrusage(UsageWho::RUSAGE_SELF).ok().map(|usage| {
        let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Duration::from_micros(u64::try_from(microseconds).unwrap_or(0))
    });
    let rss_bytes = procfs::process::Process::myself()
        .and_then(|process| process.statm())
        .ok()
        .map(|statm| statm.resident.saturating_mul(procfs::page_size()));
    Cost { cpu, rss_bytes, bpf: None }
}
