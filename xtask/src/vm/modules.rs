//! Which modules the guest needs before it has a root file system, in the order they are loaded.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// One module, ready for `insmod`.
pub(crate) struct Module {
    /// File name without folder and compression, such as `9p.ko`.
    pub(crate) name: String,
    /// The module itself.
    pub(crate) bytes: Vec<u8>,
}

/// Reads the wanted modules and all they depend on; dependencies come first. A wanted module that is built into this
/// kernel is left out.
pub(crate) fn closure(modules: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let read = |name: &str| {
        let path = modules.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let dependencies = read("modules.dep")?;
    let order = load_order(&dependencies, &read("modules.builtin")?, wanted)?;
    order.iter().map(|path| load(&modules.join(path))).collect()
}

fn load(path: &Path) -> Result<Module> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = path.file_name().context("a module without a name")?.to_string_lossy().into_owned();
    match name.strip_suffix(".xz") {
        None => Ok(Module { name, bytes }),
        Some(plain) => {
            let mut unpacked = Vec::new();
            lzma_rs::xz_decompress(&mut bytes.as_slice(), &mut unpacked)
                .map_err(|error| anyhow::anyhow!("cannot unpack {}: {error:?}", path.display()))?;
            Ok(Module { name: plain.to_owned(), bytes: unpacked })
        }
    }
}

/// Paths of modules in the order they must be loaded. A line of `modules.dep` (modules.dep(5)) is a module, a colon, and
/// everything it depends on, directly or not, in the reverse order of loading.
fn load_order<'a>(dependencies: &'a str, builtin: &str, wanted: &[&str]) -> Result<Vec<&'a str>> {
    let mut order: Vec<&str> = Vec::new();
    for name in wanted {
        let line = dependencies.lines().find_map(|line| {
            let (path, needs) = line.split_once(':')?;
            (stem(path) == *name).then_some((path, needs))
        });
        match line {
            Some((path, needs)) => {
                for path in needs.split_whitespace().rev().chain([path]) {
                    if !order.contains(&path) {
                        order.push(path);
                    }
                }
            }
            None if builtin.lines().any(|path| stem(path) == *name) => {}
            None => bail!("this kernel has no module {name}"),
        }
    }
    Ok(order)
}

/// The name of a module by its file: the kernel takes a dash for an underscore.
fn stem(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split_once(".ko").map_or(file, |(stem, _)| stem).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/net/9p/9pnet.ko:\nkernel/fs/netfs/netfs.ko.xz:\n\
        kernel/fs/9p/9p.ko: kernel/fs/netfs/netfs.ko.xz kernel/net/9p/9pnet.ko\n";

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_once() {
        let order = load_order(DEPENDENCIES, "", &["9p", "9pnet"]).unwrap();
        assert_eq!(order, ["kernel/net/9p/9pnet.ko", "kernel/fs/netfs/netfs.ko.xz", "kernel/fs/9p/9p.ko"]);
    }

    #[test]
    fn a_built_in_module_needs_no_loading_and_an_unknown_one_is_named() {
        assert!(load_order(DEPENDENCIES, "kernel/drivers/virtio/virtio_pci.ko\n", &["virtio_pci"]).unwrap().is_empty());
        assert!(load_order(DEPENDENCIES, "", &["virtio_pci"]).unwrap_err().to_string().contains("virtio_pci"));
    }
}
