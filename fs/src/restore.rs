//! Restoring: files and directories as they were, the reversal of deletions, and the reversal of that.
//!
//! Guarantees: a snapshot is taken before anything is changed, so that what a restore does can be reversed; whatever is
//! replaced or removed goes the way of a user's own deletion, quota and history included; no file appears under its name
//! before it is complete and, where the store has a hash of it, verified. What is done is noted in a ledger, so that a
//! restore whose worker died is taken up where it ended.
//!
//! How: a *plan* says for every path what stands there, what becomes of it and where the bytes come from; it is what
//! `--dry-run` shows. The *executor* carries it out below directories that it holds, never through paths, so that
//! nobody can lead it elsewhere by swapping a directory for a link; whatever has changed since the plan was made is
//! decided anew. A deleted inode that the store has comes back by a rename, everything else as a copy or clone.
//!
//! Jobs run on threads of their own, several workspaces at a time, one job in each.

mod clone;
mod decide;
mod deleted;
mod execute;
mod ground;
mod jobs;
mod ledger;
pub(crate) mod look;
mod moment;
mod place;
mod plan;
mod reverse;
mod stream;
mod undo;
mod verbs;
mod walk;

use std::path::PathBuf;

use rustix::io::Errno;
use wsguard_api::{ApiError, ErrorCode};

pub(crate) use clone::{CloneWanted, Credentials};
pub(crate) use deleted::{Deleted, deleted};
pub(crate) use ground::Ground;
pub(crate) use jobs::{Jobs, Wanted};
pub(crate) use stream::{Export, Form};
pub(crate) use undo::{PastBurst, bursts};
pub(crate) use verbs::{Answer, Line};

use crate::error_chain::one_line;
use crate::snapshot::ArchiveError;

/// Why a restore cannot be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// The past cannot be asked about.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The files cannot be looked at.
    #[error("cannot look at the workspace's files")]
    Files(#[from] Errno),
    /// The job's record or ledger cannot be kept.
    #[error("cannot keep the record of the restore")]
    Record(#[source] std::io::Error),
    /// A path is not in the history.
    #[error("{path:?} {reason}")]
    NotFound {
        /// Relative to the workspace.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no such snapshot.
    #[error("there is no snapshot {0:?}")]
    NoSnapshot(String),
    /// There is no such burst, or none at all.
    #[error("{0}")]
    NoBurst(&'static str),
    /// There is no such job.
    #[error("there is no restore {0} in this workspace")]
    NoJob(u64),
    /// A request that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Another one runs.
    #[error("restore {0} is at work in this workspace")]
    Busy(u64),
    /// It does not fit.
    #[error("restoring takes {needed} bytes, and only {available} may still be written")]
    NoRoom {
        /// What it takes.
        needed: u64,
        /// What there is.
        available: u64,
    },
    /// It has too many files.
    #[error("restoring takes {needed} inodes, and only {available} may still be made")]
    NoInodes {
        /// What it takes.
        needed: u64,
        /// What there is.
        available: u64,
    },
    /// A clone is to be where something stands.
    #[error("{path:?} {why}")]
    Taken {
        /// The new directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A clone is to be where the caller may not write.
    #[error("you may not write to {path:?}: {errno}")]
    NotYours {
        /// The new directory or the one around it.
        path: PathBuf,
        /// What the kernel says.
        errno: Errno,
    },
    /// A clone cannot be made there.
    #[error("cannot make {path:?}: {errno}")]
    NoPlace {
        /// The new directory or the one around it.
        path: PathBuf,
        /// What the kernel says.
        errno: Errno,
    },
}

impl RestoreError {
    /// Returns it as clients read it.
    pub(crate) fn to_api(&self) -> ApiError {
        let error = |code| ApiError::new(code, one_line(self));
        match self {
            Self::Archive(_) | Self::Files(_) | Self::Record(_) => {
                error(ErrorCode::Internal).with_hint("see the daemon's log")
            }
            Self::NotFound { .. } => error(ErrorCode::NotFound).with_hint(
                "see what was deleted with `wsguard log --deleted`, or give another time with --at",
            ),
            Self::NoSnapshot(_) => error(ErrorCode::NotFound)
                .with_hint("a snapshot is named by its number or its name; or give a time with --at"),
            Self::NoBurst(_) => error(ErrorCode::NotFound).with_hint("see `wsguard undo --list`"),
            Self::NoJob(_) => error(ErrorCode::NotFound).with_hint("see `wsguard restore --jobs PATH`"),
            Self::Invalid(_) => error(ErrorCode::InvalidRequest),
            Self::Busy(_) => error(ErrorCode::Conflict).with_hint("wait until it has ended, or cancel it"),
            Self::NoRoom { .. } | Self::NoInodes { .. } => error(ErrorCode::Denied)
                .with_hint("delete what is not needed or ask for a higher limit; nothing was changed"),
            Self::Taken { .. } => {
                error(ErrorCode::Conflict).with_hint("name a directory that does not exist yet, or is empty")
            }
            Self::NotYours { .. } => {
                error(ErrorCode::Permission).with_hint("name a place where you can make directories yourself")
            }
            Self::NoPlace { errno: Errno::NOENT | Errno::NOTDIR, .. } => {
                error(ErrorCode::NotFound).with_hint("make the directory around it first")
            }
            Self::NoPlace { errno: Errno::EXIST | Errno::NOTEMPTY | Errno::BUSY, .. } => {
                error(ErrorCode::Conflict)
                    .with_hint("something has appeared there meanwhile; name another place")
            }
            Self::NoPlace { errno: Errno::DQUOT | Errno::NOSPC, .. } => error(ErrorCode::Denied)
                .with_hint("delete what is not needed or ask for a higher limit; nothing was changed"),
            Self::NoPlace { .. } => error(ErrorCode::Internal).with_hint("see the daemon's log"),
        }
    }
}
