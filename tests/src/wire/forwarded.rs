use serde::Deserialize;

use super::{Endpoint, Owner};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardedConnection {
    pub netns: u32,
    pub zone: Option<u16>,
    pub protocol: String,
    pub initiator: Endpoint,
    pub responder: Endpoint,
    pub direction_known: bool,
    pub community_id: String,
    pub translated: Option<Translated>,
    pub ingress: Option<Port>,
    pub egress: Option<Port>,
    pub ends: Vec<End>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Translated {
    pub initiator: Endpoint,
    pub responder: Endpoint,
    pub community_id: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    pub name: String,
    pub ifindex: u32,
    pub owner: Option<PortOwner>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortOwner {
    pub pid: Option<u32>,
    pub vm: Option<String>,
    pub uuid: Option<String>,
    pub netns: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    pub role: String,
    pub netns: u32,
    pub tcp_state: String,
    pub owner: Option<Owner>,
}
