//! The public records: NDJSON, one object a line, UTF-8. Within a major version fields are only added.
//!
//! A field that this kernel or this vantage cannot tell is `null`, never 0. Times are RFC 3339 in UTC with nanoseconds;
//! every other number names its unit.

mod closed;
mod coverage;
mod evidence;
mod finding;
mod forwarded;
mod heartbeat;
mod owner;
mod path;
mod place;
mod related;
mod risk;
mod schema;
mod socket;
mod summary;

pub use closed::{ClosedBody, ClosedOwnerBody};
pub use coverage::{CoverageBody, HookBody, LifecycleBody, LossBody, MissingFieldBody, ScanBody, SelfTestBody};
pub use evidence::{EvidenceBody, EvidenceData};
pub use finding::{
    ConnectionBody, DeadlineBody, EndpointBody, FindingBody, MissingBody, RemedyBody, SeenConnectionBody,
};
pub use forwarded::{EndBody, ForwardedBody, PortBody, PortOwnerBody};
pub use heartbeat::{ConnectionCountsBody, CostBody, HeartbeatBody, SinkHealthBody};
use jiff::Timestamp;
pub use owner::OwnerBody;
pub use path::PathBody;
pub use risk::{ExampleBody, KeepaliveTimesBody, RiskBody, RisksBody};
pub use schema::schema;
use schemars::JsonSchema;
use serde::Serialize;
pub use socket::{KeepaliveBody, SocketBody};
pub use summary::{HookCountBody, SummaryBody};
use uuid::Uuid;

use super::{Heartbeat, Host, Summary, WallClock};
use crate::{
    case::{Finding, FindingId},
    judge::risk::{Risk, Risks},
    model::{Cgroup, ClosedConnection, Coverage, LossPlace, MonoTime},
};

/// Name and major version of the contract.
pub const SCHEMA: &str = "connprobe/1";

/// One record: the envelope, and by its `type` the rest.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// What every record has.
    #[serde(flatten)]
    pub envelope: Envelope,
    /// The rest.
    #[serde(flatten)]
    pub body: Body,
}

impl Record {
    /// The record that stands for `count` before this one, where a sink has lost them; `seq` is that of the last of them.
    #[must_use]
    pub fn sink_loss(&self, seq: u64, count: u64) -> Self {
        let envelope = Envelope { kind: "loss", seq, ..self.envelope.clone() };
        Self { envelope, body: Body::Loss(LossBody::of_sink(count)) }
    }
}

/// What every record has.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Envelope {
    /// Name and major version of the contract.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: &'static str,
    /// `finding`, `connection`, `coverage`, `heartbeat`, `loss`, `risk` or `summary`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// When it happened.
    #[schemars(extend("format" = "date-time"))]
    pub time: String,
    /// The host.
    pub host: Host,
    /// The run of the program: the same in all its records, and another in those of every other run.
    pub run_id: Uuid,
    /// Counts the records of one run from 0: a gap is a lost record.
    pub seq: u64,
}

/// What a record says beside its envelope.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Body {
    /// `finding`: a finding was opened, updated or closed.
    Finding(Box<FindingBody>),
    /// `connection`: a connection is over.
    Connection(Box<ClosedBody>),
    /// `coverage`: what is observed and what is not.
    Coverage(CoverageBody),
    /// `heartbeat`: how a daemon does.
    Heartbeat(Box<HeartbeatBody>),
    /// `loss`: events were lost.
    Loss(LossBody),
    /// `risk`: what may go wrong later.
    Risk(Box<RiskBody>),
    /// `summary`: the end of a run.
    Summary(SummaryBody),
}

/// Makes the records of one run.
#[derive(Clone, Debug)]
pub struct Recorder {
    host: Host,
    run_id: Uuid,
    clock: WallClock,
    next_seq: u64,
    related: related::Related,
}

impl Recorder {
    /// A recorder that has made none yet. A run is named by its boot and by when the clock was made.
    pub fn new(host: Host, clock: WallClock) -> Self {
        let run_id = Uuid::new_v5(&host.boot_id, format!("run|{}", clock.began().as_ns()).as_bytes());
        Self { host, run_id, clock, next_seq: 0, related: related::Related::default() }
    }

    /// The clock that the records' times are told by.
    pub const fn clock(&self) -> &WallClock {
        &self.clock
    }

    /// Takes in that `mono` and `wall` are the same moment: see [`WallClock::follow`].
    pub fn follow(&mut self, mono: MonoTime, wall: Timestamp) {
        self.clock.follow(mono, wall);
    }

    /// A change of a finding.
    pub fn finding(&mut self, finding: &Finding) -> Record {
        let id = finding::finding_id(&finding.id, &self.host);
        let related = self.related.of(finding, id);
        let body = FindingBody::new(finding, id, related, &self.clock);
        self.record("finding", finding.at, Body::Finding(Box::new(body)))
    }

    /// A connection is over, about which there were these findings.
    pub fn connection(&mut self, closed: &ClosedConnection, cgroup: Option<&Cgroup>, findings: &[FindingId]) -> Record {
        let ids = findings.iter().map(|id| finding::finding_id(id, &self.host)).collect();
        let body = ClosedBody::new(closed, cgroup, ids, &self.clock);
        self.record("connection", closed.at, Body::Connection(Box::new(body)))
    }

    /// What is observed.
    pub fn coverage(&mut self, now: MonoTime, coverage: &Coverage) -> Record {
        self.record("coverage", now, Body::Coverage(CoverageBody::new(coverage)))
    }

    /// A finding that is still open when the watch ends: the last word about it of this run.
    pub fn left_open(&mut self, now: MonoTime, finding: &Finding) -> Record {
        let finding = &Finding { at: now, ..finding.clone() };
        let id = finding::finding_id(&finding.id, &self.host);
        let related = self.related.of(finding, id);
        let body = FindingBody { state: "left_open", ..FindingBody::new(finding, id, related, &self.clock) };
        self.record("finding", now, Body::Finding(Box::new(body)))
    }

    /// How a daemon does.
    pub fn heartbeat(&mut self, heartbeat: &Heartbeat) -> Record {
        self.record("heartbeat", heartbeat.at, Body::Heartbeat(Box::new(HeartbeatBody::new(heartbeat))))
    }

    /// Events were lost.
    pub fn loss(&mut self, now: MonoTime, place: LossPlace, count: u64) -> Record {
        self.record("loss", now, Body::Loss(LossBody::new(place, count)))
    }

    /// What may go wrong later.
    pub fn risk(&mut self, risks: &Risks, risk: &Risk) -> Record {
        self.record("risk", risks.at, Body::Risk(Box::new(RiskBody::new(risks, risk))))
    }

    /// The end of a run.
    pub fn summary(&mut self, now: MonoTime, summary: &Summary) -> Record {
        self.record("summary", now, Body::Summary(SummaryBody::new(summary)))
    }

    fn record(&mut self, kind: &'static str, at: MonoTime, body: Body) -> Record {
        let seq = self.next_seq;
        self.next_seq += 1;
        let (time, host, run_id) = (self.clock.rfc3339(at), self.host.clone(), self.run_id);
        Record { envelope: Envelope { schema: SCHEMA, kind, time, host, run_id, seq }, body }
    }
}
