//! `wsguard quota shell-hook`: what a login shell does to print notices.

use clap::Args;

use super::STATUSES;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::Printer;
use crate::settings::Settings;

/// Where a user's notices are.
const PLACE: &str = "@MOTD@";

/// For any POSIX shell. Names that it sets stay in its own process.
const HOOK: &str = include_str!("shell_hook.sh");

/// Print a piece of shell that shows each notice once at login
///
/// For /etc/profile.d/wsguard.sh on the host and in images, or a user's own profile. It reads the user's file below the
/// runtime directory (`motd`) and, in a container, the notices of /workspace (WSGUARD_WORKSPACE names another place), and
/// remembers the last one in ~/.local/state/wsguard. Only interactive shells print anything.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard quota shell-hook | sudo tee /etc/profile.d/wsguard.sh", "For everybody on this machine"),
        ("eval \"$(wsguard quota shell-hook)\"", "In your own ~/.profile"),
    ],
    &STATUSES,
))]
pub struct ShellHookArgs {}

/// Prints it.
///
/// # Errors
/// Fails if the config names directories that cannot be.
pub(super) fn run(
    _args: &ShellHookArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let motd = settings.daemon_socket()?.with_file_name("motd");
    printer.data(&HOOK.replace(PLACE, &quoted(&motd.to_string_lossy())))?;
    Ok(ExitStatus::Success)
}

/// Returns a word that a shell takes as it is.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
