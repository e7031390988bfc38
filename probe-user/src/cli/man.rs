//! `connprobe man`: the manual pages, made of what `--help` says.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, builder::Resettable};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{Cli, Exit};
use crate::sink::Stdout;

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  connprobe man | man -l -\n  connprobe man diagnose | man -l -\n  \
    connprobe man --directory /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// The page of this subcommand instead of the one of connprobe itself
    subcommand: Option<String>,
    /// Write all pages to this directory, one file a page
    #[arg(long, value_name = "PATH", conflicts_with = "subcommand")]
    directory: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs) -> anyhow::Result<Exit> {
    let pages = pages()?;
    if let Some(directory) = &args.directory {
        write(&pages, directory)?;
        return Ok(Exit::Clean);
    }
    let wanted = args.subcommand.as_ref().map_or_else(|| "connprobe".to_owned(), |name| format!("connprobe-{name}"));
    let page = pages.iter().find(|page| page.name == wanted).with_context(|| {
        let known: Vec<_> = pages.iter().filter_map(|page| page.name.strip_prefix("connprobe-")).collect();
        format!("there is no such subcommand; there are {}", known.join(", "))
    })?;
    Stdout.document(&page.text)?;
    Ok(Exit::Clean)
}

/// A page of section 1.
struct Page {
    name: String,
    text: String,
}

fn write(pages: &[Page], directory: &Path) -> anyhow::Result<()> {
    for page in pages {
        let path = directory.join(format!("{}.1", page.name));
        std::fs::write(&path, &page.text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// One of connprobe itself, and one of each subcommand.
fn pages() -> anyhow::Result<Vec<Page>> {
    let mut root = Cli::command().disable_help_subcommand(true);
    // Names the subcommands in full, and hands the options of all down to each.
    root.build();
    let subcommands: Vec<_> = root.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let commands: Vec<_> = std::iter::once(root).chain(subcommands).collect();
    let names: Vec<_> = commands.iter().map(full_name).collect();
    commands.into_iter().map(|command| page(command, &names)).collect()
}

fn full_name(command: &clap::Command) -> String {
    command.get_display_name().unwrap_or(command.get_name()).to_owned()
}

fn page(command: clap::Command, names: &[String]) -> anyhow::Result<Page> {
    let name = full_name(&command);
    let after_help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command.after_help(Resettable::Reset))
        .title(name.to_uppercase())
        .source(concat!("connprobe ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut text = Vec::new();
    man.render(&mut text)?;
    let mut rest = Roff::new();
    for paragraph in after_help.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        let (heading, paragraph) = section(paragraph);
        rest.control("SH", [heading]);
        rest.text([roman(paragraph)]);
    }
    rest.control("SH", ["SEE ALSO"]);
    let others: Vec<_> = names.iter().filter(|other| **other != name).collect();
    let mut line = Vec::new();
    for (number, other) in others.iter().enumerate() {
        line.extend([bold(other.as_str()), roman(if number + 1 < others.len() { "(1), " } else { "(1)" })]);
    }
    rest.text(line);
    rest.to_writer(&mut text)?;
    Ok(Page { name, text: String::from_utf8(text)? })
}

/// A paragraph of what a command says after its options, below the heading that manual pages have for it (`man-pages(7)`).
fn section(paragraph: &str) -> (&'static str, &str) {
    for (begin, heading) in
        [("Examples:\n", "EXAMPLES"), ("Exit codes:\n", "EXIT STATUS"), ("Environment:\n", "ENVIRONMENT")]
    {
        if let Some(rest) = paragraph.strip_prefix(begin) {
            return (heading, rest);
        }
    }
    ("NOTES", paragraph)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_of_each_subcommand_and_none_tells_hidden_options() {
        let pages = pages().unwrap();
        let of = |name: &str| &pages.iter().find(|page| page.name == name).unwrap().text;
        for command in Cli::command().get_subcommands() {
            assert!(of(&format!("connprobe-{}", command.get_name())).contains("SEE ALSO"), "{}", command.get_name());
        }
        assert!(of("connprobe").contains("diagnose"));
        assert!(of("connprobe-daemon").contains("CONNPROBE_SCAN_EVERY"));
        assert!(pages.iter().all(|page| !page.text.contains("test\\-rename")), "hidden options are told");
    }

    #[test]
    fn examples_and_exit_codes_have_headings_of_their_own() {
        let page = pages().unwrap().into_iter().find(|page| page.name == "connprobe-record").unwrap();
        for heading in [".SH NOTES\nWhat ", ".SH EXAMPLES\n  connprobe record", ".SH \"EXIT STATUS\"\n  0  nothing"] {
            assert!(page.text.contains(heading), "no {heading:?} in:\n{}", page.text);
        }
        assert!(!page.text.contains("EXTRA"));
    }
}
