//! The one event loop and the one clock.

pub mod clock;
mod findings;
mod host;
mod losses;
mod watch;

pub use host::this_host;
pub use watch::{Change, Watch, WatchError, WatchOptions};
