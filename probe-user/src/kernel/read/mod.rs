//! What comes out of the attached programs: records on their rings, counters, and scans over all sockets.

mod channel;
mod lifecycle;
mod ring;
mod scan;

pub(super) use lifecycle::RING_BYTES;

pub use channel::RingError;
pub use lifecycle::Lifecycle;
pub use ring::{Ring, Statistics, Totals};
pub use scan::{IdleScanner, Scanner};
