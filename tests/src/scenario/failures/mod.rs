//! Failures, one file per verdict.

mod asymmetric_handshake;
mod half_open;
mod retransmit_stalled;
mod silently_dropped_fin;
mod zero_window_stalled;

use std::{thread::sleep, time::Duration};

use anyhow::Result;

use super::{Expectation, Scenario};
use crate::{
    labs::routed::Routed,
    peer::{Keepalive, Options},
};

/// Every failure.
pub(super) fn all() -> Vec<Scenario> {
    [
        retransmit_stalled::all(),
        half_open::all(),
        zero_window_stalled::all(),
        silently_dropped_fin::all(),
        asymmetric_handshake::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What is told of data that waits for its acknowledgment until the kernel gives up.
const fn until_retransmissions_end(verdict: &'static str, cause: &'static str) -> Expectation {
    Expectation::new(verdict, cause).given_up("retransmission", "tcp_retries2")
}

/// The client's kernel gives up soon enough to wait for it: with the shortest RTO after some 25 s instead of a quarter of an hour.
fn give_up_soon(lab: &Routed) -> Result<()> {
    lab.client.sysctl("net.ipv4.tcp_retries2", "6")
}

/// A firewall of [`Routed::firewall`] has forgotten every connection that was idle so long.
fn wait_until_forgotten() {
    sleep(Routed::FIREWALL_REMEMBERS + Duration::from_secs(2));
}

/// An idle connection is asked after two seconds for the first time, and given up 17 s after its last sign of life.
fn with_keepalive() -> Result<Options> {
    Ok(Options { keepalive: Some(Keepalive { time_s: 2, interval_s: 3, probes: 5 }), ..Options::default() })
}
