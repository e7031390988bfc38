//! Which connections the operator asked about.

use connprobe_common::settings::{MAX_FILTER_PORTS, MAX_FILTER_PREFIXES, Prefix};

use crate::{
    globals::{read, settings},
    socket::Tuple,
};

/// Whether the tuple passes the namespace, port and peer filters. Each that is empty lets everything pass.
#[inline(never)]
pub fn passes(tuple: &Tuple) -> bool {
    passes_netns(tuple) && passes_port(tuple) && passes_peer(tuple)
}

/// The only namespace that passes; 0 for all.
#[inline(always)]
pub fn netns() -> u32 {
    // SAFETY: points into the settings.
    unsafe { read(&raw const (*settings()).netns) }
}

/// Whether more than the namespace is looked at.
#[inline(always)]
pub fn looks_at_ends() -> bool {
    // SAFETY: both point into the settings.
    unsafe { read(&raw const (*settings()).port_count) != 0 || read(&raw const (*settings()).prefix_count) != 0 }
}

/// The same of a packet, which may be only forwarded: then either end may be the peer. Where it is for a socket of this host, user space
/// leaves out what is not from the peer.
#[inline(never)]
pub fn passes_packet(tuple: &Tuple) -> bool {
    passes_netns(tuple) && passes_port(tuple) && (passes_peer(tuple) || passes_prefix(&tuple.local_address))
}

#[inline(always)]
fn passes_netns(tuple: &Tuple) -> bool {
    let wanted = netns();
    wanted == 0 || wanted == tuple.netns
}

#[inline(always)]
fn passes_port(tuple: &Tuple) -> bool {
    // SAFETY: points into the settings.
    let count = unsafe { read(&raw const (*settings()).port_count) };
    if count == 0 {
        return true;
    }
    // SAFETY: points at the first of `MAX_FILTER_PORTS` ports.
    let ports = unsafe { &raw const (*settings()).ports } as *const u16;
    for index in 0..MAX_FILTER_PORTS {
        if index as u32 >= count {
            break;
        }
        // SAFETY: `index` is below the array's length.
        let port = unsafe { read(ports.add(index)) };
        if port == tuple.local_port || port == tuple.remote_port {
            return true;
        }
    }
    false
}

#[inline(always)]
fn passes_peer(tuple: &Tuple) -> bool {
    passes_prefix(&tuple.remote_address)
}

#[inline(always)]
fn passes_prefix(address: &[u8; 16]) -> bool {
    // SAFETY: points into the settings.
    let count = unsafe { read(&raw const (*settings()).prefix_count) };
    if count == 0 {
        return true;
    }
    let address = u128::from_ne_bytes(*address);
    // SAFETY: points at the first of `MAX_FILTER_PREFIXES` prefixes.
    let prefixes = unsafe { &raw const (*settings()).prefixes } as *const Prefix;
    for index in 0..MAX_FILTER_PREFIXES {
        if index as u32 >= count {
            break;
        }
        // SAFETY: `index` is below the array's length.
        let prefix = unsafe { read(prefixes.add(index)) };
        if address & u128::from_ne_bytes(prefix.mask) == u128::from_ne_bytes(prefix.network) {
            return true;
        }
    }
    false
}
