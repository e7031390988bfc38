//! The ends of forwarded connections: the packets of a pod, a container or a virtual router leave by a veth pair, and their sockets
//! are in another network namespace of this host. Each namespace is entered once for all connections that are asked about.

use std::time::Instant;

use crate::{
    model::{ConnectionKey, FlowEnds, HostEnd, SocketLookup, Tuple},
    witness::{netns::Roster, socket::Diag},
};

/// A connection with the sockets of its receiver and its sender.
pub(in crate::witness) type Asked = (ConnectionKey, [Tuple; 2]);

/// Looks up the ends of these flows in all network namespaces but the one they are forwarded in.
pub(in crate::witness) fn look_up_all(roster: &mut Roster, asked: &[Asked]) -> Vec<FlowEnds> {
    let mut found = vec![FlowEnds::default(); asked.len()];
    if asked.is_empty() {
        return found;
    }
    roster.for_each(Instant::now(), |netns| {
        let ends = netns.run(|| {
            let Ok(diag) = Diag::open() else { return Vec::new() };
            asked.iter().map(|flow| query(&diag, netns.inode, flow)).collect::<Vec<_>>()
        });
        for (known, ends) in found.iter_mut().zip(ends.unwrap_or_default()) {
            known.receiver = known.receiver.take().or(ends.receiver);
            known.sender = known.sender.take().or(ends.sender);
        }
    });
    found
}

/// Looks up in the namespace this thread is in.
fn query(diag: &Diag, netns: u32, (key, [receiver, sender]): &Asked) -> FlowEnds {
    if key.netns == netns {
        return FlowEnds::default();
    }
    let find = |(local, remote): Tuple| {
        let key = ConnectionKey { netns, local, remote };
        // A namespace that cannot be asked holds none of them, as far as can be told.
        match diag.look_up_unbound(&key) {
            Ok(Some(SocketLookup::Found(status))) => Some(HostEnd { netns, status }),
            Ok(Some(SocketLookup::Gone | SocketLookup::Unknown(_)) | None) | Err(_) => None,
        }
    };
    FlowEnds { receiver: find(*receiver), sender: find(*sender) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{model::TcpState, witness::netns};

    #[test]
    fn both_ends_of_a_connection_of_another_namespace_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _server = listener.accept().unwrap();
        let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let own = netns::resolve("/proc/self/ns/net").unwrap().inode;
        let of = |netns| {
            let key = ConnectionKey { netns, local, remote };
            look_up_all(&mut Roster::new(Some(own)), &[(key, [(local, remote), (remote, local)])]).remove(0)
        };
        let ends = of(1);
        for end in [ends.receiver, ends.sender] {
            let end = end.unwrap();
            assert_eq!((end.netns, end.status.state), (own, TcpState::Established));
        }
        assert_eq!(of(own), FlowEnds::default(), "in its own namespace it is no flow");
    }
}
