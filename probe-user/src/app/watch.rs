mod attention;
mod closed;
mod ending;
mod long;
mod reading;
mod tell;

use std::{future::Future, io, pin::pin, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{
    clock,
    closed::ClosedConnections,
    findings::Findings,
    intake::Intake,
    losses::Losses,
    risks::{self, RiskLook},
    scan::{SCAN_EVERY, Scanned, Scans, Way, pause},
};
use crate::{
    case::{Finding, FindingId, Output},
    decode::Units,
    kernel::{AttachError, Facts, LoadOptions, Plan, Probes, Totals, is_loaded},
    model::{Cgroup, ClosedConnection, Coverage, Event, Filter, LossPlace, MonoTime},
    recording::SameMoment,
    report::Heartbeat,
    sink::SinkError,
    witness::Witnesses,
};
use attention::Attention;
pub use ending::Ended;
use long::Long;
pub use long::{Attach, HEARTBEAT_EVERY, Reload};

/// How often the ring is read. The programs do not wake us for an event: a wakeup costs them a hundred times the record. Only after a
/// quiet second they do, and until then nothing is read.
const READ_EVERY: Duration = Duration::from_millis(50);
/// How often the counters are compared.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// A scan that has brought nothing by then is asked for again.
const LONGEST_SCAN: Duration = Duration::from_secs(60);

/// Starts to scan, where that was asked for: by the programs' iterator, where they have one.
fn start_scans(probes: &Probes, options: &WatchOptions) -> anyhow::Result<Option<Scans>> {
    let way = probes.scanner().map_or(Way::SockDiag, Way::Iterator);
    options.scan_every.map(|_| Scans::start(way, options.load.filter.clone())).transpose()
}

/// The next scan's result; never ready when there are no scans.
async fn next_scan(scans: &mut Option<Scans>) -> Option<Scanned> {
    match scans {
        Some(scans) => scans.next().await,
        None => std::future::pending().await,
    }
}

/// The units of this kernel's records.
pub(super) const fn units(facts: &Facts) -> Units {
    Units {
        hz: facts.hz,
        sock_dead_bit: facts.layout.sock_dead_bit,
        sock_done_bit: facts.layout.sock_done_bit,
        sock_keepopen_bit: facts.layout.sock_keepopen_bit,
    }
}

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
    /// The scan could not be started.
    #[error("the scan could not be started: {0}")]
    Scan(String),
    /// The witnesses could not be started.
    #[error("the witnesses could not be started: {0}")]
    Witnesses(String),
}

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// Filter, ring size, object.
    pub load: LoadOptions,
    /// How often all sockets are scanned for those that wait; `None` for never.
    pub scan_every: Option<Duration>,
}

/// Something to tell while watching.
#[derive(Debug)]
pub enum Change<'a> {
    /// A finding was opened, updated or closed.
    Finding(&'a Finding),
    /// A connection is over.
    Closed {
        /// How it was.
        closed: &'a ClosedConnection,
        /// Its socket's cgroup, where that is known.
        cgroup: Option<&'a Cgroup>,
        /// Findings there were about it.
        findings: &'a [FindingId],
    },
    /// Events were lost.
    Lost {
        /// When it was noticed.
        at: MonoTime,
        /// Where.
        place: LossPlace,
        /// How many.
        count: u64,
    },
    /// Something was loaded into the kernel that is not observed, or the programs were attached anew.
    Coverage {
        /// When that was noticed.
        at: MonoTime,
        /// What is observed now.
        coverage: &'a Coverage,
    },
    /// New settings could not be taken: what was watched before still is.
    NotAttached,
    /// How the watch does, where it was asked to tell every so often.
    Heartbeat(Heartbeat),
    /// Nothing new, but time has passed: so many findings so far, so many of them not over.
    Progress {
        /// Findings opened so far.
        findings: usize,
        /// Of those, not over.
        open: usize,
        /// Both clocks, where they could be read together.
        clocks: Option<SameMoment>,
    },
}

/// Who is told every change as it happens.
pub trait Tell: FnMut(Change<'_>) -> Result<(), SinkError> {}

impl<T: FnMut(Change<'_>) -> Result<(), SinkError>> Tell for T {}

/// The attached programs, and the units of what they tell.
struct Programs {
    probes: Probes,
    units: Units,
}

impl Programs {
    /// For how long the kernel programs have run, where the kernel counts that.
    fn run_time(&self) -> Option<Duration> {
        self.probes.run_time()
    }

    fn totals(&mut self) -> Result<Totals, WatchError> {
        self.probes.ring().totals().map_err(|error| WatchError::Kernel(error.to_string()))
    }
}

/// Ready when a ring should be read at once; never without programs.
async fn half_full(programs: &mut Option<Programs>) -> io::Result<()> {
    match programs {
        Some(programs) => programs.probes.half_full().await,
        None => std::future::pending().await,
    }
}

/// The attached programs, the scan, the tracker and the witnesses, and what connects them.
pub struct Watch {
    /// `None` when only the scan looks.
    programs: Option<Programs>,
    coverage: Coverage,
    scans: Option<Scans>,
    scan_every: Duration,
    tracker: Intake,
    witnesses: Witnesses,
    losses: Losses,
    closed: ClosedConnections,
    findings: Findings,
    attention: Attention,
    started: MonoTime,
    /// To be looked for at the end.
    risks: Option<RiskLook>,
    long: Long,
}

impl Watch {
    /// Attaches the programs and starts the witnesses. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When nothing can be observed.
    pub fn start(facts: &Facts, plan: &Plan, options: &WatchOptions) -> Result<Self, WatchError> {
        let witnesses = Witnesses::start().map_err(|error| WatchError::Witnesses(format!("{error:#}")))?;
        let probes = Probes::attach(facts, plan, &options.load)?;
        // The hooks come first: what happens between a scan and its hooks would be seen by neither.
        let scans = start_scans(&probes, options);
        let coverage = probes.coverage().clone();
        let programs = Some(Programs { probes, units: units(facts) });
        Self::with(witnesses, programs, coverage, scans, options.scan_every.unwrap_or(SCAN_EVERY))
    }

    /// Starts to look by scans alone, which need no privileges and load nothing. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the system gives no threads.
    pub fn by_scan_alone(kernel_release: String, filter: Filter, scan_every: Duration) -> Result<Self, WatchError> {
        let witnesses = Witnesses::start().map_err(|error| WatchError::Witnesses(format!("{error:#}")))?;
        let coverage = Coverage::of_sock_diag_alone(kernel_release, "a snapshot loads no kernel programs");
        Self::with(witnesses, None, coverage, Scans::start(Way::SockDiag, filter).map(Some), scan_every)
    }

    fn with(
        witnesses: Witnesses,
        programs: Option<Programs>,
        coverage: Coverage,
        scans: anyhow::Result<Option<Scans>>,
        scan_every: Duration,
    ) -> Result<Self, WatchError> {
        Ok(Self {
            programs,
            coverage,
            scans: scans.map_err(|error| WatchError::Scan(format!("{error:#}")))?,
            scan_every,
            tracker: Intake::default(),
            witnesses,
            losses: Losses::default(),
            closed: ClosedConnections::default(),
            findings: Findings::default(),
            attention: Attention::default(),
            started: clock::now(),
            risks: None,
            long: Long::default(),
        })
    }

    /// Looks for risks too, when the watch ends: for connections that what is on their way has forgotten after this time. Where
    /// programs are loaded, they must have been loaded for it ([`LoadOptions::risks`]).
    #[must_use]
    pub fn with_risks(mut self, idle_timeout: Duration, filter: Filter) -> Self {
        let by_iterator = self
            .programs
            .as_ref()
            .and_then(|programs| Some(risks::Way::Iterator(programs.probes.idle_scanner()?, programs.units)));
        self.risks = Some(RiskLook { way: by_iterator.unwrap_or(risks::Way::SockDiag), filter, idle_timeout });
        self
    }

    /// What is observed.
    pub const fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Watches until `stop` is ready, and tells every change as it happens.
    ///
    /// # Errors
    ///
    /// When a change cannot be told or the kernel programs can no longer be read.
    pub async fn run(mut self, stop: impl Future<Output = ()>, mut tell: impl Tell) -> Result<Ended, WatchError> {
        let mut stop = pin!(stop);
        let mut reading = interval(READ_EVERY);
        reading.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut scan_due = Instant::now();
        let mut counting = interval(COUNT_EVERY);
        counting.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.tracker.poll_timeout().map(|due| Instant::now() + due.since(clock::now()));
            tokio::select! {
                biased;
                () = &mut stop => break,
                ready = half_full(&mut self.programs) => {
                    ready.map_err(|error| WatchError::Kernel(error.to_string()))?;
                    self.read_ring();
                    self.hand_on(&mut tell)?;
                    self.read_closed(&mut tell)?;
                }
                Some(answer) = self.witnesses.next_answer() => {
                    tracing::debug!(?answer, "answer");
                    self.tracker.handle_answer(clock::now(), answer);
                }
                Some(scanned) = next_scan(&mut self.scans) => {
                    scan_due = Instant::now() + pause(self.scan_every, scanned.took);
                    self.take_scan(scanned);
                }
                () = sleep_until(scan_due) => {
                    self.request_scan();
                    // Its result says when the next is due.
                    scan_due = Instant::now() + LONGEST_SCAN;
                }
                due = self.long.next() => self.do_due(due, &mut tell)?,
                _ = reading.tick(), if !self.ring_wakes() => {
                    self.read_ring();
                    self.hand_on(&mut tell)?;
                    self.read_closed(&mut tell)?;
                }
                _ = counting.tick() => {
                    // Whatever has kept it from waking us: nothing waits for longer.
                    self.read_ring();
                    self.count_losses(&mut tell)?;
                    if self.coverage.note_loaded(is_loaded) {
                        self.tell_coverage(&mut tell)?;
                    }
                    self.tell_progress(&mut tell)?;
                    if let Some(state) = &mut self.long.state {
                        state.write_some();
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    // What is on the ring may be what the timer waits for.
                    self.read_ring();
                    self.tracker.handle_timeout(clock::now());
                }
            }
            self.hand_on(&mut tell)?;
            self.pay_attention(&mut tell)?;
        }
        self.finish(&mut tell).await
    }

    fn request_scan(&self) {
        if let Some(scans) = &self.scans {
            scans.request();
        }
    }

    fn count_losses(&mut self, tell: &mut impl Tell) -> Result<(), WatchError> {
        let Some(programs) = &mut self.programs else { return Ok(()) };
        let totals = programs.totals()?;
        for event in self.losses.new_since(clock::now(), &totals) {
            if let Event::Lost { at, place, count } = event {
                tell(Change::Lost { at, place, count })?;
                // What was lost may have been about a connection that still waits.
                self.request_scan();
            }
            self.tracker.handle_event(event);
        }
        self.count_lost_closed(tell)
    }

    /// Takes what the tracker has to say to where it belongs.
    fn hand_on(&mut self, tell: &mut impl Tell) -> Result<(), WatchError> {
        while let Some(output) = self.tracker.poll_output() {
            match output {
                Output::Question(question) if self.witnesses.ask(question) => tracing::debug!(?question, "question"),
                Output::Question(question) => {
                    // There is room again after the next answer.
                    self.tracker.put_back(question);
                    break;
                }
                Output::Finding(mut finding) => {
                    if self.findings.wants(&mut finding) {
                        // One that is over may come behind its connection's own record.
                        if self.coverage.lifecycle.is_some() && !finding.is_over() {
                            self.closed.note(finding.id);
                        }
                        tell(Change::Finding(&finding))?;
                        if let Some(state) = &mut self.long.state {
                            state.keep(&finding);
                        }
                        self.findings.take(*finding);
                    }
                }
            }
        }
        Ok(())
    }
}
