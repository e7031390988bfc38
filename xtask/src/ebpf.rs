//! `cargo xtask ebpf`: the kernel object that the user crate embeds.
//!
//! The object is committed, so that users need no BPF toolchain. Beside it stands where it comes from; `--check` proves it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::project::{self, Project};
use provenance::{MEND, Provenance};
use toolchain::{Choice, Toolchain};

mod build;
mod debian;
mod provenance;
mod rustup;
mod sources;
mod toolchain;

const OBJECT: &str = "probe-user/bpf/connprobe.bpf.o";
const PROVENANCE: &str = "probe-user/bpf/connprobe.bpf.toml";
/// Below the folder of build products; not committed.
const REBUILT: &str = "ebpf/rebuilt.bpf.o";

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Rebuild and compare with the committed object instead of replacing it
    #[arg(long)]
    check: bool,
    /// Which toolchain compiles
    #[arg(long, value_enum, default_value_t = Choice::Auto, env = "CONNPROBE_EBPF_TOOLCHAIN")]
    toolchain: Choice,
    /// Folder of the linker and of unpacked packages, shared by several clones if they name the same one
    /// [default: target/ebpf-toolchain]
    #[arg(long, value_name = "FOLDER", env = "CONNPROBE_EBPF_TOOLCHAIN_FOLDER")]
    toolchain_folder: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.check { check(project, arguments) } else { write(project, arguments) }
}

fn prepare(project: &Project, arguments: &Arguments) -> Result<Toolchain> {
    let ours = || project.target().join("ebpf-toolchain");
    let folder = arguments.toolchain_folder.clone().unwrap_or_else(ours);
    let toolchain = toolchain::prepare(arguments.toolchain, &folder)?;
    eprintln!("compiling with {}, {}", toolchain.identity.compiler, toolchain.identity.linker);
    Ok(toolchain)
}

fn write(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    let toolchain = prepare(project, arguments)?;
    let object = build::build(project, &toolchain)?;
    let provenance = Provenance {
        object_sha256: project::sha256(&object),
        // After the build: the first one writes the lock file.
        source_sha256: sources::hash(project)?,
        toolchain: toolchain.identity,
    };
    project::write_whole(&project.path(OBJECT), &object)?;
    provenance::write(&project.path(PROVENANCE), &provenance)?;
    println!("{OBJECT}: {} bytes, sha256 {}", object.len(), provenance.object_sha256);
    Ok(ExitCode::SUCCESS)
}

/// The cheap part of the check: no toolchain is needed. Returns the recorded provenance, or prints why it does not hold.
pub(crate) fn check_committed(project: &Project) -> Result<Option<Provenance>> {
    let (object, provenance) = (project.path(OBJECT), project.path(PROVENANCE));
    if !object.is_file() || !provenance.is_file() {
        return Ok(drifted("the kernel object or its provenance file is missing"));
    }
    let recorded = provenance::read(&provenance)?;
    let object_sha256 = project::sha256(&std::fs::read(object)?);
    match provenance::compare(&recorded, &sources::hash(project)?, &object_sha256) {
        Ok(()) => Ok(Some(recorded)),
        Err(reason) => Ok(drifted(&reason)),
    }
}

fn check(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    let Some(recorded) = check_committed(project)? else {
        return Ok(ExitCode::FAILURE);
    };
    let toolchain = prepare(project, arguments)?;
    let object = build::build(project, &toolchain)?;
    let rebuilt = project.target().join(REBUILT);
    if project::sha256(&object) == recorded.object_sha256 {
        // What an earlier check with another toolchain has left would be taken for this one's.
        if rebuilt.exists() {
            std::fs::remove_file(&rebuilt)?;
        }
        println!("{OBJECT} is up to date: sources unchanged, rebuilt byte for byte");
        return Ok(ExitCode::SUCCESS);
    }
    project::write_whole(&rebuilt, &object)?;
    let differences = provenance::differences(&recorded.toolchain, &toolchain.identity);
    if differences.is_empty() {
        println!("the rebuilt object is at {}", rebuilt.display());
        drifted::<()>("the same sources and the same toolchain make another object");
        return Ok(ExitCode::FAILURE);
    }
    println!("sources unchanged; another toolchain makes other bytes of them:");
    for difference in differences {
        println!("  {difference}");
    }
    println!("run the tests on the rebuilt object: CONNPROBE_BPF_OBJECT={}", rebuilt.display());
    Ok(ExitCode::SUCCESS)
}

fn drifted<T>(reason: &str) -> Option<T> {
    eprintln!("error: {reason}; run `{MEND}` and commit what it writes to probe-user/bpf/");
    None
}
