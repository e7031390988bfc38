//! Prints what the running kernel offers, as the kernel matrix commits it (`cargo xtask kernels`).
#![expect(clippy::print_stdout, reason = "what it prints is its result")]

use anyhow::Result;
use connprobe_tests::facts::KernelFacts;

fn main() -> Result<()> {
    print!("{}", toml::to_string(&KernelFacts::observe()?)?);
    Ok(())
}
