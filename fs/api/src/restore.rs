use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{ErrorCode, exact};

/// As of when something is restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "value")]
pub enum RestoreWhen {
    /// Just before the path was deleted or replaced last; also if it exists again.
    #[default]
    BeforeDelete,
    /// At a time, RFC 3339.
    At(String),
    /// At a snapshot, by its number or name.
    Snapshot(String),
    /// Just before a burst of deletions, by [`UndoBurst::id`].
    BeforeBurst(String),
}

/// What becomes of a file that exists and differs from the one that is restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreConflict {
    /// It stays, and the restored one gets a name of its own beside it.
    #[default]
    KeepBoth,
    /// It is replaced. It is in the history then.
    Overwrite,
    /// It stays, and nothing is restored there.
    OnlyMissing,
    /// It is replaced if it was changed longer ago than the restored one.
    IfNewer,
    /// As `Overwrite`, and what did not exist then is removed. It is in the history then.
    Exact,
}

/// Asks for files or directories as they were, or what restoring them would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// Absolute paths in one workspace. A component with `*`, `?` or `[` is a pattern.
    #[serde(with = "exact::paths")]
    pub paths: Vec<PathBuf>,
    /// As of when.
    #[serde(default)]
    pub when: RestoreWhen,
    /// What becomes of what exists.
    #[serde(default)]
    pub conflict: RestoreConflict,
    /// The directory of the same workspace that they are restored into, under their own names; `None`: where they were.
    #[serde(default)]
    pub to: Option<PathBuf>,
    /// Restore also what was changed past the mount in the meantime, as it is.
    #[serde(default)]
    pub accept_changed: bool,
}

/// Asks for a new directory made from a workspace as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// An absolute path in the workspace.
    pub path: PathBuf,
    /// Only the directory `path`, not the whole workspace that it lies in.
    #[serde(default)]
    pub only_path: bool,
    /// As of when; not [`RestoreWhen::BeforeDelete`].
    pub when: RestoreWhen,
    /// The new directory, absolute. It must not exist, or be empty.
    pub to: PathBuf,
    /// Clone also what was changed past the mount in the meantime, as it is.
    #[serde(default)]
    pub accept_changed: bool,
}

/// Asks for the reversal of a burst of deletions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndoRequest {
    /// A path in the workspace.
    pub path: PathBuf,
    /// Which burst, by [`UndoBurst::id`]; `None`: the last one that was not undone.
    #[serde(default)]
    pub burst: Option<String>,
    /// What becomes of files that exist now at names that are restored.
    #[serde(default)]
    pub conflict: RestoreConflict,
}

/// Counts of a plan or of what was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestoreCounts {
    /// Files of any type but directories that are restored.
    pub files: u64,
    /// Directories that are made.
    pub directories: u64,
    /// Sizes of these files together.
    pub bytes: u64,
    /// Of the files: deleted ones that come back as they are, without a copy.
    pub put_back: u64,
    /// Of the files: those that get a name beside one that exists.
    pub beside: u64,
    /// Of the files: those that replace one that exists.
    pub replaced: u64,
    /// Files and directories of which only the attributes are set.
    pub attributes: u64,
    /// Files and directories that are as they were.
    pub unchanged: u64,
    /// Files and directories that are removed.
    pub removed: u64,
    /// Files that are left alone because something exists there.
    pub skipped: u64,
    /// Files that cannot be restored.
    pub failed: u64,
    /// Of the files: those that a mapping may have changed unseen at about that time.
    pub fuzzy: u64,
}

/// Something about one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreNote {
    /// The path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// What about it.
    pub reason: String,
}

/// From when a path comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOrigin {
    /// The path.
    pub path: String,
    /// The time; `None` if nothing was changed since.
    pub at: Option<String>,
}

/// What a restore would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePlan {
    /// See [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace's name.
    pub workspace: String,
    /// From when.
    pub origins: Vec<RestoreOrigin>,
    /// How much.
    pub counts: RestoreCounts,
    /// Bytes that it takes at most.
    pub needed_bytes: u64,
    /// Bytes that may still be written, as far as anybody knows.
    pub available_bytes: Option<u64>,
    /// Inodes that it takes.
    #[serde(default)]
    pub needed_inodes: u64,
    /// Inodes that may still be made, as far as anybody knows and they are bounded.
    #[serde(default)]
    pub available_inodes: Option<u64>,
    /// What is not restored or not exactly, the first hundred.
    pub notes: Vec<RestoreNote>,
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreState {
    /// It is being found out what to do.
    Planning,
    /// Files are being restored.
    Running,
    /// Everything is restored.
    Done,
    /// Some files could not be restored.
    Partial,
    /// Nothing was changed, or it broke off.
    Failed,
    /// Somebody broke it off.
    Cancelled,
    /// The daemon died or stopped; it can be resumed.
    Interrupted,
}

/// What a restore came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreKind {
    /// Paths as they were.
    Restore,
    /// The reversal of a burst of deletions.
    Undo,
    /// The reversal of a restore.
    Reversal,
    /// A new directory made from the past.
    Clone,
}

/// A restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreJob {
    /// See [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// Its number in the workspace.
    pub id: u64,
    /// The workspace's name.
    pub workspace: String,
    /// What it is.
    pub kind: RestoreKind,
    /// How far it is.
    pub state: RestoreState,
    /// When it began.
    pub started_at: String,
    /// When it ended.
    pub finished_at: Option<String>,
    /// The snapshot that was taken before anything was changed.
    pub snapshot: Option<u32>,
    /// Files and directories to do; grows while it is planned.
    pub total: u64,
    /// Files and directories done.
    pub done: u64,
    /// Bytes to do.
    pub total_bytes: u64,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes a second so far.
    pub bytes_per_second: f64,
    /// Seconds that it will take at this rate.
    pub eta_seconds: Option<u64>,
    /// What was done.
    pub counts: RestoreCounts,
    /// What could not be restored, the first hundred.
    pub failures: Vec<RestoreNote>,
    /// Why it failed as a whole.
    pub error: Option<String>,
    /// What kind of failure that is; given whenever `error` is.
    #[serde(default)]
    pub error_code: Option<ErrorCode>,
    /// What an ended one left: other files beside, a name that was changed.
    pub notes: Vec<RestoreNote>,
}

/// The restores of a workspace, latest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreJobs {
    /// See [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The jobs.
    pub items: Vec<RestoreJob>,
}

/// What one process deleted or overwrote at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoBurst {
    /// What names it.
    pub id: String,
    /// When it began.
    pub at: String,
    /// When it ended.
    pub until: String,
    /// Files that were deleted.
    pub files: u64,
    /// Directories that were removed.
    pub directories: u64,
    /// Files over which another was renamed.
    pub replaced: u64,
    /// Files that were cut off.
    pub truncated: u64,
    /// What is kept of it, bytes.
    pub bytes: u64,
    /// Who.
    pub uid: u32,
    /// The process; 0 if it is not known.
    pub pid: u32,
    /// Its command name; empty if it is not known.
    pub command: String,
    /// Its arguments, shortened.
    pub command_line: String,
    /// The whole id of its container.
    pub container: Option<String>,
    /// Where: the topmost of what it deleted, at most ten.
    pub paths: Vec<String>,
    /// It was undone, by this job.
    pub undone_by: Option<u64>,
}

/// The bursts of a workspace, latest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoList {
    /// See [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace's name.
    pub workspace: String,
    /// The bursts.
    pub items: Vec<UndoBurst>,
}

/// What the reversal of a burst would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoPreview {
    /// See [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The burst.
    pub burst: UndoBurst,
    /// What would be done.
    pub plan: RestorePlan,
}
