//! ClickHouse's own engine for the tests, as a module of Python (chDB): below `target/`, never installed.

use anyhow::{Result, bail};

use crate::packages::{self, Tool};
use crate::project::Project;
use crate::{debs, run};

/// The engine alone, 182 MB: what the package `chdb` adds to it is for data frames. Its versions are those of ClickHouse.
const ENGINE: &str = "chdb-core==26.9.0";

const TOOLS: [Tool; 2] = [("python3", "python3"), ("pip3", "python3-pip")];

/// Unpacks it where the tests look for it (`tests/src/store.rs`), which skip or fail without. What is there already is kept.
pub(crate) fn prepare(project: &Project) {
    if let Err(error) = unpack(project) {
        eprintln!("without ClickHouse's engine: {error:#}");
    }
}

fn unpack(project: &Project) -> Result<()> {
    let folder = project.target().join("chdb");
    let tree = folder.join("python");
    debs::make_unless_made(&tree, ENGINE, || {
        if cfg!(not(target_arch = "x86_64")) {
            bail!("it is unpacked for x86_64 alone");
        }
        std::fs::create_dir_all(&folder)?;
        packages::install_missing(&TOOLS)?;
        debs::replace_tree(&tree, |scratch| {
            let mut pip = std::process::Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]);
            pip.args(["--no-deps", "--only-binary=:all:", "--no-compile", ENGINE, "--target"]).arg(scratch);
            run::run(&mut pip)
        })
    })
}
