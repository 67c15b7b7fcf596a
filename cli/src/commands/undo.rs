//! `wsguard undo`: the last deletion taken back.

use std::path::PathBuf;

use clap::Args;
use jiff::tz::TimeZone;
use wsguard_api::{RestoreConflict, UndoRequest};

use super::restore::{follow, shown};
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer};
use crate::settings::Settings;
use crate::target;

/// Take the last deletion back
///
/// Shows what one process deleted or overwrote at one time, who it was, and brings it back: deleted files return as the
/// same files, without a copy. What has appeared at their names since then stays, and the restored file gets a name
/// beside it, unless --overwrite says otherwise. `wsguard restore --undo` takes an undo back.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard undo", "After an rm -rf too many, in the workspace"),
        ("wsguard undo --dry-run", "What was deleted last, and what would come back"),
        ("wsguard undo --list ~/workspace/bert", "What could be undone"),
    ],
    &[
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::NotFound,
        ExitStatus::Conflict,
        ExitStatus::Denied,
        ExitStatus::Unavailable,
        ExitStatus::TimedOut,
        ExitStatus::Permission,
        ExitStatus::Partial,
    ],
))]
pub struct UndoArgs {
    /// Any path in the workspace
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// Undo this one instead of the last; see --list
    #[arg(long, value_name = "ID")]
    pub burst: Option<String>,
    /// Replace what has appeared at the names of deleted files
    #[arg(long, conflicts_with = "only_missing")]
    pub overwrite: bool,
    /// Leave names alone at which something has appeared
    #[arg(long)]
    pub only_missing: bool,
    /// Show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Show what could be undone
    #[arg(long, conflicts_with_all = ["burst", "overwrite", "only_missing", "dry_run", "yes"])]
    pub list: bool,
}

/// Shows the burst, asks, and undoes it.
///
/// # Errors
/// Fails if there is nothing to undo, or nobody can be asked.
pub fn run(args: &UndoArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let path = target::maybe_missing(&args.path)?;
    let client = Client::new(settings.socket()?)?.with_limit(follow::LIMIT);
    let view = printer.view();
    if args.list {
        let list = client.undo_list(&path)?;
        match printer.format() {
            Format::Json => printer.json(&list)?,
            Format::Text => printer.data(&shown::bursts(&list, &view))?,
        }
        return Ok(ExitStatus::Success);
    }
    let conflict = match (args.overwrite, args.only_missing) {
        (true, _) => RestoreConflict::Overwrite,
        (_, true) => RestoreConflict::OnlyMissing,
        _ => RestoreConflict::KeepBoth,
    };
    let mut request = UndoRequest { path: path.clone(), burst: args.burst.clone(), conflict };
    if args.dry_run || !args.yes {
        let preview = client.undo_preview(&request)?;
        match printer.format() {
            Format::Json if args.dry_run => printer.json(&preview)?,
            Format::Json => {}
            Format::Text => {
                let text =
                    shown::burst(&preview.burst, &view) + &shown::plan(&preview.plan, &TimeZone::system());
                if args.dry_run { printer.data(&text)? } else { printer.note(&text) }
            }
        }
        if args.dry_run {
            return Ok(ExitStatus::Success);
        }
        if !follow::is_confirmed("bring it back?", printer)? {
            printer.note("nothing was changed");
            return Ok(ExitStatus::Success);
        }
        // What was shown, also if something else is deleted meanwhile.
        request.burst = Some(preview.burst.id);
    }
    let job = client.undo_start(&request)?;
    follow::follow(&client, &path, job, printer)
}
