//! What the program says of itself, and to who calls it wrongly: nothing of it changes without being seen.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use connprobe_tests::probe::{self, Finished, Probe};

const SOON: Duration = Duration::from_secs(30);

/// What it says on a terminal of eighty columns, whatever the terminal and the environment of this test are.
fn run(arguments: &[&str]) -> Result<Finished> {
    run_with(arguments, &[("COLUMNS", "80")])
}

fn run_with(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Finished> {
    let mut command = Command::new(probe::program()?);
    command.args(arguments).env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
    Probe::start_command(command)?.finish(SOON)
}

fn snapshot(name: &str, arguments: &[&str]) -> Result<()> {
    let Finished { code, stdout, stderr, .. } = run(arguments)?;
    let told = format!("exit code: {code:?}\n----- stdout -----\n{stdout}\n----- stderr -----\n{stderr}");
    let lines: Vec<_> = told.lines().map(str::trim_end).collect();
    let description = [&["connprobe"], arguments].concat().join(" ");
    insta::with_settings!({ description => description, omit_expression => true }, {
        insta::assert_snapshot!(name, lines.join("\n"));
    });
    Ok(())
}

/// The subcommands that `--help` names.
fn subcommands() -> Result<Vec<String>> {
    let help = run(&["--help"])?.stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What a name means goes on in lines that are indented deeper.
    let names = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names: Vec<_> = names.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect();
    ensure!(names.len() >= 10, "{names:?}");
    Ok(names)
}

#[test]
fn every_help_is_as_it_was_read() {
    snapshot("help", &["--help"]).unwrap();
    for name in subcommands().unwrap() {
        snapshot(&format!("help_of_{name}"), &[&name, "--help"]).unwrap();
    }
}

#[test]
fn every_help_has_examples_and_is_no_wider_than_the_terminal() {
    for name in subcommands().unwrap() {
        let help = run(&[&name, "--help"]).unwrap().stdout;
        assert!(help.contains(&format!("\nExamples:\n  connprobe {name}")), "{help}");
        let wide: Vec<_> = help.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.iter().all(|line| line.starts_with("  connprobe ")), "{wide:?}");
    }
}

#[test]
fn wrong_arguments_are_answered_with_what_is_right() {
    for (name, arguments) in [
        ("nothing", &[][..]),
        ("no_such_command", &["diagnos"]),
        ("no_such_option", &["diagnose", "--ports", "5672"]),
        ("no_such_value", &["snapshot", "--format", "xml"]),
        ("no_such_time", &["diagnose", "--duration", "soon"]),
        ("no_such_verdict", &["explain", "half_closed"]),
        ("nothing_to_write_to", &["record"]),
    ] {
        snapshot(name, arguments).unwrap();
    }
}

#[test]
fn what_was_typed_does_not_act_on_the_terminal_that_it_is_told_on() {
    for arguments in [&["explain", "\x1b[2Jx"][..], &["\u{202e}x"], &["replay", "/\x1b[2J/x"]] {
        let told = run_with(arguments, &[("CLICOLOR_FORCE", "1")]).unwrap();
        assert_eq!((told.code, told.stdout.as_str()), (Some(2), ""), "{}", told.stderr);
        let acts = |character: char| character == '\u{202e}' || character.is_control() && character != '\n';
        assert!(told.stderr.contains('x') && !told.stderr.contains(acts), "{:?}", told.stderr);
    }
}

#[test]
fn colours_come_and_go_as_the_environment_asks() {
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/retransmit_stalled-endpoint.rec");
    let has_colours = |variables: &[_]| run_with(&["replay", recording], variables).unwrap().stdout.contains('\x1b');
    assert!(!has_colours(&[("TERM", "xterm-256color")]), "a pipe is no terminal");
    assert!(has_colours(&[("CLICOLOR_FORCE", "1")]));
    assert!(!has_colours(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
}
