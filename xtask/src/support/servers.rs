//! Server programs for the tests, and what judges settings for them: unpacked below `target/` with all they need, never installed, for an installed one would be
//! started as a service.

use anyhow::{Result, bail};

use crate::debs::{self, Source};
use crate::project::Project;
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
    debs::make_unless_made(&tree, &packages.join("\n"), || {
        if run::find("apt-get").is_none() {
            bail!("{} come from Debian's packages, and this machine has no apt-get", packages.join(" and "));
        }
        Source::bare(&folder)?.unpack_with_dependencies(packages, &tree)
    })
}
