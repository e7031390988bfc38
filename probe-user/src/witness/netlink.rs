//! A netlink socket: one question and its answer, or a dump.

use std::{io, ops::ControlFlow};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// A netlink socket of the namespace in which it was opened.
pub(super) struct Netlink(Socket);

impl Netlink {
    /// Opens one of this protocol in the namespace this thread is in.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel has queued its answer by the time sending returns: there is never anything to wait for.
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Asks for one thing: what the kernel answers, or the errno by which it refuses, a positive number.
    pub(super) fn ask<T>(&self, question: T) -> io::Result<Result<T, i32>>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
    {
        self.send(NLM_F_REQUEST, question)?;
        let (bytes, _) = self.0.recv_from_full()?;
        match message(&bytes)?.payload {
            NetlinkPayload::InnerMessage(answer) => Ok(Ok(answer)),
            NetlinkPayload::Error(error) => {
                let error = error.to_io();
                error.raw_os_error().map(Err).ok_or(error)
            }
            _ => Err(unexpected()),
        }
    }

    /// Asks for everything of a kind, until `each` has seen enough: then the socket is used up, for the rest of the dump is still
    /// to come.
    pub(super) fn dump<T>(&self, question: T, mut each: impl FnMut(T) -> ControlFlow<()>) -> io::Result<()>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
    {
        self.send(NLM_F_REQUEST | NLM_F_DUMP, question)?;
        loop {
            // A dump fills one buffer after the other, each with whole messages.
            let (bytes, _) = self.0.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = message::<T>(rest)?;
                let flow = match message.payload {
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    _ => ControlFlow::Continue(()),
                };
                if flow.is_break() {
                    return Ok(());
                }
                let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
                rest = rest.get(length.saturating_add(3) & !3..).unwrap_or_default();
            }
        }
    }

    fn send<T: NetlinkSerializable>(&self, flags: u16, question: T) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0).map(drop)
    }
}

/// The kernel has answered something that was not asked for.
pub(super) fn unexpected() -> io::Error {
    io::Error::other("an answer of another kind")
}

fn message<T: NetlinkDeserializable>(bytes: &[u8]) -> io::Result<NetlinkMessage<T>> {
    NetlinkMessage::deserialize(bytes).map_err(io::Error::other)
}
