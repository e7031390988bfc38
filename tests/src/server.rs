//! Real server programs, unpacked by `cargo xtask test` below `target/servers`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::child::ManagedChild;
use crate::netns::Netns;

/// Where they are unpacked, beside the folder of the build that this program is part of.
fn tree() -> Result<PathBuf> {
    Ok(target()?.join("servers/root"))
}

/// Where all that is built and unpacked is. Cargo puts tests into `deps`, one level below the programs.
pub(crate) fn target() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot tell where this program is")?;
    let mut folders = program.ancestors().skip(1).skip_while(|folder| folder.ends_with("deps"));
    Ok(folders.nth(1).context("this program is in no build folder")?.to_owned())
}

/// Whether HAProxy and nginx can be started.
///
/// # Errors
/// When they are not there.
pub fn check() -> Result<()> {
    check_programs(&["usr/sbin/haproxy", "usr/sbin/nginx"])
}

/// Whether these programs of the tree can be started.
pub(crate) fn check_programs(programs: &[&str]) -> Result<()> {
    let tree = tree()?;
    for program in programs.iter().chain([&LOADER]) {
        ensure!(tree.join(program).exists(), "there is no {}", tree.join(program).display());
    }
    Ok(())
}

/// Where a file of the tree is.
pub(crate) fn file(path: &str) -> Result<PathBuf> {
    Ok(tree()?.join(path))
}

/// The loader of the tree: with its own libraries the programs run on any distribution.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// Where Prometheus' judge of alerts is in the tree.
pub(crate) const PROMTOOL: &str = "usr/bin/promtool";

/// Prometheus' judge of alerts.
///
/// # Errors
/// When this program is in no build folder.
pub fn promtool() -> Result<Command> {
    command(PROMTOOL)
}

/// Starts HAProxy with this configuration, written into `folder`.
///
/// # Errors
/// When it is not there or does not start.
pub fn haproxy(netns: &Netns, folder: &Path, configuration: &str) -> Result<ManagedChild> {
    let file = write(folder, "haproxy.cfg", configuration)?;
    start(netns, "usr/sbin/haproxy", &["-db".as_ref(), "-f".as_ref(), &file])
}

/// Starts nginx with this `http` block, in `folder`, as one process: a worker would outlive a master that is killed.
///
/// # Errors
/// When it is not there or does not start.
pub fn nginx(netns: &Netns, folder: &Path, http: &str) -> Result<ManagedChild> {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {};\n", folder.join(name).display()))
        .concat();
    let pid = folder.join("nginx.pid");
    let configuration = format!(
        "daemon off;\nmaster_process off;\nuser root;\nerror_log stderr;\npid {};\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{http}\n}}\n",
        pid.display()
    );
    let file = write(folder, "nginx.conf", &configuration)?;
    start(netns, "usr/sbin/nginx", &["-e".as_ref(), "stderr".as_ref(), "-p".as_ref(), folder, "-c".as_ref(), &file])
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn start(netns: &Netns, program: &str, arguments: &[&Path]) -> Result<ManagedChild> {
    let mut command = command(program)?;
    command.args(arguments);
    netns.spawn({
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    })
}

/// A command that starts a program of the tree with the tree's own libraries.
pub(crate) fn command(program: &str) -> Result<Command> {
    let tree = tree()?;
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|path| tree.join(path));
    let libraries = env::join_paths(libraries).context("a path with a colon")?;
    let mut command = Command::new(tree.join(LOADER));
    command.arg("--library-path").arg(libraries).arg(tree.join(program));
    Ok(command)
}
