use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::Serialize;
use uuid::Uuid;

use crate::{
    case::{Finding, FindingId, FindingState, Outcome, OwnerKnowledge},
    judge::{Deadline, DeadlineSource, Evidence, EvidenceKind, MissingEvidence, Remedy, remedies},
    model::{Keepalive, MonoTime, Owner, SocketView, TcpState},
    report::{Host, WallClock},
};

/// One change in the life of one verdict on one connection.
#[derive(Clone, Debug, Serialize)]
pub struct FindingBody {
    /// The same in every record of one finding.
    pub finding_id: Uuid,
    /// `opened`, `updated` or `closed`.
    pub state: &'static str,
    /// How it ended: `recovered`, `closed_normally`, `reset`, `timed_out`, `evicted` or `unobserved`; `null` unless closed.
    pub outcome: Option<&'static str>,
    /// What is wrong.
    pub verdict: &'static str,
    /// Why.
    pub cause: &'static str,
    /// `suspected` or `confirmed`.
    pub confidence: &'static str,
    /// `endpoint`: this host holds the socket.
    pub vantage: &'static str,
    /// Which connection.
    pub connection: ConnectionBody,
    /// The process that holds the socket; `null` when not known, see `owner_unavailable`.
    pub owner: Option<OwnerBody>,
    /// Why there is no owner; `null` when there is one.
    pub owner_unavailable: Option<String>,
    /// Since when.
    pub since: String,
    /// When the kernel gives up; `null` when it cannot be computed.
    pub deadline: Option<DeadlineBody>,
    /// The socket at the latest event.
    pub socket: SocketBody,
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

/// Which connection.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionBody {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `tcp`.
    pub protocol: &'static str,
    /// This host's endpoint.
    pub local: EndpointBody,
    /// The peer's.
    pub remote: EndpointBody,
    /// `active_open` or `passive_open`; `null` where it is not known.
    pub role: Option<&'static str>,
    /// State at the latest event, as the kernel spells it in lower case.
    pub tcp_state: Option<&'static str>,
    /// Community ID v1, the same from both ends.
    pub community_id: String,
    /// The kernel's name for the socket, decimal (it does not fit a JSON number); `null` where it has none yet.
    pub cookie: Option<String>,
}

/// An address and a port.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointBody {
    /// IPv4 or IPv6; an IPv4-mapped address is written as IPv4.
    pub address: IpAddr,
    /// TCP port.
    pub port: u16,
}

/// The process that holds the socket.
#[derive(Clone, Debug, Serialize)]
pub struct OwnerBody {
    /// Process id.
    pub pid: u32,
    /// Command name, at most 15 bytes.
    pub comm: String,
    /// Path in the cgroup hierarchy; `null` where it cannot be read.
    pub cgroup: Option<String>,
    /// Container id; `null` when the cgroup names none.
    pub container_id: Option<String>,
}

/// When the kernel gives up.
#[derive(Clone, Debug, Serialize)]
pub struct DeadlineBody {
    /// The moment.
    pub time: String,
    /// Seconds from this record's `time`; negative when it is past.
    pub in_seconds: f64,
    /// The kernel timer that ends it: `retransmission`.
    pub timer: &'static str,
    /// The setting that decides: `tcp_retries2`, `tcp_orphan_retries` or `tcp_user_timeout`.
    pub set_by: &'static str,
    /// The setting's value: a count, or milliseconds for `tcp_user_timeout`.
    pub setting: u64,
}

/// The socket's numbers.
#[derive(Clone, Debug, Serialize)]
pub struct SocketBody {
    /// Oldest unacknowledged sequence number.
    pub snd_una: Option<u32>,
    /// Next sequence number to send.
    pub snd_nxt: Option<u32>,
    /// Bytes sent and not acknowledged.
    pub unacknowledged_bytes: Option<u32>,
    /// Bytes written and never sent.
    pub unsent_bytes: Option<u32>,
    /// The peer's window.
    pub send_window_bytes: Option<u32>,
    /// Segments in flight.
    pub packets_out: Option<u32>,
    /// Segments ever retransmitted.
    pub total_retransmits: Option<u32>,
    /// Retransmission timeouts in a row.
    pub retransmits: Option<u8>,
    /// Timer doublings.
    pub backoff: Option<u8>,
    /// Unanswered probes.
    pub probes_out: Option<u8>,
    /// Retransmission timeout.
    pub rto_us: Option<u64>,
    /// Since the peer's last ACK.
    pub last_ack_ago_us: Option<u64>,
    /// Since the first retransmission of the oldest segment.
    pub retransmitting_for_us: Option<u64>,
    /// `TCP_USER_TIMEOUT`; 0 when not set.
    pub user_timeout_ms: Option<u64>,
    /// Keepalive settings.
    pub keepalive: Option<KeepaliveBody>,
    /// Whether the application has closed its descriptor.
    pub orphaned: Option<bool>,
    /// Interface index of the last segment received.
    pub ingress_ifindex: Option<u32>,
    /// Interface index segments leave by.
    pub egress_ifindex: Option<u32>,
}

/// Keepalive settings; `null` where the namespace's default applies.
#[derive(Clone, Debug, Serialize)]
pub struct KeepaliveBody {
    /// `SO_KEEPALIVE`.
    pub enabled: bool,
    /// `TCP_KEEPIDLE`.
    pub idle_ms: Option<u64>,
    /// `TCP_KEEPINTVL`.
    pub interval_ms: Option<u64>,
    /// `TCP_KEEPCNT`.
    pub probes: Option<u8>,
}

/// One thing that was seen.
#[derive(Clone, Debug, Serialize)]
pub struct EvidenceBody {
    /// When.
    pub time: String,
    /// Its name.
    pub kind: &'static str,
    /// A sentence.
    pub text: String,
    /// Its numbers.
    pub data: EvidenceData,
}

/// The numbers of a piece of evidence, by `kind`.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum EvidenceData {
    /// `retransmission_timeout`.
    Timeout {
        /// What sending returned: a negative errno, or 0; `null` before Linux 6.17.
        send_result: Option<i32>,
        /// The socket.
        #[serde(flatten)]
        socket: Box<SocketBody>,
    },
    /// `state_change`.
    StateChange {
        /// State before.
        from: &'static str,
        /// State after.
        to: &'static str,
        /// The socket's error; 0 for none.
        errno: Option<i32>,
    },
    /// `socket_error`.
    Error {
        /// The error.
        errno: Option<i32>,
    },
    /// Kinds without numbers: an empty object.
    Nothing {},
}

/// What would make a finding surer.
#[derive(Clone, Debug, Serialize)]
pub struct MissingBody {
    /// Its name.
    pub kind: &'static str,
    /// A sentence.
    pub text: String,
}

/// One thing to do.
#[derive(Clone, Debug, Serialize)]
pub struct RemedyBody {
    /// What, and why.
    pub text: String,
    /// A command; `null` where there is none.
    pub command: Option<String>,
    /// What it may cost; `null` where nothing.
    pub risk: Option<String>,
}

impl FindingBody {
    pub(super) fn new(finding: &Finding, host: &Host, clock: &WallClock) -> Self {
        let (state, outcome) = match finding.state {
            FindingState::Opened => ("opened", None),
            FindingState::Updated => ("updated", None),
            FindingState::Closed(outcome) => ("closed", Some(outcome)),
        };
        let (owner, owner_unavailable) = owner(&finding.owner);
        Self {
            finding_id: finding_id(&finding.id, host),
            state,
            outcome: outcome.map(Outcome::name),
            verdict: finding.ruling.verdict.name(),
            cause: finding.ruling.cause.name(),
            confidence: finding.ruling.confidence.name(),
            vantage: "endpoint",
            connection: connection(finding),
            owner,
            owner_unavailable,
            since: clock.rfc3339(finding.ruling.since),
            deadline: finding.ruling.deadline.map(|deadline| deadline_body(&deadline, finding.at, clock)),
            socket: SocketBody::new(&finding.socket),
            evidence: finding.evidence.iter().map(|evidence| EvidenceBody::new(evidence, clock)).collect(),
            evidence_left_out: finding.evidence_left_out,
            missing_evidence: finding.ruling.missing.iter().map(missing_body).collect(),
            remedies: remedies(&finding.id.key, &finding.ruling, finding.owner.pid(), outcome.is_some())
                .into_iter()
                .map(remedy_body)
                .collect(),
            truncated: outcome == Some(Outcome::Evicted),
        }
    }
}

/// A name-based UUID of boot, connection, socket and opening time.
fn finding_id(id: &FindingId, host: &Host) -> Uuid {
    let cookie = id.cookie.map_or(0, |cookie| cookie.0);
    let name =
        format!("{}|{}|{}|{cookie}|{}|{}", id.key.netns, id.key.local, id.key.remote, id.opened_at.as_ns(), id.case);
    Uuid::new_v5(&host.boot_id, name.as_bytes())
}

fn connection(finding: &Finding) -> ConnectionBody {
    let endpoint = |endpoint: SocketAddr| EndpointBody { address: endpoint.ip(), port: endpoint.port() };
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

fn owner(owner: &OwnerKnowledge) -> (Option<OwnerBody>, Option<String>) {
    let unavailable = |why: &str| (None, Some(why.to_owned()));
    match owner {
        OwnerKnowledge::Process(Owner { pid, comm, cgroup, container_id }) => {
            let body =
                OwnerBody { pid: *pid, comm: comm.clone(), cgroup: cgroup.clone(), container_id: container_id.clone() };
            (Some(body), None)
        }
        OwnerKnowledge::NoProcess => unavailable("no process holds the socket"),
        OwnerKnowledge::NotAsked => unavailable("not known yet"),
        OwnerKnowledge::Unavailable(why) => unavailable(why),
    }
}

fn deadline_body(deadline: &Deadline, now: MonoTime, clock: &WallClock) -> DeadlineBody {
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
        },
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl SocketBody {
    fn new(socket: &SocketView) -> Self {
        Self {
            snd_una: socket.snd_una,
            snd_nxt: socket.snd_nxt,
            unacknowledged_bytes: socket.unacknowledged_data(),
            unsent_bytes: socket.unsent(),
            send_window_bytes: socket.snd_wnd_bytes,
            packets_out: socket.packets_out,
            total_retransmits: socket.total_retransmits,
            retransmits: socket.retransmits,
            backoff: socket.backoff,
            probes_out: socket.probes_out,
            rto_us: socket.rto.map(microseconds),
            last_ack_ago_us: socket.last_ack_ago.map(microseconds),
            retransmitting_for_us: socket.retransmitting_for.map(microseconds),
            user_timeout_ms: socket.user_timeout.map(milliseconds),
            keepalive: socket.keepalive.map(keepalive_body),
            orphaned: socket.orphaned,
            ingress_ifindex: socket.ingress_ifindex,
            egress_ifindex: socket.egress_ifindex,
        }
    }
}

fn keepalive_body(keepalive: Keepalive) -> KeepaliveBody {
    KeepaliveBody {
        enabled: keepalive.enabled,
        idle_ms: keepalive.idle.map(milliseconds),
        interval_ms: keepalive.interval.map(milliseconds),
        probes: keepalive.probes,
    }
}

impl EvidenceBody {
    fn new(evidence: &Evidence, clock: &WallClock) -> Self {
        let data = match &evidence.kind {
            EvidenceKind::RetransmissionTimeout(timeout) => EvidenceData::Timeout {
                send_result: timeout.send_result,
                socket: Box::new(SocketBody::new(&timeout.socket)),
            },
            EvidenceKind::StateChange { from, to, error } => {
                EvidenceData::StateChange { from: from.name(), to: to.name(), errno: *error }
            }
            EvidenceKind::SocketError { error } => EvidenceData::Error { errno: *error },
            EvidenceKind::SynAckRetransmission
            | EvidenceKind::ResetReceived
            | EvidenceKind::ResetSent
            | EvidenceKind::AcknowledgmentsResumed
            | EvidenceKind::SocketGone => EvidenceData::Nothing {},
        };
        Self { time: clock.rfc3339(evidence.at), kind: evidence.kind.name(), text: evidence.kind.to_string(), data }
    }
}

fn missing_body(missing: &MissingEvidence) -> MissingBody {
    MissingBody { kind: missing.name(), text: missing.to_string() }
}

fn remedy_body(remedy: Remedy) -> RemedyBody {
    RemedyBody { text: remedy.text, command: remedy.command, risk: remedy.risk }
}
