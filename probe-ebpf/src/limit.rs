//! Who is under suspicion, and how much one connection or one kind of event may say.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{LruHashMap, PerCpuArray},
};

use crate::socket::{Address, Tuple};

/// Sockets under suspicion at once. The oldest is forgotten first; then only its later state changes go unseen, and the
/// socket witness still finds them out. 16,384 entries cost about 2 MB of kernel memory.
const MAX_WATCHED: u32 = 16_384;
/// Events a second from one connection beside retransmission timeouts, which the kernel itself spaces out by backing off.
/// A connection that ends makes at most six.
const PER_CONNECTION_PER_SECOND: u32 = 8;
/// Handshake repeats a CPU may report in a tenth of a second: enough for every real handshake in trouble, little enough that
/// a SYN flood, which makes one repeat per request socket, cannot fill the ring.
const HANDSHAKE_PER_CPU_PER_TENTH: u32 = 100;

/// Dropped FINs and RSTs a CPU may report in a tenth of a second. Each that is not a connection's of this host costs user space one
/// look-up, and firewalls drop stray ones all the time.
const DROPS_PER_CPU_PER_TENTH: u32 = 20;

/// Dropped SYN-ACKs, and SYNs that came by an unexpected interface, a CPU may report in a tenth of a second: of floods and scans there may
/// be any number.
const HANDSHAKE_DROPS_PER_CPU_PER_TENTH: u32 = 20;

/// Other dropped segments of which a CPU looks up in a tenth of a second whether their connection is under suspicion.
const LOOKED_UP_DROPS_PER_CPU_PER_TENTH: u32 = 200;

/// Request sockets that a scan tells of on one CPU in a tenth of a second.
const SCANNED_REQUESTS_PER_CPU_PER_TENTH: u32 = 32;

/// Connections of which any dropped segment is told. About 2 MB of kernel memory; a flood of handshakes that are repeated takes some
/// seconds to push one out.
const MAX_SUSPECTS: u32 = 16_384;

/// A connection stays under that suspicion for so long after its latest event: longer than the longest wait between two timeouts
/// (`TCP_RTO_MAX`).
const SUSPECT_FOR_NS: u64 = 150 * SECOND_NS;

const SECOND_NS: u64 = 1_000_000_000;
const TENTH_NS: u64 = SECOND_NS / 10;

/// A count within a window of time.
#[derive(Clone, Copy)]
#[repr(C)]
struct Budget {
    window_start_ns: u64,
    used: u32,
    padding: u32,
}

impl Budget {
    #[inline(always)]
    fn take(&mut self, now_ns: u64, window_ns: u64, limit: u32) -> bool {
        if now_ns.wrapping_sub(self.window_start_ns) >= window_ns {
            self.window_start_ns = now_ns;
            self.used = 0;
        }
        if self.used >= limit {
            return false;
        }
        self.used += 1;
        true
    }
}

/// A retransmission timeout of one connection: the count goes up with each, and starts again when SND.UNA moves.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Timeout {
    pub snd_una: u32,
    /// `icsk_retransmits`, widened so that no padding is left.
    pub retransmits: u32,
}

/// What is remembered of a socket under suspicion.
#[derive(Clone, Copy)]
#[repr(C)]
struct Watch {
    budget: Budget,
    /// The latest timeout told.
    timeout: Timeout,
}

/// Keyed by the address of the `struct sock`; entries go when the socket closes, so that a reused address starts afresh.
#[map]
static WATCHED: LruHashMap<u64, Watch> = LruHashMap::with_max_entries(MAX_WATCHED, 0);

#[map]
static HANDSHAKES: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);

#[map]
static DROPS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);

/// Apart from the drops, of which each may follow: neither takes the other's place.
#[map]
static INVALID: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);
#[map]
static HANDSHAKE_DROPS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);

#[map]
static LOOKED_UP_DROPS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);

#[map]
static SCANNED_REQUESTS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);

/// What is remembered of a connection of which any dropped segment is told.
#[derive(Clone, Copy)]
#[repr(C)]
struct Suspect {
    budget: Budget,
    /// When it last raised an event.
    latest_ns: u64,
}

/// Keyed by the tuple as this host's end names it: of a packet no socket is known.
#[map]
static SUSPECTS: LruHashMap<Tuple, Suspect> = LruHashMap::with_max_entries(MAX_SUSPECTS, 0);

/// From now on any dropped segment of the connection is told. A function of its own, as the next, for its caller's stack is full.
#[inline(never)]
pub fn suspect(tuple: &Tuple, now_ns: u64) {
    match SUSPECTS.get_ptr_mut(tuple) {
        // SAFETY: a map value stays valid while the program runs, and one word is written.
        Some(suspect) => unsafe { (*suspect).latest_ns = now_ns },
        None => {
            let budget = Budget { window_start_ns: now_ns, used: 0, padding: 0 };
            let _ = SUSPECTS.insert(tuple, &Suspect { budget, latest_ns: now_ns }, 0);
        }
    }
}

/// Whether a dropped segment of the connection is to be told, and if so, takes it from the connection's budget.
#[inline(never)]
pub fn take_from_suspect(tuple: &Tuple, now_ns: u64) -> bool {
    match SUSPECTS.get_ptr_mut(tuple) {
        Some(suspect) => {
            // SAFETY: a map value stays valid while the program runs. Two CPUs counting at once may miscount by one.
            let suspect = unsafe { &mut *suspect };
            now_ns.wrapping_sub(suspect.latest_ns) < SUSPECT_FOR_NS
                && suspect.budget.take(now_ns, SECOND_NS, PER_CONNECTION_PER_SECOND)
        }
        None => false,
    }
}

/// Whether the socket has raised an event before.
#[inline(always)]
pub fn is_watched(sk: Address) -> bool {
    WATCHED.get_ptr(&sk.0).is_some()
}

/// Puts the socket under suspicion.
#[inline(always)]
pub fn watch(sk: Address, now_ns: u64) {
    if !is_watched(sk) {
        // A full table makes room by itself; a failure only means that this socket's state changes stay unseen.
        let budget = Budget { window_start_ns: now_ns, used: 0, padding: 0 };
        let _ = WATCHED.insert(&sk.0, &Watch { budget, timeout: Timeout { snd_una: 0, retransmits: 0 } }, 0);
    }
}

/// Ends the suspicion: the socket is closed and its address may be used again.
#[inline(always)]
pub fn unwatch(sk: Address) {
    let _ = WATCHED.remove(&sk.0);
}

/// Takes one event from the connection's budget; `false` when it is used up.
#[inline(always)]
pub fn take_from_connection(sk: Address, now_ns: u64) -> bool {
    match WATCHED.get_ptr_mut(&sk.0) {
        // SAFETY: a map value stays valid while the program runs. Two CPUs counting at once may miscount by one.
        Some(watch) => unsafe { &mut *watch }.budget.take(now_ns, SECOND_NS, PER_CONNECTION_PER_SECOND),
        None => true,
    }
}

/// Whether this timeout has not been told yet. After a timeout the kernel may send more segments again before new data is
/// acknowledged (loss recovery driven by SACKs, `tcp_xmit_retransmit_queue`), and each passes the hook with the same count.
#[inline(always)]
pub fn is_new_timeout(sk: Address, timeout: Timeout) -> bool {
    match WATCHED.get_ptr_mut(&sk.0) {
        Some(watch) => {
            // SAFETY: a map value stays valid while the program runs, and the socket's lock keeps its timeouts apart.
            let watch = unsafe { &mut *watch };
            let is_new = watch.timeout != timeout;
            watch.timeout = timeout;
            is_new
        }
        None => true,
    }
}

/// Takes one event from this CPU's budget of handshake repeats; `false` when it is used up.
#[inline(always)]
pub fn take_from_handshakes(now_ns: u64) -> bool {
    take_from(&HANDSHAKES, now_ns, HANDSHAKE_PER_CPU_PER_TENTH)
}

/// Takes one event from this CPU's budget of segments that connection tracking holds for invalid; `false` when it is used up.
#[inline(always)]
pub fn take_from_invalid(now_ns: u64) -> bool {
    take_from(&INVALID, now_ns, DROPS_PER_CPU_PER_TENTH)
}

/// Takes one event from this CPU's budget of dropped segments; `false` when it is used up.
#[inline(always)]
pub fn take_from_drops(now_ns: u64) -> bool {
    take_from(&DROPS, now_ns, DROPS_PER_CPU_PER_TENTH)
}

/// Takes one event from this CPU's budget of dropped segments of handshakes; `false` when it is used up.
#[inline(always)]
pub fn take_from_handshake_drops(now_ns: u64) -> bool {
    take_from(&HANDSHAKE_DROPS, now_ns, HANDSHAKE_DROPS_PER_CPU_PER_TENTH)
}

/// Takes one look-up from this CPU's budget; `false` when it is used up.
#[inline(always)]
pub fn take_from_looked_up_drops(now_ns: u64) -> bool {
    take_from(&LOOKED_UP_DROPS, now_ns, LOOKED_UP_DROPS_PER_CPU_PER_TENTH)
}

/// Takes one request socket from what the scan may tell on this CPU; `false` when it is used up.
#[inline(always)]
pub fn take_from_scanned_requests() -> bool {
    // SAFETY: the helper takes nothing and only reads a clock.
    take_from(&SCANNED_REQUESTS, unsafe { bpf_ktime_get_ns() }, SCANNED_REQUESTS_PER_CPU_PER_TENTH)
}

#[inline(always)]
fn take_from(budgets: &PerCpuArray<Budget>, now_ns: u64, limit: u32) -> bool {
    match budgets.get_ptr_mut(0) {
        // SAFETY: a per-CPU value belongs to this CPU while the program runs.
        Some(budget) => unsafe { &mut *budget }.take(now_ns, TENTH_NS, limit),
        None => true,
    }
}
