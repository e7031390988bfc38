//! The guest's first file system: busybox, the modules its root needs, and our init.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::newc;

use super::architecture::Architecture;
use super::kernel::Kernel;
use super::modules;
use crate::debs::{self, Package};
use crate::project::write_whole;

/// Until the host's root is mounted: virtio to reach it, 9p and overlay to mount it, a console to speak through.
const EARLY_MODULES: [&str; 6] = ["virtio_pci", "virtio_console", "virtio_rng", "9pnet_virtio", "9p", "overlay"];

/// Runs as process 1 before and after the host's root is mounted.
const INIT: &str = include_str!("init.sh");

const EXECUTABLE: u32 = 0o100_755;
const FOLDER: u32 = 0o040_755;

/// What one guest is to do; read by `init.sh` as shell assignments.
pub(crate) struct Orders<'a> {
    /// Shell command line.
    pub(crate) command: &'a str,
    /// The folder on the host that is the guest's root.
    pub(crate) root: &'a Path,
    /// Folders of the host that the guest sees at their places, where its root is not the host's.
    pub(crate) shared: &'a [PathBuf],
    /// Where on the host the kernel's modules are.
    pub(crate) modules: &'a Path,
    /// Current folder of the command.
    pub(crate) folder: &'a Path,
    /// Whether a person sits at the console.
    pub(crate) interactive: bool,
}

/// The part that is the same for every guest of this kernel; kept in `folder`.
pub(crate) fn base(folder: &Path, kernel: &Kernel, architecture: Architecture) -> Result<PathBuf> {
    let path = folder.join("initramfs").join(format!("{}.cpio", kernel.release));
    if path.is_file() {
        return Ok(path);
    }
    let busybox = busybox(folder, architecture)?;
    let busybox = std::fs::read(&busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    let early = modules::closure(&kernel.modules, &EARLY_MODULES)?;
    let order: String = early.iter().map(|module| format!("{}\n", module.name)).collect();
    let mut archive = Archive::default();
    for name in ["bin", "dev", "proc", "sys", "modules", "host", "memory", "root"] {
        archive.add(name, FOLDER, &[])?;
    }
    archive.add("bin/busybox", EXECUTABLE, &busybox)?;
    archive.add("modules/order", EXECUTABLE, order.as_bytes())?;
    for module in &early {
        archive.add(&format!("modules/{}", module.name), EXECUTABLE, &module.bytes)?;
    }
    write_whole(&path, &archive.finish()?)?;
    Ok(path)
}

/// The whole archive for one run: the kernel unpacks archives that follow each other (`initramfs-buffer-format`).
pub(crate) fn write(path: &Path, base: &Path, orders: &Orders<'_>) -> Result<()> {
    let mut whole = std::fs::read(base).with_context(|| format!("cannot read {}", base.display()))?;
    let mut archive = Archive::default();
    archive.add("init", EXECUTABLE, INIT.as_bytes())?;
    archive.add("orders", EXECUTABLE, orders.text().as_bytes())?;
    whole.extend(archive.finish()?);
    write_whole(path, &whole)
}

impl Orders<'_> {
    fn text(&self) -> String {
        let shared: Vec<_> = self.shared.iter().map(|folder| folder.to_string_lossy().into_owned()).collect();
        let assign = |name: &str, value: &str| format!("{name}={}\n", crate::run::quote(value.as_ref()));
        [
            assign("command", self.command),
            assign("root", &self.root.to_string_lossy()),
            assign("shared", &shared.join(" ")),
            assign("modules", &self.modules.to_string_lossy()),
            assign("folder", &self.folder.to_string_lossy()),
            assign("interactive", if self.interactive { "yes" } else { "" }),
        ]
        .concat()
    }
}

/// A static busybox, from Debian's package: the host's may need libraries.
fn busybox(folder: &Path, architecture: Architecture) -> Result<PathBuf> {
    let tree = folder.join(format!("busybox-{}", architecture.debian_name()));
    if !tree.is_dir() {
        let debs = folder.join(format!("debs-{}", architecture.debian_name()));
        let source = architecture.source(folder)?;
        let wanted = debs::download(&source, &debs, || Ok(vec![Package::candidate(&source, "busybox-static")?]))?;
        debs::replace_tree(&tree, |scratch| wanted.iter().try_for_each(|package| package.extract(&debs, scratch)))?;
    }
    let candidates = ["bin/busybox", "usr/bin/busybox"].map(|path| tree.join(path));
    candidates.into_iter().find(|path| path.is_file()).context("busybox-static holds no busybox")
}

/// A `newc` archive in memory.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).context("too large for an initramfs")?;
        let entry = newc::Builder::new(name).ino(self.inode).mode(mode).nlink(1);
        let mut writer = entry.write(&mut self.bytes, size);
        writer.write_all(content).and_then(|()| writer.finish()).with_context(|| format!("cannot archive {name}"))?;
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        newc::trailer(&mut self.bytes).context("cannot end the archive")?;
        // Archives that follow each other begin at a multiple of four bytes.
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_shell_assignments_that_survive_any_command() {
        let orders = Orders {
            command: "echo 'a b' $x",
            root: Path::new("/"),
            shared: &[],
            modules: Path::new("/m"),
            folder: Path::new("/with space"),
            interactive: false,
        };
        let expected =
            "command='echo '\\''a b'\\'' $x'\nroot=/\nshared=''\nmodules=/m\nfolder='/with space'\ninteractive=''\n";
        assert_eq!(orders.text(), expected);
    }

    #[test]
    fn an_archive_holds_what_was_put_in() {
        let mut archive = Archive::default();
        archive.add("init", EXECUTABLE, b"abc").unwrap();
        let bytes = archive.finish().unwrap();
        let reader = newc::Reader::new(bytes.as_slice()).unwrap();
        assert_eq!((reader.entry().name(), reader.entry().mode(), reader.entry().file_size()), ("init", EXECUTABLE, 3));
        assert_eq!(bytes.len() % 4, 0);
    }
}
