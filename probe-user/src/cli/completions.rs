//! `connprobe completions`: what a shell proposes when Tab is pressed.

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Exit};
use crate::sink::Stdout;

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  connprobe completions bash > /etc/bash_completion.d/connprobe\n  \
    connprobe completions zsh > /usr/local/share/zsh/site-functions/_connprobe\n  \
    connprobe completions fish > ~/.config/fish/completions/connprobe.fish")]
pub(super) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    Stdout.document(&script(args.shell)?)?;
    Ok(Exit::Clean)
}

fn script(shell: Shell) -> anyhow::Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(&Cli::command()), "connprobe", &mut script);
    Ok(String::from_utf8(script)?)
}

/// What `--help` shows of a command: shells would propose hidden options, too.
fn shown(command: &Command) -> Command {
    Command::new(command.get_name().to_owned())
        .version(env!("CARGO_PKG_VERSION"))
        .about(command.get_about().cloned().unwrap_or_default())
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).map(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_is_told_every_subcommand_and_no_hidden_option() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell).unwrap();
            assert!(script.contains("force-mechanism") && !script.contains("test-rename-hook"), "{shell}");
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell} knows no {}", command.get_name());
            }
        }
    }
}
