//! What a catalog that was made again speaks of and the store does not have.
//!
//! The log tells of everything that was ever kept as far back as it goes, also of what was let go since. Rows that nothing
//! needs are dropped by the next [`super::collect`]; what is looked for here are objects that something needs.

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::snapshot::archive::{Archive, ArchiveError};
use crate::snapshot::catalog::ContentRow;
use crate::snapshot::record::ObjectId;
use crate::snapshot::sequence::{Epoch, Sequence};

/// Rows that are looked at before others get at the catalog.
const PAGE: usize = 256;

/// What [`mark_lost`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct LostObjects {
    /// Objects that a snapshot or the trash needs and that are not there. They are marked and never shown.
    pub(crate) objects: u64,
    /// The snapshots that need them.
    pub(crate) snapshots: Vec<Epoch>,
    /// The trash begins later than before, because it cannot be told how far it reached back.
    pub(crate) is_trash_shorter: bool,
}

/// Looks for what is not there in a catalog that was made again.
///
/// # Errors
/// See [`ArchiveError`]; what was found is marked.
pub(crate) fn mark_lost(archive: &Archive, go_on: &dyn Fn() -> bool) -> Result<LostObjects, ArchiveError> {
    let mut found = LostObjects::default();
    // What was let go was older than where the trash began. If that is not known any more, it began after it.
    let mut let_go = Sequence::ZERO;
    let mut in_trash = Vec::new();
    let mut after: Option<ObjectId> = None;
    loop {
        let rows = archive.read()?.objects_after(after, PAGE)?;
        let Some(last) = rows.last() else { break };
        after = Some(last.object);
        for row in rows {
            if !go_on() {
                return Ok(found);
            }
            if !is_missing(archive, &row)? {
                continue;
            }
            let past = archive.read()?;
            let needed = past.needed_by(&row, &archive.kept()?)?;
            let trash_start = past.trash_start()?;
            drop(past);
            match needed {
                None => {}
                Some(snapshots) if !snapshots.is_empty() => mark(archive, &row, &mut found)?,
                Some(_) if row.at <= trash_start => {}
                Some(_) if archive.had_roster() => mark(archive, &row, &mut found)?,
                Some(_) => {
                    let_go = let_go.max(row.at);
                    in_trash.push(row);
                }
            }
        }
    }
    if !in_trash.is_empty() {
        archive.shorten_trash(let_go)?;
        found.is_trash_shorter = true;
        // Somebody may need the trash since an earlier moment.
        let trash_start = archive.read()?.trash_start()?;
        for row in in_trash.iter().filter(|row| row.at > trash_start) {
            mark(archive, row, &mut found)?;
        }
    }
    found.snapshots.sort_unstable();
    found.snapshots.dedup();
    Ok(found)
}

fn is_missing(archive: &Archive, row: &ContentRow) -> Result<bool, ArchiveError> {
    // Noted before it is carried out: the last operations are not in the store yet.
    if row.at.epoch().next() >= archive.history().epoch() {
        return Ok(false);
    }
    match archive.history().store().open_object(row.object, OFlags::PATH) {
        Ok(_) => Ok(false),
        Err(Errno::NOENT) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

fn mark(archive: &Archive, row: &ContentRow, found: &mut LostObjects) -> Result<(), ArchiveError> {
    found.snapshots.extend(archive.with_catalog(|catalog| catalog.note_damage(row))?);
    found.objects += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::backing::{Backing, stat_of};
    use crate::snapshot::catalog::CATALOG_FILE;
    use crate::snapshot::record::{Actor, Cause, SnapshotNote, SnapshotReason};
    use crate::snapshot::upkeep::{Pace, collect};
    use crate::snapshot::{Affected, History};

    struct Bench {
        kept: tempfile::TempDir,
        backing: Backing,
    }

    impl Bench {
        fn new() -> Self {
            let kept = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            for name in ["root", "store"] {
                std::fs::create_dir(kept.path().join(name)).unwrap();
            }
            let root = std::fs::File::open(kept.path().join("root")).unwrap();
            Self { backing: Backing::new(root.into()).unwrap(), kept }
        }

        fn store(&self) -> std::path::PathBuf {
            self.kept.path().join("store")
        }

        fn open(&self) -> Arc<Archive> {
            let store = std::fs::File::open(self.store()).unwrap();
            let history = Arc::new(History::begin(store.as_fd(), &self.backing).unwrap());
            Arc::new(Archive::open(history, &self.store()).unwrap())
        }

        fn take(&self, archive: &Archive) -> Epoch {
            let note =
                SnapshotNote { reason: SnapshotReason::Manual, name: None, note: None, is_held: false };
            archive.take_snapshot(&self.backing, Actor::default(), note).unwrap().epoch
        }

        /// Overwrites a file, as the data path does.
        fn write(&self, archive: &Archive, name: &str, bytes: &str) {
            let path = self.kept.path().join("root").join(name);
            if path.exists() {
                let file = std::fs::File::open(&path).unwrap();
                let child = self.backing.of_fd(file.as_fd()).unwrap();
                let node = stat_of(file.as_fd()).unwrap().stx_ino;
                let touched = archive.history().touched(node, child.handle);
                let history = archive.history();
                drop(history.before_content(
                    &touched,
                    &self.backing,
                    Affected::ALL,
                    Actor::default(),
                    Cause::Write,
                ));
            }
            std::fs::write(&path, bytes).unwrap();
        }
    }

    fn rows(archive: &Archive) -> Vec<ContentRow> {
        archive.read().unwrap().objects_after(None, 1000).unwrap()
    }

    fn object(store: &Path, row: &ContentRow) -> std::path::PathBuf {
        store.join(format!("objects/{:02x}/{:016x}", row.object.0 % 256, row.object.0))
    }

    #[test]
    fn what_was_let_go_does_not_come_back_as_damage_and_what_is_needed_is_marked_lost() {
        for has_roster in [true, false] {
            let bench = Bench::new();
            let archive = bench.open();
            // Else all of it was made in the running epoch, and is in no snapshot.
            bench.write(&archive, "gone", "1");
            bench.write(&archive, "needed", "1");
            let first = bench.take(&archive);
            bench.write(&archive, "gone", "2");
            let second = bench.take(&archive);
            bench.write(&archive, "needed", "2");
            let third = bench.take(&archive);
            bench.take(&archive);
            archive.shorten_trash(third.end()).unwrap();
            archive.remove_snapshots(&[first]).unwrap();
            assert_eq!(rows(&archive).len(), 2);
            collect(&archive, Pace::Gentle, &|| true).unwrap();
            let left = rows(&archive);
            assert_eq!(left.len(), 1, "{left:?}");
            drop(archive);

            std::fs::remove_file(bench.store().join(CATALOG_FILE)).unwrap();
            if !has_roster {
                std::fs::remove_file(bench.store().join("snapshots.json")).unwrap();
            }
            let archive = bench.open();
            bench.take(&archive);
            bench.take(&archive);
            assert_eq!(rows(&archive).len(), 2, "the log tells of both");
            let lost = mark_lost(&archive, &|| true).unwrap();
            // Without the list the first snapshot is back, and what it needs is not.
            let expected = if has_roster { Vec::new() } else { vec![first] };
            assert_eq!(lost.snapshots, expected);
            collect(&archive, Pace::Gentle, &|| true).unwrap();
            assert_eq!(rows(&archive).len(), if has_roster { 1 } else { 2 });

            std::fs::remove_file(object(&bench.store(), &left[0])).unwrap();
            let lost = mark_lost(&archive, &|| true).unwrap();
            let needing = if has_roster { vec![second] } else { vec![first, second] };
            assert_eq!(lost.snapshots, needing);
            assert!(rows(&archive).iter().any(|row| row.object == left[0].object && row.is_damaged));
        }
    }
}
