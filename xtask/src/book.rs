//! `cargo xtask book`: the handbook as pages for a browser, in which every page is named and every link leads somewhere.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::project::{self, Project};
use crate::run;
use crate::tools::Tool;

/// Makes the pages. Without a server, and without watching for changes, it compiles in half the time.
const MDBOOK: Tool =
    Tool { name: "mdbook", version: "0.5.4", options: &["--no-default-features", "--features", "search"] };

/// Follows the links between them, and to places within them.
const HYPERLINK: Tool = Tool { name: "hyperlink", version: "0.3.2", options: &[] };

/// Where the handbook is.
const SOURCE: &str = "docs";

/// What names its pages, and is none.
const SUMMARY: &str = "SUMMARY.md";

/// Runs the command.
pub(crate) fn main(project: &Project) -> Result<ExitCode> {
    let (source, book) = (project.path(SOURCE), project.target().join("book"));
    let tools = project.target().join("tools");
    let (mdbook, hyperlink) = (MDBOOK.find_or_build(&tools)?, HYPERLINK.find_or_build(&tools)?);

    if !build(&mdbook, &source, &book)? {
        println!("the handbook cannot be built");
        return Ok(ExitCode::FAILURE);
    }
    let left_out = left_out(&source, &book)?;
    for document in &left_out {
        println!("{SOURCE}/{document}: {SOURCE}/{SUMMARY} does not name it");
    }
    let mut follow = Command::new(hyperlink);
    follow.arg(&book).args(["--check-anchors", "--sources", SOURCE]).current_dir(project.root());
    let leads_somewhere = run::status(&mut follow)?.success();
    let all_hold = left_out.is_empty() && leads_somewhere;
    println!("{}: {}", book.join("index.html").display(), if all_hold { "ok" } else { "failed" });
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the book is built, and nothing was to be said of it: mdBook calls a tag that is never closed, or a page that is named
/// twice, a warning.
fn build(mdbook: &Path, source: &Path, book: &Path) -> Result<bool> {
    let mut build = Command::new(mdbook);
    build.env("MDBOOK_LOG", "warn").arg("build").arg(source).arg("--dest-dir").arg(book);
    run::announce(&build);
    let output = build.output().context("cannot start mdbook")?;
    let said = [output.stdout, output.stderr].concat();
    print!("{}", String::from_utf8_lossy(&said));
    Ok(output.status.success() && said.is_empty())
}

/// The documents that are no page of the book: it has pages of those that the summary names.
fn left_out(source: &Path, book: &Path) -> Result<Vec<String>> {
    let documents = project::files_below(source)?;
    let relative = documents.iter().filter_map(|path| path.strip_prefix(source).ok());
    let documents = relative.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    let left_out =
        documents.filter(|path| *path != Path::new(SUMMARY) && !book.join(path.with_extension("html")).is_file());
    Ok(left_out.map(|path| path.display().to_string()).collect())
}
