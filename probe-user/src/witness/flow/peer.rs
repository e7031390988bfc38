//! Which network namespace is at the other end of a veth pair. The interface tells a number that its own namespace has given to that
//! one (`IFLA_LINK_NETNSID`); the kernel is asked which number each of this host's namespaces has there (`RTM_GETNSID`).

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Instant,
};

use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use crate::witness::{
    netns::{Namespaces, Roster},
    rtnetlink::Rtnetlink,
};

/// The inode numbers of the namespaces that `netns` has these numbers for, as far as they are found.
pub(super) fn resolve(
    namespaces: &mut Namespaces,
    roster: &mut Roster,
    netns: u32,
    numbers: &HashSet<i32>,
) -> HashMap<i32, u32> {
    let mut open = Vec::new();
    roster.for_each(Instant::now(), |netns| {
        open.extend(netns.descriptor().ok().map(|descriptor| (netns.inode, descriptor)));
    });
    let Ok(netns) = namespaces.open(netns) else { return HashMap::new() };
    netns.run(|| numbered(&open, numbers)).ok().and_then(Result::ok).unwrap_or_default()
}

/// Asks in the namespace this thread is in.
fn numbered(open: &[(u32, OwnedFd)], wanted: &HashSet<i32>) -> io::Result<HashMap<i32, u32>> {
    let rtnetlink = Rtnetlink::open()?;
    let mut found = HashMap::new();
    for (inode, descriptor) in open {
        let mut request = NsidMessage::default();
        let Ok(descriptor) = u32::try_from(descriptor.as_raw_fd()) else { continue };
        request.attributes.push(NsidAttribute::Fd(descriptor));
        let Ok(answer) = rtnetlink.netns_number(request)? else { continue };
        let number = answer.attributes.iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(number) => Some(*number),
            _ => None,
        });
        // -1 stands for none.
        found.extend(number.filter(|number| wanted.contains(number)).map(|number| (number, *inode)));
    }
    Ok(found)
}
