//! Topologies in which connections fail on purpose. Used by the tests and by the demo.

pub mod asymmetric;
pub mod compute_node;
pub mod routed;
