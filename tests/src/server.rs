//! Real server programs, unpacked by `cargo xtask test` below `target/servers`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::child::ManagedChild;
use crate::netns::Netns;
use crate::unpacked::Tree;

/// Where they are unpacked.
pub(crate) const SERVERS: Tree = Tree::new("servers");

/// Whether HAProxy and nginx can be started.
///
/// # Errors
/// When they are not there.
pub fn check() -> Result<()> {
    SERVERS.check(&["usr/sbin/haproxy", "usr/sbin/nginx"])
}

/// Where Prometheus' judge of alerts is in the tree.
pub(crate) const PROMTOOL: &str = "usr/bin/promtool";

/// Prometheus' judge of alerts.
///
/// # Errors
/// When it is not there.
pub fn promtool() -> Result<Command> {
    SERVERS.command(PROMTOOL)
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
    let mut command = SERVERS.command(program)?;
    command.args(arguments);
    netns.spawn({
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    })
}
