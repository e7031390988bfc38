//! The harness itself: what it makes really fails the way a lab wants it, and nothing stays behind.

mod links;
mod namespaces;
mod peers;
mod support;

use std::env;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, ensure};
use connprobe_tests::probe::Probe;
use connprobe_tests::runner::{Test, TestContext, run};

use crate::support::SOON;

fn main() -> ExitCode {
    if env::var_os(namespaces::HOLD_VARIABLE).is_some() {
        return match namespaces::hold() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let mut tests = namespaces::tests();
    tests.extend(links::tests());
    tests.extend(peers::tests());
    tests.push(Test::new("output of the program is read as it comes", &[], program_output));
    run("kernel", tests)
}

fn program_output(_: &TestContext) -> Result<()> {
    let script = r#"trap 'echo "{\"type\":\"summary\"}"; exit 1' INT
        echo ready >&2; echo '{"type":"heartbeat"}'; echo text; while :; do sleep 0.02; done"#;
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let probe = Probe::start_command(command)?;
    probe.wait_stderr("read", SOON)?;
    probe.wait_type("heartbeat", SOON)?;
    ensure!(probe.wait_type("heartbeat", Duration::from_millis(50)).is_err(), "a record is returned once");
    let finished = probe.stop(SOON)?;
    ensure!(finished.code == Some(1) && finished.records.len() == 2, "{finished:?}");
    ensure!(finished.stdout.contains("text\n") && finished.stderr == "ready\n", "{finished:?}");
    Ok(())
}
