//! `cargo xtask package`: the Debian package, made of a release build.
//!
//! The tree is laid out here and packed by `dpkg-deb`, which is on every Debian system: a packaging crate would take longer to
//! compile than this takes to run. Manual pages and completions are the committed files, which `cargo xtask generate --check` holds against
//! the program: what was read is what is packed, also of a binary that does not run on this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

mod control;
mod notices;
mod try_out;

use crate::debs;
use crate::generate;
use crate::packages::{self, Tool};
use crate::project::Project;
use crate::run;
use control::Control;

const TOOLS: [Tool; 4] =
    [("dpkg-deb", "dpkg"), ("dpkg-shlibdeps", "dpkg-dev"), ("strip", "binutils"), ("gzip", "gzip")];

/// Files as they are: where they are in the repository, and where they go.
const FILES: [(&str, &str); 7] = [
    ("probe-user/service/connprobe.service", "usr/lib/systemd/system/connprobe.service"),
    ("probe-user/service/connprobe.toml", "etc/connprobe/connprobe.toml"),
    ("probe-user/service/debian/copyright", "usr/share/doc/connprobe/copyright"),
    ("README.md", "usr/share/doc/connprobe/README.md"),
    // Where each shell looks for what packages let it complete.
    ("docs/completions/connprobe.bash", "usr/share/bash-completion/completions/connprobe"),
    ("docs/completions/_connprobe", "usr/share/zsh/vendor-completions/_connprobe"),
    ("docs/completions/connprobe.fish", "usr/share/fish/vendor_completions.d/connprobe.fish"),
];

const DOCUMENTS: &str = "usr/share/doc/connprobe";

/// What in the handbook's folder only makes other things of it, by the ends of names: `docs/kernels.md`, or pages for a browser.
const NO_DOCUMENTS: [&str; 2] = ["toml", "css"];
const MANUAL: &str = "usr/share/man/man1";

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Install, upgrade, remove and purge it in a fresh Debian system below target/, and run it there
    #[arg(long)]
    test: bool,
    /// Package this binary instead of building one
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn main(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    packages::install_missing(&TOOLS)?;
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => build(project)?,
    };
    let control = Control::read(project)?;
    let tree = lay_out(project, &binary, &control)?;
    let package = pack(project, &tree, &control)?;
    println!("{}", package.display());
    if arguments.test {
        // An upgrade that brings other settings than those that came first.
        let settings = tree.join("etc/connprobe/connprobe.toml");
        let text = read(&settings)?;
        write(&settings, format!("{text}\n# Of a later version.\n").as_bytes())?;
        let upgrade = pack(project, &tree, &control.next())?;
        try_out::main(project, &package, &upgrade)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn build(project: &Project) -> Result<PathBuf> {
    let mut cargo = run::cargo();
    run::run(cargo.args(["build", "--release", "--locked", "-p", "connprobe"]).current_dir(project.root()))?;
    Ok(project.target().join("release/connprobe"))
}

/// Where everything of this command is kept.
fn folder(project: &Project) -> PathBuf {
    project.target().join("package")
}

/// Fills a tree with all that is to be installed.
fn lay_out(project: &Project, binary: &Path, control: &Control) -> Result<PathBuf> {
    let tree = folder(project).join("tree");
    debs::replace_tree(&tree, |tree| {
        let program = tree.join("usr/bin/connprobe");
        create_parent(&program)?;
        run::run(
            Command::new("strip")
                .args(["--strip-unneeded", "--remove-section=.comment", "-o"])
                .arg(&program)
                .arg(binary),
        )?;
        for (from, to) in FILES {
            copy(&project.path(from), &tree.join(to))?;
        }
        documents(project, tree, control)?;
        for page in entries(&project.path(generate::MANUAL))? {
            let name = page.file_name().context("a manual page without a name")?;
            let to = tree.join(MANUAL).join(name);
            copy(&page, &to)?;
            compress(&to)?;
        }
        Ok(())
    })?;
    Ok(tree)
}

/// The handbook, at the places its links name, and what Debian wants every package to tell.
fn documents(project: &Project, tree: &Path, control: &Control) -> Result<()> {
    let documents = tree.join(DOCUMENTS);
    for path in crate::project::files_below(&project.path("docs"))? {
        let relative = path.strip_prefix(project.root()).context("a document outside the repository")?;
        if !relative.extension().is_some_and(|extension| NO_DOCUMENTS.iter().any(|kind| extension == *kind)) {
            copy(&path, &documents.join(relative))?;
        }
    }
    let changelog = documents.join("changelog");
    copy(&project.path("CHANGELOG.md"), &changelog)?;
    let debian = documents.join("changelog.Debian");
    write(&debian, control.changelog().as_bytes())?;
    let notices = documents.join("third-party-notices");
    write(&notices, notices::collect(project)?.as_bytes())?;
    [changelog, debian, notices].iter().try_for_each(|path| compress(path))
}

/// Packs the tree.
fn pack(project: &Project, tree: &Path, control: &Control) -> Result<PathBuf> {
    let meta = tree.join("DEBIAN");
    if meta.exists() {
        std::fs::remove_dir_all(&meta).with_context(|| format!("cannot remove {}", meta.display()))?;
    }
    let sums = sums(tree)?;
    std::fs::create_dir_all(&meta).with_context(|| format!("cannot create {}", meta.display()))?;
    write(&meta.join("md5sums"), sums.as_bytes())?;
    write(&meta.join("control"), control.text(project, tree)?.as_bytes())?;
    for name in ["conffiles", "postinst", "prerm", "postrm"] {
        copy(&project.path("probe-user/service/debian").join(name), &meta.join(name))?;
    }
    set_modes(tree)?;
    let package = folder(project).join(control.file_name());
    let mut dpkg = Command::new("dpkg-deb");
    // The same input gives the same bytes.
    dpkg.env("SOURCE_DATE_EPOCH", control.epoch()).args(["--root-owner-group", "-Zxz", "--build"]);
    run::run(dpkg.arg(tree).arg(&package))?;
    Ok(package)
}

/// The list by which `dpkg --verify` finds what was changed: all but settings.
fn sums(tree: &Path) -> Result<String> {
    let files = crate::project::files_below(tree)?;
    let names: Vec<_> = files.iter().filter_map(|path| path.strip_prefix(tree).ok()).collect();
    let names = names.into_iter().filter(|name| !name.starts_with("etc"));
    run::output(Command::new("md5sum").arg("--").args(names).current_dir(tree))
}

/// Whatever the umask of this process and the modes in the repository: programs and scripts may be run, all may be read.
fn set_modes(tree: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let loader = "usr/share/doc/connprobe/docs/fleet/load.sh";
    let scripts =
        ["usr/bin/connprobe", loader, "DEBIAN/postinst", "DEBIAN/prerm", "DEBIAN/postrm"].map(|name| tree.join(name));
    let mut waiting = vec![tree.to_owned()];
    while let Some(path) = waiting.pop() {
        let is_folder = path.is_dir();
        let mode = if is_folder || scripts.contains(&path) { 0o755 } else { 0o644 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot change the mode of {}", path.display()))?;
        if is_folder {
            waiting.extend(entries(&path)?);
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot list {}", folder.display());
    let entries = std::fs::read_dir(folder).with_context(context)?;
    entries.map(|entry| Ok(entry.with_context(context)?.path())).collect()
}

/// Without name and time in its header: the same text gives the same bytes.
fn compress(path: &Path) -> Result<()> {
    let status = Command::new("gzip").args(["-9nf"]).arg(path).status().context("cannot start gzip")?;
    if !status.success() {
        bail!("gzip failed on {} ({status})", path.display());
    }
    Ok(())
}

fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().context("a file needs a folder")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    create_parent(to)?;
    std::fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    create_parent(path)?;
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
