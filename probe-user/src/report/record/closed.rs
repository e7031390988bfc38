use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{
    finding::{ConnectionBody, endpoint},
    schema::one_of_or_null,
    socket::microseconds,
};
use crate::{
    model::{Cgroup, ClosedConnection, ContainerRuntime, Ending, OwnerCall, Place, Role, Side, TcpState},
    report::WallClock,
};

/// A connection that is over. `time` is when its socket went to CLOSED.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ClosedBody {
    /// Which connection; `tcp_state` is the last before CLOSED, `role` is `null` where its opening was not seen.
    pub connection: ConnectionBody,
    /// When this end sent its SYN, or the handshake that the peer began was complete; `null` where that was not seen: the connection
    /// is older than the watch, or too many are open to remember it.
    #[schemars(extend("format" = "date-time"))]
    pub opened: Option<String>,
    /// When it was established; `null` where it never was, or that was not seen.
    #[schemars(extend("format" = "date-time"))]
    pub established: Option<String>,
    /// From `opened` to `time`; `null` where the former is.
    pub duration_seconds: Option<f64>,
    /// How it ended.
    #[schemars(extend("enum" = Ending::NAMES))]
    pub outcome: &'static str,
    /// Whose FIN came first (RFC 9293 section 3.6): `local`, `remote` or `simultaneous`; `null` where there was none.
    #[schemars(extend("enum" = one_of_or_null(["local", "remote", "simultaneous"])))]
    pub closed_by: Option<&'static str>,
    /// Who sent the RST of a `reset`: `local` or `remote`; `null` where that cannot be told, and of other outcomes.
    #[schemars(extend("enum" = one_of_or_null(["local", "remote"])))]
    pub reset_by: Option<&'static str>,
    /// The error that the kernel had set, by its symbol; `null` for none.
    pub error: Option<String>,
    /// Data sent, with what was sent again.
    pub bytes_sent: Option<u64>,
    /// Data sent again.
    pub bytes_retransmitted: Option<u64>,
    /// What the peer has acknowledged: data, and one for each of SYN and FIN.
    pub bytes_acked: Option<u64>,
    /// What was received in order: data, and one for the FIN.
    pub bytes_received: Option<u64>,
    /// Segments sent.
    pub segments_sent: Option<u32>,
    /// Segments received.
    pub segments_received: Option<u32>,
    /// Segments sent again.
    pub segments_retransmitted: Option<u32>,
    /// The smoothed round-trip time at last, in microseconds; `null` where none was measured.
    pub rtt_us: Option<u64>,
    /// The least round-trip time of the last minutes, in microseconds; `null` where none was measured.
    pub min_rtt_us: Option<u64>,
    /// Whose it was, as far as was seen.
    pub owner: ClosedOwnerBody,
    /// Findings of this run about the connection, from this end.
    pub finding_ids: Vec<Uuid>,
}

/// Whose a connection was that is over. Each is `null` where it was not seen, or cannot be read.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ClosedOwnerBody {
    /// The process that `known_by` says of.
    pub pid: Option<u32>,
    /// Name of the thread that called, at most 15 bytes.
    pub comm: Option<String>,
    /// What it called: `connect`, or `close` (also `shutdown`, and the end of the process).
    #[schemars(extend("enum" = one_of_or_null(["connect", "close"])))]
    pub known_by: Option<&'static str>,
    /// User id of the socket.
    pub uid: Option<u32>,
    /// The socket's cgroup: where it was made, and of a passive open where its listener was.
    pub cgroup: Option<String>,
    /// Container id.
    pub container_id: Option<String>,
    /// As of a finding's owner.
    #[schemars(extend("enum" = one_of_or_null(ContainerRuntime::ALL.map(ContainerRuntime::name))))]
    pub runtime: Option<&'static str>,
    /// Kubernetes pod uid.
    pub pod_uid: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
    /// libvirt's name of the virtual machine.
    pub vm: Option<String>,
}

impl ClosedBody {
    pub(super) fn new(
        closed: &ClosedConnection,
        cgroup: Option<&Cgroup>,
        finding_ids: Vec<Uuid>,
        clock: &WallClock,
    ) -> Self {
        let (ending, key, amounts) = (closed.ending(), &closed.key, &closed.amounts);
        let reset_by = match ending {
            Ending::Reset(side) => side.map(Side::name),
            Ending::ClosedNormally
            | Ending::Refused
            | Ending::TimedOut
            | Ending::Unreachable
            | Ending::Aborted
            | Ending::OtherError => None,
        };
        Self {
            connection: ConnectionBody {
                netns: key.netns,
                protocol: "tcp",
                local: endpoint(key.local),
                remote: endpoint(key.remote),
                role: closed.role.map(Role::name),
                tcp_state: Some(TcpState::name(closed.last_state)),
                community_id: key.community_id().to_string(),
                cookie: closed.cookie.map(|cookie| cookie.0.to_string()),
            },
            opened: closed.opened.map(|at| clock.rfc3339(at)),
            established: closed.established.map(|at| clock.rfc3339(at)),
            duration_seconds: closed.opened.map(|opened| closed.at.since(opened).as_secs_f64()),
            outcome: ending.name(),
            closed_by: closed.closed_by().map(Side::name),
            reset_by,
            error: closed
                .error
                .filter(|errno| *errno != 0)
                .map(|errno| format!("{:?}", nix::errno::Errno::from_raw(errno))),
            bytes_sent: amounts.bytes_sent,
            bytes_retransmitted: amounts.bytes_retransmitted,
            bytes_acked: amounts.bytes_acked,
            bytes_received: amounts.bytes_received,
            segments_sent: amounts.segments_sent,
            segments_received: amounts.segments_received,
            segments_retransmitted: amounts.segments_retransmitted,
            rtt_us: amounts.rtt.map(microseconds),
            min_rtt_us: amounts.min_rtt.map(microseconds),
            owner: ClosedOwnerBody::new(closed, cgroup),
            finding_ids,
        }
    }
}

impl ClosedOwnerBody {
    fn new(closed: &ClosedConnection, cgroup: Option<&Cgroup>) -> Self {
        let process = closed.process.as_ref();
        let Place { container_id, runtime, pod_uid, unit, vm } =
            cgroup.map(|cgroup| cgroup.place.clone()).unwrap_or_default();
        Self {
            pid: process.map(|process| process.pid),
            comm: process.map(|process| process.comm.clone()),
            known_by: process.map(|process| OwnerCall::name(process.by)),
            uid: closed.uid,
            cgroup: cgroup.map(|cgroup| cgroup.path.clone()),
            container_id,
            runtime: runtime.map(ContainerRuntime::name),
            pod_uid,
            unit,
            vm,
        }
    }
}
