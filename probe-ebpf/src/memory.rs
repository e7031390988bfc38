//! Two ways to read a socket's fields: by the helper, which takes any address, and by plain loads, of which each is an instruction.

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_skc_to_tcp_sock};
use connprobe_common::fields::{Field, UNAVAILABLE, bit_field, offset_bytes};

use crate::{globals, socket::Address};

/// Something in kernel memory whose fields are to be read.
pub trait Memory: Copy {
    /// Reads `field` of the structure here; `None` when this kernel has no such field or the address cannot be read.
    fn read<T: Copy>(self, field: Field) -> Option<T>;

    /// Reads a bit-field.
    #[inline(always)]
    fn read_bits(self, field: Field) -> Option<u8> {
        let byte: u8 = self.read(field)?;
        Some(bit_field(globals::location(field), byte))
    }

    /// Follows a pointer field.
    fn follow(self, field: Field) -> Option<Self>;

    /// Where it is.
    fn address(self) -> Address;

    /// The socket here with what only TCP's have; `None` for one that is no full TCP socket.
    fn tcp(self) -> Option<Self>;

    /// Reads an IPv6 address.
    fn read_v6(self, field: Field) -> Option<[u8; 16]>;

    /// Reads the second of the 32-bit members of the structure that `field` begins with.
    fn read_second(self, field: Field) -> Option<u32>;
}

/// Reads what lies at an address; `None` when it cannot be read.
#[inline(always)]
pub fn load<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address itself and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

impl Memory for Address {
    #[inline(always)]
    fn read<T: Copy>(self, field: Field) -> Option<T> {
        let location = globals::location(field);
        if location == UNAVAILABLE || self.0 == 0 {
            return None;
        }
        load(self.0.wrapping_add(u64::from(offset_bytes(location))))
    }

    #[inline(always)]
    fn follow(self, field: Field) -> Option<Self> {
        let target: u64 = self.read(field)?;
        if target == 0 { None } else { Some(Self(target)) }
    }

    #[inline(always)]
    fn address(self) -> Address {
        self
    }

    #[inline(always)]
    fn tcp(self) -> Option<Self> {
        Some(self)
    }

    #[inline(always)]
    fn read_v6(self, field: Field) -> Option<[u8; 16]> {
        self.read(field)
    }

    #[inline(always)]
    fn read_second(self, field: Field) -> Option<u32> {
        let [_, second] = self.read::<[u32; 2]>(field)?;
        Some(second)
    }
}

/// A pointer of which the verifier knows what it points at: an argument of a BTF tracepoint or a trampoline, or what was read out of
/// such. Loads through it may be at any offset that is constant to the verifier, as our read-only globals are, and read zeros where
/// the address is none (`PROBE_MEM`).
#[derive(Clone, Copy)]
pub struct Known(*const u8);

impl Known {
    /// The socket that is an argument; `None` for a null pointer.
    #[inline(always)]
    pub fn socket(sk: *mut core::ffi::c_void) -> Option<Self> {
        if sk.is_null() { None } else { Some(Self(sk.cast_const().cast())) }
    }

    /// Where `field` is.
    #[inline(always)]
    fn at(self, field: Field) -> Option<*const u8> {
        let location = globals::location(field);
        if location == UNAVAILABLE {
            return None;
        }
        Some(self.0.wrapping_add(offset_bytes(location) as usize))
    }
}

impl Memory for Known {
    #[inline(always)]
    fn read<T: Copy>(self, field: Field) -> Option<T> {
        // SAFETY: the verifier checks that a field of this size is there. Volatile, so that the compiler does not join loads of
        // neighbours.
        self.at(field).map(|at| unsafe { at.cast::<T>().read_volatile() })
    }

    #[inline(always)]
    fn follow(self, field: Field) -> Option<Self> {
        let target = self.read::<*const u8>(field)?;
        if target.is_null() { None } else { Some(Self(target)) }
    }

    #[inline(always)]
    fn address(self) -> Address {
        Address(self.0 as u64)
    }

    #[inline(always)]
    fn tcp(self) -> Option<Self> {
        // SAFETY: every caller has it from `socket`: it is the tracepoint's or function's own argument.
        let tcp = unsafe { bpf_skc_to_tcp_sock(self.0.cast_mut().cast()) };
        if tcp.is_null() { None } else { Some(Self(tcp.cast_const().cast())) }
    }

    #[inline(always)]
    fn read_v6(self, field: Field) -> Option<[u8; 16]> {
        let at = self.at(field)?.cast::<u64>();
        // SAFETY: as above.
        let words = unsafe { [at.read_volatile(), at.wrapping_add(1).read_volatile()] };
        // SAFETY: both are 16 bytes, of which every value is valid.
        Some(unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(words) })
    }

    #[inline(always)]
    fn read_second(self, field: Field) -> Option<u32> {
        // SAFETY: as above.
        self.at(field).map(|at| unsafe { at.cast::<u32>().wrapping_add(1).read_volatile() })
    }
}
