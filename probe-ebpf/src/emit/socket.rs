//! Events of sockets, and of packets that tell of one.

use connprobe_common::abi::{ABI_VERSION, NO_RESULT, SocketRecord, UNKNOWN_STATE, hook};

use super::{Room, count, counters};
use crate::{
    clock, filter,
    limit::{self, PerCpu, Stage, Timeout, Watch},
    memory::Memory,
    socket::{self, Address, Tuple, state},
};

/// What kind of socket an event is about; they share only `struct sock_common`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A full TCP socket.
    Full,
    /// A request socket: SYN received, not yet accepted.
    Request,
    /// None is at hand: only the packet is, and the connection's state is not known.
    Packet,
}

/// What budget an event is taken from. All but the last are for full sockets.
pub enum Limit {
    /// Once for each timeout: the kernel's own backoff spaces them out.
    Timeout(Timeout),
    /// So many a second from one connection.
    Connection,
    /// The same of one that is known to be under suspicion.
    Watched(&'static mut Watch),
    /// So many from one CPU: repeats of SYN and SYN-ACK, of which a flood makes millions.
    Handshake,
}

/// A suspicious event on a socket.
#[derive(Clone, Copy)]
pub struct SocketEvent {
    pub hook: u16,
    pub kind: Kind,
    pub old_state: u8,
    pub new_state: u8,
    /// The hook's own result, or [`NO_RESULT`].
    pub result: i32,
    /// The flags of the segment it is about, where that is what the hook tells of; else 0.
    pub segment_flags: u8,
}

impl SocketEvent {
    /// An event in which the socket's state does not change.
    #[inline(always)]
    pub fn new(hook: u16, kind: Kind, state: u8) -> Self {
        Self { hook, kind, old_state: state, new_state: state, result: NO_RESULT, segment_flags: 0 }
    }
}

/// Filters, limits, counts, fills and submits. `cookie` is called only for what is really written.
#[inline(always)]
pub fn socket_event<M: Memory>(event: SocketEvent, limit: Limit, sk: M, cookie: impl FnOnce() -> u64) {
    let Some(tuple) = socket::tuple(sk) else { return };
    if !filter::passes(&tuple) {
        return;
    }
    let Some(counters) = counters(event.hook) else { return };
    let now_ns = clock::now_ns();

    let within_limit = match limit {
        Limit::Timeout(timeout) => {
            if limit::watch(sk.address(), now_ns).is_some_and(|watch| !watch.is_new_timeout(timeout)) {
                return;
            }
            true
        }
        Limit::Connection => limit::watch(sk.address(), now_ns).is_none_or(|watch| watch.take(now_ns)),
        Limit::Watched(watch) => {
            watch.renew(now_ns);
            watch.take(now_ns)
        }
        Limit::Handshake => {
            if event.kind == Kind::Full {
                limit::watch(sk.address(), now_ns);
            }
            limit::take(PerCpu::Handshakes, now_ns)
        }
    };
    if !within_limit {
        counters.suppressed += 1;
        return;
    }
    // What waits for an answer, or answers what should not come any more, may do so because segments of it are dropped here.
    if event.kind == Kind::Request || matches!(event.hook, hook::TCP_RETRANSMIT_SKB | hook::KFREE_SKB) {
        let is_embryonic = event.kind == Kind::Request || event.new_state == state::SYN_SENT;
        limit::suspect(&tuple, now_ns, if is_embryonic { Stage::Embryonic } else { Stage::Established });
    }

    let cookie = socket::cookie(sk, cookie);
    count(counters, write_socket(&event, &tuple, sk, now_ns, cookie));
}

/// The same for a packet that is thrown away, and whose socket is not at hand.
#[inline(always)]
pub fn packet_event(tuple: &Tuple, segment_flags: u8) {
    if !filter::passes(tuple) {
        return;
    }
    let Some(counters) = counters(hook::KFREE_SKB) else { return };
    let now_ns = clock::now_ns();
    if !limit::take(PerCpu::Handshakes, now_ns) {
        counters.suppressed += 1;
        return;
    }
    limit::suspect(tuple, now_ns, Stage::Established);
    let event = SocketEvent { segment_flags, ..SocketEvent::new(hook::KFREE_SKB, Kind::Packet, UNKNOWN_STATE) };
    count(counters, write_socket(&event, tuple, Address(0), now_ns, 0));
}

/// Writes the record; `false` when the ring is full. A function of its own: once in the object for each kind of memory, not once a program.
#[inline(never)]
fn write_socket<M: Memory>(event: &SocketEvent, tuple: &Tuple, sk: M, now_ns: u64, cookie: u64) -> bool {
    let Some(mut room) = Room::<SocketRecord>::reserve() else { return false };
    let record = room.record();
    record.abi_version = ABI_VERSION;
    record.hook = event.hook;
    record.size = size_of::<SocketRecord>() as u32;
    record.ktime_ns = now_ns;
    record.old_state = event.old_state;
    record.new_state = event.new_state;
    record.result = event.result;
    record.segment_flags = event.segment_flags;
    tuple.write(record);
    record.cookie = cookie;
    socket::fill_common(record, sk);
    match event.kind {
        Kind::Full => socket::fill_full(record, sk),
        Kind::Request => socket::fill_request(record, sk),
        Kind::Packet => {}
    }
    room.submit();
    true
}
