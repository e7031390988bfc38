//! Reading kernel structures at offsets known only at run time.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use connprobe_common::{
    abi::{SocketRecord, family},
    fields::Field,
};

use crate::memory::Memory;

/// The kernel address of a `struct sock`, of something that starts with `struct sock_common` (a request socket), of a
/// `struct net`, `dst_entry` or `net_device`.
#[derive(Clone, Copy)]
pub struct Address(pub u64);

impl Address {
    /// `skc_state`.
    #[inline(always)]
    pub fn state(self) -> Option<u8> {
        self.read(Field::SkState)
    }
}

/// States as the kernel numbers them (`include/net/tcp_states.h`).
pub mod state {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
    pub const NEW_SYN_RECV: u8 = 12;

    /// Whether the handshake is complete and the socket is a full one.
    #[inline(always)]
    pub fn is_synchronized(state: u8) -> bool {
        matches!(state, ESTABLISHED | FIN_WAIT1 | FIN_WAIT2 | CLOSE_WAIT | LAST_ACK | CLOSING)
    }
}

/// The tuple of a socket, as the filter and the record need it. Without padding: it is a key, too.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Tuple {
    pub netns: u32,
    pub local_port: u16,
    pub remote_port: u16,
    pub local_address: [u8; 16],
    pub remote_address: [u8; 16],
}

impl Tuple {
    /// Writes it into a record.
    #[inline(always)]
    pub fn write(&self, record: &mut SocketRecord) {
        record.netns = self.netns;
        record.local_port = self.local_port;
        record.remote_port = self.remote_port;
        record.local_address = self.local_address;
        record.remote_address = self.remote_address;
    }
}

/// As the kernel numbers protocols (`include/uapi/linux/in.h`).
pub const IPPROTO_TCP: u8 = 6;

/// Whether it is a socket of TCP: states and errors are of other protocols, too.
#[inline(always)]
pub fn is_tcp<M: Memory>(sk: M) -> bool {
    sk.read::<u16>(Field::SkProtocol) == Some(u16::from(IPPROTO_TCP))
}

/// The socket's cookie: the one it has, or else what `ask` gets.
#[inline(always)]
pub fn cookie<M: Memory>(sk: M, ask: impl FnOnce() -> u64) -> u64 {
    match sk.read::<u64>(Field::SkCookie) {
        Some(0) | None => ask(),
        Some(given) => given,
    }
}

/// Reads the tuple; `None` for a socket that is neither IPv4 nor IPv6 or cannot be read.
#[inline(always)]
pub fn tuple<M: Memory>(sk: M) -> Option<Tuple> {
    let (local_address, remote_address) = match sk.read::<u16>(Field::SkFamily)? {
        family::INET => (mapped(sk.read(Field::SkRcvSaddr)?), mapped(sk.read(Field::SkDaddr)?)),
        family::INET6 => (sk.read_v6(Field::SkV6RcvSaddr)?, sk.read_v6(Field::SkV6Daddr)?),
        _ => return None,
    };
    // `skc_num` is 0 once the port is released (CLOSE, destroy); `inet_sport` keeps it, in network order. A request socket
    // has only `skc_num`, and what lies at `inet_sport`'s place is not a port.
    let local_port = match sk.read::<u16>(Field::SkNum)? {
        0 => u16::from_be(sk.read(Field::InetSport)?),
        port => port,
    };
    Some(Tuple {
        netns: sk.follow(Field::SkNet)?.read(Field::NetInum)?,
        local_port,
        remote_port: u16::from_be(sk.read(Field::SkDport)?),
        local_address,
        remote_address,
    })
}

/// An IPv4 address, as it lies in memory, mapped into IPv6.
#[inline(always)]
pub fn mapped(ipv4: u32) -> [u8; 16] {
    let [a, b, c, d] = ipv4.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Reads `$field` of `$from` into the record and marks it available.
macro_rules! fill {
    ($record:ident, $from:expr, $($field:ident => $target:ident),+ $(,)?) => {
        $(if let Some(value) = $from.read(Field::$field) {
            $record.$target = value;
            $record.available |= Field::$field.bit();
        })+
    };
}

/// Fills what every kind of socket has (`struct sock_common`).
#[inline(always)]
pub fn fill_common<M: Memory>(record: &mut SocketRecord, sk: M) {
    // SAFETY: the helper takes nothing and only reads a counter.
    record.jiffies = unsafe { bpf_jiffies64() };
    if let Some(net) = sk.follow(Field::SkNet) {
        fill!(
            record, net,
            NetTcpRetries2 => tcp_retries2,
            NetTcpOrphanRetries => tcp_orphan_retries,
            NetKeepaliveTime => net_keepalive_time_jiffies,
            NetKeepaliveIntvl => net_keepalive_intvl_jiffies,
            NetKeepaliveProbes => net_keepalive_probes,
        );
    }
}

/// Fills what only a full TCP socket has.
#[inline(always)]
pub fn fill_full<M: Memory>(record: &mut SocketRecord, sk: M) {
    fill!(
        record, sk,
        SkErr => error,
        SkFlags => sk_flags,
        SkRxDstIfindex => ingress_ifindex,
        IcskRetransmits => retransmits,
        IcskBackoff => backoff,
        IcskRto => rto_jiffies,
        IcskRtoMax => rto_max_jiffies,
        IcskUserTimeout => user_timeout_ms,
        IcskProbesOut => probes_out,
        TpSndUna => snd_una,
        TpSndNxt => snd_nxt,
        TpWriteSeq => write_seq,
        TpSndWnd => snd_wnd,
        TpPacketsOut => packets_out,
        TpTotalRetrans => total_retrans,
        TpRetransStamp => retrans_stamp,
        TpRcvTstamp => rcv_tstamp_jiffies,
        TpKeepaliveTime => keepalive_time_jiffies,
        TpKeepaliveIntvl => keepalive_intvl_jiffies,
        TpKeepaliveProbes => keepalive_probes,
        IcskPending => pending,
        IcskTimeout => retransmit_expires_jiffies,
        IcskProbesTstamp => probes_tstamp_jiffies,
        SkTimerExpires => sk_timer_expires_jiffies,
        IcskAckLrcvtime => lrcvtime_jiffies,
        SkErrSoft => soft_error,
    );
    match sk.read::<u64>(Field::SkSocket) {
        // No process holds it: the application has closed it, or has not accepted it yet.
        Some(0) => record.available |= Field::SocketInode.bit(),
        // The inode lies behind the socket's end (`struct socket_alloc`), where the verifier knows of nothing.
        Some(socket) => fill!(record, Address(socket), SocketInode => inode),
        None => {}
    }
    if let Some(usec_ts) = sk.read_bits(Field::TpUsecTs) {
        record.usec_ts = usec_ts;
        record.available |= Field::TpUsecTs.bit();
    }
    if let Some(device) = sk.follow(Field::SkDstCache).and_then(|dst| dst.follow(Field::DstDev)) {
        fill!(record, device, DevIfindex => egress_ifindex);
    }
}

/// Fills what only a request socket has.
#[inline(always)]
pub fn fill_request<M: Memory>(record: &mut SocketRecord, req: M) {
    if let Some(timeouts) = req.read_bits(Field::ReqNumTimeout) {
        record.retransmits = timeouts;
        record.available |= Field::ReqNumTimeout.bit();
    }
    if let Some(repeats) = req.read::<u8>(Field::ReqNumRetrans) {
        record.total_retrans = u32::from(repeats);
        record.available |= Field::ReqNumRetrans.bit();
    }
}
