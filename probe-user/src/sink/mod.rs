//! Where records and reports go.

mod control;
mod fanout;
mod file;
mod headline;
mod health;
mod journald;
mod metrics;
mod otlp;
mod output;
mod own_runtime;
mod queue;
mod raw_stdout;
mod spec;
mod stdout;
mod unix;

pub use fanout::{Sinks, StartError};
pub use file::FileSpec;
pub use health::Health;
pub use metrics::MetricsSpec;
pub use otlp::{OtlpEndpoint, OtlpSpec};
pub use queue::Counts;
pub use spec::SinkSpec;
pub use stdout::{SinkError, Stdout};
