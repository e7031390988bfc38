//! Of a connection that this host only forwards: the way of its packets, and which sockets of other network namespaces are its ends.

mod ends;
mod machine;
mod path;
mod peer;
mod ports;

pub(super) use ends::look_up_all as look_up_ends;
pub(super) use path::{Arrival, look_up_all as look_up_paths};
