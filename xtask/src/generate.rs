//! `cargo xtask generate`: the files that the program itself describes.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::project::{Project, write_whole};
use crate::run;

/// A committed file, and what the program prints it with.
const GENERATED: [(&str, &[&str]); 1] = [("docs/schema/connprobe-1.schema.json", &["schema"])];

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only compare the committed files with what the program says
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.check {
        return Ok(if is_up_to_date(project)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    for (file, text) in generate(project)? {
        write_whole(&project.path(file), text.as_bytes())?;
        println!("{file}: written");
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the committed files are what the program says; if not, says what to do.
pub(crate) fn is_up_to_date(project: &Project) -> Result<bool> {
    let mut all_are = true;
    for (file, text) in generate(project)? {
        let is = std::fs::read_to_string(project.path(file)).is_ok_and(|committed| committed == text);
        all_are &= is;
        println!(
            "{file}: {}",
            if is { "as the program says" } else { "not what the program says: run `cargo xtask generate`" }
        );
    }
    Ok(all_are)
}

fn generate(project: &Project) -> Result<Vec<(&'static str, String)>> {
    let mut cargo = run::cargo();
    run::run(cargo.args(["build", "-p", "connprobe"]).current_dir(project.root()))?;
    let program = project.target().join("debug/connprobe");
    GENERATED
        .into_iter()
        .map(|(file, arguments)| Ok((file, run::output(Command::new(&program).args(arguments))?)))
        .collect()
}
