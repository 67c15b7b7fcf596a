//! What the browser asks the daemon, and the answers. Each answer names its question, so that one that comes too late
//! is known as such.

use std::path::PathBuf;

use wsguard_api::{
    PastChange, PastKind, PastListing, RestoreJob, RestorePlan, RestoreRequest, SnapshotList, UndoList,
};

use super::content::Content;
use super::moment::MomentKey;

/// A directory at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListOf {
    /// As of when.
    pub(crate) moment: MomentKey,
    /// Absolute.
    pub(crate) dir: PathBuf,
    /// Counts how often everything was asked anew.
    pub(crate) round: u64,
}

/// What is shown of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// What it was.
    #[default]
    Preview,
    /// How it differs from now.
    Difference,
}

/// An entry at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LookAt {
    /// As of when.
    pub(crate) moment: MomentKey,
    /// Absolute.
    pub(crate) path: PathBuf,
    /// What it is.
    pub(crate) kind: PastKind,
    /// What became of it.
    pub(crate) change: PastChange,
    /// What is shown of it.
    pub(crate) mode: Mode,
    /// As [`ListOf::round`].
    pub(crate) round: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Snapshots and deletions of the workspace that a path is in.
    TimeLine(PathBuf),
    /// What is in a directory.
    List(ListOf),
    /// What is in a file.
    Look(LookAt),
    /// What a restore would do; the number comes back with the answer.
    Plan(u64, RestoreRequest),
    /// Restore it, and tell how far it is until it has ended.
    Start(RestoreRequest),
    /// Break the restore off.
    Cancel(u64),
}

/// See the module. Errors are one line for people.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// To [`Question::TimeLine`].
    TimeLine(Result<Box<(SnapshotList, UndoList)>, String>),
    /// To [`Question::List`].
    Listing(ListOf, Result<Box<PastListing>, String>),
    /// To [`Question::Look`].
    Content(LookAt, Content),
    /// To [`Question::Plan`].
    Plan(u64, Result<Box<RestorePlan>, String>),
    /// To [`Question::Start`] and [`Question::Cancel`], several times.
    Job(Result<Box<RestoreJob>, String>),
}
