//! Real failures and real health in network namespaces, and what the program says of them. One file per verdict; what must
//! stay silent is in `healthy.rs`.

#![expect(clippy::print_stdout, reason = "what was measured is shown with the results")]

mod command_line;
mod healthy;
mod loss;
mod retransmit_stalled;
mod watching;

use std::process::ExitCode;

use connprobe_tests::runner::run;

fn main() -> ExitCode {
    let tests =
        [retransmit_stalled::tests(), healthy::tests(), loss::tests(), command_line::tests()].into_iter().flatten();
    run("kernel", tests.collect())
}
