//! Processors a guest can have, and what each needs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::kernel::Series;
use crate::debs::{self, Package, Source};
use crate::packages::Tool;
use crate::project::Project;

/// The processor of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Architecture {
    /// As the host
    #[value(name = "x86_64")]
    X86_64,
    /// Emulated, with programs made by a cross compiler
    #[value(name = "arm64")]
    Arm64,
}

/// What the tests start, for a guest that cannot run the host's programs.
const USERLAND: [&str; 9] =
    ["busybox-static", "libc6", "iproute2", "nftables", "kmod", "util-linux", "mount", "coreutils", "dash"];

impl Architecture {
    /// As Debian calls it.
    pub(crate) const fn debian_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// What a kernel of this architecture is called in files and in output; also the name of its facts.
    pub(crate) const fn label(self, series: Series) -> &'static str {
        match (self, series) {
            (Self::X86_64, _) => series.name(),
            (Self::Arm64, Series::V6_1) => "6.1-arm64",
            (Self::Arm64, Series::V6_12) => "6.12-arm64",
        }
    }

    /// What is needed on the host.
    pub(crate) const fn tools(self) -> &'static [Tool] {
        match self {
            Self::X86_64 => &[("qemu-system-x86_64", "qemu-system-x86")],
            Self::Arm64 => &[
                ("qemu-system-aarch64", "qemu-system-arm"),
                (CROSS_LINKER, "gcc-aarch64-linux-gnu"),
                ("/usr/aarch64-linux-gnu/lib/libc.so.6", "libc6-dev-arm64-cross"),
            ],
        }
    }

    /// Where its packages come from.
    pub(crate) fn source(self, store: &Path) -> Result<Source> {
        match self {
            Self::X86_64 => Ok(Source::host()),
            Self::Arm64 => Source::foreign(&store.join("apt-arm64"), self.debian_name()),
        }
    }

    /// The QEMU program and the machine it makes, but for its processor.
    pub(crate) const fn qemu(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::X86_64 => ("qemu-system-x86_64", &[]),
            Self::Arm64 => ("qemu-system-aarch64", &["-M", "virt"]),
        }
    }

    /// The emulated processor.
    pub(crate) const fn emulated_processor(self) -> &'static str {
        match self {
            // With five-level page tables, Debian's 6.1 does not boot under TCG.
            Self::X86_64 => "max,la57=off",
            Self::Arm64 => "cortex-a57",
        }
    }

    /// The device the kernel's log goes to.
    pub(crate) const fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }

    /// The folder that is the guest's root: the host's own, or one with the programs the tests start.
    pub(crate) fn root(self, store: &Path) -> Result<PathBuf> {
        match self {
            Self::X86_64 => Ok(PathBuf::from("/")),
            Self::Arm64 => {
                let tree = store.join("userland-arm64");
                if !tree.is_dir() {
                    self.source(store)?.unpack_with_dependencies(&USERLAND, &tree)?;
                }
                Ok(tree)
            }
        }
    }

    /// How cargo makes programs for it.
    pub(crate) fn target(self, project: &Project, store: &Path) -> Result<Option<CrossTarget>> {
        match self {
            Self::X86_64 => Ok(None),
            Self::Arm64 => CrossTarget::arm64(project, store).map(Some),
        }
    }
}

const CROSS_LINKER: &str = "aarch64-linux-gnu-gcc";

/// How programs are made for another architecture: rustup's own standard library for it where there is one, else that of
/// Debian's `rustc-web`, with the compiler of the same version.
pub(crate) struct CrossTarget {
    /// Cargo's name of the target.
    pub(crate) triple: &'static str,
    /// Build products go here: another compiler would undo the host's.
    pub(crate) folder: PathBuf,
    /// What cargo is told by environment variables.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl CrossTarget {
    fn arm64(project: &Project, store: &Path) -> Result<Self> {
        let compiler = project.target().join("ebpf-toolchain/sysroot");
        let stamp = compiler.join("connprobe-packages");
        let packages = std::fs::read_to_string(&stamp)
            .context("arm64 programs are made with the compiler that `cargo xtask ebpf` unpacks: run that first")?;
        let library = "libstd-rust-web-dev";
        let version = packages.lines().find_map(|line| line.strip_prefix(library)?.strip_prefix('='));
        let version = version.with_context(|| format!("{} names no {library}", stamp.display()))?;
        let tree = store.join("std-arm64");
        if !tree.is_dir() {
            let source = Architecture::Arm64.source(store)?;
            let wanted = Package { name: library.to_owned(), version: version.to_owned() };
            let debs = store.join("debs-arm64");
            let wanted = debs::download(&source, &debs, || Ok(vec![wanted.clone()]))?;
            debs::replace_tree(&tree, |scratch| wanted.iter().try_for_each(|package| package.extract(&debs, scratch)))?;
        }
        if !tree.join("usr/lib/rustlib/aarch64-unknown-linux-gnu").is_dir() {
            bail!("{library} of arm64 holds no standard library; remove {} and try again", tree.display());
        }
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|folder| text(compiler.join(folder)));
        Ok(Self {
            triple: "aarch64-unknown-linux-gnu",
            folder: project.target().join("arm64"),
            environment: vec![
                ("RUSTC", text(compiler.join("usr/bin/rustc"))),
                ("LD_LIBRARY_PATH", libraries.join(":")),
                ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", CROSS_LINKER.to_owned()),
                ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", format!("--sysroot={}", text(tree.join("usr")))),
            ],
        })
    }
}
