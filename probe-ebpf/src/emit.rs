//! The one place that reserves ring-buffer space, and the one that counts.

pub mod connection;
mod wake;
use core::hint::black_box;

use aya_ebpf::{
    helpers::generated::{bpf_get_stack, bpf_probe_read_kernel, bpf_probe_read_kernel_str},
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use connprobe_common::{
    abi::{
        ABI_VERSION, DropRecord, HookCounters, InvalidRecord, MAX_HEADERS_BYTES, MAX_REASON_BYTES, NO_RESULT,
        SocketRecord, UNKNOWN, UNKNOWN_STATE, hook,
    },
    fields::Field,
};

use wake::wakeup_if_asleep;

use crate::{
    clock, filter,
    limit::{self, PerCpu, Stage, Timeout, Watch},
    memory::Memory,
    packet::Segment,
    socket::{self, Address, Tuple, state},
};

/// Bytes of the ring; user space may set another size before loading. 1 MiB holds 6,000 records: a second of the worst storm
/// measured, while user space reads every few hundredths of a second.
const RING_BYTES: u32 = 1 << 20;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

#[map]
static COUNTERS: PerCpuArray<HookCounters> = PerCpuArray::with_max_entries(hook::COUNT as u32, 0);

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
    let Some(counters) = COUNTERS.get_ptr_mut(u32::from(event.hook)) else { return };
    // SAFETY: a per-CPU value belongs to this CPU while the program runs.
    let counters = unsafe { &mut *counters };
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
    counters.seen += 1;
    if write(&event, &tuple, sk, now_ns, cookie) {
        counters.emitted += 1;
    } else {
        counters.lost += 1;
    }
}

/// The same for a packet whose socket is not at hand.
#[inline(always)]
pub fn packet_event(hook: u16, tuple: &Tuple, segment_flags: u8) {
    if !filter::passes(tuple) {
        return;
    }
    let Some(counters) = COUNTERS.get_ptr_mut(u32::from(hook)) else { return };
    // SAFETY: a per-CPU value belongs to this CPU while the program runs.
    let counters = unsafe { &mut *counters };
    let now_ns = clock::now_ns();
    if !limit::take(PerCpu::Handshakes, now_ns) {
        counters.suppressed += 1;
        return;
    }
    limit::suspect(tuple, now_ns, Stage::Established);
    counters.seen += 1;
    let event = SocketEvent { segment_flags, ..SocketEvent::new(hook, Kind::Packet, UNKNOWN_STATE) };
    if write(&event, tuple, Address(0), now_ns, 0) {
        counters.emitted += 1;
    } else {
        counters.lost += 1;
    }
}

/// A packet that is thrown away.
#[derive(Clone, Copy)]
pub struct Drop {
    /// What the program was given: the way to the stack.
    pub context: *mut core::ffi::c_void,
    pub skb: Address,
    /// The address after the call that drops it.
    pub location: u64,
    /// User space's code for the reason.
    pub reason: u8,
    /// What makes it worth telling.
    pub part: Part,
}

/// What a segment is to its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A FIN ends its sender's half.
    Fin,
    /// A RST ends all of it.
    Reset,
    /// A SYN-ACK, or a SYN that came by an unexpected interface, begins it.
    Beginning,
    /// Anything else: told of connections under suspicion, and where it is dropped again and again.
    Other,
}

/// Filters, limits, counts and writes a segment that is thrown away.
#[inline(always)]
pub fn drop_event(drop: &Drop, segment: Segment) {
    let now_ns = clock::now_ns();
    let Some(counters) = COUNTERS.get_ptr_mut(u32::from(hook::KFREE_SKB)) else { return };
    // SAFETY: a per-CPU value belongs to this CPU while the program runs.
    let counters = unsafe { &mut *counters };
    let budget = match drop.part {
        Part::Fin => PerCpu::DroppedFins,
        Part::Reset => PerCpu::DroppedResets,
        Part::Beginning => PerCpu::DroppedHandshakes,
        Part::Other => PerCpu::LookedUpDrops,
    };
    // Before anything else is read: firewalls drop by the million. Counted, but for others, of which most would not be told.
    if limit::is_used_up(budget, now_ns) || drop.part == Part::Other && !limit::take(budget, now_ns) {
        counters.suppressed += u64::from(drop.part != Part::Other);
        return;
    }
    let ingress_ifindex: u32 = drop.skb.read(Field::SkbSkbIif).unwrap_or(0);
    // Who has made it is its sender.
    let Some(tuple) = segment.tuple(ingress_ifindex == 0) else { return };
    // A socket of this host that has sent it sends it again, and is told of then.
    if !filter::passes_packet(&tuple)
        || drop.part == Part::Other && !limit::take_from_dropped(&tuple, now_ns, ingress_ifindex != 0)
    {
        return;
    }
    if drop.part != Part::Other && !limit::take(budget, now_ns) {
        counters.suppressed += 1;
        return;
    }
    if drop.part == Part::Beginning {
        limit::suspect(&tuple, now_ns, Stage::Embryonic);
    }
    // Where routing has found the socket already (`ip_rcv_finish_core`, early demux), its state changes are told from now on.
    if let Some(sk) = drop.skb.follow(Field::SkbSk) {
        if sk.state().is_some_and(state::is_synchronized) {
            limit::watch(sk, now_ns);
        }
    }
    counters.seen += 1;
    if write_drop(drop, segment, tuple.netns, ingress_ifindex, now_ns) {
        counters.emitted += 1;
    } else {
        counters.lost += 1;
    }
}

/// Writes the record; `false` when the ring is full.
#[inline(always)]
fn write_drop(drop: &Drop, segment: Segment, netns: u32, ingress_ifindex: u32, now_ns: u64) -> bool {
    let Some(headers_bytes) = segment.headers_bytes() else { return true };
    let Some(mut entry) = EVENTS.reserve::<DropRecord>(0) else { return false };
    let record = zeroed(entry.as_mut_ptr());
    record.abi_version = ABI_VERSION;
    record.hook = hook::KFREE_SKB;
    record.size = size_of::<DropRecord>() as u32;
    record.ktime_ns = now_ns;
    record.location = drop.location;
    record.reason = u32::from(drop.reason);
    record.netns = netns;
    record.ingress_ifindex = ingress_ifindex;
    fill_packet(record, drop.skb, segment, headers_bytes);
    fill_stack(record, drop.context);
    entry.submit(wakeup_if_asleep::<DropRecord>(&EVENTS));
    true
}

/// A packet that connection tracking holds for invalid.
#[derive(Clone, Copy)]
pub struct Invalid {
    /// See [`Drop::context`].
    pub context: *mut core::ffi::c_void,
    pub skb: Address,
    /// Where the kernel's text for why is.
    pub text: u64,
    /// The zone, or `abi::NO_ZONE`.
    pub zone: u32,
    /// Netfilter's number of its hook, or [`UNKNOWN`].
    pub netfilter_hook: u8,
}

/// Filters, limits, counts and writes a FIN or a RST that connection tracking holds for invalid.
#[inline(always)]
pub fn invalid_event(invalid: &Invalid, segment: Segment, is_reset: bool) {
    let now_ns = clock::now_ns();
    let Some(counters) = COUNTERS.get_ptr_mut(u32::from(hook::NF_CT_LOG_INVALID)) else { return };
    // SAFETY: a per-CPU value belongs to this CPU while the program runs.
    let counters = unsafe { &mut *counters };
    let budget = if is_reset { PerCpu::InvalidResets } else { PerCpu::InvalidFins };
    // As of drops.
    if limit::is_used_up(budget, now_ns) {
        counters.suppressed += 1;
        return;
    }
    let ingress_ifindex: u32 = invalid.skb.read(Field::SkbSkbIif).unwrap_or(0);
    // Who has made it is its sender.
    let Some(tuple) = segment.tuple(ingress_ifindex == 0) else { return };
    if !filter::passes_packet(&tuple) {
        return;
    }
    if !limit::take(budget, now_ns) {
        counters.suppressed += 1;
        return;
    }
    counters.seen += 1;
    if write_invalid(invalid, segment, tuple.netns, ingress_ifindex, now_ns) {
        counters.emitted += 1;
    } else {
        counters.lost += 1;
    }
}

/// Writes the record; `false` when the ring is full.
#[inline(always)]
fn write_invalid(invalid: &Invalid, segment: Segment, netns: u32, ingress_ifindex: u32, now_ns: u64) -> bool {
    let Some(headers_bytes) = segment.headers_bytes() else { return true };
    let Some(mut entry) = EVENTS.reserve::<InvalidRecord>(0) else { return false };
    let record = zeroed(entry.as_mut_ptr());
    record.packet.abi_version = ABI_VERSION;
    record.packet.hook = hook::NF_CT_LOG_INVALID;
    record.packet.size = size_of::<InvalidRecord>() as u32;
    record.packet.ktime_ns = now_ns;
    record.packet.netns = netns;
    record.packet.ingress_ifindex = ingress_ifindex;
    fill_packet(&mut record.packet, invalid.skb, segment, headers_bytes);
    fill_stack(&mut record.packet, invalid.context);
    record.zone = invalid.zone;
    record.netfilter_hook = invalid.netfilter_hook;
    // SAFETY: writes at most as many bytes as the array has, with the zero that ends them; the helper checks the source itself. What it
    // cannot read stays empty.
    unsafe {
        bpf_probe_read_kernel_str(
            record.text.as_mut_ptr().cast(),
            MAX_REASON_BYTES as u32,
            invalid.text as *const core::ffi::c_void,
        );
    }
    entry.submit(wakeup_if_asleep::<InvalidRecord>(&EVENTS));
    true
}

/// The calls' part of a record. On failure it stays zero.
#[inline(always)]
fn fill_stack(record: &mut DropRecord, context: *mut core::ffi::c_void) {
    // SAFETY: the context is the program's own, and the helper writes at most as many bytes as the array has.
    unsafe { bpf_get_stack(context, record.stack.as_mut_ptr().cast(), size_of_val(&record.stack) as u32, 0) };
}

/// The packet's part of a record.
#[inline(always)]
fn fill_packet(record: &mut DropRecord, skb: Address, segment: Segment, headers_bytes: u64) {
    record.packet_bytes = segment.packet_bytes().unwrap_or(0);
    record.checksum_state = skb.read_bits(Field::SkbIpSummed).unwrap_or(UNKNOWN);
    record.is_tracked = match skb.read::<u64>(Field::SkbNfct) {
        // The low bits say what the packet is to the connection.
        Some(connection) => u8::from(connection & !7 != 0),
        None => UNKNOWN,
    };
    record.destination_mac = segment.destination_mac(record.ingress_ifindex);
    // The compiler knows that this is below the mask and leaves it out; the verifier of 6.1 does not.
    let bytes = black_box(headers_bytes) & (MAX_HEADERS_BYTES as u64 - 1);
    // SAFETY: writes at most `bytes`, which the array has room for; the helper checks the source itself.
    let result =
        unsafe { bpf_probe_read_kernel(record.headers.as_mut_ptr().cast(), bytes as u32, segment.start() as *const _) };
    record.headers_bytes = if result == 0 { bytes as u16 } else { 0 };
}

/// Writes the record; `false` when the ring is full. A function of its own: once in the object for each kind of memory, not once a program.
#[inline(never)]
fn write<M: Memory>(event: &SocketEvent, tuple: &Tuple, sk: M, now_ns: u64, cookie: u64) -> bool {
    let Some(mut entry) = EVENTS.reserve::<SocketRecord>(0) else { return false };
    let record = zeroed(entry.as_mut_ptr());
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
    entry.submit(wakeup_if_asleep::<SocketRecord>(&EVENTS));
    true
}

/// Zeroes a record, word by word: the compiler's `memset` would be a call that loops over bytes.
#[inline(always)]
pub fn zeroed<'a, T: Copy>(record: *mut T) -> &'a mut T {
    const { assert!(size_of::<T>().is_multiple_of(size_of::<u64>())) };
    for word in 0..size_of::<T>() / size_of::<u64>() {
        // SAFETY: every caller passes a reservation or a map value as large as the record, aligned to 8 bytes, and its own. Volatile, so that
        // the loop is not turned back into a `memset`.
        unsafe { record.cast::<u64>().add(word).write_volatile(0) };
    }
    // SAFETY: as above, and zero bytes are a valid record: records are integers and arrays of them.
    unsafe { &mut *record }
}
