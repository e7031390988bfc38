use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ConnectionKey;

/// Which connections to observe. An empty list means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Network namespace by inode number.
    pub netns: Option<u32>,
    /// Ports, at either end.
    pub ports: Vec<u16>,
    /// Prefixes of the remote address.
    pub peers: Vec<IpNet>,
}

impl Filter {
    /// Whether the operator has asked about this connection: the same test as the kernel programs make.
    pub fn passes(&self, key: &ConnectionKey) -> bool {
        self.netns.is_none_or(|netns| netns == key.netns)
            && (self.ports.is_empty()
                || self.ports.iter().any(|port| [key.local.port(), key.remote.port()].contains(port)))
            && (self.peers.is_empty() || self.peers.iter().any(|peers| peers.contains(&key.remote.ip())))
    }
}
