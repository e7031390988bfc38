//! Debian packages as files: downloaded by name and unpacked below `target/`, never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::project::write_whole;
use crate::{packages, run};

/// Where packages come from: this machine's package lists, or lists of another architecture that this machine's package
/// manager knows nothing of.
pub(crate) struct Source {
    options: Vec<String>,
    /// Where `install --download-only` puts files, where that is not the host's own place.
    archives: Option<PathBuf>,
    /// Whether its package lists are its own, and not the host's.
    has_own_lists: bool,
}

impl Source {
    /// This machine's.
    pub(crate) fn host() -> Self {
        Self { options: Vec::new(), archives: None, has_own_lists: false }
    }

    /// This machine's, as if nothing were installed: what is unpacked from it with its dependencies is whole. Downloads are kept in
    /// `folder`.
    pub(crate) fn bare(folder: &Path) -> Result<Self> {
        let cache = folder.join("cache");
        let partial = cache.join("archives/partial");
        std::fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        let status = folder.join("status");
        std::fs::write(&status, "").context("cannot write the list of installed packages")?;
        let settings = [
            ("APT::Install-Recommends", "false".to_owned()),
            ("Dir::State::status", status.to_string_lossy().into_owned()),
            ("Dir::Cache", cache.to_string_lossy().into_owned()),
        ];
        let options =
            settings.into_iter().flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")]).collect();
        Ok(Self { options, archives: Some(cache.join("archives")), has_own_lists: false })
    }

    /// Debian's for another architecture, with state of its own in `folder`. The lists are fetched once.
    pub(crate) fn foreign(folder: &Path, architecture: &str) -> Result<Self> {
        let codename = codename()?;
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let path = folder.join(part);
            std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        let (status, list) = (folder.join("status"), folder.join("sources.list"));
        let signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        let suites = [
            format!("deb {signed} http://deb.debian.org/debian {codename} main\n"),
            format!("deb {signed} http://deb.debian.org/debian {codename}-updates main\n"),
            format!("deb {signed} http://deb.debian.org/debian-security {codename}-security main\n"),
        ];
        let is_new = !list.exists();
        std::fs::write(&status, "").context("cannot write the list of installed packages")?;
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let settings = [
            ("APT::Architecture", architecture.to_owned()),
            ("APT::Architectures", architecture.to_owned()),
            ("APT::Install-Recommends", "false".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("Dir::State", path(folder.join("state"))),
            ("Dir::State::status", path(status)),
            ("Dir::Cache", path(folder.join("cache"))),
            ("Dir::Etc::sourcelist", path(list.clone())),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
        ];
        let options =
            settings.into_iter().flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")]).collect();
        let source = Self { options, archives: Some(folder.join("cache/archives")), has_own_lists: true };
        if is_new {
            std::fs::write(&list, suites.concat()).context("cannot write the list of sources")?;
            if let Err(error) = run::run(source.apt("apt-get").arg("update")) {
                // Without lists the next call must try again.
                let _ = std::fs::remove_file(&list);
                return Err(error);
            }
        }
        Ok(source)
    }

    /// Downloads these packages and all they depend on, and unpacks them into one tree.
    pub(crate) fn unpack_with_dependencies(&self, names: &[&str], tree: &Path) -> Result<()> {
        let archives = self.archives.as_ref().context("the host's packages are not unpacked whole")?;
        // What an earlier list has left there may be older versions of the same.
        for file in files_ending(archives, ".deb")? {
            std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        self.with_fresh_lists(|| {
            let mut install = self.apt("apt-get");
            run::run(install.args(["install", "--download-only", "--yes"]).args(names))
        })?;
        replace_tree(tree, |scratch| {
            for file in files_ending(archives, ".deb")? {
                run::run(Command::new("dpkg").arg("-x").arg(file).arg(scratch))?;
            }
            Ok(())
        })
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// Tries once more with renewed package lists when the first try fails: they may name what the mirror no longer has.
    fn with_fresh_lists<T>(&self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        attempt().or_else(|reason| {
            eprintln!("the package lists may be out of date: {reason:#}");
            match self.has_own_lists {
                true => run::run(self.apt("apt-get").arg("update"))?,
                false => packages::update_lists()?,
            }
            attempt()
        })
    }
}

/// What Debian calls the release that this machine has.
pub(crate) fn codename() -> Result<String> {
    let release = std::fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("/etc/os-release names no VERSION_CODENAME: this is not Debian")?;
    Ok(codename.trim_matches('"').to_owned())
}

fn files_ending(folder: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let files = entries.filter_map(Result::ok).map(|entry| entry.path());
    Ok(files.filter(|path| path.to_string_lossy().ends_with(suffix)).collect())
}

/// A package and its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Package {
    /// The version that the package lists offer now.
    pub(crate) fn candidate(source: &Source, name: &str) -> Result<Self> {
        let policy = run::output(source.apt("apt-cache").args(["policy", name]))?;
        let version = candidate(&policy).with_context(|| format!("the package lists know no {name}"))?;
        Ok(Self { name: name.to_owned(), version })
    }

    /// As apt-get wants it: `name=version`.
    pub(crate) fn pinned(&self) -> String {
        format!("{}={}", self.name, self.version)
    }

    /// Unpacks the downloaded file into `tree`.
    pub(crate) fn extract(&self, debs: &Path, tree: &Path) -> Result<()> {
        let prefix = self.file_prefix();
        let file = std::fs::read_dir(debs)
            .with_context(|| format!("cannot list {}", debs.display()))?
            .filter_map(Result::ok)
            .find(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with(&prefix) && name.ends_with(".deb")
            })
            .with_context(|| format!("apt-get left no file {prefix}*.deb"))?;
        run::run(Command::new("dpkg").arg("-x").arg(file.path()).arg(tree))
    }

    /// The beginning of the file name apt-get gives it; the architecture follows.
    fn file_prefix(&self) -> String {
        format!("{}_{}_", self.name, self.version.replace(':', "%3a"))
    }
}

/// What a package directly depends on.
pub(crate) fn depends(source: &Source, name: &str) -> Result<Vec<String>> {
    Ok(direct_dependencies(&run::output(source.apt("apt-cache").args(["depends", name]))?))
}

/// Plans, and downloads what the plan wants; apt-get checks files that are there already and keeps the good ones. The
/// package lists are renewed only if they do not know a package or name one that the mirror no longer has.
pub(crate) fn download(source: &Source, debs: &Path, plan: impl Fn() -> Result<Vec<Package>>) -> Result<Vec<Package>> {
    for program in ["apt-get", "apt-cache", "dpkg", "dpkg-query"] {
        if run::find(program).is_none() {
            bail!("{program} is not on this machine");
        }
    }
    std::fs::create_dir_all(debs).with_context(|| format!("cannot create {}", debs.display()))?;
    source.with_fresh_lists(|| plan().and_then(|wanted| fetch(source, debs, &wanted).map(|()| wanted)))
}

/// Downloads these versions.
pub(crate) fn fetch(source: &Source, debs: &Path, wanted: &[Package]) -> Result<()> {
    let mut apt = source.apt("apt-get");
    apt.arg("download").args(wanted.iter().map(Package::pinned)).current_dir(debs);
    run::run(&mut apt)
}

/// Makes a tree, unless it is there and was made of the same: a file beside it names what that was.
pub(crate) fn make_unless_made(tree: &Path, of: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let made_of = tree.with_file_name("packages");
    if tree.exists() && std::fs::read_to_string(&made_of).is_ok_and(|made_of| made_of == of) {
        return Ok(());
    }
    make()?;
    write_whole(&made_of, of.as_bytes())
}

/// Fills a new tree and puts it in place of the old one when it is complete.
pub(crate) fn replace_tree(tree: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let beside = |suffix: &str| {
        let mut path = tree.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    };
    let scratch = beside(".new");
    remove_tree(&scratch)?;
    std::fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    fill(&scratch)?;
    let old = beside(".old");
    remove_tree(&old)?;
    if tree.exists() {
        std::fs::rename(tree, &old).with_context(|| format!("cannot move {} away", tree.display()))?;
    }
    std::fs::rename(&scratch, tree).with_context(|| format!("cannot put {} in place", tree.display()))?;
    remove_tree(&old)
}

fn remove_tree(tree: &Path) -> Result<()> {
    if tree.exists() {
        std::fs::remove_dir_all(tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    Ok(())
}

fn direct_dependencies(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect()
}

fn candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_dependencies_are_told_from_conflicts() {
        let text = "libstd-rust-web-dev\n  Depends: libstd-rust-web-1.96\n  Conflicts: <rustup>\n";
        assert_eq!(direct_dependencies(text), ["libstd-rust-web-1.96"]);
        assert!(direct_dependencies("libstd-rust-web-dev\n").is_empty());
    }

    #[test]
    fn a_tree_is_made_again_only_of_something_else() {
        let folder = std::env::temp_dir().join(format!("connprobe-xtask-{}", std::process::id()));
        let (tree, made) = (folder.join("root"), std::cell::Cell::new(0));
        let make = |of: &str| {
            make_unless_made(&tree, of, || {
                made.set(made.get() + 1);
                replace_tree(&tree, |_| Ok(()))
            })
        };
        for (of, times) in [("one", 1), ("one", 1), ("other", 2), ("one", 3)] {
            make(of).unwrap();
            assert_eq!(made.get(), times, "{of}");
        }
        remove_tree(&folder).unwrap();
    }

    #[test]
    fn a_package_without_a_candidate_is_unknown() {
        assert_eq!(candidate("x:\n  Installed: (none)\n  Candidate: 1:22.1\n").unwrap(), "1:22.1");
        assert_eq!(candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }

    #[test]
    fn an_epoch_is_escaped_in_the_file_name() {
        let package = Package { name: "libllvm22".to_owned(), version: "1:22.1.8-1".to_owned() };
        assert_eq!(package.file_prefix(), "libllvm22_1%3a22.1.8-1_");
        assert_eq!(package.pinned(), "libllvm22=1:22.1.8-1");
    }
}
