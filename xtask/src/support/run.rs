//! Running other programs: each is printed before it runs, as one could type it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};

/// Folders of system tools that an ordinary user's `PATH` may lack.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Prints and runs the command; returns how it ended.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    announce(command);
    command.status().with_context(|| format!("cannot start {}", program(command)))
}

/// Prints and runs the command; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("{} failed ({status})", program(command));
    }
    Ok(())
}

/// Runs the command without printing it and returns what it wrote to stdout; anything but success is an error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", program(command)))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", describe(command), output.status, errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Prints the command to stderr, as [`status`] and [`run`] do.
pub(crate) fn announce(command: &Command) {
    eprintln!("+ {}", describe(command));
}

/// Where a program is found, also in the folders of system tools.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
}

/// The cargo that runs this program, else the one in `PATH`.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Whether this process has the effective user id 0.
pub(crate) fn is_root() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    // `Uid: real effective saved filesystem`, proc_pid_status(5).
    let effective =
        status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|ids| ids.split_whitespace().nth(1));
    Ok(effective == Some("0"))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn describe(command: &Command) -> String {
    let mut words: Vec<String> =
        command.get_envs().filter_map(|(name, value)| Some(assignment(&name.to_string_lossy(), value?))).collect();
    words.push(quote(command.get_program()));
    words.extend(command.get_args().map(quote));
    words.join(" ")
}

/// A variable as it is set; a `PATH` with folders put in front names the rest by `$PATH`.
fn assignment(name: &str, value: &OsStr) -> String {
    let text = value.to_string_lossy();
    let inherited = std::env::var(name).unwrap_or_default();
    match text.strip_suffix(&inherited) {
        Some(before) if name == "PATH" && !inherited.is_empty() => format!("PATH={}$PATH", quote(OsStr::new(before))),
        _ => format!("{name}={}", quote(value)),
    }
}

/// A word as a shell reads it back.
pub(crate) fn quote(word: &OsStr) -> String {
    // Cargo separates encoded flags by this control character; a space is what a reader expects.
    let word = word.to_string_lossy().replace('\u{1f}', " ");
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./=:,+%@~".contains(character);
    if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_described_as_one_could_type_it() {
        let mut command = Command::new("cargo");
        command.env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--workspace", ""]);
        assert_eq!(describe(&command), "RUSTDOCFLAGS='-D warnings' cargo doc --workspace ''");
    }

    #[test]
    fn a_removed_variable_is_not_described_as_set() {
        let mut command = Command::new("cargo");
        command.env_remove("RUSTFLAGS");
        assert_eq!(describe(&command), "cargo");
    }

    #[test]
    fn a_program_that_does_not_exist_is_not_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-as-this").is_none());
    }
}
