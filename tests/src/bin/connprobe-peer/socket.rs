//! Sockets with everything set that the standard library cannot set before connecting or listening.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{
    BindToDevice, IpTransparent, KeepAlive, Linger, Mark, RcvBuf, ReuseAddr, TcpFastOpenConnect, TcpKeepCount,
    TcpKeepIdle, TcpKeepInterval, TcpUserTimeout,
};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt, socket,
};
use nix::{libc, setsockopt_impl, sockopt_impl};

use crate::arguments::{Connect, Listen, Mode, Options};

sockopt_impl!(
    /// `TCP_DEFER_ACCEPT` (tcp(7)): seconds, which the kernel turns into repeats of the SYN-ACK.
    TcpDeferAccept,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    u32
);

/// Receive buffer of a slow reader in bytes: the kernel doubles it, the window shuts after a few kilobytes.
const SLOW_BUFFER: usize = 4096;
/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;

/// A listening socket that does not block. Accepted connections inherit its options.
pub(crate) fn listener(arguments: &Listen) -> Result<TcpListener> {
    let address = arguments.end.address();
    let socket = open(address, &arguments.options)?;
    if arguments.traffic.mode == Mode::Slow {
        setsockopt(&socket, RcvBuf, &SLOW_BUFFER).context("cannot set SO_RCVBUF")?;
    }
    setsockopt(&socket, ReuseAddr, &true).context("cannot set SO_REUSEADDR")?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).with_context(|| format!("cannot bind {address}"))?;
    listen(&socket, Backlog::new(BACKLOG)?).context("cannot listen")?;
    Ok(TcpListener::from(socket))
}

/// A socket that has begun to connect and does not block.
pub(crate) fn connecting(arguments: &Connect) -> Result<TcpStream> {
    let address = arguments.end.address();
    let socket = open(address, &arguments.options)?;
    if arguments.traffic.mode == Mode::Slow {
        setsockopt(&socket, RcvBuf, &SLOW_BUFFER).context("cannot set SO_RCVBUF")?;
    }
    if let Some(local) = arguments.bind {
        setsockopt(&socket, ReuseAddr, &true).context("cannot set SO_REUSEADDR")?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(local)).with_context(|| format!("cannot bind {local}"))?;
    }
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error).with_context(|| format!("cannot connect to {address}")),
    }
}

/// Makes the next close send a reset instead of a FIN (SO_LINGER with time 0).
pub(crate) fn reset_on_close(socket: &impl AsFd) -> Result<()> {
    setsockopt(socket, Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).context("cannot set SO_LINGER")
}

fn open(address: SocketAddr, options: &Options) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None).context("cannot open a socket")?;
    if let Some(milliseconds) = options.user_timeout_ms {
        setsockopt(&socket, TcpUserTimeout, &milliseconds).context("cannot set TCP_USER_TIMEOUT")?;
    }
    if let Some(keepalive) = options.keepalive {
        setsockopt(&socket, TcpKeepIdle, &keepalive.time_s).context("cannot set TCP_KEEPIDLE")?;
        setsockopt(&socket, TcpKeepInterval, &keepalive.interval_s).context("cannot set TCP_KEEPINTVL")?;
        setsockopt(&socket, TcpKeepCount, &keepalive.probes).context("cannot set TCP_KEEPCNT")?;
        setsockopt(&socket, KeepAlive, &true).context("cannot set SO_KEEPALIVE")?;
    }
    if let Some(seconds) = options.defer_accept_s {
        setsockopt(&socket, TcpDeferAccept, &seconds).context("cannot set TCP_DEFER_ACCEPT")?;
    }
    if options.fast_open {
        setsockopt(&socket, TcpFastOpenConnect, &true).context("cannot set TCP_FASTOPEN_CONNECT")?;
    }
    if options.transparent {
        setsockopt(&socket, IpTransparent, &true).context("cannot set IP_TRANSPARENT")?;
    }
    if let Some(mark) = options.mark {
        setsockopt(&socket, Mark, &mark).context("cannot set SO_MARK")?;
    }
    if let Some(device) = &options.device {
        setsockopt(&socket, BindToDevice, device).context("cannot set SO_BINDTODEVICE")?;
    }
    Ok(socket)
}
