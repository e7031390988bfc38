use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::{FlowEnds, FlowKey, ForwardPath, Knowledge, OwnerKnowledge, Translation, Tuple};

/// What a finding tells of a connection that this host only forwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowView {
    /// Which connection.
    pub key: FlowKey,
    /// Whether connection tracking has told who began it.
    pub is_direction_known: bool,
    /// Source and destination of what was dropped, where that happened.
    pub packet: Tuple,
    /// Where connection tracking translates its addresses or ports: to what.
    pub translation: Option<Translation>,
    /// Its way through this host, as last looked up.
    pub path: Knowledge<ForwardPath>,
    /// Its ends that are sockets of other network namespaces of this host: of who sent `packet`, and of who was to receive it.
    pub ends: FlowEnds,
    /// Who holds the receiver's socket, where that is one of them.
    pub receiver_owner: OwnerKnowledge,
}

impl FlowView {
    /// Local and remote end of the socket that was to receive what was dropped, as that socket names them.
    pub fn receiver_socket(&self) -> Tuple {
        let (sender, receiver) = self.packet;
        self.translation.map_or((receiver, sender), |translation| translation.receiver_of(self.packet))
    }

    /// Who sent what was dropped, by its own address.
    pub fn sender(&self) -> SocketAddr {
        let Some(translation) = self.translation else { return self.packet.0 };
        let (source, destination) = self.packet;
        translation.receiver_of((destination, source)).0
    }
}
