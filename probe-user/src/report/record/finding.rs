use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{
    evidence::EvidenceBody,
    forwarded::ForwardedBody,
    owner::{OwnerBody, owner},
    path::PathBody,
    schema::one_of_or_null,
    socket::{SocketBody, milliseconds},
};
use crate::{
    case::{Finding, FindingId, FindingState, Outcome},
    judge::{Cause, Deadline, DeadlineSource, MissingEvidence, Remedy, Verdict},
    model::{TcpState, Vantage},
    report::{Host, WallClock},
};

/// One change in the life of one verdict on one connection.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FindingBody {
    /// The same in every record of one finding.
    pub finding_id: Uuid,
    /// `opened`, `updated`, `closed`, or `left_open`: the watch ends while it is open.
    #[schemars(extend("enum" = ["opened", "updated", "closed", "left_open"]))]
    pub state: &'static str,
    /// How it ended: `recovered`, `closed_normally`, `reset`, `timed_out`, `evicted` or `unobserved`; `null` unless closed.
    #[schemars(extend("enum" = one_of_or_null(Outcome::ALL.map(Outcome::name))))]
    pub outcome: Option<&'static str>,
    /// What is wrong.
    #[schemars(extend("enum" = Verdict::ALL.map(Verdict::name)))]
    pub verdict: &'static str,
    /// Why.
    #[schemars(extend("enum" = Cause::ALL.map(Cause::name)))]
    pub cause: &'static str,
    /// `suspected` or `confirmed`.
    #[schemars(extend("enum" = ["suspected", "confirmed"]))]
    pub confidence: &'static str,
    /// `endpoint`: this host holds the socket; `forwarder`: it only forwards the connection's packets.
    #[schemars(extend("enum" = ["endpoint", "forwarder"]))]
    pub vantage: &'static str,
    /// Which connection.
    pub connection: SeenConnectionBody,
    /// Other open findings of this run about the same connection, by its Community ID: seen from its other end, or where it is
    /// forwarded.
    pub related: Vec<Uuid>,
    /// The process that holds the socket; `null` when not known, see `owner_unavailable`.
    pub owner: Option<OwnerBody>,
    /// Why there is no owner; `null` when there is one.
    pub owner_unavailable: Option<String>,
    /// Since when.
    #[schemars(extend("format" = "date-time"))]
    pub since: String,
    /// When the kernel gives up; `null` when it cannot be computed.
    pub deadline: Option<DeadlineBody>,
    /// The socket at the latest event.
    pub socket: SocketBody,
    /// The way to the peer; `null` where it was not looked up, or could not be.
    pub path: Option<PathBody>,
    /// What was seen, in time order.
    pub evidence: Vec<EvidenceBody>,
    /// Pieces of evidence left out between the first four and the latest.
    pub evidence_left_out: u64,
    /// What would make it surer; empty when confirmed.
    pub missing_evidence: Vec<MissingBody>,
    /// What to do, the most useful first.
    pub remedies: Vec<RemedyBody>,
    /// Whether the finding ends for lack of room in the tracker: the connection may go on.
    pub truncated: bool,
}

/// Which connection, by `vantage`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum SeenConnectionBody {
    /// `endpoint`.
    Endpoint(ConnectionBody),
    /// `forwarder`.
    Forwarder(ForwardedBody),
}

/// A connection whose socket this host holds.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ConnectionBody {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `tcp`.
    #[schemars(extend("enum" = ["tcp"]))]
    pub protocol: &'static str,
    /// This host's endpoint.
    pub local: EndpointBody,
    /// The peer's.
    pub remote: EndpointBody,
    /// `active_open` or `passive_open`; `null` where it is not known.
    #[schemars(extend("enum" = one_of_or_null(["active_open", "passive_open"])))]
    pub role: Option<&'static str>,
    /// State at the latest event, as the kernel spells it in lower case.
    pub tcp_state: Option<&'static str>,
    /// Community ID v1, the same from both ends.
    pub community_id: String,
    /// The kernel's name for the socket, decimal (it does not fit a JSON number); `null` where it has none yet.
    pub cookie: Option<String>,
}

/// An address and a port.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EndpointBody {
    /// IPv4 or IPv6; an IPv4-mapped address is written as IPv4.
    pub address: IpAddr,
    /// TCP port.
    pub port: u16,
}

/// When the kernel gives up.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeadlineBody {
    /// The moment.
    #[schemars(extend("format" = "date-time"))]
    pub time: String,
    /// Seconds from this record's `time`; negative when it is past.
    pub in_seconds: f64,
    /// The kernel timer that ends it: `retransmission`, `probe0` (the persist timer) or `keepalive`.
    #[schemars(extend("enum" = ["retransmission", "probe0", "keepalive"]))]
    pub timer: &'static str,
    /// The setting that decides: `tcp_retries2`, `tcp_orphan_retries`, `tcp_user_timeout` or `keepalive_probes`.
    #[schemars(extend("enum" = ["tcp_retries2", "tcp_orphan_retries", "tcp_user_timeout", "keepalive_probes"]))]
    pub set_by: &'static str,
    /// The setting's value: a count, or milliseconds for `tcp_user_timeout`.
    pub setting: u64,
    /// The error that the application then gets, as the socket is now: `ETIMEDOUT`, or one that the kernel remembers; `null` where
    /// that is not known, or no application is left.
    pub error: Option<String>,
}

/// What would make a finding surer.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct MissingBody {
    /// Its name.
    pub kind: &'static str,
    /// A sentence.
    pub text: String,
}

/// One thing to do.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RemedyBody {
    /// What, and why.
    pub text: String,
    /// A command; `null` where there is none.
    pub command: Option<String>,
    /// Where to run it; `null` where there is no command.
    pub place: Option<String>,
    /// What it may cost; `null` where nothing.
    pub risk: Option<String>,
    /// Where it has to be set to outlive a restart or to act at all; `null` where there is nothing to keep.
    pub lasting: Option<String>,
}

impl FindingBody {
    pub(super) fn new(finding: &Finding, finding_id: Uuid, related: Vec<Uuid>, clock: &WallClock) -> Self {
        let (state, outcome) = match finding.state {
            FindingState::Opened => ("opened", None),
            FindingState::Updated => ("updated", None),
            FindingState::Closed(outcome) => ("closed", Some(outcome)),
        };
        let (owner, owner_unavailable) = match finding.vantage() {
            Vantage::Endpoint => owner(&finding.owner),
            Vantage::Forwarder => (None, Some("this host only forwards the connection".to_owned())),
        };
        Self {
            finding_id,
            state,
            outcome: outcome.map(Outcome::name),
            verdict: finding.ruling.verdict.name(),
            cause: finding.ruling.cause.name(),
            confidence: finding.ruling.confidence.name(),
            vantage: finding.vantage().name(),
            connection: match &finding.flow {
                None => SeenConnectionBody::Endpoint(connection(finding)),
                Some(flow) => SeenConnectionBody::Forwarder(ForwardedBody::new(flow)),
            },
            related,
            owner,
            owner_unavailable,
            since: clock.rfc3339(finding.ruling.since),
            deadline: finding.ruling.deadline.map(|deadline| deadline_body(&deadline, finding, clock)),
            socket: SocketBody::new(&finding.socket),
            path: PathBody::new(&finding.path),
            evidence: finding.evidence.iter().map(|evidence| EvidenceBody::new(evidence, clock)).collect(),
            evidence_left_out: finding.evidence_left_out,
            missing_evidence: finding.ruling.missing.iter().map(missing_body).collect(),
            remedies: finding.remedies().into_iter().map(remedy_body).collect(),
            truncated: outcome == Some(Outcome::Evicted),
        }
    }
}

/// A name-based UUID of boot, connection, socket and opening time.
pub(super) fn finding_id(id: &FindingId, host: &Host) -> Uuid {
    let cookie = id.cookie.map_or(0, |cookie| cookie.0);
    let name =
        format!("{}|{}|{}|{cookie}|{}|{}", id.key.netns, id.key.local, id.key.remote, id.opened_at.as_ns(), id.case);
    Uuid::new_v5(&host.boot_id, name.as_bytes())
}

fn connection(finding: &Finding) -> ConnectionBody {
    let key = &finding.id.key;
    ConnectionBody {
        netns: key.netns,
        protocol: "tcp",
        local: endpoint(key.local),
        remote: endpoint(key.remote),
        role: None,
        tcp_state: finding.socket.state.map(TcpState::name),
        community_id: key.community_id().to_string(),
        cookie: finding.id.cookie.map(|cookie| cookie.0.to_string()),
    }
}

pub(super) fn endpoint(endpoint: SocketAddr) -> EndpointBody {
    EndpointBody { address: endpoint.ip(), port: endpoint.port() }
}

fn deadline_body(deadline: &Deadline, finding: &Finding, clock: &WallClock) -> DeadlineBody {
    let now = finding.at;
    let remaining = deadline.at.since(now).as_secs_f64() - now.since(deadline.at).as_secs_f64();
    DeadlineBody {
        time: clock.rfc3339(deadline.at),
        in_seconds: (remaining * 1e3).round() / 1e3,
        timer: deadline.timer.name(),
        set_by: deadline.set_by.name(),
        setting: match deadline.set_by {
            DeadlineSource::TcpRetries2 { retries } | DeadlineSource::TcpOrphanRetries { retries } => {
                u64::from(retries)
            }
            DeadlineSource::TcpUserTimeout { timeout } => milliseconds(timeout),
            DeadlineSource::KeepaliveProbes { probes } => u64::from(probes),
        },
        error: match deadline.set_by {
            DeadlineSource::TcpOrphanRetries { .. } => None,
            DeadlineSource::TcpRetries2 { .. }
            | DeadlineSource::TcpUserTimeout { .. }
            | DeadlineSource::KeepaliveProbes { .. } => {
                finding.socket.error_when_given_up().map(|errno| format!("{errno:?}"))
            }
        },
    }
}

fn missing_body(missing: &MissingEvidence) -> MissingBody {
    MissingBody { kind: missing.name(), text: missing.to_string() }
}

pub(super) fn remedy_body(remedy: Remedy) -> RemedyBody {
    let Remedy { text, command, place, risk, lasting } = remedy;
    RemedyBody { text, command, place, risk, lasting }
}
