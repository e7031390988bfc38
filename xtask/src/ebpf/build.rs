//! Compiling the kernel programs into the bytes of one object.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::toolchain::Toolchain;
use crate::project::Project;
use crate::run;

const TARGET: &str = "bpfel-unknown-none";
const BINARY: &str = "connprobe";

/// Compiles, links and strips. The same sources and the same [`Identity`](super::provenance::Identity) give the same
/// bytes, wherever the project, the toolchain and cargo's home are.
pub(crate) fn build(project: &Project, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let folder = project.path("probe-ebpf");
    let target_folder = project.target().join("ebpf");
    let mut cargo = toolchain.cargo()?;
    cargo.current_dir(&folder);
    cargo.args(["build", "--release", "--target", TARGET, "-Zbuild-std=core", "--target-dir"]).arg(&target_folder);
    if folder.join("Cargo.lock").is_file() {
        cargo.arg("--locked");
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rustflags(project.root(), &cargo_home()?, &toolchain.sysroot)?);
    run::run(&mut cargo)?;

    let linked = target_folder.join(TARGET).join("release").join(BINARY);
    let stripped = target_folder.join("stripped.bpf.o");
    let mut strip = Command::new(&toolchain.strip);
    strip.arg("--strip-debug").arg(&linked);
    // As `objcopy` the tool takes the output as a second argument, as `strip` with `-o`.
    if !toolchain.strip.to_string_lossy().ends_with("objcopy") {
        strip.arg("-o");
    }
    strip.arg(&stripped).env("LD_LIBRARY_PATH", &toolchain.library_path);
    run::run(&mut strip)?;

    let object = std::fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
    if let Err(reason) = examine(&object) {
        bail!("{} is not usable: {reason}", stripped.display());
    }
    Ok(object)
}

/// The flags, in the encoding of `CARGO_ENCODED_RUSTFLAGS`, which allows spaces in paths. They go into the hashes of symbol
/// names, except for the remapped prefixes: so the linker is named without its path.
fn rustflags(project: &Path, cargo_home: &Path, sysroot: &Path) -> Result<OsString> {
    let mut flags: Vec<OsString> =
        ["-Cdebuginfo=2", "-Clinker=bpf-linker", "-Clink-arg=--btf", "-Ctarget-cpu=v3"].map(OsString::from).to_vec();
    // The last prefix that matches wins: what may lie inside the project comes after it.
    for (from, to) in [(project, "/connprobe"), (cargo_home, "/cargo"), (sysroot, "/rust")] {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flags.push(flag);
    }
    Ok(flags.join(&OsString::from("\u{1f}")))
}

fn cargo_home() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home =
        home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).context("cannot tell where cargo's home is")?;
    // Cargo makes it at its first download, which may be this build's.
    std::fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
    home.canonicalize().with_context(|| format!("cannot resolve {}", home.display()))
}

/// What would otherwise be noticed only when the kernel refuses the object.
fn examine(object: &[u8]) -> Result<(), &'static str> {
    // ELF header: magic, class 64, little endian; e_machine at 18 is EM_BPF (247).
    if object.get(..6) != Some(b"\x7fELF\x02\x01".as_slice()) {
        return Err("no little-endian 64-bit ELF file");
    }
    if object.get(18..20) != Some(247_u16.to_le_bytes().as_slice()) {
        return Err("not made for BPF");
    }
    let contains = |needle: &[u8]| object.windows(needle.len()).any(|window| window == needle);
    // Section names: one may be stored as the end of another, such as `.rel.BTF`.
    if !contains(b".BTF\0") {
        return Err("it has no BTF section");
    }
    if contains(b".debug_info\0") {
        return Err("it still has debug information");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(machine: u16, names: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(18, 0);
        bytes.extend(machine.to_le_bytes());
        bytes.extend(names);
        bytes
    }

    #[test]
    fn only_a_stripped_bpf_object_with_btf_is_accepted() {
        assert_eq!(examine(&object(247, b"\0.text\0.rel.BTF\0")), Ok(()));
        assert!(examine(&object(62, b"\0.BTF\0")).is_err());
        assert!(examine(&object(247, b"\0.text\0")).is_err());
        assert!(examine(&object(247, b"\0.BTF\0.debug_info\0")).is_err());
        assert!(examine(b"").is_err());
    }

    #[test]
    fn no_flag_names_a_path_without_remapping_it() {
        let flags = rustflags(Path::new("/a b/project"), Path::new("/home/cargo"), Path::new("/s")).unwrap();
        let flags = flags.to_string_lossy();
        let with_paths: Vec<&str> = flags.split('\u{1f}').filter(|flag| flag.contains('/')).collect();
        assert_eq!(
            with_paths,
            [
                "--remap-path-prefix=/a b/project=/connprobe",
                "--remap-path-prefix=/home/cargo=/cargo",
                "--remap-path-prefix=/s=/rust"
            ]
        );
    }
}
