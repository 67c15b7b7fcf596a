//! What was decided about snapshots, beside the catalog: which are kept, which are held, their names and notes, and where
//! the trash begins.
//!
//! The undo log tells that a snapshot was taken, not that it was removed or held later. That is in the catalog, which can
//! be lost, and whose last changes a power cut may take. So it is written to `snapshots.json` first: as a whole, to a
//! temporary file that is synchronised and then renamed, before the catalog is changed. Whoever opens the catalog brings
//! it in line with the file. The file says nothing of snapshots that are younger than it ([`Roster::until`]): they are in
//! the log as they are.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::catalog::SnapshotRecord;
use super::sequence::{Epoch, Sequence};

/// The file's name below the store's directory.
pub(crate) const ROSTER_FILE: &str = "snapshots.json";
/// What it is written to before.
const NEW_FILE: &str = "snapshots.json.new";
/// The format that this version writes.
const VERSION: u32 = 1;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Roster {
    version: u32,
    /// It tells of the snapshots up to this epoch: those that it does not name are removed.
    until: u32,
    /// Where the trash begins, as a moment.
    trash_start: i64,
    snapshots: Vec<Line>,
}

/// A snapshot that is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Line {
    epoch: u32,
    is_held: bool,
    name: Option<String>,
    note: Option<String>,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RosterError {
    /// It cannot be read or written.
    #[error("cannot {action} {path:?}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A newer version wrote it.
    #[error("{path:?} has format {found}, and this version knows {VERSION}; use the version that wrote it")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

impl Roster {
    /// Describes what is kept when the last epoch that has ended is `until`.
    pub(crate) fn new(until: Epoch, trash_start: Sequence, snapshots: &[SnapshotRecord]) -> Self {
        let line = |snapshot: &SnapshotRecord| Line {
            epoch: snapshot.epoch.0,
            is_held: snapshot.is_held,
            name: snapshot.name.clone(),
            note: snapshot.note.clone(),
        };
        Self {
            version: VERSION,
            until: until.0,
            trash_start: trash_start.to_i64(),
            snapshots: snapshots.iter().map(line).collect(),
        }
    }

    /// Reads the file in `dir`; `None` if there is none. One that makes no sense is moved aside and told, and counts as
    /// none.
    ///
    /// # Errors
    /// `Newer`, and if the disk does not let us.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, RosterError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let path = dir.join(ROSTER_FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RosterError::File { action: "read", path, source }),
        };
        if let Ok(Versioned { version: found }) = serde_json::from_slice(&bytes)
            && found > VERSION
        {
            return Err(RosterError::Newer { path, found });
        }
        match serde_json::from_slice(&bytes) {
            Ok(roster) => Ok(Some(roster)),
            Err(error) => {
                let aside = dir.join(format!("{ROSTER_FILE}.damaged-{}", jiff::Timestamp::now().as_second()));
                tracing::error!(%error, path = %aside.display(), "the list of snapshots is damaged and was moved aside");
                match std::fs::rename(&path, aside) {
                    Ok(()) => Ok(None),
                    Err(source) => Err(RosterError::File { action: "move aside", path, source }),
                }
            }
        }
    }

    /// Replaces the file in `dir`. It is on the disk when this returns.
    ///
    /// # Errors
    /// If the disk does not let us; the former one is there then.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), RosterError> {
        let (path, new) = (dir.join(ROSTER_FILE), dir.join(NEW_FILE));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|source| RosterError::File { action: "write", path: path.clone(), source })
    }

    /// As [`Self::write`], for what must be done on a full disk as well: that the file cannot be written then is told in the
    /// log alone. It stays older than the catalog, which does no harm as long as that is not lost.
    ///
    /// # Errors
    /// As [`Self::write`], unless the disk is full.
    pub(crate) fn write_if_there_is_room(&self, dir: &Path) -> Result<(), RosterError> {
        match self.write(dir) {
            Err(RosterError::File { source, path, .. })
                if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
            {
                tracing::warn!(path = %path.display(), "the disk is too full to note durably which snapshots are removed");
                Ok(())
            }
            result => result,
        }
    }

    /// Returns where the trash begins at the earliest.
    pub(crate) fn trash_start(&self) -> Sequence {
        Sequence::from_i64(self.trash_start).unwrap_or(Sequence::ZERO)
    }

    /// Returns what has to become of a snapshot that the catalog has as `known`.
    pub(crate) fn verdict(&self, known: &SnapshotRecord) -> Verdict {
        if known.epoch.0 > self.until {
            return Verdict::Right;
        }
        match self.snapshots.iter().find(|line| line.epoch == known.epoch.0) {
            None => Verdict::Removed,
            Some(line) => {
                let is_right =
                    (line.is_held, &line.name, &line.note) == (known.is_held, &known.name, &known.note);
                if is_right {
                    return Verdict::Right;
                }
                let (name, note) = (line.name.clone(), line.note.clone());
                Verdict::Other(SnapshotRecord { is_held: line.is_held, name, note, ..known.clone() })
            }
        }
    }
}

/// See [`Roster::verdict`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is as it should be.
    Right,
    /// It was removed.
    Removed,
    /// It is this one.
    Other(SnapshotRecord),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::catalog::SnapshotState;
    use crate::snapshot::record::{Actor, SnapshotReason};

    fn record(epoch: u32, is_held: bool) -> SnapshotRecord {
        SnapshotRecord {
            epoch: Epoch(epoch),
            time_ns: 0,
            actor: Actor::default(),
            reason: SnapshotReason::Manual,
            name: None,
            note: None,
            is_held,
            state: SnapshotState::Sealed,
        }
    }

    #[test]
    fn what_was_written_is_read_and_says_what_became_of_each() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Roster::read(dir.path()).unwrap(), None);
        let roster = Roster::new(Epoch(5), Epoch(2).end(), &[record(3, true), record(5, false)]);
        roster.write(dir.path()).unwrap();
        let read = Roster::read(dir.path()).unwrap().unwrap();
        assert_eq!(read, roster);
        assert_eq!(read.trash_start(), Epoch(2).end());
        assert_eq!(read.verdict(&record(3, true)), Verdict::Right);
        assert_eq!(read.verdict(&record(3, false)), Verdict::Other(record(3, true)));
        assert_eq!(read.verdict(&record(4, false)), Verdict::Removed);
        assert_eq!(read.verdict(&record(6, false)), Verdict::Right, "younger than the file");
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "nothing temporary is left");
    }

    #[test]
    fn nonsense_is_moved_aside_and_a_newer_format_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ROSTER_FILE);
        std::fs::write(&path, "{\"version\":1,\"until").unwrap();
        assert_eq!(Roster::read(dir.path()).unwrap(), None);
        let left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            left.len() == 1 && left[0].to_str().unwrap().starts_with("snapshots.json.damaged-"),
            "{left:?}"
        );
        std::fs::write(&path, "{\"version\":2,\"more\":[]}").unwrap();
        assert!(matches!(Roster::read(dir.path()), Err(RosterError::Newer { found: 2, .. })));
        assert!(path.exists());
    }
}
