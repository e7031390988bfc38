//! What was seen of connections before their ends: a table of buckets, of which each socket has one by its address.
//!
//! No hash map: a look-up in an array is a handful of instructions, where an insertion and a removal of a hash map take longer than all else
//! that these programs do. Allocators give freed sockets out again first, so that a busy host comes back to the same few places, which are
//! in the processor's caches; a map that forgets the oldest goes through all of its memory.

use aya_ebpf::{macros::map, maps::Array};
use connprobe_common::connection::{self, LIFE_BUCKETS, LIFE_WAYS};

use crate::socket::Address;

/// What was seen of a connection before its end. Zeros where nothing was.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Life {
    pub opened_ns: u64,
    pub established_ns: u64,
    pub pid: u32,
    pub role: u8,
    pub owner_from: u8,
    pub padding: [u8; 2],
    pub comm: [u8; 16],
}

impl Life {
    /// Of a connection of which nothing was seen.
    pub const UNSEEN: Self = Self {
        opened_ns: 0,
        established_ns: 0,
        pid: 0,
        role: connection::ROLE_UNKNOWN,
        owner_from: connection::OWNER_UNKNOWN,
        padding: [0; 2],
        comm: [0; 16],
    };
}

/// Places for the sockets whose addresses fall here.
#[repr(C)]
struct Bucket {
    /// Whose each place is; 0 for nobody's.
    sockets: [u64; LIFE_WAYS],
    lives: [Life; LIFE_WAYS],
}

const _: () = assert!(size_of::<Bucket>() == LIFE_WAYS * (1 + connection::LIFE_WORDS) * size_of::<u64>());

/// One bucket unless user space makes room before loading, for the table is used only when asked for.
#[map]
static LIVES: Array<Bucket> = Array::with_max_entries(1, 0);

/// The place of one socket, where it has one.
#[derive(Clone, Copy)]
pub struct Place {
    bucket: *mut Bucket,
    sk: Address,
    /// [`LIFE_WAYS`] where it has none.
    way: usize,
}

impl Place {
    /// Looks for it; `None` where there is no table.
    #[inline(always)]
    pub fn of(sk: Address) -> Option<Self> {
        let bucket = bucket(sk)?;
        for way in 0..LIFE_WAYS {
            if owner(bucket, way) == sk.0 {
                return Some(Self { bucket, sk, way });
            }
        }
        Some(Self { bucket, sk, way: LIFE_WAYS })
    }

    /// What was seen. The socket's lock keeps its changes apart.
    #[inline(always)]
    pub fn life(self) -> Option<&'static mut Life> {
        if self.way < LIFE_WAYS { Some(life(self.bucket, self.way)) } else { None }
    }

    /// The same, or what is to be written, in a place that is made where there was none.
    #[inline(always)]
    pub fn life_to_write(mut self) -> Option<&'static mut Life> {
        if self.way >= LIFE_WAYS {
            self.way = claim(self.bucket, self.sk);
        }
        self.life()
    }

    /// Whether it is still this socket's: another CPU that finds no room takes the place of whoever began first.
    #[inline(always)]
    pub fn is_held(self) -> bool {
        self.way < LIFE_WAYS && owner(self.bucket, self.way) == self.sk.0
    }

    /// Gives it up, where it still has it.
    #[inline(always)]
    pub fn leave(self) {
        if self.way < LIFE_WAYS {
            let _ = exchange(at(self.bucket, self.way), self.sk.0, 0);
        }
    }
}

/// Makes a place: where none is free, that of the connection that began first. [`LIFE_WAYS`] where another CPU was faster. A function of
/// its own: once in the object, not once for each change of state.
#[inline(never)]
fn claim(bucket: *mut Bucket, sk: Address) -> usize {
    for way in 0..LIFE_WAYS {
        // Others of this bucket may be about to take it on other CPUs.
        if owner(bucket, way) == 0 && exchange(at(bucket, way), 0, sk.0) {
            begin(bucket, way);
            return way;
        }
    }
    let (mut oldest, mut oldest_ns, mut whose) = (0, u64::MAX, 0);
    for way in 0..LIFE_WAYS {
        let (holder, life) = (owner(bucket, way), life(bucket, way));
        let began_ns = if life.opened_ns == 0 { life.established_ns } else { life.opened_ns };
        if began_ns < oldest_ns {
            (oldest, oldest_ns, whose) = (way, began_ns, holder);
        }
    }
    if !exchange(at(bucket, oldest), whose, sk.0) {
        return LIFE_WAYS;
    }
    begin(bucket, oldest);
    oldest
}

/// Nobody takes a place whose life is about to be written for that of the oldest.
#[inline(always)]
fn begin(bucket: *mut Bucket, way: usize) {
    life(bucket, way).opened_ns = u64::MAX;
}

#[inline(always)]
fn life(bucket: *mut Bucket, way: usize) -> &'static mut Life {
    // SAFETY: a map value stays valid while the program runs, and the mask keeps within the array.
    unsafe { &mut *(&raw mut (*bucket).lives).cast::<Life>().add(way & (LIFE_WAYS - 1)) }
}

/// Where it says whose a place is.
#[inline(always)]
fn at(bucket: *mut Bucket, way: usize) -> *mut u64 {
    // SAFETY: as above.
    unsafe { (&raw mut (*bucket).sockets).cast::<u64>().add(way & (LIFE_WAYS - 1)) }
}

#[inline(always)]
fn owner(bucket: *mut Bucket, way: usize) -> u64 {
    // SAFETY: as above. Volatile, for other CPUs write here, too.
    unsafe { at(bucket, way).read_volatile() }
}

/// Replaces `expected`, and nothing else, whatever other CPUs do (`BPF_CMPXCHG`, Linux 5.12). For BPF the compiler has no such operation.
#[inline(always)]
fn exchange(place: *mut u64, expected: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: reads and writes these 8 bytes of a map value, and no others.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({place} + 0, r0, {new})",
            place = in(reg) place,
            new = in(reg) new,
            inout("r0") expected => found,
        );
    }
    found == expected
}

#[inline(always)]
fn bucket(sk: Address) -> Option<*mut Bucket> {
    // Half of the address: of a pointer the verifier lets it be taken, and no more be done. Sockets are at regular distances, which one
    // multiplication alone can throw together; this is as of MurmurHash3's `fmix32`.
    let mut hash = (sk.0 as u32 >> 6).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    LIVES.get_ptr_mut(hash >> (u32::BITS - LIFE_BUCKETS.trailing_zeros()))
}
