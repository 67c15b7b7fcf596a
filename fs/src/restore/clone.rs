//! A new directory tree from a moment of the past: `wsguard clone`.
//!
//! Inside the workspace it is a restore into a directory that is empty or does not exist, with its ledger, its resuming
//! and its reversal. Anywhere else (another workspace, a plain directory) the daemon's rights end: what is made there is
//! made with the rights of whoever asked ([`OnBehalf`]), through the path as they would name it. So quota, ownership and
//! history of another workspace count as for anything that its user writes, and no swapped link leads anywhere where
//! the user could not write themselves.
//!
//! Outside, everything is made in a directory with a temporary name beside the new one, which takes its name when it is
//! complete: the new directory is there with everything in it, or not at all. What fails as a whole, or is broken off,
//! is removed; what a dead worker left is removed when the clone is resumed, which then begins again.
//!
//! Plans are those of restores, with copies alone: no inode is taken out of the store and none becomes a further name of
//! a living file, so that whoever changes the clone changes nothing else.

mod target;
mod writer;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wsguard_api::RestoreWhen;

use super::ledger::{Root, StoredPath};
use super::moment::fixed_moment;
use super::{Ground, RestoreError};
use crate::snapshot::now_ns;
use crate::sys::on_behalf::OnBehalf;

pub(super) use target::{Room, Target};
pub(super) use writer::Writer;

/// With whose rights a clone is made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary.
    pub(crate) groups: Vec<u32>,
}

/// A clone that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct CloneWanted {
    /// The directory, relative to the workspace.
    pub(crate) from: PathBuf,
    /// As of when: not "before a deletion".
    pub(crate) when: RestoreWhen,
    /// The new directory, absolute.
    pub(crate) to: PathBuf,
    /// The new directory relative to the workspace, if it lies in it.
    pub(crate) inside: Option<PathBuf>,
    /// What was changed past the mount is cloned as it is.
    pub(crate) accepts_changed: bool,
    /// Who asks.
    pub(crate) caller: Credentials,
}

/// A clone as it is remembered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct CloneTask {
    from: StoredPath,
    moment: i64,
    to: StoredPath,
    inside: Option<StoredPath>,
    pub(super) accepts_changed: bool,
    pub(super) caller: Credentials,
    /// The name beside the new directory that it has until it is complete.
    pub(super) temporary: String,
}

impl CloneTask {
    /// Finds out what is asked for.
    ///
    /// # Errors
    /// `NoSnapshot`; `Invalid` for a time that cannot be.
    pub(super) fn new(ground: &Ground, wanted: &CloneWanted) -> Result<Self, RestoreError> {
        let moment = fixed_moment(ground, &wanted.when)?.ok_or_else(|| {
            RestoreError::Invalid(
                "a clone is of a snapshot or of a time, not of before a deletion".to_owned(),
            )
        })?;
        let seed = format!("{:?} {} {}", wanted.to, now_ns(), std::process::id());
        let digits = blake3::hash(seed.as_bytes()).to_hex();
        Ok(Self {
            from: StoredPath::new(&wanted.from),
            moment: moment.to_i64(),
            to: StoredPath::new(&wanted.to),
            inside: wanted.inside.as_deref().map(StoredPath::new),
            accepts_changed: wanted.accepts_changed,
            caller: wanted.caller.clone(),
            temporary: format!(".wsguard-clone-{}", digits.get(..16).unwrap_or_default()),
        })
    }

    /// Whether it lies in the workspace itself.
    pub(super) fn is_inside(&self) -> bool {
        self.inside.is_some()
    }

    /// As of when.
    pub(super) fn moment(&self) -> i64 {
        self.moment
    }

    /// Where the directory was, relative to the workspace.
    pub(super) fn from(&self) -> PathBuf {
        self.from.path()
    }

    /// The new directory, absolute.
    pub(super) fn to(&self) -> PathBuf {
        self.to.path()
    }

    /// What is planned: paths in the workspace, or else below the new directory.
    pub(super) fn root(&self) -> Root {
        let to = self.inside.clone().unwrap_or_else(|| StoredPath::new(Path::new("")));
        Root { from: self.from.clone(), to, moment: self.moment, is_single: false }
    }

    /// Finds out whether the caller may make the new directory and how much fits there, without making anything.
    ///
    /// # Errors
    /// `Taken`, `NoPlace`, `NotYours`.
    pub(super) fn check(&self) -> Result<Room, RestoreError> {
        let look = || {
            let hand = self.hand()?;
            Target::open(&hand, &self.to(), &self.temporary)?.room(&hand)
        };
        // Credentials are a thread's, and this one goes on with other work.
        std::thread::scope(|scope| {
            let looking = std::thread::Builder::new()
                .name("clone check".to_owned())
                .spawn_scoped(scope, look)
                .map_err(RestoreError::Record)?;
            looking.join().unwrap_or_else(|_| {
                Err(RestoreError::Invalid("the look at the new directory panicked".into()))
            })
        })
    }

    /// Prepares this thread, which must end with the clone.
    pub(super) fn hand(&self) -> Result<OnBehalf, RestoreError> {
        let Credentials { uid, gid, groups } = &self.caller;
        Ok(OnBehalf::prepare(*uid, *gid, groups)?)
    }
}
