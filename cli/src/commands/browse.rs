//! `wsguard browse`: leafing through the past in the terminal.

use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use wsguard_api::{ErrorCode, RestoreState};

use super::restore::follow::LIMIT;
use crate::browse::{self, Ending, State};
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer};
use crate::settings::Settings;
use crate::target;

/// Leaf through snapshots and deleted files, and restore them
///
/// Shows the time line of the workspace, the directory as it was, and what a file held or how it differs from now. Files
/// can be marked and restored; nothing is changed before you have seen what would be. Press ? for the keys. It needs a
/// terminal; programs use `snapshot ls`, `undo --list` and `restore` with --json.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard browse", "The workspace that you are in"),
        ("wsguard browse src/notebook.ipynb", "The versions of a file, also of one that is gone"),
    ],
    &[
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::NotFound,
        ExitStatus::Unavailable,
        ExitStatus::TimedOut,
        ExitStatus::Permission,
        ExitStatus::Interrupted,
    ],
))]
pub struct BrowseArgs {
    /// A directory or file in a workspace; it may be gone
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
}

/// Shows the browser until the user has seen enough.
///
/// # Errors
/// Fails without a terminal, or if the path is in no workspace.
pub fn run(args: &BrowseArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let other_way = "for programs there are `wsguard snapshot ls --json`, `wsguard undo --list --json` and `wsguard restore`";
    if printer.format() == Format::Json {
        return Err(CliError::new(ErrorCode::InvalidRequest, "browse prints no JSON").with_hint(other_way));
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(CliError::new(
            ErrorCode::InvalidRequest,
            "browse needs a terminal for its input and its output",
        )
        .with_hint(other_way));
    }
    let path = target::maybe_missing(&args.path)?;
    let client = Client::new(settings.socket()?)?.with_limit(LIMIT);
    // Asked here, so that what is wrong with it is an error like that of every other command.
    client.snapshots(&path)?;
    let (dir, name) = match (path.is_dir(), path.parent(), path.file_name()) {
        (false, Some(parent), Some(name)) => (parent.to_path_buf(), Some(name.as_bytes().to_vec())),
        _ => (path.clone(), None),
    };
    let (state, ending) = browse::run(client, State::new(dir, name), printer.is_coloured())?;
    if let Some(job) = state.job
        && matches!(job.state, RestoreState::Planning | RestoreState::Running)
    {
        printer.note(&format!("restore {} goes on; see `wsguard restore --jobs`", job.id));
    }
    Ok(match ending {
        Ending::Quit => ExitStatus::Success,
        Ending::Stopped => ExitStatus::Interrupted,
    })
}
