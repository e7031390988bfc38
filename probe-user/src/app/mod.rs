//! The one event loop and the one clock.

pub mod clock;
mod closed;
mod findings;
mod host;
mod intake;
mod losses;
mod recording;
mod replay;
mod risks;
mod scan;
mod self_test;
mod state;
mod watch;

pub use host::this_host;
pub use recording::{Recorded, Recording, RecordingOptions};
pub use replay::{Replay, ReplayError, Replayed};
pub use scan::SCAN_EVERY;
pub use self_test::self_test;
pub use state::State;
pub use watch::{Attach, Change, Ended, HEARTBEAT_EVERY, Reload, Tell, Watch, WatchError, WatchOptions};
