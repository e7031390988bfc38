//! `cargo xtask golden`: recordings of real kernels, and what is told of them.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::project::{Project, write_whole};
use crate::{run, vm};

/// Where they are kept.
const FOLDER: &str = "tests/golden";
/// What a guest is called while it records; its own files are those of whoever makes it.
const GUEST: &str = "hostname compute-1 && echo 00000000000000000000000000000001 > /etc/machine-id";

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Record anew, in a guest with Linux 6.1, instead of only renewing what is expected of the recordings there are
    #[arg(long)]
    record: bool,
}

/// Runs the command.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    let programs = project.build_programs()?;
    let folder = project.path(FOLDER);
    if arguments.record {
        record(project, &programs, &folder)?;
    }
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let recording = entry?.path();
        if recording.extension().is_none_or(|extension| extension != "rec") {
            continue;
        }
        let told = Command::new(programs.join("connprobe"))
            .args(["replay", "--format", "ndjson", "--fail-on", "never"])
            .arg(&recording)
            .output()
            .context("connprobe cannot be started")?;
        if !told.status.success() || !told.stderr.is_empty() {
            bail!("{} cannot be replayed: {}", recording.display(), String::from_utf8_lossy(&told.stderr));
        }
        let expected = recording.with_extension("ndjson");
        let is_same = std::fs::read(&expected).is_ok_and(|before| before == told.stdout);
        write_whole(&expected, &told.stdout)?;
        println!("{}: {}", expected.display(), if is_same { "as it was" } else { "written" });
    }
    Ok(ExitCode::SUCCESS)
}

/// The programs are copied to where programs are: the records say where they lie.
fn record(project: &Project, programs: &Path, folder: &Path) -> Result<()> {
    let names = ["connprobe", "connprobe-peer", "connprobe-golden"];
    let copied: Vec<String> = names.iter().map(|name| run::quote(programs.join(name).as_os_str())).collect();
    let script = format!("{GUEST} && cp {} /usr/local/bin/ && exec /usr/local/bin/connprobe-golden", copied.join(" "));
    let written = vm::output(project, vm::Series::V6_1, &["sh".to_owned(), "-c".to_owned(), script], vm::SHORT)?;
    for line in written.lines() {
        let (name, bytes) = line.split_once(' ').with_context(|| format!("an unexpected line: {line}"))?;
        let bytes = STANDARD.decode(bytes).with_context(|| format!("an unexpected line: {line}"))?;
        println!("{FOLDER}/{name}: {} bytes", bytes.len());
        write_whole(&folder.join(name), &bytes)?;
    }
    Ok(())
}
