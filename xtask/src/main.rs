//! The single entry for people and continuous integration: `cargo xtask <command>`.
//!
//! One file per command; what several share is in `support`. Continuous integration runs exactly these commands, so what
//! passes on a laptop passes there.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool talks to its terminal; it is no part of the probe"
)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod book;
mod ci;
mod demo;
mod ebpf;
mod fuzz;
mod generate;
mod golden;
mod instructions;
mod kernels;
mod lab;
mod package;
mod soak;
mod support;
mod test;
mod tidy;
mod truth;
mod vm;

use support::project::Project;
// Commands name them without their folder.
use support::{debs, packages, project, release, results, run, servers, store, tools};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and shows connprobe", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Compile the kernel programs into the committed object, or check that it is up to date
    Ebpf(ebpf::Arguments),
    /// Install what is missing and run every test
    Test(test::Arguments),
    /// Run every check: tidy, format, lints, handbook, documentation, kernel object
    Ci,
    /// Check the rules of this repository that no compiler knows
    Tidy,
    /// Make the handbook's pages for a browser, and follow their links
    Book,
    /// Measure what connprobe costs a host, beside other tools
    #[command(disable_help_flag = true)]
    Bench(bench::Arguments),
    /// Run the fuzz targets under libFuzzer, for as long as you like
    Fuzz(fuzz::Arguments),
    /// Make a failing connection and let connprobe find it
    Demo,
    /// Write the files that the program itself describes, or check them
    Generate(generate::Arguments),
    /// Renew what is expected of the golden recordings, or record them anew
    Golden(golden::Arguments),
    /// Count the instructions that an event costs, and compare them with committed numbers
    Instructions(instructions::Arguments),
    /// Make the document of what each kernel offers from committed facts, or check it, or renew the facts
    Kernels(kernels::Arguments),
    /// Play a failure or a healthy workload, and show what connprobe says of it
    #[command(disable_help_flag = true)]
    Lab(lab::Arguments),
    /// Make the Debian package, or try it out, too
    Package(package::Arguments),
    /// Keep a daemon among churn, losses and failures for long, and see whether it stays flat
    #[command(disable_help_flag = true)]
    Soak(soak::Arguments),
    /// Make the truth table from what was measured, or measure it: every scenario, on the host and in guests
    Truth(truth::Arguments),
    /// Run the kernel tests, a command or a shell on other kernels, in guests
    Vm(vm::Arguments),
}

/// Exit codes: 0 all well, 1 a check or a test failed, 2 the task could not be done.
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = Project::find().and_then(|project| match arguments.task {
        Task::Ebpf(arguments) => ebpf::main(&project, &arguments),
        Task::Test(arguments) => test::main(&project, &arguments),
        Task::Ci => ci::main(&project),
        Task::Tidy => tidy::main(&project),
        Task::Book => book::main(&project),
        Task::Bench(arguments) => bench::main(&project, &arguments),
        Task::Fuzz(arguments) => fuzz::main(&project, &arguments),
        Task::Demo => demo::main(&project),
        Task::Generate(arguments) => generate::main(&project, &arguments),
        Task::Golden(arguments) => golden::main(&project, &arguments),
        Task::Instructions(arguments) => instructions::main(&project, &arguments),
        Task::Kernels(arguments) => kernels::main(&project, &arguments),
        Task::Lab(arguments) => lab::main(&project, &arguments),
        Task::Package(arguments) => package::main(&project, &arguments),
        Task::Soak(arguments) => soak::main(&project, &arguments),
        Task::Truth(arguments) => truth::main(&project, &arguments),
        Task::Vm(arguments) => vm::main(&project, &arguments),
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
