//! `wsguard sync`: everything written below a path is on disk when it returns.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use wsguard_api::SyncRequest;

use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, Verbosity, elapsed_ms, printable};
use crate::settings::Settings;
use crate::target;

/// Put everything written to a workspace on disk
///
/// Returns once the filesystem below the workspace has written out what it held, as syncfs(2) does. A program's
/// own fsync(2) needs no help from this command.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard sync .", "Before you pull the plug, in a project's directory"),
        ("wsguard sync ~/workspace/bert && touch done", "Only go on once everything is safe"),
    ],
    &[
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::NotFound,
        ExitStatus::Unavailable,
        ExitStatus::TimedOut,
        ExitStatus::Permission,
    ],
))]
pub struct SyncArgs {
    /// Workspace, or any path inside one
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Give up after this long; the disk goes on writing
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// Asks for the sync and says how long it took.
///
/// # Errors
/// Fails if the path is not in a mounted workspace, or the filesystem below could not write.
pub fn run(args: &SyncArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let path = target::existing(&args.path)?;
    let client = Client::new(settings.socket()?)?.with_limit(Duration::from_secs(args.timeout));
    let report = client.sync(&SyncRequest { path })?;
    match (printer.format(), printer.verbosity()) {
        (Format::Json, _) => printer.json(&report)?,
        (Format::Text, Verbosity::Quiet) => {}
        (Format::Text, _) => {
            let line = format!(
                "{} is on disk, in {}\n",
                printable(&report.workspace),
                elapsed_ms(report.elapsed_ms)
            );
            printer.data(&line)?;
        }
    }
    Ok(ExitStatus::Success)
}
