//! Server programs that make the tests' healthy noise: unpacked below `target/` with all they need, never installed, for an
//! installed one would be started as a service.

use anyhow::{Result, bail};

use crate::debs::Source;
use crate::packages;
use crate::project::Project;
use crate::run;

const PACKAGES: [&str; 2] = ["haproxy", "nginx-light"];

/// Unpacks them where the tests look for them (`tests/src/server.rs`), which skip or fail without. What is there already is kept.
pub(crate) fn prepare(project: &Project) {
    if let Err(error) = unpack(project) {
        eprintln!("without real servers: {error:#}");
    }
}

fn unpack(project: &Project) -> Result<()> {
    let folder = project.target().join("servers");
    let tree = folder.join("root");
    if tree.exists() {
        return Ok(());
    }
    if run::find("apt-get").is_none() {
        bail!("{} come from Debian's packages, and this machine has no apt-get", PACKAGES.join(" and "));
    }
    let source = Source::bare(&folder)?;
    source.unpack_with_dependencies(&PACKAGES, &tree).or_else(|reason| {
        eprintln!("the package lists may be out of date: {reason:#}");
        packages::update_lists()?;
        source.unpack_with_dependencies(&PACKAGES, &tree)
    })
}
