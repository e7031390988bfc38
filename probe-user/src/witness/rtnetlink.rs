//! Questions about routes, neighbours, addresses and interfaces, through rtnetlink.

use std::{io, net::IpAddr, ops::ControlFlow};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::LinkMessage,
    neighbour::NeighbourMessage,
    nsid::NsidMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{Netlink, unexpected};

/// A `NETLINK_ROUTE` socket of one namespace. What it is asked for is answered, or refused by a positive errno.
pub(super) struct Rtnetlink(Netlink);

impl Rtnetlink {
    /// Opens one in the namespace this thread is in.
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_ROUTE).map(Self)
    }

    pub(super) fn route(&self, question: RouteMessage) -> io::Result<Result<RouteMessage, i32>> {
        self.ask(RouteNetlinkMessage::GetRoute(question), |answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        })
    }

    pub(super) fn neighbour(&self, question: NeighbourMessage) -> io::Result<Result<NeighbourMessage, i32>> {
        self.ask(RouteNetlinkMessage::GetNeighbour(question), |answer| match answer {
            RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour),
            _ => None,
        })
    }

    pub(super) fn link(&self, question: LinkMessage) -> io::Result<Result<LinkMessage, i32>> {
        self.ask(RouteNetlinkMessage::GetLink(question), |answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        })
    }

    /// The number that this namespace has for another.
    pub(super) fn netns_number(&self, question: NsidMessage) -> io::Result<Result<NsidMessage, i32>> {
        self.ask(RouteNetlinkMessage::GetNsId(question), |answer| match answer {
            RouteNetlinkMessage::NewNsId(number) => Some(number),
            _ => None,
        })
    }

    fn ask<T>(
        &self,
        question: RouteNetlinkMessage,
        of_kind: fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Result<T, i32>> {
        match self.0.ask(question)? {
            Ok(answer) => of_kind(answer).map(Ok).ok_or_else(unexpected),
            Err(errno) => Ok(Err(errno)),
        }
    }

    /// Every address of this version.
    pub(super) fn addresses(&self, version: AddressFamily, mut each: impl FnMut(AddressMessage)) -> io::Result<()> {
        let mut question = AddressMessage::default();
        question.header.family = version;
        self.0.dump(RouteNetlinkMessage::GetAddress(question), |message| {
            if let RouteNetlinkMessage::NewAddress(address) = message {
                each(address);
            }
            ControlFlow::Continue(())
        })
    }

    /// Every interface.
    pub(super) fn links(&self, mut each: impl FnMut(LinkMessage)) -> io::Result<()> {
        self.0.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                each(link);
            }
            ControlFlow::Continue(())
        })
    }
}

/// A question about the route to this address.
pub(super) fn to(address: IpAddr) -> RouteMessage {
    let mut question = RouteMessage::default();
    question.header.address_family = family(address);
    question.header.destination_prefix_length = prefix_length(address);
    question.attributes.push(RouteAttribute::Destination(route_address(address)));
    question
}

/// The same, from this one.
pub(super) fn from(address: IpAddr, mut question: RouteMessage) -> RouteMessage {
    question.header.source_prefix_length = prefix_length(address);
    question.attributes.push(RouteAttribute::Source(route_address(address)));
    question
}

pub(super) const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

const fn prefix_length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

const fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}
