//! Who is under suspicion, and how much one connection or one kind of event may say.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray},
};

use crate::socket::{Address, Tuple};

/// Sockets under suspicion at once. The oldest is forgotten first; then only its later state changes go unseen, and the
/// socket witness still finds them out. 16,384 entries cost about 2 MB of kernel memory.
const MAX_WATCHED: u32 = 16_384;
/// Events a second from one connection beside retransmission timeouts, which the kernel itself spaces out by backing off.
/// A connection that ends makes at most six.
const PER_CONNECTION_PER_SECOND: u32 = 8;
/// The same of one of which only that is known.
const PER_STRAY_PER_SECOND: u32 = 4;
/// Established connections of which any dropped segment is told. About 2 MB of kernel memory; user space may set another number before
/// loading.
const MAX_SUSPECTS: u32 = 16_384;
/// The same of connections that are not established yet. A flood of handshakes that are repeated pushes out its own in some seconds, and
/// none that is established.
const MAX_EMBRYONIC: u32 = 4_096;

/// Connections of which nothing is known but that a packet filter drops what they send, some 120 bytes of kernel memory each. User space
/// makes room for as many as all CPUs together look at in a second; until then a sender has sent again.
const MAX_STRAYS: u32 = 4_096;

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

    #[inline(always)]
    fn is_used_up(&self, now_ns: u64, window_ns: u64, limit: u32) -> bool {
        now_ns.wrapping_sub(self.window_start_ns) < window_ns && self.used >= limit
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
pub struct Watch {
    budget: Budget,
    /// The latest timeout told.
    timeout: Timeout,
}

/// As how many timeouts a socket is remembered that is about to close.
const OVER: u32 = u32::MAX;

impl Watch {
    #[inline(always)]
    fn new(now_ns: u64) -> Self {
        let budget = Budget { window_start_ns: now_ns, used: 0, padding: 0 };
        Self { budget, timeout: Timeout { snd_una: 0, retransmits: 0 } }
    }

    /// Remembers that nothing but its closing can come of the socket. While nobody looks at changes of state, that is not seen, and a new
    /// socket may have its address by the time that somebody does.
    #[inline(always)]
    pub fn end(&mut self) {
        self.timeout.retransmits = OVER;
    }

    /// Whether nothing but its closing could come of the socket that was seen here last.
    #[inline(always)]
    pub fn is_over(&self) -> bool {
        self.timeout.retransmits == OVER
    }

    /// Starts afresh where that was over: a suspicion of a new socket takes it back.
    #[inline(always)]
    pub fn renew(&mut self, now_ns: u64) {
        if self.is_over() {
            *self = Self::new(now_ns);
        }
    }

    /// Takes one event from the connection's budget; `false` when it is used up.
    #[inline(always)]
    pub fn take(&mut self, now_ns: u64) -> bool {
        self.budget.take(now_ns, SECOND_NS, PER_CONNECTION_PER_SECOND)
    }

    /// Whether this timeout has not been told yet. After a timeout the kernel may send more segments again before new data is
    /// acknowledged (loss recovery driven by SACKs, `tcp_xmit_retransmit_queue`), and each passes the hook with the same count.
    #[inline(always)]
    pub fn is_new_timeout(&mut self, timeout: Timeout) -> bool {
        let is_new = self.timeout != timeout;
        self.timeout = timeout;
        is_new
    }
}

/// Keyed by the address of the `struct sock`; entries go when the socket closes, so that a reused address starts afresh.
#[map]
static WATCHED: LruHashMap<u64, Watch> = LruHashMap::with_max_entries(MAX_WATCHED, 0);

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

/// The same for handshakes.
#[map]
static EMBRYONIC: LruHashMap<Tuple, Suspect> = LruHashMap::with_max_entries(MAX_EMBRYONIC, 0);

/// How far a connection under suspicion has got.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its handshake is not over, or is not known to be.
    Embryonic,
    /// It is established, or was.
    Established,
}

/// When the latest of them raised an event; 0 for never.
#[map]
static LATEST_SUSPECT_NS: Array<u64> = Array::with_max_entries(1, 0);

/// From now on any dropped segment of the connection is told. A function of its own, as the next, for its caller's stack is full.
#[inline(never)]
pub fn suspect(tuple: &Tuple, now_ns: u64, stage: Stage) {
    if let Some(latest) = LATEST_SUSPECT_NS.get_ptr_mut(0) {
        // SAFETY: a map value stays valid while the program runs, and one word is written.
        unsafe { *latest = now_ns };
    }
    match stage {
        Stage::Embryonic => note(&EMBRYONIC, tuple, now_ns),
        Stage::Established => note(&SUSPECTS, tuple, now_ns),
    }
}

#[inline(always)]
fn note(suspects: &LruHashMap<Tuple, Suspect>, tuple: &Tuple, now_ns: u64) {
    match suspects.get_ptr_mut(tuple) {
        // SAFETY: a map value stays valid while the program runs, and one word is written.
        Some(suspect) => unsafe { (*suspect).latest_ns = now_ns },
        None => {
            let budget = Budget { window_start_ns: now_ns, used: 0, padding: 0 };
            let _ = suspects.insert(tuple, &Suspect { budget, latest_ns: now_ns }, 0);
        }
    }
}

/// Whether there is any such connection.
#[inline(always)]
fn has_suspects(now_ns: u64) -> bool {
    match LATEST_SUSPECT_NS.get(0) {
        Some(&latest_ns) => latest_ns != 0 && now_ns.wrapping_sub(latest_ns) < SUSPECT_FOR_NS,
        None => false,
    }
}

/// What was dropped of connections that are under no suspicion, keyed as [`SUSPECTS`].
#[map]
static STRAYS: LruHashMap<Tuple, Suspect> = LruHashMap::with_max_entries(MAX_STRAYS, 0);

/// Whether a dropped segment that neither begins nor ends its connection is to be told, and if so, takes it from the connection's
/// budget: of a connection under suspicion any; of one that this host may forward, where a packet filter drops what it sends, from the
/// second on, for a stray comes once.
#[inline(never)]
pub fn take_from_dropped(tuple: &Tuple, now_ns: u64, may_be_forwarded: bool) -> bool {
    if has_suspects(now_ns) && take_from_suspect(tuple, now_ns) {
        return true;
    }
    if !may_be_forwarded {
        return false;
    }
    match STRAYS.get_ptr_mut(tuple) {
        Some(stray) => {
            // SAFETY: a map value stays valid while the program runs. Two CPUs counting at once may miscount by one.
            let stray = unsafe { &mut *stray };
            let is_repeated = now_ns.wrapping_sub(stray.latest_ns) < SUSPECT_FOR_NS;
            stray.latest_ns = now_ns;
            is_repeated
                && stray.budget.take(now_ns, SECOND_NS, PER_STRAY_PER_SECOND)
                && take(PerCpu::RepeatedDrops, now_ns)
        }
        None => {
            let budget = Budget { window_start_ns: now_ns, used: 0, padding: 0 };
            let _ = STRAYS.insert(tuple, &Suspect { budget, latest_ns: now_ns }, 0);
            false
        }
    }
}

#[inline(always)]
fn take_from_suspect(tuple: &Tuple, now_ns: u64) -> bool {
    let suspect = match SUSPECTS.get_ptr_mut(tuple) {
        Some(suspect) => Some(suspect),
        None => EMBRYONIC.get_ptr_mut(tuple),
    };
    match suspect {
        Some(suspect) => {
            // SAFETY: a map value stays valid while the program runs. Two CPUs counting at once may miscount by one.
            let suspect = unsafe { &mut *suspect };
            now_ns.wrapping_sub(suspect.latest_ns) < SUSPECT_FOR_NS
                && suspect.budget.take(now_ns, SECOND_NS, PER_CONNECTION_PER_SECOND)
        }
        None => false,
    }
}

/// What is remembered of the socket; `None` where it has raised no event before.
#[inline(always)]
pub fn watched(sk: Address) -> Option<&'static mut Watch> {
    // SAFETY: a map value stays valid while the program runs. Two CPUs counting at once may miscount by one; timeouts of one socket are
    // kept apart by its lock.
    WATCHED.get_ptr_mut(&sk.0).map(|watch| unsafe { &mut *watch })
}

/// Puts the socket under suspicion, and gives what is remembered of it. A full table makes room by itself; where there is none, it only
/// means that this socket's state changes stay unseen.
#[inline(always)]
pub fn watch(sk: Address, now_ns: u64) -> Option<&'static mut Watch> {
    if let Some(watch) = watched(sk) {
        watch.renew(now_ns);
        return Some(watch);
    }
    let _ = WATCHED.insert(&sk.0, &Watch::new(now_ns), 0);
    watched(sk)
}

/// Ends the suspicion: the socket is closed and its address may be used again.
#[inline(always)]
pub fn unwatch(sk: Address) {
    let _ = WATCHED.remove(&sk.0);
}

/// What a CPU may tell only so often: each has a budget of its own, so that none takes another's place.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum PerCpu {
    /// Repeats of SYN and SYN-ACK: enough for every real handshake in trouble, little enough that a SYN flood, which makes one repeat
    /// per request socket, cannot fill the ring.
    Handshakes,
    /// Dropped FINs. Each that is not a connection's of this host costs user space one look-up, and firewalls drop stray ones all the
    /// time.
    DroppedFins,
    /// Dropped RSTs, of which a flood makes any number as backscatter.
    DroppedResets,
    /// Dropped SYN-ACKs, and SYNs that came by an unexpected interface: of floods and scans there may be any number.
    DroppedHandshakes,
    /// Other dropped segments of which it is looked up whether their connection is under suspicion.
    LookedUpDrops,
    /// Those that are told of connections of which nothing else is known.
    RepeatedDrops,
    /// FINs that connection tracking holds for invalid.
    InvalidFins,
    /// RSTs that connection tracking holds for invalid.
    InvalidResets,
    /// Request sockets that a scan tells of.
    ScannedRequests,
}

impl PerCpu {
    const COUNT: u32 = Self::ScannedRequests as u32 + 1;

    const fn in_a_tenth(self) -> u32 {
        match self {
            Self::Handshakes => 100,
            Self::LookedUpDrops => 200,
            Self::ScannedRequests => 32,
            Self::DroppedFins
            | Self::DroppedResets
            | Self::DroppedHandshakes
            | Self::RepeatedDrops
            | Self::InvalidFins
            | Self::InvalidResets => 20,
        }
    }
}

#[map]
static BUDGETS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(PerCpu::COUNT, 0);

/// Takes one from this CPU's budget; `false` when it is used up.
#[inline(always)]
pub fn take(kind: PerCpu, now_ns: u64) -> bool {
    match BUDGETS.get_ptr_mut(kind as u32) {
        // SAFETY: a per-CPU value belongs to this CPU while the program runs.
        Some(budget) => unsafe { &mut *budget }.take(now_ns, TENTH_NS, kind.in_a_tenth()),
        None => true,
    }
}

/// Whether this CPU's budget is used up: then what is left to do may be spared.
#[inline(always)]
pub fn is_used_up(kind: PerCpu, now_ns: u64) -> bool {
    match BUDGETS.get_ptr(kind as u32) {
        // SAFETY: as above.
        Some(budget) => unsafe { &*budget }.is_used_up(now_ns, TENTH_NS, kind.in_a_tenth()),
        None => false,
    }
}
