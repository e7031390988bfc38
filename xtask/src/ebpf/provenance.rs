//! Where the committed object comes from, written beside it and compared by `cargo xtask ebpf --check`.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::project;

/// The one command that mends every drift.
pub(crate) const MEND: &str = "cargo xtask ebpf";

const HEADER: &str = "# Where connprobe.bpf.o comes from. Written by `cargo xtask ebpf`, never by hand.\n\n";

/// The content of the provenance file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provenance {
    /// Of the object's bytes.
    pub(crate) object_sha256: String,
    /// Of everything the object is compiled from, see [`super::sources`].
    pub(crate) source_sha256: String,
    /// What compiled it.
    pub(crate) toolchain: Identity,
}

/// All that decides the object's bytes beside its sources. Equal identities make equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// The line `rustc -V` prints.
    pub(crate) compiler: String,
    /// The triple the compiler runs on: cargo mixes it into symbol names.
    pub(crate) host: String,
    /// The LLVM of the compiler.
    pub(crate) llvm: String,
    /// Cargo derives symbol hashes, by rules that change between its versions.
    pub(crate) cargo: String,
    /// Name and version of the linker.
    pub(crate) linker: String,
    /// Name and version of the tool that removes debug information.
    pub(crate) strip: String,
    /// `name=version` of the distribution's packages; empty for a toolchain of rustup.
    pub(crate) packages: Vec<String>,
}

/// The cheap check: does the committed pair belong together and to these sources? `Err` holds the reason it does not.
pub(crate) fn compare(recorded: &Provenance, source_sha256: &str, object_sha256: &str) -> Result<(), String> {
    if recorded.source_sha256 != source_sha256 {
        return Err("the kernel programs changed after their object was compiled".to_owned());
    }
    if recorded.object_sha256 != object_sha256 {
        return Err("the committed object is not the one its provenance file describes".to_owned());
    }
    Ok(())
}

/// In what two toolchains differ, one line for each difference.
pub(crate) fn differences(recorded: &Identity, here: &Identity) -> Vec<String> {
    let pairs = [
        ("compiler", &recorded.compiler, &here.compiler),
        ("host", &recorded.host, &here.host),
        ("llvm", &recorded.llvm, &here.llvm),
        ("cargo", &recorded.cargo, &here.cargo),
        ("linker", &recorded.linker, &here.linker),
        ("strip", &recorded.strip, &here.strip),
        ("packages", &recorded.packages.join(" "), &here.packages.join(" ")),
    ];
    pairs
        .into_iter()
        .filter(|(_, then, now)| then != now)
        .map(|(name, then, now)| format!("{name}: recorded `{then}`, here `{now}`"))
        .collect()
}

pub(crate) fn read(path: &Path) -> Result<Provenance> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}; run `{MEND}`", path.display()))?;
    parse(&text).with_context(|| format!("cannot understand {}; run `{MEND}`", path.display()))
}

pub(crate) fn write(path: &Path, provenance: &Provenance) -> Result<()> {
    project::write_whole(path, print(provenance)?.as_bytes())
}

fn parse(text: &str) -> Result<Provenance> {
    Ok(toml::from_str(text)?)
}

fn print(provenance: &Provenance) -> Result<String> {
    Ok(format!("{HEADER}{}", toml::to_string_pretty(provenance)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Provenance {
        Provenance {
            object_sha256: "0b".to_owned(),
            source_sha256: "50".to_owned(),
            toolchain: Identity {
                compiler: "rustc 1.96.0".to_owned(),
                host: "x86_64-unknown-linux-gnu".to_owned(),
                llvm: "22.1.8".to_owned(),
                cargo: "cargo 1.95.0".to_owned(),
                linker: "bpf-linker 0.10.3".to_owned(),
                strip: "llvm-strip 22.1.8".to_owned(),
                packages: vec!["rustc-web=1.96.0".to_owned(), "libllvm22=22.1.8".to_owned()],
            },
        }
    }

    #[test]
    fn provenance_survives_being_written_and_read() {
        let text = print(&example()).unwrap();
        assert!(text.starts_with("# Where connprobe.bpf.o comes from"));
        assert_eq!(parse(&text).unwrap(), example());
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let text = format!("surprise = 1\n{}", print(&example()).unwrap());
        assert!(parse(&text).is_err());
    }

    #[test]
    fn an_unchanged_object_passes() {
        assert_eq!(compare(&example(), "50", "0b"), Ok(()));
    }

    #[test]
    fn changed_sources_are_noticed_before_a_changed_object() {
        assert!(compare(&example(), "51", "0c").unwrap_err().contains("kernel programs changed"));
        assert!(compare(&example(), "50", "0c").unwrap_err().contains("not the one"));
    }

    #[test]
    fn toolchains_differ_where_a_version_differs() {
        let recorded = example().toolchain;
        assert!(differences(&recorded, &recorded).is_empty());
        let mut here = recorded.clone();
        here.compiler = "rustc 1.97.0".to_owned();
        here.packages.clear();
        let differences = differences(&recorded, &here);
        assert_eq!(differences.len(), 2);
        assert_eq!(differences[0], "compiler: recorded `rustc 1.96.0`, here `rustc 1.97.0`");
    }
}
