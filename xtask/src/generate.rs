//! `cargo xtask generate`: the files that the program itself describes.
//!
//! They are committed, so that they can be read and linked to without building anything, and packages take them as they are.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::project::{Project, files_below, write_whole};
use crate::run;

const COMMAND: &str = "cargo xtask generate";

const SCHEMA: &str = "docs/schema/connprobe-1.schema.json";
const COMMANDS: &str = "docs/commands.md";
/// The manual pages, in a folder of their own.
pub(crate) const MANUAL: &str = "docs/man";
const COMPLETIONS: &str = "docs/completions";
/// The shells, and what the file of each is called by those who look for it.
const SHELLS: [(&str, &str); 3] = [("bash", "connprobe.bash"), ("zsh", "_connprobe"), ("fish", "connprobe.fish")];

/// Where the lines of a help end that is shown in the handbook.
const COLUMNS: &str = "100";

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
    let files = generate(project)?;
    for file in left_over(project, &files)? {
        std::fs::remove_file(project.path(&file)).with_context(|| format!("cannot remove {file}"))?;
        println!("{file}: removed");
    }
    for (file, text) in files {
        write_whole(&project.path(&file), text.as_bytes())?;
        println!("{file}: written");
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the committed files are what the program says; if not, says what to do.
pub(crate) fn is_up_to_date(project: &Project) -> Result<bool> {
    let files = generate(project)?;
    let left_over = left_over(project, &files)?;
    for file in &left_over {
        println!("{file}: left over: run `{COMMAND}`");
    }
    Ok(project.is_as_made(&files, COMMAND) && left_over.is_empty())
}

/// Files of subcommands that there are no more.
fn left_over(project: &Project, files: &[(String, String)]) -> Result<Vec<String>> {
    let mut left_over = Vec::new();
    for folder in [MANUAL, COMPLETIONS].map(|folder| project.path(folder)).into_iter().filter(|folder| folder.is_dir())
    {
        for path in files_below(&folder)? {
            let file = path.strip_prefix(project.root()).unwrap_or(&path).display().to_string();
            if !files.iter().any(|(known, _)| *known == file) {
                left_over.push(file);
            }
        }
    }
    Ok(left_over)
}

/// Each file, and what is to be in it.
fn generate(project: &Project) -> Result<Vec<(String, String)>> {
    let mut cargo = run::cargo();
    run::run(cargo.args(["build", "-p", "connprobe"]).current_dir(project.root()))?;
    let program = project.target().join("debug/connprobe");
    let subcommands = subcommands(&says(&program, &["--help"])?);
    let mut files = vec![
        (SCHEMA.to_owned(), says(&program, &["schema"])?),
        (COMMANDS.to_owned(), commands(&program, &subcommands)?),
        (format!("{MANUAL}/connprobe.1"), says(&program, &["man"])?),
    ];
    for name in &subcommands {
        files.push((format!("{MANUAL}/connprobe-{name}.1"), says(&program, &["man", name])?));
    }
    for (shell, file) in SHELLS {
        files.push((format!("{COMPLETIONS}/{file}"), says(&program, &["completions", shell])?));
    }
    Ok(files)
}

/// What the program prints, whatever terminal and environment this is run in: help shows what variables hold, and is as wide as the
/// terminal.
fn says(program: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("COLUMNS", COLUMNS).stdin(Stdio::null());
    run::output(&mut command)
}

/// The page of the handbook: each help as the operator sees it. Markdown made of the same (as `clap-markdown` does) would run the lines of
/// examples and exit codes together.
fn commands(program: &Path, subcommands: &[String]) -> Result<String> {
    let mut page = "# Commands\n\nWhat `connprobe --help` and the `--help` of each command print; `cargo xtask generate` writes it here. The \
                    same as manual pages\nis in `docs/man`, for `man -l`, and what makes a shell complete it in `docs/completions`.\n"
        .to_owned();
    for name in [None].into_iter().chain(subcommands.iter().map(Some)) {
        let words: Vec<_> = name.map(String::as_str).into_iter().collect();
        let help = says(program, &[&words[..], &["--help"]].concat())?;
        let lines: Vec<_> = help.lines().map(str::trim_end).collect();
        let heading = [&["connprobe"], &words[..]].concat().join(" ");
        page.push_str(&format!("\n## {heading}\n\n```text\n{}\n```\n", lines.join("\n").trim_end()));
    }
    Ok(page)
}

/// The subcommands that a help names, in its order.
fn subcommands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What a name means goes on in lines that are indented deeper.
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subcommands_are_those_that_the_help_names() {
        let help =
            "Usage: x\n\nCommands:\n  run   Runs\n        it\n  stop  Stops\n  help  Helps\n\nOptions:\n  -h  Help\n";
        assert_eq!(subcommands(help), ["run", "stop"]);
        assert_eq!(subcommands("Usage: x\n"), [""; 0]);
    }
}
