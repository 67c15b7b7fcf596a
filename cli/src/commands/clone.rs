//! `wsguard clone`: a new directory from the past.

use std::path::{Path, PathBuf};

use clap::Args;
use jiff::tz::TimeZone;
use wsguard_api::{CloneRequest, RestoreJob, RestorePlan, RestoreWhen};

use super::restore::{follow, shown};
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer};
use crate::settings::Settings;
use crate::target;
use crate::when::past_moment;

/// Make a new directory from a snapshot
///
/// The new directory holds everything as it was: contents and holes, links, modes, times, attributes, and owners as far
/// as you may set them. Blocks are shared where the filesystem can. It lies wherever you can make directories yourself;
/// in a workspace it counts to its quota. Outside this workspace it appears when it is complete. The clone goes on if
/// this command is ended; `wsguard restore --jobs` shows how far it is, `--cancel` breaks it off, `--resume` goes on.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard clone 42 ~/workspace/bert-before", "Snapshot 42 of the workspace that you are in"),
        ("wsguard clone paper /scratch/paper --of ~/workspace/bert/src", "One directory of a snapshot with a name"),
        ("wsguard clone 'yesterday 18:00' old --dry-run", "What would be made"),
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
pub struct CloneArgs {
    /// The snapshot, by its number or name, or a time: "2h ago", "yesterday 18:00", 14:05, a date with or without time
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: String,
    /// The new directory, which must not exist or be empty
    #[arg(value_name = "NEWDIR")]
    pub to: PathBuf,
    /// Clone this directory; the whole workspace that you are in if absent
    #[arg(long, value_name = "DIR")]
    pub of: Option<PathBuf>,
    /// Clone also what was changed past the mount since then, as it is now
    #[arg(long)]
    pub accept_changed: bool,
    /// Show what would be made
    #[arg(long)]
    pub dry_run: bool,
}

/// Clones and says what was made.
///
/// # Errors
/// Fails if nothing is known of the snapshot, or the new directory cannot be there.
pub fn run(args: &CloneArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?.with_limit(follow::LIMIT);
    let path = target::maybe_missing(args.of.as_deref().unwrap_or(Path::new(".")))?;
    let mut request = CloneRequest {
        path: path.clone(),
        only_path: args.of.is_some(),
        when: RestoreWhen::Snapshot(args.snapshot.clone()),
        to: target::maybe_missing(&args.to)?,
        accept_changed: args.accept_changed,
    };
    // A name wins over a time, so that what a snapshot is called can always be said.
    let is_number = args.snapshot.trim_start_matches('#').parse::<u32>().is_ok();
    if !is_number && !is_snapshot(&client, &path, &args.snapshot)? {
        let now = printer.view().now.to_zoned_datetime(TimeZone::system());
        if let Ok(at) = past_moment("SNAPSHOT", &args.snapshot, &now) {
            request.when = RestoreWhen::At(at.to_string());
        }
    }
    if args.dry_run {
        let plan: RestorePlan = client.clone_request("plan", &request)?;
        match printer.format() {
            Format::Json => printer.json(&plan)?,
            Format::Text => printer.data(&shown::plan(&plan, &TimeZone::system()))?,
        }
        return Ok(ExitStatus::Success);
    }
    let job: RestoreJob = client.clone_request("start", &request)?;
    follow::follow(&client, &path, job, printer)
}

fn is_snapshot(client: &Client, path: &Path, name: &str) -> Result<bool, CliError> {
    let snapshots = client.snapshots(path)?;
    Ok(snapshots.items.iter().any(|snapshot| snapshot.name.as_deref() == Some(name)))
}
