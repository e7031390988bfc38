//! The hash of everything the kernel object is compiled from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::project::{self, Project};

/// Files that count if they exist. A changed lock file changes what is compiled; so does a build script.
const FILES: [&str; 5] = [
    "probe-common/Cargo.toml",
    "probe-common/build.rs",
    "probe-ebpf/Cargo.lock",
    "probe-ebpf/Cargo.toml",
    "probe-ebpf/build.rs",
];

/// Folders all of whose files count.
const FOLDERS: [&str; 2] = ["probe-common/src", "probe-ebpf/src"];

/// The hash over relative paths and contents in the order of the paths, and over what `probe-common` inherits from the
/// workspace that changes its meaning: the edition. (Its version and its dependencies stand in `probe-ebpf/Cargo.lock`.)
pub(crate) fn hash(project: &Project) -> Result<String> {
    let mut paths: Vec<PathBuf> =
        FILES.iter().map(|relative| project.path(relative)).filter(|path| path.is_file()).collect();
    for folder in FOLDERS {
        paths.extend(project::files_below(&project.path(folder))?);
    }
    let mut sources = Vec::with_capacity(paths.len());
    for path in paths {
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        sources.push((relative(project.root(), &path), bytes));
    }
    let manifest = project.path("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    Ok(digest(sources, &workspace_edition(&text)?))
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

fn workspace_edition(manifest: &str) -> Result<String> {
    let manifest: toml::Table = toml::from_str(manifest).context("cannot understand the workspace's Cargo.toml")?;
    let edition = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("package"))
        .and_then(|package| package.get("edition"))
        .and_then(toml::Value::as_str);
    Ok(edition.context("the workspace states no edition")?.to_owned())
}

/// Each part goes in with its length before it: no two different sets of files make one stream of bytes.
fn digest(mut sources: Vec<(String, Vec<u8>)>, edition: &str) -> String {
    sources.sort();
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for (path, bytes) in &sources {
        part(path.as_bytes());
        part(bytes);
    }
    part(b"edition");
    part(edition.as_bytes());
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> (String, Vec<u8>) {
        (path.to_owned(), text.as_bytes().to_vec())
    }

    #[test]
    fn the_order_in_which_files_are_found_does_not_matter() {
        let one = digest(vec![source("a", "1"), source("b", "2")], "2024");
        let other = digest(vec![source("b", "2"), source("a", "1")], "2024");
        assert_eq!(one, other);
    }

    #[test]
    fn path_content_and_edition_matter() {
        let base = digest(vec![source("a", "1")], "2024");
        assert_ne!(base, digest(vec![source("b", "1")], "2024"));
        assert_ne!(base, digest(vec![source("a", "2")], "2024"));
        assert_ne!(base, digest(vec![source("a", "1")], "2021"));
    }

    #[test]
    fn bytes_cannot_move_from_a_path_into_its_content() {
        assert_ne!(digest(vec![source("ab", "c")], "2024"), digest(vec![source("a", "bc")], "2024"));
    }

    #[test]
    fn the_edition_is_read_from_the_workspace() {
        assert_eq!(workspace_edition("[workspace.package]\nedition = \"2024\"\n").unwrap(), "2024");
        assert!(workspace_edition("[workspace]\n").is_err());
    }
}
