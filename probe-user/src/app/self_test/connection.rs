//! The connection the self-test fails: both ends in one namespace nobody else is in.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkFlags, LinkMessage},
};
use netlink_sys::{Socket as NetlinkSocket, protocols::NETLINK_ROUTE};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, SockFilter, SockRef, Socket, TcpKeepalive, Type};

use crate::model::{ConnectionKey, Keepalive, SocketCookie};

/// `LOOPBACK_IFINDEX` (`include/net/flow.h`).
pub(super) const LOOPBACK_IFINDEX: u32 = 1;
/// Two addresses of the loopback network: of two equal ones, one read in the other's place would not show.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// Bytes written into the void.
pub(super) const WRITTEN_BYTES: u32 = 100;
/// `TCP_USER_TIMEOUT` of the client, unlike any default.
pub(super) const USER_TIMEOUT: Duration = Duration::from_millis(45_678);
/// Keepalive settings of the client, unlike any default.
pub(super) const KEEPALIVE: Keepalive = Keepalive {
    enabled: true,
    idle: Some(Duration::from_secs(4_321)),
    interval: Some(Duration::from_secs(123)),
    probes: Some(7),
};

/// What must be told of the client's socket.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) key: ConnectionKey,
    pub(super) cookie: SocketCookie,
    /// `net.ipv4.tcp_retries2` of the namespace, where it can be read.
    pub(super) tcp_retries2: Option<u8>,
}

/// An established connection, held by a thread in its own namespace.
pub(super) struct Rehearsal {
    expected: Expected,
    thread: JoinHandle<()>,
    stall: mpsc::Sender<()>,
    reset: mpsc::Sender<()>,
}

/// The connection is stalled. Dropping this resets it and waits until that is done.
pub(super) struct Stalled {
    thread: Option<JoinHandle<()>>,
    reset: mpsc::Sender<()>,
}

impl Rehearsal {
    /// Makes the namespace and the connection.
    pub(super) fn prepare() -> anyhow::Result<Self> {
        let (told, made) = mpsc::channel();
        let ((stall, may_stall), (reset, may_reset)) = (mpsc::channel(), mpsc::channel());
        // The namespace lives as long as this thread and its sockets: nothing else refers to it.
        let body = move || match Connection::make() {
            Err(error) => {
                let _ = told.send(Err(error));
            }
            Ok(connection) => {
                let _ = told.send(Ok(connection.expected.clone()));
                // Whoever goes away without a word wants the end, too.
                if may_stall.recv().is_ok()
                    && let Err(error) = connection.stall()
                {
                    tracing::debug!(?error, "the self-test's connection could not be stalled");
                }
                let _ = may_reset.recv();
                if let Err(error) = connection.reset() {
                    tracing::debug!(?error, "the self-test's connection could not be reset");
                }
            }
        };
        let thread = thread::Builder::new().name("self-test".to_owned()).spawn(body)?;
        let expected = made.recv().context("the self-test's thread ended")??;
        Ok(Self { expected, thread, stall, reset })
    }

    pub(super) const fn expected(&self) -> &Expected {
        &self.expected
    }

    /// Writes data that the peer ignores.
    pub(super) fn stall(self) -> Stalled {
        let _ = self.stall.send(());
        Stalled { thread: Some(self.thread), reset: self.reset }
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = self.reset.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Connection {
    expected: Expected,
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn make() -> anyhow::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace cannot be made")?;
        let netns = fs::metadata("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")?.ino();
        bring_up_loopback().context("the loopback device cannot be brought up")?;
        let listener = TcpListener::bind((SERVER, 0))?;
        let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        client.bind(&SocketAddr::from((CLIENT, 0)).into())?;
        client.connect(&listener.local_addr()?.into())?;
        let client = TcpStream::from(client);
        let (server, _) = listener.accept()?;
        let options = SockRef::from(&client);
        options.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        options.set_tcp_keepalive(&keepalive())?;
        let expected = Expected {
            key: ConnectionKey {
                netns: u32::try_from(netns).context("the namespace's inode")?,
                local: client.local_addr()?,
                remote: client.peer_addr()?,
            },
            cookie: SocketCookie(options.cookie()?),
            tcp_retries2: fs::read_to_string("/proc/sys/net/ipv4/tcp_retries2")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
        };
        Ok(Self { expected, client, server })
    }

    /// The server's socket takes nothing any more; the client writes.
    fn stall(&self) -> io::Result<()> {
        use io::Write as _;
        // `return 0`: every segment is dropped before TCP sees it (`tcp_filter`, `net/ipv4/tcp_ipv4.c`).
        const RETURN_CONSTANT: u16 = 0x06;
        SockRef::from(&self.server).attach_filter(&[SockFilter::new(RETURN_CONSTANT, 0, 0, 0)])?;
        (&self.client).write_all(&[0; WRITTEN_BYTES as usize])
    }

    /// The server ends the connection by a RST.
    fn reset(self) -> io::Result<()> {
        SockRef::from(&self.server).set_linger(Some(Duration::ZERO))?;
        drop(self.server);
        // Until here the client's socket must be open: a closed one takes no RST.
        drop(self.client);
        Ok(())
    }
}

fn keepalive() -> TcpKeepalive {
    let Keepalive { idle, interval, probes, .. } = KEEPALIVE;
    let mut settings = TcpKeepalive::new();
    if let Some(idle) = idle {
        settings = settings.with_time(idle);
    }
    if let Some(interval) = interval {
        settings = settings.with_interval(interval);
    }
    match probes {
        Some(probes) => settings.with_retries(u32::from(probes)),
        None => settings,
    }
}

/// Brings up the loopback device, which has index 1 in every namespace (`LOOPBACK_IFINDEX`).
fn bring_up_loopback() -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = LOOPBACK_IFINDEX;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::SetLink(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let mut socket = NetlinkSocket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(()),
    }
}
