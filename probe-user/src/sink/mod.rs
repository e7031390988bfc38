//! Where records and reports go.

mod fanout;
mod file;
mod journald;
mod metrics;
mod queue;
mod stdout;
mod unix;

pub use fanout::{Health, SinkSpec, Sinks, StartError};
pub use file::FileSpec;
pub use metrics::MetricsSpec;
pub use queue::Counts;
pub use stdout::{SinkError, Stdout};
