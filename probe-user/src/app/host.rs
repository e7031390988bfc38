use std::fs;

use anyhow::Context as _;
use uuid::Uuid;

use crate::report::Host;

/// Which host this is.
///
/// # Errors
///
/// When the kernel does not tell its boot id (`/proc` is not mounted).
pub fn this_host() -> anyhow::Result<Host> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let boot_id =
        fs::read_to_string(BOOT_ID).with_context(|| format!("{BOOT_ID} cannot be read; is /proc mounted?"))?;
    Ok(Host {
        name: nix::unistd::gethostname()
            .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned()),
        machine_id: fs::read_to_string("/etc/machine-id")
            .ok()
            .map(|id| id.trim().to_owned())
            .filter(|id| !id.is_empty()),
        boot_id: Uuid::try_parse(boot_id.trim()).with_context(|| format!("{BOOT_ID} holds no UUID"))?,
    })
}
