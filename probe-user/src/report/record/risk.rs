use schemars::JsonSchema;
use serde::Serialize;

use super::{
    finding::{EndpointBody, RemedyBody, endpoint, remedy_body},
    owner::{OwnerBody, owner},
};
use crate::{
    judge::{
        risk::{Idle, Risk, RiskKind, Risks},
        risk_remedies,
    },
    model::OwnerKnowledge,
    report::sentences,
};

/// Connections that nothing is wrong with, and that will be in limbo for a reason that can be seen today.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RiskBody {
    /// `idle_without_keepalive`, `keepalive_too_late` or `close_wait_leak`.
    #[schemars(extend("enum" = RiskKind::ALL.map(RiskKind::name)))]
    pub kind: &'static str,
    /// What may go wrong, in sentences.
    pub text: String,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// The process that holds the sockets, of several alike the one with the lowest pid; `null` when not known, see
    /// `owner_unavailable`.
    pub owner: Option<OwnerBody>,
    /// Why there is no owner; `null` when there is one.
    pub owner_unavailable: Option<String>,
    /// How many processes alike hold them; 0 without an owner.
    pub processes: usize,
    /// The port that names the service: the peer's of outgoing connections, this host's of accepted ones.
    pub service_port: u16,
    /// `outgoing` or `accepted`.
    #[schemars(extend("enum" = ["outgoing", "accepted"]))]
    pub direction: &'static str,
    /// How many connections.
    pub connections: usize,
    /// How many of them have been idle for longer than the limit already.
    pub over_limit: usize,
    /// After how long without traffic they are taken to be forgotten on the way.
    pub limit_seconds: f64,
    /// Where the limit comes from: `idle_timeout` (the option) or `conntrack` (of this namespace).
    #[schemars(extend("enum" = ["idle_timeout", "conntrack"]))]
    pub limit_set_by: &'static str,
    /// For how long the one has been idle that has been for longest.
    pub longest_idle_seconds: f64,
    /// Of `keepalive_too_late`: when keepalive would begin; `null` otherwise.
    pub keepalive: Option<KeepaliveTimesBody>,
    /// `iterator`, or `sock_diag`, which does not show keepalive probes of the peer.
    #[schemars(extend("enum" = ["iterator", "sock_diag"]))]
    pub looked_by: &'static str,
    /// Some of the connections, those idle for longest first.
    pub examples: Vec<ExampleBody>,
    /// Connections beside the examples.
    pub examples_left_out: usize,
    /// What to do, the most useful first.
    pub remedies: Vec<RemedyBody>,
}

/// Idle times before the first keepalive probe.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct KeepaliveTimesBody {
    /// The shortest.
    pub shortest_seconds: f64,
    /// The longest.
    pub longest_seconds: f64,
    /// Whether these are the times, or only lower bounds of them.
    pub exact: bool,
}

/// One of the connections.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ExampleBody {
    /// This host's endpoint.
    pub local: EndpointBody,
    /// The peer's.
    pub remote: EndpointBody,
    /// `established` or `close_wait`.
    #[schemars(extend("enum" = ["established", "close_wait"]))]
    pub tcp_state: &'static str,
    /// Community ID v1, the same from both ends.
    pub community_id: String,
    /// The kernel's name for the socket, decimal; `null` where it has none yet.
    pub cookie: Option<String>,
    /// For how long nothing has come or gone.
    pub idle_seconds: f64,
}

impl RiskBody {
    pub(super) fn new(risks: &Risks, risk: &Risk) -> Self {
        let (owner, owner_unavailable) = match &risk.holder {
            OwnerKnowledge::NoProcess => (None, Some("no process holds the sockets".to_owned())),
            OwnerKnowledge::NotAsked | OwnerKnowledge::Process(_) | OwnerKnowledge::Unavailable(_) => {
                owner(&risk.holder)
            }
        };
        Self {
            kind: risk.kind.name(),
            text: sentences::risk(risk),
            netns: risk.netns,
            owner,
            owner_unavailable,
            processes: risk.processes,
            service_port: risk.service.port,
            direction: risk.service.direction.name(),
            connections: risk.count,
            over_limit: risk.over_limit,
            limit_seconds: risk.limit.time.as_secs_f64(),
            limit_set_by: risk.limit.set_by.name(),
            longest_idle_seconds: risk.longest_idle.as_secs_f64(),
            keepalive: risk.keepalive.map(|times| KeepaliveTimesBody {
                shortest_seconds: times.shortest.as_secs_f64(),
                longest_seconds: times.longest.as_secs_f64(),
                exact: times.exact,
            }),
            looked_by: risks.looked_by.name(),
            examples: risk.examples.iter().map(example).collect(),
            examples_left_out: risk.count.saturating_sub(risk.examples.len()),
            remedies: risk_remedies(risk).into_iter().map(remedy_body).collect(),
        }
    }
}

fn example(idle: &Idle) -> ExampleBody {
    ExampleBody {
        local: endpoint(idle.key.local),
        remote: endpoint(idle.key.remote),
        tcp_state: idle.state().name(),
        community_id: idle.key.community_id().to_string(),
        cookie: idle.cookie.map(|cookie| cookie.0.to_string()),
        idle_seconds: idle.idle_for.as_secs_f64(),
    }
}

/// What the look for risks has brought as a whole.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RisksBody {
    /// Risks told.
    pub risks: usize,
    /// Connections in them.
    pub connections: usize,
    /// `iterator` or `sock_diag`.
    #[schemars(extend("enum" = ["iterator", "sock_diag"]))]
    pub looked_by: &'static str,
    /// The idle timeout they were held against.
    pub idle_timeout_seconds: f64,
    /// Risks not told, for there were too many.
    pub left_out: usize,
    /// Connections in those.
    pub connections_left_out: usize,
    /// Idle connections not judged, for there were too many.
    pub not_judged: usize,
    /// Idle connections of which the kernel does not tell whether keepalive is on.
    pub keepalive_unknown: usize,
    /// What could not be looked at, at most five.
    pub gaps: Vec<String>,
    /// What else could not be.
    pub gaps_left_out: usize,
}

impl RisksBody {
    pub(super) fn new(risks: &Risks) -> Self {
        Self {
            risks: risks.risks.len(),
            connections: risks.risks.iter().map(|risk| risk.count).sum(),
            looked_by: risks.looked_by.name(),
            idle_timeout_seconds: risks.idle_timeout.as_secs_f64(),
            left_out: risks.left_out,
            connections_left_out: risks.connections_left_out,
            not_judged: risks.not_judged,
            keepalive_unknown: risks.keepalive_unknown,
            gaps: risks.gaps.clone(),
            gaps_left_out: risks.gaps_left_out,
        }
    }
}
