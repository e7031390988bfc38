//! `cargo xtask fuzz`: the fuzz targets of `tests/fuzz`, instrumented, under libFuzzer.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::project::Project;
use crate::run;

/// The package, and its program.
const PACKAGE: &str = "connprobe-fuzz";
/// Where the committed inputs are, a folder a target.
const CORPUS: &str = "tests/fuzz/corpus";
/// Coverage as libFuzzer wants it (`SanitizerCoverage` of LLVM). These are stable options of the compiler; an address sanitizer is not,
/// and what is fuzzed is safe Rust.
const INSTRUMENTATION: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which target: decode, recording, settings, tracker; every one after the other if none is named
    targets: Vec<String>,
    /// How long each runs
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,
    /// Then add to the committed corpus what reaches code that nothing in it has reached
    #[arg(long)]
    merge: bool,
}

/// Runs the command.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    let known = targets(project)?;
    if let Some(unknown) = arguments.targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target {unknown}; there are {}", known.join(", "));
    }
    let chosen = if arguments.targets.is_empty() { &known } else { &arguments.targets };
    let program = build(project)?;
    for target in chosen {
        let fuzzed = Fuzzed::new(project, &program, target)?;
        fuzzed.fuzz(arguments.seconds)?;
        if arguments.merge {
            fuzzed.merge()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Every target has a corpus.
fn targets(project: &Project) -> Result<Vec<String>> {
    let folder = project.path(CORPUS);
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn build(project: &Project) -> Result<PathBuf> {
    let host = run::output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let folder = project.target().join("fuzz");
    let mut cargo = run::cargo();
    // With a target named, build scripts and macros are not instrumented.
    cargo.args(["build", "--release", "-p", PACKAGE, "--features", "engine", "--target", host.trim(), "--target-dir"]);
    cargo.arg(&folder).env("RUSTFLAGS", INSTRUMENTATION.join(" "));
    // An overflow is a finding, as in every other test.
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true").env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true");
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
    run::run(cargo.current_dir(project.root()))?;
    Ok(folder.join(host.trim()).join("release").join(PACKAGE))
}

/// A target, and where its inputs are.
struct Fuzzed<'a> {
    program: &'a PathBuf,
    target: &'a str,
    committed: PathBuf,
    found: PathBuf,
    failures: PathBuf,
}

impl<'a> Fuzzed<'a> {
    fn new(project: &Project, program: &'a PathBuf, target: &'a str) -> Result<Self> {
        let own = |kind: &str| -> Result<PathBuf> {
            let folder = project.target().join("fuzz").join(kind).join(target);
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            Ok(folder)
        };
        let committed = project.path(CORPUS).join(target);
        Ok(Self { program, target, committed, found: own("found")?, failures: own("failures")? })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.env("CONNPROBE_FUZZ_TARGET", self.target).env("RUST_BACKTRACE", "1");
        command
    }

    /// What is found goes below `target`, a failure too.
    fn fuzz(&self, seconds: u32) -> Result<()> {
        let mut command = self.command();
        command.arg(format!("-max_total_time={seconds}")).args([
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ]);
        command.arg(format!("-artifact_prefix={}/", self.failures.display())).arg(&self.found).arg(&self.committed);
        if !run::status(&mut command)?.success() {
            bail!(
                "the target {} failed. The input is in {}: mend it, and put it into {}, where every test run meets it",
                self.target,
                self.failures.display(),
                self.committed.display()
            );
        }
        Ok(())
    }

    /// By code that is reached, not by how often: the corpus is for every test run, and a test limits its size.
    fn merge(&self) -> Result<()> {
        run::run(self.command().args(["-set_cover_merge=1", "-use_counters=0"]).arg(&self.committed).arg(&self.found))
    }
}
