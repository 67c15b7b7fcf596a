//! `wsguard snapshot`: a workspace as it was.

mod change;
mod create;
mod diff;
mod du;
mod ls;
mod show;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use wsguard_api::{Snapshot, SnapshotSafety};

use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Printer, Tone};
use crate::settings::Settings;

/// What every command below ends with.
pub(super) const STATUSES: [ExitStatus; 8] = [
    ExitStatus::Success,
    ExitStatus::Failure,
    ExitStatus::Usage,
    ExitStatus::NotFound,
    ExitStatus::Conflict,
    ExitStatus::Unavailable,
    ExitStatus::TimedOut,
    ExitStatus::Permission,
];

/// Take, list, compare and delete snapshots
///
/// A snapshot costs nothing when it is taken, whatever the size of the workspace, and delays nobody. While files change
/// one is taken every minute; most of these go again after a while (see `wsguard retention preview`). A snapshot is
/// named by its number or by the name that it was given.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_help = help::sections(
    &[
        ("wsguard snapshot create --name before-refactoring", "Take one of the workspace that you are in"),
        ("wsguard snapshot ls", "See what there is, and why it is kept"),
        ("wsguard snapshot diff before-refactoring", "See what has changed since then"),
        ("wsguard snapshot rm 17 18", "Delete two"),
    ],
    &STATUSES,
))]
pub struct SnapshotArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SnapshotCommand,
}

/// The commands of snapshot.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the doc comment of each argument struct is the help text of its command")]
pub enum SnapshotCommand {
    Create(create::CreateArgs),
    Ls(ls::LsArgs),
    Show(show::ShowArgs),
    Diff(diff::DiffArgs),
    Rm(change::RmArgs),
    Hold(change::HoldArgs),
    Unhold(change::UnholdArgs),
    Du(du::DuArgs),
}

/// Runs one of them.
///
/// # Errors
/// Whatever keeps the command from doing what was asked.
pub fn run(args: &SnapshotArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    match &args.command {
        SnapshotCommand::Create(args) => create::run(args, settings, printer),
        SnapshotCommand::Ls(args) => ls::run(args, settings, printer),
        SnapshotCommand::Show(args) => show::run(args, settings, printer),
        SnapshotCommand::Diff(args) => diff::run(args, settings, printer),
        SnapshotCommand::Rm(args) => change::remove(args, settings, printer),
        SnapshotCommand::Hold(args) => change::hold(args, settings, printer),
        SnapshotCommand::Unhold(args) => change::unhold(args, settings, printer),
        SnapshotCommand::Du(args) => du::run(args, settings, printer),
    }
}

/// Which workspace is meant, for commands whose arguments are snapshots.
#[derive(Debug, Args)]
pub struct OfWorkspace {
    /// Of this workspace, or the one that this path lies in
    #[arg(short = 'w', long = "workspace", value_name = "PATH", default_value = ".")]
    pub workspace: PathBuf,
}

impl OfWorkspace {
    fn path(&self) -> Result<PathBuf, CliError> {
        crate::target::maybe_missing(&self.workspace)
    }
}

/// Returns a time as people read it here.
pub(super) fn local_time(at: &str) -> String {
    let Ok(time) = at.parse::<Timestamp>() else { return at.to_owned() };
    time.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn safety_cell(safety: SnapshotSafety) -> Cell {
    match safety {
        SnapshotSafety::Sealed => Cell::toned("sealed", Tone::Faint),
        SnapshotSafety::Durable => Cell::new("durable"),
        SnapshotSafety::Uploaded => Cell::new("uploaded"),
        SnapshotSafety::Verified => Cell::toned("verified", Tone::Good),
        SnapshotSafety::Degraded => Cell::toned("degraded", Tone::Bad),
        SnapshotSafety::Incomplete => Cell::toned("incomplete", Tone::Warning),
    }
}

fn kept_cell(snapshot: &Snapshot) -> Cell {
    if snapshot.kept_because.is_empty() {
        return Cell::toned("goes soon", Tone::Warning);
    }
    Cell::new(snapshot.kept_because.join("; "))
}

/// Whether an argument means a snapshot rather than a path.
fn is_snapshot(text: &str, snapshots: &[Snapshot]) -> bool {
    text == "now"
        || text.parse::<u32>().is_ok()
        || (!Path::new(text).exists()
            && snapshots.iter().any(|snapshot| snapshot.name.as_deref() == Some(text)))
}
