//! What Debian is told of the package: its name, version and dependencies, and when it was made.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::project::Project;
use crate::run;

/// What names one package.
pub(super) struct Control {
    version: String,
    /// Counts packages of one version.
    revision: u32,
    architecture: String,
    maintainer: String,
    /// When it was made, in seconds since 1970: when the sources were last changed.
    epoch: String,
}

impl Control {
    /// As Debian's own tools, takes the maintainer from DEBFULLNAME and DEBEMAIL, and the time from SOURCE_DATE_EPOCH.
    pub(super) fn read(project: &Project) -> Result<Self> {
        let manifest: toml::Table = toml::from_str(&super::read(&project.path("Cargo.toml"))?)?;
        let version = manifest.get("workspace").and_then(|table| table.get("package")?.get("version")?.as_str());
        let version = version.context("Cargo.toml names no version")?;
        let architecture = run::output(Command::new("dpkg").arg("--print-architecture"))?;
        let variable = |name: &str, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
        let name = variable("DEBFULLNAME", "The connprobe authors");
        let address = variable("DEBEMAIL", "root@localhost");
        let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(epoch) => epoch,
            Err(_) => run::output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(project.root()))?,
        };
        let epoch = epoch.trim().to_owned();
        if epoch.parse::<u64>().is_err() {
            bail!("SOURCE_DATE_EPOCH is {epoch:?}: it must be seconds since 1970");
        }
        Ok(Self {
            version: debian_version(version),
            revision: 1,
            architecture: architecture.trim().to_owned(),
            maintainer: format!("{name} <{address}>"),
            epoch,
        })
    }

    /// The package that replaces this one.
    pub(super) fn next(&self) -> Self {
        Self {
            version: self.version.clone(),
            revision: self.revision + 1,
            architecture: self.architecture.clone(),
            maintainer: self.maintainer.clone(),
            epoch: self.epoch.clone(),
        }
    }

    pub(super) fn epoch(&self) -> &str {
        &self.epoch
    }

    fn full_version(&self) -> String {
        format!("{}-{}", self.version, self.revision)
    }

    pub(super) fn file_name(&self) -> String {
        format!("connprobe_{}_{}.deb", self.full_version(), self.architecture)
    }

    /// Debian's own list of changes; what changed for users is in the other one.
    pub(super) fn changelog(&self) -> String {
        let date = run::output(Command::new("date").args(["-u", "-R", "-d"]).arg(format!("@{}", self.epoch)));
        let date = date.unwrap_or_default();
        format!(
            "connprobe ({}) unstable; urgency=medium\n\n  * Version {}; its changes are in changelog.gz.\n\n -- {}  {}\n",
            self.full_version(),
            self.version,
            self.maintainer,
            date.trim()
        )
    }

    /// `DEBIAN/control`.
    pub(super) fn text(&self, project: &Project, tree: &Path) -> Result<String> {
        let template = super::read(&project.path("probe-user/service/debian/control"))?;
        let size = run::output(Command::new("du").args(["-sk", "--apparent-size", "--exclude=DEBIAN"]).arg(tree))?;
        let size = size.split_whitespace().next().context("du told no size")?.to_owned();
        let version = self.full_version();
        let depends = depends(project, tree)?;
        let known = [
            ("@VERSION@", version.as_str()),
            ("@ARCHITECTURE@", &self.architecture),
            ("@MAINTAINER@", &self.maintainer),
            ("@SIZE_KIB@", &size),
            ("@DEPENDS@", &depends),
        ];
        Ok(known.iter().fold(template, |text, (name, value)| text.replace(name, value)))
    }
}

/// Before a release Debian sorts by a tilde what Cargo sorts by a hyphen.
fn debian_version(version: &str) -> String {
    version.replacen('-', "~", 1)
}

/// The libraries the binary needs, each from the version on that has the symbols it uses.
fn depends(project: &Project, tree: &Path) -> Result<String> {
    // dpkg-shlibdeps wants a source package around it.
    let folder = super::folder(project).join("shlibdeps");
    super::write(&folder.join("debian/control"), b"Source: connprobe\n\nPackage: connprobe\nArchitecture: any\n")?;
    let told =
        run::output(Command::new("dpkg-shlibdeps").arg("-O").arg(tree.join("usr/bin/connprobe")).current_dir(&folder))?;
    let depends = told.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(depends.context("dpkg-shlibdeps told no dependencies")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_before_a_release_sorts_before_it() {
        assert_eq!(debian_version("1.2.0-rc.1"), "1.2.0~rc.1");
        assert_eq!(debian_version("1.2.0"), "1.2.0");
    }
}
