use schemars::JsonSchema;
use serde::Serialize;

use super::{
    finding::{EndpointBody, endpoint},
    owner::OwnerBody,
};
use crate::{
    case::FlowView,
    model::{Behind, CommunityId, ForwardPath, HostEnd, Knowledge, Owner, Port},
};

/// A connection that this host only forwards.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ForwardedBody {
    /// Inode number of the network namespace it is forwarded in.
    pub netns: u32,
    /// The zone of connection tracking; `null` where that does not know the connection, or several zones do.
    pub zone: Option<u16>,
    /// `tcp`.
    #[schemars(extend("enum" = ["tcp"]))]
    pub protocol: &'static str,
    /// Who began it.
    pub initiator: EndpointBody,
    /// Who accepted it.
    pub responder: EndpointBody,
    /// Whether connection tracking has told which of the two is which; else `initiator` is who sent what was dropped.
    pub direction_known: bool,
    /// Community ID v1, the same from both ends and in every network namespace where no address is translated.
    pub community_id: String,
    /// Where connection tracking translates addresses or ports: as who accepted it names it; else `null`.
    pub translated: Option<Box<TranslatedBody>>,
    /// By which interface the dropped segment came in; `null` where that is not known.
    pub ingress: Option<PortBody>,
    /// By which interface it would have left; `null` where that is not known, as on a bridge.
    pub egress: Option<PortBody>,
    /// The ends that are sockets of other network namespaces of this host.
    pub ends: Vec<EndBody>,
}

/// A connection behind a translation of its addresses.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TranslatedBody {
    /// Who began it, as who accepted it sees it.
    pub initiator: EndpointBody,
    /// Who accepted it.
    pub responder: EndpointBody,
    /// Community ID of these.
    pub community_id: String,
}

/// An interface.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PortBody {
    /// Its name; empty when it has gone.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// What is behind it on this host; `null` where that is not known.
    pub owner: Option<PortOwnerBody>,
}

/// What is behind an interface: a virtual machine, or another network namespace.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct PortOwnerBody {
    /// Process that runs the virtual machine.
    pub pid: Option<u32>,
    /// The virtual machine's name: libvirt's, of Nova `instance-` and eight hexadecimal digits.
    pub vm: Option<String>,
    /// Its UUID: of Nova the server's id.
    pub uuid: Option<String>,
    /// Inode number of the network namespace at the other end of a veth pair.
    pub netns: Option<u32>,
}

/// An end of the connection on this host.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EndBody {
    /// `receiver` of what was dropped, or its `sender`.
    #[schemars(extend("enum" = ["receiver", "sender"]))]
    pub role: &'static str,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Its state when last looked up.
    pub tcp_state: &'static str,
    /// Of the receiver the process that holds the socket; `null` where it is not known, and of the sender.
    pub owner: Option<OwnerBody>,
}

impl ForwardedBody {
    pub(super) fn new(flow: &FlowView) -> Self {
        let path = match &flow.path {
            Knowledge::Known(path) => path.clone(),
            Knowledge::NotAsked | Knowledge::Unavailable(_) => ForwardPath::default(),
        };
        let end = |role, end: &Option<HostEnd>, owner: Option<&Owner>| {
            let owner = owner.map(OwnerBody::new);
            end.as_ref().map(|end| EndBody { role, netns: end.netns, tcp_state: end.status.state.name(), owner })
        };
        let ends = [
            end("receiver", &flow.ends.receiver, flow.receiver_owner.process()),
            end("sender", &flow.ends.sender, None),
        ];
        Self {
            netns: flow.key.netns,
            zone: flow.key.zone,
            protocol: "tcp",
            initiator: endpoint(flow.key.initiator),
            responder: endpoint(flow.key.responder),
            direction_known: flow.is_direction_known,
            community_id: flow.key.community_id().to_string(),
            translated: flow.translation.map(|translation| {
                let (initiator, responder) = translation.translated;
                let community_id = CommunityId::of_tcp(initiator, responder).to_string();
                Box::new(TranslatedBody {
                    initiator: endpoint(initiator),
                    responder: endpoint(responder),
                    community_id,
                })
            }),
            ingress: path.ingress.map(port),
            egress: path.egress.map(port),
            ends: ends.into_iter().flatten().collect(),
        }
    }
}

fn port(port: Port) -> PortBody {
    let owner = port.behind.map(|behind| match behind {
        Behind::Machine(machine) => {
            PortOwnerBody { pid: Some(machine.pid), vm: machine.name, uuid: machine.uuid, ..PortOwnerBody::default() }
        }
        Behind::Netns(netns) => PortOwnerBody { netns: Some(netns), ..PortOwnerBody::default() },
    });
    PortBody { name: port.interface.name, ifindex: port.interface.index, owner }
}
