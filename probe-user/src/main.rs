//! The command `connprobe`.

use std::process::ExitCode;

fn main() -> ExitCode {
    connprobe::cli::run().into()
}
