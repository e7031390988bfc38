//! Healthy workloads, however noisy: of none may anything be told.

mod endings;
mod handshakes;
mod paths;
mod servers;
mod traffic;

use super::Scenario;

/// Every control.
pub(super) fn all() -> Vec<Scenario> {
    [traffic::all(), endings::all(), handshakes::all(), paths::all(), servers::all()].into_iter().flatten().collect()
}
