//! Kernel settings of one namespace.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;

impl Netns {
    /// Writes a setting, such as `("net.ipv4.tcp_retries2", "5")`. A name with a slash is taken as a path below
    /// `/proc/sys`, for devices with a dot in their name. Only `net` differs between network namespaces; other settings
    /// belong to the whole host and are refused.
    ///
    /// # Errors
    /// When there is no such setting here or the kernel refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = path(name)?;
        self.run(|| fs::write(&path, value))?.with_context(|| format!("cannot set {name} to {value}"))
    }

    /// Reads a setting, without the line break at its end.
    ///
    /// # Errors
    /// When there is no such setting here.
    pub fn read_sysctl(&self, name: &str) -> Result<String> {
        let path = path(name)?;
        let value = self.run(|| fs::read_to_string(&path))?.with_context(|| format!("cannot read {name}"))?;
        Ok(value.trim_end().to_owned())
    }

    /// Whether there is such a setting here.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn has_sysctl(&self, name: &str) -> Result<bool> {
        let path = path(name)?;
        self.run(|| path.exists())
    }
}

fn path(name: &str) -> Result<PathBuf> {
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let inside = relative.starts_with("net/") && !relative.split('/').any(|part| part == "..");
    ensure!(inside, "not a setting of a network namespace: {name}");
    Ok(Path::new("/proc/sys").join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_whole_host_are_refused() {
        assert_eq!(path("net.ipv4.tcp_retries2").unwrap(), Path::new("/proc/sys/net/ipv4/tcp_retries2"));
        assert_eq!(path("net/ipv4/conf/a.5/rp_filter").unwrap(), Path::new("/proc/sys/net/ipv4/conf/a.5/rp_filter"));
        for foreign in ["kernel.panic", "net/../kernel/panic", "", "/net/ipv4"] {
            assert!(path(foreign).is_err(), "{foreign}");
        }
    }
}
