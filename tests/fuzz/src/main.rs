//! The fuzz targets under libFuzzer; `cargo xtask fuzz` builds and runs it.

#![no_main]
#![expect(clippy::print_stderr, reason = "there is nobody else to tell")]

use std::sync::LazyLock;

use connprobe_fuzz::{TARGET_VARIABLE, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var(TARGET_VARIABLE).unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| {
        let names = Target::ALL.map(Target::name).join(", ");
        eprintln!("error: {TARGET_VARIABLE}={name} is none of {names}");
        std::process::exit(2)
    })
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.run(data));
