use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::{clock, findings::Findings, losses::Losses};
use crate::{
    case::{Finding, Output, Tracker},
    decode::{Units, decode},
    kernel::{AttachError, Facts, LoadOptions, Plan, Probes},
    model::{Coverage, Event, LossPlace, MonoTime},
    report::{HookCount, Summary},
    sink::SinkError,
    witness::Witnesses,
};

/// How often the ring is read. The programs do not wake us for an event: a wakeup costs them a hundred times the record.
const READ_EVERY: Duration = Duration::from_millis(50);
/// How often the counters are compared.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How long answers that are on their way are waited for at the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Why a watch could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Nothing could be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// What was found could not be written.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The kernel refuses its own counters or ring.
    #[error("the kernel programs can no longer be read: {0}")]
    Kernel(String),
    /// The witnesses could not be started.
    #[error("the witnesses could not be started: {0}")]
    Witnesses(String),
}

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// Filter, ring size, object.
    pub load: LoadOptions,
}

/// Something to tell while watching.
#[derive(Debug)]
pub enum Change<'a> {
    /// A finding was opened, updated or closed.
    Finding(&'a Finding),
    /// Events were lost.
    Lost {
        /// When it was noticed.
        at: MonoTime,
        /// Where.
        place: LossPlace,
        /// How many.
        count: u64,
    },
    /// Nothing new, but time has passed: so many findings so far, so many of them not over.
    Progress {
        /// Findings opened so far.
        findings: usize,
        /// Of those, not over.
        open: usize,
    },
}

/// The attached programs, the tracker and the witnesses, and what connects them.
pub struct Watch {
    probes: Probes,
    units: Units,
    tracker: Tracker,
    witnesses: Witnesses,
    losses: Losses,
    findings: Findings,
    unasked: u64,
    started: MonoTime,
}

impl Watch {
    /// Attaches the programs and starts the witnesses. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When nothing can be observed.
    pub fn start(facts: &Facts, plan: &Plan, options: &WatchOptions) -> Result<Self, WatchError> {
        let witnesses = Witnesses::start().map_err(|error| WatchError::Witnesses(format!("{error:#}")))?;
        Ok(Self {
            probes: Probes::attach(facts, plan, &options.load)?,
            units: Units {
                hz: facts.hz,
                sock_dead_bit: facts.layout.sock_dead_bit,
                sock_keepopen_bit: facts.layout.sock_keepopen_bit,
            },
            tracker: Tracker::new(),
            witnesses,
            losses: Losses::default(),
            findings: Findings::default(),
            unasked: 0,
            started: clock::now(),
        })
    }

    /// What is observed.
    pub fn coverage(&self) -> &Coverage {
        self.probes.coverage()
    }

    /// Watches until `stop` is ready, and tells every change as it happens.
    ///
    /// # Errors
    ///
    /// When a change cannot be told or the kernel programs can no longer be read.
    pub async fn run(
        mut self,
        stop: impl Future<Output = ()>,
        mut tell: impl FnMut(Change<'_>) -> Result<(), SinkError>,
    ) -> Result<Summary, WatchError> {
        let mut stop = pin!(stop);
        let mut reading = interval(READ_EVERY);
        reading.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut counting = interval(COUNT_EVERY);
        counting.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.tracker.poll_timeout().map(|due| Instant::now() + due.since(clock::now()));
            tokio::select! {
                biased;
                () = &mut stop => break,
                ready = self.probes.ring().half_full() => {
                    ready.map_err(|error| WatchError::Kernel(error.to_string()))?;
                    self.read_ring();
                }
                Some(answer) = self.witnesses.next_answer() => {
                    tracing::debug!(?answer, "answer");
                    self.tracker.handle_answer(clock::now(), answer);
                }
                _ = reading.tick() => self.read_ring(),
                _ = counting.tick() => {
                    self.count_losses(&mut tell)?;
                    let (findings, open) = self.findings.count();
                    tell(Change::Progress { findings, open })?;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    // What is on the ring may be what the timer waits for.
                    self.read_ring();
                    self.tracker.handle_timeout(clock::now());
                }
            }
            self.hand_on(&mut tell)?;
        }
        self.finish(&mut tell).await
    }

    /// Takes in what is on the ring, in the order of the kernel's clock: each CPU writes its own events in order, but not all
    /// of them together.
    fn read_ring(&mut self) {
        let mut events = Vec::new();
        let (units, losses) = (self.units, &mut self.losses);
        self.probes.ring().drain(|bytes| match decode(bytes, units) {
            Ok(event) => events.push(event),
            Err(error) => {
                tracing::warn!(%error, "a record could not be decoded");
                losses.undecodable();
            }
        });
        events.sort_by_key(|event| event.at);
        for event in events {
            tracing::debug!(key = %event.key, netns = event.key.netns, kind = ?event.kind, "event");
            self.tracker.handle_event(Event::Connection(event));
        }
    }

    fn count_losses(&mut self, tell: &mut impl FnMut(Change<'_>) -> Result<(), SinkError>) -> Result<(), WatchError> {
        let totals = self.probes.ring().totals().map_err(|error| WatchError::Kernel(error.to_string()))?;
        for event in self.losses.new_since(clock::now(), &totals) {
            if let Event::Lost { at, place, count } = event {
                tell(Change::Lost { at, place, count })?;
            }
            self.tracker.handle_event(event);
        }
        Ok(())
    }

    /// Takes what the tracker has to say to where it belongs.
    fn hand_on(&mut self, tell: &mut impl FnMut(Change<'_>) -> Result<(), SinkError>) -> Result<(), WatchError> {
        while let Some(output) = self.tracker.poll_output() {
            match output {
                Output::Question(question) => {
                    tracing::debug!(?question, "question");
                    if !self.witnesses.ask(question) {
                        self.unasked += 1;
                    }
                }
                Output::Finding(finding) => {
                    tell(Change::Finding(&finding))?;
                    self.findings.take(*finding);
                }
            }
        }
        Ok(())
    }

    async fn finish(
        mut self,
        tell: &mut impl FnMut(Change<'_>) -> Result<(), SinkError>,
    ) -> Result<Summary, WatchError> {
        self.read_ring();
        self.hand_on(tell)?;
        let ended = clock::now();
        let _ = timeout(LAST_ANSWERS, async {
            while self.witnesses.in_flight() > 0 {
                let Some(answer) = self.witnesses.next_answer().await else { break };
                self.tracker.handle_answer(clock::now(), answer);
                // An answer about the socket leads to a question about its owner.
                if self.hand_on(tell).is_err() {
                    break;
                }
            }
        })
        .await;
        self.hand_on(tell)?;
        self.count_losses(tell)?;
        let totals = self.probes.ring().totals().map_err(|error| WatchError::Kernel(error.to_string()))?;
        Ok(Summary {
            watched: ended.since(self.started),
            findings: self.findings.into_vec(),
            hooks: totals
                .into_iter()
                .map(|(hook, totals)| HookCount {
                    hook,
                    seen: totals.seen,
                    emitted: totals.emitted,
                    lost: totals.lost,
                    suppressed: totals.suppressed,
                    missed: totals.missed,
                })
                .collect(),
            undecodable: self.losses.undecodable_total(),
            unasked: self.unasked,
        })
    }
}
