use serde::Deserialize;

use super::Connection;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closed {
    pub connection: Connection,
    pub opened: Option<String>,
    pub established: Option<String>,
    pub duration_seconds: Option<f64>,
    pub outcome: String,
    pub closed_by: Option<String>,
    pub reset_by: Option<String>,
    pub error: Option<String>,
    pub bytes_sent: Option<u64>,
    pub bytes_retransmitted: Option<u64>,
    pub bytes_acked: Option<u64>,
    pub bytes_received: Option<u64>,
    pub segments_sent: Option<u32>,
    pub segments_received: Option<u32>,
    pub segments_retransmitted: Option<u32>,
    pub rtt_us: Option<u64>,
    pub min_rtt_us: Option<u64>,
    pub owner: ClosedOwner,
    pub finding_ids: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClosedOwner {
    pub pid: Option<u32>,
    pub comm: Option<String>,
    pub known_by: Option<String>,
    pub uid: Option<u32>,
    pub cgroup: Option<String>,
    pub container_id: Option<String>,
    pub runtime: Option<String>,
    pub pod_uid: Option<String>,
    pub unit: Option<String>,
    pub vm: Option<String>,
}
