//! Where records and reports go.

mod stdout;

pub use stdout::{SinkError, Stdout};
