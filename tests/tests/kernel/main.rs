//! Real failures and real health in network namespaces, and what the program says of them.
//!
//! `main` lists the files by what they are about: the catalogue of scenarios (`tests/src/scenario`), which holds what must stay silent, too;
//! verdicts (from `retransmit_stalled` on), whose cases have files of their own where the setting is another; the daemon and what it alone
//! tells (from `daemon` on); commands that look once (`risks`, `snapshot`); and the program whatever it finds (from `mechanisms` on): what it
//! attaches and when, what it loses, its recordings and its command line.

#![expect(clippy::print_stdout, reason = "what was measured is shown with the results")]

mod asymmetric_handshake;
mod attention;
mod command_line;
mod conntrack;
mod coverage;
mod daemon;
mod drop_place;
mod fleet;
mod flood;
mod forwarded;
mod forwarded_handshake;
mod half_open;
mod held_invalid;
mod journal;
mod lifecycle;
mod loss;
mod mechanisms;
mod openvswitch;
mod otlp;
mod padded;
mod recording;
mod restart;
mod retransmit_stalled;
mod risks;
mod scenarios;
mod silently_dropped_fin;
mod snapshot;
mod source_address;
mod translated;
mod zero_window;

use std::process::ExitCode;

use connprobe_tests::runner::run;

fn main() -> ExitCode {
    let tests = [
        scenarios::tests(),
        retransmit_stalled::tests(),
        source_address::tests(),
        half_open::tests(),
        conntrack::tests(),
        zero_window::tests(),
        silently_dropped_fin::tests(),
        held_invalid::tests(),
        forwarded::tests(),
        forwarded_handshake::tests(),
        openvswitch::tests(),
        padded::tests(),
        translated::tests(),
        asymmetric_handshake::tests(),
        flood::tests(),
        drop_place::tests(),
        daemon::tests(),
        restart::tests(),
        journal::tests(),
        otlp::tests(),
        lifecycle::tests(),
        fleet::tests(),
        risks::tests(),
        snapshot::tests(),
        mechanisms::tests(),
        attention::tests(),
        coverage::tests(),
        loss::tests(),
        recording::tests(),
        command_line::tests(),
    ]
    .into_iter()
    .flatten();
    run("kernel", tests.collect())
}
