//! Read-only globals: written by user space before loading, frozen by the loader, constants to the verifier.
//!
//! Reads are volatile so that the compiler does not fold the initial values in; the verifier then sees the real ones and
//! removes the branches they decide.

use connprobe_common::{
    abi::hook,
    fields::{Field, Location, UNAVAILABLE},
    settings::{
        MAX_DROP_REASONS, MAX_FILTER_PORTS, MAX_FILTER_PREFIXES, MAX_SUBSYSTEM_REASONS, Prefix, Registers, Settings,
    },
};

/// Where each field is on this kernel.
#[unsafe(no_mangle)]
static LOCATIONS: [Location; Field::COUNT] = [UNAVAILABLE; Field::COUNT];

/// Filters, and the shape of this kernel's tracepoints.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings {
    netns: 0,
    port_count: 0,
    prefix_count: 0,
    retransmit_has_result: 0,
    classic_skaddr_offset: [0; hook::COUNT],
    classic_oldstate_offset: 0,
    classic_newstate_offset: 0,
    classic_req_offset: 0,
    classic_skbaddr_offset: 0,
    classic_rx_sk_offset: 0,
    classic_reason_offset: 0,
    drop_has_socket: 0,
    invalid_syn_reason: 0,
    classic_location_offset: 0,
    classic_err_offset: 0,
    registers: Registers { arguments: [0; 5], result: 0, stack_pointer: 0, return_address_bytes: 0 },
    conntrack_zone: UNAVAILABLE,
    netfilter_hook: UNAVAILABLE,
    ports: [0; MAX_FILTER_PORTS],
    prefixes: [Prefix { network: [0; 16], mask: [0; 16] }; MAX_FILTER_PREFIXES],
    told_reasons: [0; MAX_DROP_REASONS],
    subsystem: 0,
    told_subsystem_reasons: [0; MAX_SUBSYSTEM_REASONS],
};

/// Where `field` is.
#[inline(always)]
pub fn location(field: Field) -> Location {
    let table = &raw const LOCATIONS as *const Location;
    // SAFETY: `Field::index` is below `Field::COUNT`, the table's length.
    unsafe { table.add(field.index()).read_volatile() }
}

/// The settings, to be read field by field with [`read`].
#[inline(always)]
pub fn settings() -> *const Settings {
    &raw const SETTINGS
}

/// Reads one part of the settings.
///
/// # Safety
///
/// `part` points into [`settings`].
#[inline(always)]
pub unsafe fn read<T: Copy>(part: *const T) -> T {
    // SAFETY: the caller's.
    unsafe { part.read_volatile() }
}
