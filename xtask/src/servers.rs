//! Server programs for the tests, and what judges settings for them: unpacked below `target/` with all they need, never installed, for an installed one would be
//! started as a service.

use anyhow::{Result, bail};

use crate::debs::Source;
use crate::project::{self, Project};
use crate::run;

const PACKAGES: [&str; 6] = ["haproxy", "nginx-light", "openvswitch-switch", "prometheus", "rsyslog", "rsyslog-relp"];

/// Unpacks them where the tests look for them (`tests/src/server.rs`), which skip or fail without. What is there already is kept.
pub(crate) fn prepare(project: &Project) {
    if let Err(error) = unpack(project, "servers", &PACKAGES) {
        eprintln!("without real servers: {error:#}");
    }
}

/// Unpacks packages with all they need below `target/NAME`, where what is there of the same list is kept.
pub(crate) fn unpack(project: &Project, name: &str, packages: &[&str]) -> Result<()> {
    let folder = project.target().join(name);
    let tree = folder.join("root");
    // Names what the tree was made of: one of an earlier list is made anew.
    let made_of = folder.join("packages");
    let wanted = packages.join("\n");
    if tree.exists() && std::fs::read_to_string(&made_of).is_ok_and(|made_of| made_of == wanted) {
        return Ok(());
    }
    if run::find("apt-get").is_none() {
        bail!("{} come from Debian's packages, and this machine has no apt-get", packages.join(" and "));
    }
    let source = Source::bare(&folder)?;
    source.unpack_with_dependencies(packages, &tree).or_else(|reason| {
        eprintln!("the package lists may be out of date: {reason:#}");
        crate::packages::update_lists()?;
        source.unpack_with_dependencies(packages, &tree)
    })?;
    project::write_whole(&made_of, wanted.as_bytes())
}
