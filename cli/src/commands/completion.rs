//! `wsguard completion`: shell completions on stdout.

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use crate::args;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::Printer;

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard completion bash > /etc/bash_completion.d/wsguard", "Complete commands in every bash"),
        ("wsguard completion zsh > ~/.zfunc/_wsguard", "Complete commands in your zsh"),
        ("wsguard completion fish > ~/.config/fish/completions/wsguard.fish", "Complete commands in your fish"),
    ],
    &[ExitStatus::Success, ExitStatus::Failure, ExitStatus::Usage],
))]
pub struct CompletionArgs {
    /// Shell to complete in
    #[arg(value_name = "SHELL")]
    pub shell: CompletionShell,
}

/// The shells that have a completion script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompletionShell {
    /// GNU bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// Prints the script.
///
/// # Errors
/// Fails if stdout takes no more.
pub fn run(args: &CompletionArgs, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let shell = match args.shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "wsguard", &mut script);
    printer.data(&String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::Success)
}
