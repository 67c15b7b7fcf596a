//! `wsguard restore`: files and directories as they were.

pub(super) mod follow;
pub(crate) mod shown;

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use jiff::tz::TimeZone;
use wsguard_api::{ErrorCode, RestoreConflict, RestoreRequest, RestoreWhen};

use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer};
use crate::settings::Settings;
use crate::target;
use crate::when::past_moment;

/// Bring files and directories back as they were
///
/// Without a time they come back as they were just before they were deleted or replaced. What exists and differs stays
/// as it is, and the restored file gets a name beside it, unless an option says otherwise. A snapshot is taken first,
/// so that a restore can be undone. It goes on if this command is ended; `--jobs` shows how far it is.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("moment").args(["at", "snapshot", "before_delete"])),
    group(ArgGroup::new("conflict").args(["keep_both", "overwrite", "only_missing", "if_newer", "exact"])),
    group(ArgGroup::new("job").args(["undo", "resume", "cancel", "jobs"]).conflicts_with_all(["moment", "conflict", "to", "dry_run"])),
    after_help = help::sections(
    &[
        ("wsguard restore notebook.ipynb", "A file that was deleted or saved over"),
        ("wsguard restore src --at '2h ago' --overwrite", "A directory as it was, over what is there now"),
        ("wsguard restore 'data/*.csv' --at 'yesterday 18:00' --to old", "Some files into another directory"),
        ("wsguard restore model --snapshot 42 --dry-run", "What would be done"),
        ("wsguard restore src --at yesterday --tar | tar t", "A directory as it was, as an archive"),
        ("wsguard restore --undo", "Take the last restore back"),
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
pub struct RestoreArgs {
    /// What to restore, in one workspace; its parts may have `*`, `?` and `[…]`. With --undo, --resume, --cancel and
    /// --jobs any path in the workspace, here if absent
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// As of a moment: "2h ago", "yesterday 18:00", 14:05, a date with or without time
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// As of a snapshot, by its number or name
    #[arg(long, value_name = "ID")]
    pub snapshot: Option<String>,
    /// As it was just before it was deleted or replaced last; the default
    #[arg(long)]
    pub before_delete: bool,
    /// Give restored files a name beside what exists and differs; the default
    #[arg(long)]
    pub keep_both: bool,
    /// Replace what exists and differs
    #[arg(long)]
    pub overwrite: bool,
    /// Restore only what does not exist
    #[arg(long)]
    pub only_missing: bool,
    /// Replace what exists if it was modified longer ago than what is restored
    #[arg(long)]
    pub if_newer: bool,
    /// Replace what differs and remove what did not exist then
    #[arg(long)]
    pub exact: bool,
    /// Restore into this directory of the workspace
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Restore also what was changed past the mount since then, as it is now
    #[arg(long)]
    pub accept_changed: bool,
    /// Write a file as it was to standard output instead
    #[arg(long, conflicts_with_all = ["conflict", "to", "job", "dry_run"])]
    pub stdout: bool,
    /// Write a tar archive of all of it to standard output instead
    #[arg(long, conflicts_with_all = ["conflict", "to", "job", "dry_run", "stdout"])]
    pub tar: bool,
    /// Show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before something is replaced or removed
    #[arg(short, long)]
    pub yes: bool,
    /// Take a restore back: the one with this number, or the last one
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "0")]
    pub undo: Option<u64>,
    /// Go on with a restore that was interrupted or is incomplete
    #[arg(long, value_name = "ID")]
    pub resume: Option<u64>,
    /// Break a restore off; what it has restored stays
    #[arg(long, value_name = "ID")]
    pub cancel: Option<u64>,
    /// Show the restores of the workspace
    #[arg(long)]
    pub jobs: bool,
}

/// Restores and says what was done.
///
/// # Errors
/// Fails if the paths are in no workspace, or nothing is known of them.
pub fn run(args: &RestoreArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?.with_limit(follow::LIMIT);
    if args.undo.is_some() || args.resume.is_some() || args.cancel.is_some() || args.jobs {
        return of_job(args, &client, printer);
    }
    let request = request(args, &printer.view().now.to_zoned_datetime(TimeZone::system()))?;
    if args.stdout || args.tar {
        client.restore_read(&request, args.tar, &mut std::io::stdout().lock())?;
        return Ok(ExitStatus::Success);
    }
    let path = request.paths.first().cloned().unwrap_or_default();
    if args.dry_run {
        let plan = client.restore_plan(&request)?;
        match printer.format() {
            Format::Json => printer.json(&plan)?,
            Format::Text => printer.data(&shown::plan(&plan, &TimeZone::system()))?,
        }
        return Ok(ExitStatus::Success);
    }
    let is_destructive = args.overwrite || args.exact || args.if_newer;
    if is_destructive && !args.yes {
        let plan = client.restore_plan(&request)?;
        if plan.counts.replaced + plan.counts.removed > 0 {
            if printer.format() == Format::Text {
                printer.note(&shown::plan(&plan, &TimeZone::system()));
            }
            if !follow::is_confirmed("go on?", printer)? {
                printer.note("nothing was changed");
                return Ok(ExitStatus::Success);
            }
        }
    }
    let job = client.restore_start(&request)?;
    follow::follow(&client, &path, job, printer)
}

/// What concerns restores that were begun.
fn of_job(args: &RestoreArgs, client: &Client, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let path = match args.paths.as_slice() {
        [] => target::existing(Path::new("."))?,
        [path] => target::maybe_missing(path)?,
        _ => {
            return Err(CliError::new(ErrorCode::InvalidRequest, "more than one path is named")
                .with_hint("name one path in the workspace"));
        }
    };
    if args.jobs {
        let jobs = client.restore_jobs(&path)?;
        match printer.format() {
            Format::Json => printer.json(&jobs)?,
            Format::Text => printer.data(&shown::jobs(&jobs, &printer.view()))?,
        }
        return Ok(ExitStatus::Success);
    }
    let job = match (args.undo, args.resume, args.cancel) {
        (Some(id), ..) => client.restore_action(&path, id, "reverse")?,
        (_, Some(id), _) => client.restore_action(&path, id, "resume")?,
        (.., id) => client.restore_action(&path, id.unwrap_or_default(), "cancel")?,
    };
    follow::follow(client, &path, job, printer)
}

fn request(args: &RestoreArgs, now: &jiff::ZonedDateTime) -> Result<RestoreRequest, CliError> {
    if args.paths.is_empty() {
        return Err(CliError::new(ErrorCode::InvalidRequest, "no path is named")
            .with_hint("name what is to be restored; what was deleted lately is in `wsguard undo --list`"));
    }
    let when = match (&args.at, &args.snapshot) {
        (Some(at), _) => RestoreWhen::At(past_moment("--at", at, now)?.to_string()),
        (None, Some(snapshot)) => RestoreWhen::Snapshot(snapshot.clone()),
        (None, None) => RestoreWhen::BeforeDelete,
    };
    Ok(RestoreRequest {
        paths: args.paths.iter().map(|path| target::maybe_missing(path)).collect::<Result<_, _>>()?,
        when,
        conflict: conflict(args),
        to: args.to.as_deref().map(target::maybe_missing).transpose()?,
        accept_changed: args.accept_changed,
    })
}

fn conflict(args: &RestoreArgs) -> RestoreConflict {
    match (args.overwrite, args.only_missing, args.if_newer, args.exact) {
        (true, ..) => RestoreConflict::Overwrite,
        (_, true, ..) => RestoreConflict::OnlyMissing,
        (_, _, true, _) => RestoreConflict::IfNewer,
        (.., true) => RestoreConflict::Exact,
        _ => RestoreConflict::KeepBoth,
    }
}
