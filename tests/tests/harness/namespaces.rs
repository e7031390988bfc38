//! Namespaces, settings and children appear and vanish.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::child::ManagedChild;
use connprobe_tests::lab::{Lab, PREFIX};
use connprobe_tests::netns::RUN_DIR;
use connprobe_tests::require::Requirement::{self, Netns as Namespaces, Root};
use connprobe_tests::runner::{Test, TestContext};
use nix::sys::signal::Signal;

use crate::support::SOON;

/// Makes this program the child of one of its tests: it makes a lab, prints the path of the namespace, and waits.
pub(crate) const HOLD_VARIABLE: &str = "CONNPROBE_HARNESS_HOLD";

/// What is checked here.
pub(crate) fn tests() -> Vec<Test> {
    let lab: &[Requirement] = &[Root, Namespaces];
    vec![
        Test::new("a namespace appears with its loopback device up and vanishes with its lab", lab, vanishes),
        Test::new("a panic in a lab removes its namespaces", lab, vanishes_by_panic),
        Test::new("a name that iproute2 could not hold is refused", lab, refuses_names),
        Test::new("what a killed process has left is removed by the next, what a live one has is not", lab, leftovers),
        Test::new("an interrupted process removes its namespaces and exits with 130", lab, interrupted),
        Test::new("a terminated process removes its namespaces and exits with 143", lab, terminated),
        Test::new("a child started in a namespace ends with the lab", lab, children_end),
        Test::new("a setting of one namespace is not that of another", lab, settings),
    ]
}

pub(crate) fn hold() -> Result<()> {
    let lab = Lab::new("hold")?;
    let netns = lab.netns("held")?;
    writeln!(std::io::stdout(), "{}", netns.path().display())?;
    loop {
        thread::park();
    }
}

/// Starts this program as a child that holds a lab; the path is that of its namespace.
fn start_holder() -> Result<(ManagedChild, PathBuf)> {
    let mut command = Command::new(env::current_exe()?);
    command.env(HOLD_VARIABLE, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    let child = ManagedChild::spawn(command)?;
    let mut line = String::new();
    BufReader::new(child.take_stdout().context("no standard output")?).read_line(&mut line)?;
    let path = PathBuf::from(line.trim_end());
    ensure!(path.starts_with(RUN_DIR) && path.exists(), "the child has made nothing: \"{line}\"");
    Ok((child, path))
}

fn vanishes(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let (one, other) = (lab.netns("one")?, lab.netns("one")?);
    ensure!(one.name().starts_with(&format!("{PREFIX}{}-", std::process::id())));
    ensure!(one.name() != other.name() && one.inode() != other.inode());
    ensure!(u64::from(one.inode()) == fs::metadata(one.path())?.ino());
    ensure!(one.run(|| fs::metadata("/proc/thread-self/ns/net"))??.ino() == u64::from(one.inode()));
    let listener = one.run(|| std::net::TcpListener::bind("127.0.0.1:0"))??;
    let address = listener.local_addr()?;
    one.run(|| std::net::TcpStream::connect(address))??;
    ensure!(other.run(|| std::net::TcpStream::connect(address))?.is_err());

    lab.close()?;
    ensure!(!one.path().exists() && !other.path().exists());
    ensure!(one.run(|| ()).is_err(), "a namespace that is gone cannot be entered");
    Ok(())
}

fn vanishes_by_panic(test: &TestContext) -> Result<()> {
    let mut path = None;
    let caught = panic::catch_unwind(AssertUnwindSafe(|| -> Result<()> {
        let lab = test.lab()?;
        let netns = lab.netns("doomed")?;
        path = Some(netns.path().to_owned());
        // Out of the namespace, through the lab: without the hook that prints.
        netns.run(|| panic::resume_unwind(Box::new("doomed")))
    }));
    ensure!(caught.is_err());
    ensure!(!path.context("there was no namespace")?.exists());
    Ok(())
}

fn refuses_names(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    for name in ["", "../x", "a b", "A"] {
        ensure!(lab.netns(name).is_err(), "{name}");
    }
    Ok(())
}

fn leftovers(_: &TestContext) -> Result<()> {
    let (killed, of_killed) = start_holder()?;
    let (live, of_live) = start_holder()?;
    ensure!(of_killed.exists(), "the second process has removed what the first, alive, has");
    killed.kill()?;
    let (next, of_next) = start_holder()?;
    ensure!(!of_killed.exists(), "the third process has left what the first had");
    ensure!(of_live.exists() && of_next.exists());
    for child in [live, next] {
        child.signal(Signal::SIGTERM)?;
        child.wait(SOON)?;
    }
    Ok(())
}

fn interrupted(_: &TestContext) -> Result<()> {
    ends_by(Signal::SIGINT, 130)
}

fn terminated(_: &TestContext) -> Result<()> {
    ends_by(Signal::SIGTERM, 143)
}

fn ends_by(signal: Signal, code: i32) -> Result<()> {
    let (child, path) = start_holder()?;
    child.signal(signal)?;
    let status = child.wait(SOON)?;
    ensure!(status.code() == Some(code), "{status}");
    ensure!(!path.exists());
    Ok(())
}

fn children_end(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let mut command = Command::new("sleep");
    command.arg("1000");
    let child = lab.netns("busy")?.spawn(command)?;
    ensure!(child.try_wait()?.is_none());
    lab.close()?;
    let status = child.wait(SOON)?;
    ensure!(status.signal() == Some(9), "{status}");
    Ok(())
}

fn settings(test: &TestContext) -> Result<()> {
    let lab = test.lab()?;
    let (one, other) = (lab.netns("one")?, lab.netns("other")?);
    one.sysctl("net.ipv4.tcp_retries2", "5")?;
    other.sysctl("net.ipv4.tcp_retries2", "7")?;
    ensure!(one.read_sysctl("net.ipv4.tcp_retries2")? == "5");
    ensure!(other.read_sysctl("net.ipv4.tcp_retries2")? == "7");
    ensure!(one.sysctl("net.ipv4.no_such_setting", "1").is_err());
    ensure!(!one.has_sysctl("net.ipv4.no_such_setting")?);
    Ok(())
}
