//! Which connections the operator asked about.

use connprobe_common::{
    fields::Field,
    settings::{MAX_FILTER_PORTS, MAX_FILTER_PREFIXES, Prefix},
};

use crate::{
    globals::{read, settings},
    memory::Memory,
    socket::{self, Tuple},
};

/// Whether the tuple passes the namespace, port and peer filters. Each that is empty lets everything pass. Where ports and peers are not
/// looked at, the verifier removes the call.
#[inline(always)]
pub fn passes(tuple: &Tuple) -> bool {
    passes_netns(tuple) && (!looks_at_ends() || passes_ends(tuple))
}

/// The same of a full socket, of which nothing is read that no filter looks at.
#[inline(always)]
pub fn passes_socket<M: Memory>(sk: M) -> bool {
    if looks_at_ends() {
        return sk.tcp().and_then(socket::tuple).is_some_and(|tuple| passes(&tuple));
    }
    let wanted = netns();
    wanted == 0 || sk.follow(Field::SkNet).and_then(|net| net.read(Field::NetInum)) == Some(wanted)
}

/// The only namespace that passes; 0 for all.
#[inline(always)]
fn netns() -> u32 {
    // SAFETY: points into the settings.
    unsafe { read(&raw const (*settings()).netns) }
}

/// Whether more than the namespace is looked at.
#[inline(always)]
fn looks_at_ends() -> bool {
    // SAFETY: both point into the settings.
    unsafe { read(&raw const (*settings()).port_count) != 0 || read(&raw const (*settings()).prefix_count) != 0 }
}

/// A function of its own: once in the object, not once a program.
#[inline(never)]
fn passes_ends(tuple: &Tuple) -> bool {
    passes_port(tuple) && passes_peer(tuple)
}

/// [`passes`] of a packet, which may be only forwarded: then either end may be the peer. Where it is for a socket of this host, user space
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
