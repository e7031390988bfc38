//! `cargo xtask vm`: the kernel tests, or any command, on other kernels.
//!
//! A guest boots Debian's kernel in QEMU and finds the host's files at their places: programs built here run there as they
//! are. What a guest writes stays in its memory. Everything that is downloaded or built is kept below `target/vm`.

use std::io::{self, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

mod architecture;
mod guest;
mod initramfs;
mod kernel;
mod modules;

pub(crate) use architecture::CrossTarget;
pub(crate) use kernel::Series;

use crate::packages::{self, Tool};
use crate::project::Project;
use crate::results::Results;
use crate::run;
use crate::servers;
use crate::test::kernel_test_program;
use architecture::Architecture;
use guest::{End, Machine};
use initramfs::Orders;
use kernel::Kernel;

/// What is needed on the host beside what the tests themselves start.
const TOOLS: [Tool; 2] = [("depmod", "kmod"), ("setpriv", "util-linux")];

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which kernel to boot; all of them if none is named
    #[arg(long, default_value = "all")]
    kernel: Kernels,
    /// Which processor the guest has
    #[arg(long, value_enum, default_value_t = Architecture::X86_64)]
    arch: Architecture,
    /// How the guest's processor is made: emulated (works everywhere) or by the host's own (faster)
    #[arg(long, value_enum, default_value_t = Accelerator::Tcg)]
    accel: Accelerator,
    /// End a guest that runs longer than that
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    limit: u64,
    /// Share the tests between the guests, but for those that every kernel must run, as `cargo xtask test` does
    #[arg(long, conflicts_with_all = ["run", "shell"])]
    shared: bool,
    /// Sit at a shell in the guest
    #[arg(long, conflicts_with_all = ["run", "test"])]
    shell: bool,
    /// Run this command in the guest instead of the tests
    #[arg(long, num_args = 1.., value_name = "COMMAND", allow_hyphen_values = true, conflicts_with = "test")]
    run: Vec<String>,
    /// Handed to the kernel tests: a part of a test's name, and options of `cargo test`
    #[arg(last = true)]
    test: Vec<String>,
}

/// The kernels of one call.
#[derive(Clone, Debug)]
struct Kernels(Vec<Series>);

impl std::str::FromStr for Kernels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(Series::ALL.to_vec()));
        }
        let known = Series::ALL.into_iter().find(|series| series.name() == text);
        known.map(|series| Self(vec![series])).ok_or_else(|| {
            let names = Series::ALL.map(Series::name).join(", ");
            format!("known are {names} and all")
        })
    }
}

/// Who computes for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Accelerator {
    /// QEMU's translator
    Tcg,
    /// The host's processor, through /dev/kvm
    Kvm,
}

impl Accelerator {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }

    const fn processor(self, architecture: Architecture) -> &'static str {
        match self {
            Self::Tcg => architecture.emulated_processor(),
            Self::Kvm => "host",
        }
    }
}

/// Runs the command. Its exit code is that of the guest's command: of the first guest whose command failed.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    prepare_host(arguments.arch)?;
    let limit = match arguments.shell {
        true => UNLIMITED,
        false => Duration::from_secs(arguments.limit * 60),
    };
    let hosts = hosts(project, &arguments.kernel.0, arguments.arch, arguments.accel, limit)?;
    let mut code = 0;
    if arguments.shell || !arguments.run.is_empty() {
        for host in &hosts {
            let this = match arguments.shell {
                true => host.shell()?,
                false => host.run(&shell_line(&arguments.run), &mut Printer::new(None))?,
            };
            if code == 0 {
                code = this;
            }
        }
    } else {
        let results = test(project, arguments.arch, &hosts, arguments.shared, &arguments.test)?;
        println!("{results}");
        code = i32::from(!results.totals.succeeded());
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Enough for a command that computes little.
pub(crate) const SHORT: Duration = Duration::from_secs(5 * 60);

/// A person may sit at a shell as long as they like.
const UNLIMITED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Runs the kernel tests, shared between guests of every kernel of the matrix, and sums up what they say.
pub(crate) fn test_shared(project: &Project) -> Result<Results> {
    const LIMIT: Duration = Duration::from_secs(35 * 60);
    let architecture = Architecture::X86_64;
    prepare_host(architecture)?;
    test(project, architecture, &hosts(project, &Series::ALL, architecture, Accelerator::Tcg, LIMIT)?, true, &[])
}

/// Runs a command in a guest, showing what it writes, and returns its exit code.
pub(crate) fn run_in(project: &Project, series: Series, command: &[String]) -> Result<i32> {
    let architecture = Architecture::X86_64;
    prepare_host(architecture)?;
    let host = Host::new(project, series, architecture, Accelerator::Tcg, SHORT)?;
    host.run(&shell_line(command), &mut Printer::new(None))
}

/// Runs a command in a guest and returns what it wrote. A guest that runs longer than `limit` is ended, with an error.
pub(crate) fn output(project: &Project, series: Series, command: &[String], limit: Duration) -> Result<String> {
    let architecture = Architecture::X86_64;
    prepare_host(architecture)?;
    let mut written = Vec::new();
    for host in hosts(project, &[series], architecture, Accelerator::Tcg, limit)? {
        let code = host.run(&shell_line(command), &mut written)?;
        if code != 0 {
            bail!("the command ended with {code} on kernel {}", series.name());
        }
    }
    String::from_utf8(written).context("the command wrote no text")
}

fn hosts(
    project: &Project,
    kernels: &[Series],
    architecture: Architecture,
    accelerator: Accelerator,
    limit: Duration,
) -> Result<Vec<Host>> {
    kernels.iter().map(|series| Host::new(project, *series, architecture, accelerator, limit)).collect()
}

/// Runs the kernel tests in all these guests at once: each keeps one processor busy.
fn test(
    project: &Project,
    architecture: Architecture,
    hosts: &[Host],
    is_shared: bool,
    arguments: &[String],
) -> Result<Results> {
    servers::prepare(project);
    let target = architecture.target(project, &project.target().join("vm"))?;
    let program = kernel_test_program(project, target.as_ref())?;
    let program = program.as_path();
    let results: Vec<Result<Results>> = thread::scope(|scope| {
        let guests: Vec<_> = (0..)
            .zip(hosts)
            .map(|(number, host)| {
                let share = is_shared.then(|| format!("{number}/{}", hosts.len()));
                scope.spawn(move || host.test(program, share.as_deref(), arguments))
            })
            .collect();
        guests.into_iter().map(|guest| guest.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let mut sum = Results::default();
    for (host, result) in hosts.iter().zip(results) {
        let results = result?;
        println!("kernel {}: {}", host.label(), results.totals);
        sum.add(host.label(), &results);
    }
    Ok(sum)
}

fn prepare_host(architecture: Architecture) -> Result<()> {
    packages::install_missing(&packages::HARNESS_TOOLS)?;
    packages::install_missing(&TOOLS)?;
    packages::install_missing(architecture.tools())
}

fn shell_line(words: &[String]) -> String {
    words.iter().map(|word| run::quote(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// What guests of one kernel are made from.
struct Host {
    series: Series,
    architecture: Architecture,
    /// The guest's root on the host.
    root: PathBuf,
    /// What the guest sees of the host beside its root.
    shared: Vec<PathBuf>,
    kernel: Kernel,
    base: PathBuf,
    accelerator: Accelerator,
    limit: Duration,
    folder: PathBuf,
}

impl Host {
    fn new(
        project: &Project,
        series: Series,
        architecture: Architecture,
        accelerator: Accelerator,
        limit: Duration,
    ) -> Result<Self> {
        let store = project.target().join("vm");
        let kernel = kernel::prepare(&store, series, architecture)?;
        let base = initramfs::base(&store, &kernel, architecture)?;
        let root = architecture.root(&store)?;
        let shared = match root == Path::new("/") {
            true => Vec::new(),
            false => vec![project.root().to_owned(), project.target()],
        };
        let folder = store.join("runs").join(architecture.label(series));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self { series, architecture, root, shared, kernel, base, accelerator, limit, folder })
    }

    fn label(&self) -> &'static str {
        self.architecture.label(self.series)
    }

    /// Runs the kernel tests, or this share of them (`tests/src/share.rs`), showing what they print.
    fn test(&self, program: &Path, share: Option<&str>, arguments: &[String]) -> Result<Results> {
        let mut words = vec!["env".to_owned()];
        // What the tests understand is handed on; a skipped test that this kernel should run is a failure in any case.
        for name in ["CONNPROBE_BPF_OBJECT", "CONNPROBE_BIN"] {
            words.extend(std::env::var(name).ok().map(|value| format!("{name}={value}")));
        }
        words.push(format!("CONNPROBE_GUEST={}", self.label()));
        words.push("CONNPROBE_REQUIRE=kernel".to_owned());
        words.extend(share.map(|share| format!("CONNPROBE_SHARE={share}")));
        words.push(program.to_string_lossy().into_owned());
        // Some of the times measured are the guest's own: its one emulated processor bears one test at a time.
        words.extend(["--test-threads=1", "--color=never"].map(str::to_owned));
        words.extend(arguments.iter().cloned());
        let mut printer = Printer::new(Some(self.label()));
        let code = self.run(&shell_line(&words), &mut printer)?;
        let mut results = printer.results;
        if code != 0 && results.totals.succeeded() {
            eprintln!("error: the test program died on kernel {} ({code}); counted as one failure", self.label());
            results.totals.failed += 1;
        }
        Ok(results)
    }

    fn shell(&self) -> Result<i32> {
        eprintln!("a shell on kernel {}; `exit` ends the guest", self.kernel.release);
        self.boot("exec sh -i", true, &mut Printer::new(None))
    }

    /// Runs a command line, handing over what it prints, and returns its exit code.
    fn run(&self, line: &str, output: &mut dyn Write) -> Result<i32> {
        self.boot(line, false, output)
    }

    fn boot(&self, line: &str, interactive: bool, output: &mut dyn Write) -> Result<i32> {
        let orders = Orders {
            command: line,
            root: &self.root,
            shared: &self.shared,
            modules: &self.kernel.modules,
            folder: &std::env::current_dir().context("cannot tell the current folder")?,
            interactive,
        };
        let initramfs = self.folder.join("initramfs.cpio");
        initramfs::write(&initramfs, &self.base, &orders)?;
        let machine = Machine {
            kernel: &self.kernel.image,
            initramfs: &initramfs,
            accelerator: self.accelerator,
            architecture: self.architecture,
            interactive,
            limit: self.limit,
            folder: &self.folder,
        };
        println!("== kernel {} ({}): {line}", self.label(), self.kernel.release);
        let start = Instant::now();
        let run = machine.run(output)?;
        let log = run.kernel_log.display();
        match run.end {
            End::Command(code) => {
                println!("== kernel {}: ended with {code} after {:.0} s", self.label(), start.elapsed().as_secs_f64());
                Ok(code)
            }
            End::Panic(line) => bail!("kernel {} panicked: {line}; its log is {log}", self.kernel.release),
            End::Hung => {
                let minutes = self.limit.as_secs() / 60;
                bail!(
                    "the guest with kernel {} was still running after {minutes} minutes and was ended; its log is {log}",
                    self.kernel.release
                )
            }
            End::Unknown(how) => bail!("kernel {}: {how}; its log is {log}", self.kernel.release),
        }
    }
}

/// Shows whole lines on stdout as they come, each behind the guest's name where several speak at once, and counts results.
struct Printer {
    name: Option<&'static str>,
    rest: Vec<u8>,
    results: Results,
}

impl Printer {
    fn new(name: Option<&'static str>) -> Self {
        Self { name, rest: Vec::new(), results: Results::default() }
    }

    fn show(&mut self, line: &[u8]) -> io::Result<()> {
        self.results.take(&String::from_utf8_lossy(line));
        let mut terminal = io::stdout().lock();
        if let Some(name) = self.name {
            write!(terminal, "{name:<10}| ")?;
        }
        terminal.write_all(line)?;
        terminal.flush()
    }
}

impl Write for Printer {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(piece);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.show(&line)?;
        }
        Ok(piece.len())
    }

    /// What has come so far of a line that may never end, such as a prompt or the last one.
    fn flush(&mut self) -> io::Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let rest = std::mem::take(&mut self.rest);
        self.show(&rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_across_pieces() {
        let mut printer = Printer::new(Some("6.1"));
        printer.write_all(b"test a ... ok\ntest result: ok. 2 passed; 0 fai").unwrap();
        printer.write_all(b"led; 1 ignored; 0 measured\n").unwrap();
        assert_eq!(printer.results.to_string(), "2 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn an_unknown_kernel_is_told_the_known_ones() {
        assert_eq!("all".parse::<Kernels>().unwrap().0, Series::ALL);
        assert_eq!("6.12".parse::<Kernels>().unwrap().0, [Series::V6_12]);
        assert!("5.4".parse::<Kernels>().unwrap_err().contains("6.1, 6.12"));
    }
}
