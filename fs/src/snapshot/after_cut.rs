//! What had been copied shortly before the power went.
//!
//! Entries are in the order of the filesystem's journal, the bytes that were copied for them are not: an object may be
//! short, full of zeros or missing although its entry is there. Each one that was not known to be on the disk is compared
//! with the hash in its entry before anybody is shown it. Usually what was written over the old bytes was lost with it,
//! so that they are in the file still and are copied once more. What is gone for good is marked, and never shown.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::archive::{Archive, ArchiveError};
use super::catalog::ContentRow;
use super::record::{ObjectId, Origin, Span};
use super::sequence::Epoch;
use super::store::{Store, copy_range, next_data};
use super::upkeep::hash_range;

/// What became of copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct AfterCut {
    /// Pieces that were compared.
    pub(crate) checked: u64,
    /// Those that were not on the disk and were in their files still.
    pub(crate) healed: u64,
    /// Those that are lost.
    pub(crate) damaged: u64,
    /// Objects of changes that were noted and never made.
    pub(crate) forgotten: u64,
}

/// Compares what was copied and may not have been on the disk, heals what can be and marks the rest.
///
/// # Errors
/// See [`ArchiveError`].
pub(super) fn settle(archive: &Archive) -> Result<AfterCut, ArchiveError> {
    let mut cut = AfterCut::default();
    let store = archive.history().store();
    for row in archive.read()?.preserved_since(archive.history().was_synced_until())? {
        // What was copied since this worker began is in memory at least.
        if row.at.epoch() >= archive.history().first_epoch() {
            continue;
        }
        if row.origin != Origin::Copied {
            if is_missing(store, row.object)? {
                archive.history().note_never_taken(row.object);
                cut.forgotten += 1;
            }
            continue;
        }
        cut.checked += 1;
        let size = whole_size(archive, &row)?;
        if is_intact(store, &row, size)? {
            continue;
        }
        if heal(store, &row, size)? {
            cut.healed += 1;
        } else {
            mark(archive, &row, &mut cut)?;
        }
    }
    if cut != AfterCut::default() {
        let AfterCut { checked, healed, damaged, forgotten } = cut;
        tracing::info!(
            checked,
            healed,
            damaged,
            forgotten,
            "what was copied before the power went was compared"
        );
    }
    Ok(cut)
}

fn mark(archive: &Archive, row: &ContentRow, cut: &mut AfterCut) -> Result<(), ArchiveError> {
    let snapshots = archive.with_catalog(|catalog| catalog.note_damage(row))?;
    tracing::error!(
        object = row.object.0,
        snapshots = snapshots.len(),
        "preserved bytes had not reached the disk when the power went"
    );
    cut.damaged += 1;
    Ok(())
}

/// Whether an object that the journal makes, a file that was deleted or a clone, is not there. Then the journal does not know
/// of the change that made it either, although the catalog does: it never happened. Of a file that no snapshot on the disk
/// has, not even the file may be left.
fn is_missing(store: &Store, object: ObjectId) -> Result<bool, Errno> {
    match store.open_object(object, OFlags::PATH) {
        Ok(_) => Ok(false),
        Err(Errno::NOENT) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// Returns how long an object must be that is all of a file, if that is known.
fn whole_size(archive: &Archive, row: &ContentRow) -> Result<Option<u64>, ArchiveError> {
    match (row.span, row.size) {
        (Span::Range { .. }, _) => Ok(None),
        (Span::Whole, Some(size)) => Ok(Some(size)),
        // The epoch began to touch it with an earlier entry.
        (Span::Whole, None) => {
            let before = Epoch(row.at.epoch().0.saturating_sub(1)).end();
            let attributes = archive.read()?.attributes_at(&row.inode, before)?;
            Ok(attributes.map(|attributes| attributes.size))
        }
    }
}

fn is_intact(store: &Store, row: &ContentRow, size: Option<u64>) -> Result<bool, Errno> {
    let object = match store.open_object(row.object, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(object) => object,
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    let found = u64::try_from(rustix::fs::fstat(&object)?.st_size).map_err(|_| Errno::IO)?;
    if size.is_some_and(|size| size != found) {
        return Ok(false);
    }
    let range = range_of(row, found);
    match row.hash {
        Some(hash) => Ok(is_hash_of(object.as_fd(), range, hash)),
        None => Ok(next_data(object.as_fd(), range.start)?.is_none_or(|data| data >= range.end)),
    }
}

fn range_of(row: &ContentRow, size: u64) -> std::ops::Range<u64> {
    match row.span {
        Span::Whole => 0..size,
        Span::Range { offset, length } => offset..offset.saturating_add(length),
    }
}

/// Whether a range can be read and is what it was.
fn is_hash_of(file: BorrowedFd<'_>, range: std::ops::Range<u64>, hash: [u8; 32]) -> bool {
    match hash_range(file, range, &|| true) {
        Ok(found) => found.is_some_and(|(found, _)| found == hash),
        Err(errno) => {
            tracing::warn!(%errno, "bytes cannot be read after the power went");
            false
        }
    }
}

/// Copies a piece once more if the file has it still, and returns whether it is what it was then.
fn heal(store: &Store, row: &ContentRow, size: Option<u64>) -> Result<bool, Errno> {
    if row.span == Span::Whole && size.is_none() {
        return Ok(false);
    }
    let range = range_of(row, size.unwrap_or(0));
    let living = match store.open_living(&row.inode, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW) {
        Ok(living) => Some(living),
        Err(Errno::STALE) => None,
        Err(errno) => return Err(errno),
    };
    let has_old =
        |hash| living.as_ref().is_some_and(|living| is_hash_of(living.as_fd(), range.clone(), hash));
    // A hole needs nothing but its place.
    if !row.hash.is_none_or(has_old) {
        return Ok(false);
    }
    let object = store.create(row.object)?;
    if row.hash.is_some()
        && let Some(living) = &living
    {
        copy_range(living.as_fd(), object.as_fd(), range.start, range.end - range.start)?;
    }
    if let Some(size) = size {
        rustix::fs::ftruncate(&object, size)?;
    }
    rustix::fs::fsync(&object)?;
    is_intact(store, row, size)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::backing::Backing;
    use crate::snapshot::catalog::SnapshotState;
    use crate::snapshot::history::History;
    use crate::snapshot::record::{Actor, Cause, SnapshotNote, SnapshotReason};
    use crate::snapshot::touched::Affected;

    /// More than a small file, so that a part of it is copied.
    const BYTES: usize = 300 << 10;

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
            let bench = Self { backing: Backing::new(root.into()).unwrap(), kept };
            std::fs::write(bench.at("root/small"), "old").unwrap();
            std::fs::write(bench.at("root/large"), vec![1; BYTES]).unwrap();
            std::fs::write(bench.at("root/hole"), "").unwrap();
            std::fs::File::options().write(true).open(bench.at("root/hole")).unwrap().set_len(5000).unwrap();
            bench
        }

        fn at(&self, name: &str) -> PathBuf {
            self.kept.path().join(name)
        }

        fn open(&self) -> Arc<Archive> {
            let store = std::fs::File::open(self.at("store")).unwrap();
            let history = Arc::new(History::begin(store.as_fd(), &self.backing).unwrap());
            Arc::new(Archive::open(history, &self.at("store")).unwrap())
        }

        /// What a write of a few bytes at the beginning is preceded by.
        fn before_write(&self, history: &History, name: &str) {
            let file = std::fs::File::open(self.at("root").join(name)).unwrap();
            let child = self.backing.of_fd(file.as_fd()).unwrap();
            let touched = history.touched(child.stat.stx_ino, child.handle);
            let affected = Affected::Range { offset: 0, length: 3 };
            drop(history.before_content(&touched, &self.backing, affected, Actor::default(), Cause::Write));
        }

        /// Takes a snapshot, overwrites all files without writing, and dies. Returns the objects.
        fn die_after_overwriting(&self) -> Option<Vec<PathBuf>> {
            let archive = self.open();
            if archive.history().store().can_clone() {
                eprintln!("SKIPPED: the filesystem of the sources clones");
                return None;
            }
            let note =
                SnapshotNote { reason: SnapshotReason::Manual, name: None, note: None, is_held: false };
            archive.take_snapshot(&self.backing, Actor::default(), note).unwrap();
            for name in ["small", "large", "hole"] {
                self.before_write(archive.history(), name);
            }
            let mut objects = Vec::new();
            archive.history().store().for_each_object(|object| objects.push(object)).unwrap();
            objects.sort_unstable();
            std::mem::forget(archive);
            let path = |object: ObjectId| format!("store/objects/{:02x}/{:016x}", object.0 % 64, object.0);
            Some(objects.into_iter().map(|object| self.at(&path(object))).collect())
        }

        fn open_after_cut(&self) -> (AfterCut, Arc<Archive>) {
            std::fs::write(self.at("store/boot"), "another").unwrap();
            let archive = self.open();
            (archive.after_cut().unwrap(), archive)
        }
    }

    #[test]
    fn what_is_missing_short_or_empty_is_copied_again_from_files_that_have_it_still() {
        let bench = Bench::new();
        let Some(objects) = bench.die_after_overwriting() else { return };
        std::fs::remove_file(&objects[0]).unwrap();
        std::fs::write(&objects[1], vec![0; 65_536]).unwrap();
        std::fs::write(&objects[2], "").unwrap();
        let (cut, archive) = bench.open_after_cut();
        assert_eq!(cut, AfterCut { checked: 3, healed: 3, damaged: 0, forgotten: 0 });
        assert_eq!(std::fs::read(&objects[0]).unwrap(), b"old");
        let healed = std::fs::read(&objects[1]).unwrap();
        assert_eq!((healed.len(), healed.iter().all(|byte| *byte == 1)), (128 << 10, true));
        assert_eq!(std::fs::read(&objects[2]).unwrap(), vec![0; 5000]);
        assert_eq!(archive.read().unwrap().damaged_objects().unwrap(), 0);
        std::mem::forget(archive);
        let (again, _) = bench.open_after_cut();
        assert_eq!(again, AfterCut { checked: 3, healed: 0, damaged: 0, forgotten: 0 });
    }

    #[test]
    fn what_is_nowhere_is_marked_and_its_snapshot_degraded() {
        let bench = Bench::new();
        let Some(objects) = bench.die_after_overwriting() else { return };
        std::fs::write(&objects[0], "ol").unwrap();
        std::fs::write(bench.at("root/small"), "new").unwrap();
        let (cut, archive) = bench.open_after_cut();
        assert_eq!(cut, AfterCut { checked: 3, healed: 0, damaged: 1, forgotten: 0 });
        let past = archive.read().unwrap();
        assert_eq!(past.damaged_objects().unwrap(), 1);
        assert_eq!(past.snapshots().unwrap()[0].state, SnapshotState::Degraded);
    }

    #[test]
    fn a_deletion_that_the_catalog_alone_knows_never_happened() {
        let bench = Bench::new();
        let archive = bench.open();
        let child =
            bench.backing.of_fd(std::fs::File::open(bench.at("root/small")).unwrap().as_fd()).unwrap();
        let mut step = archive.history().step(Actor::default(), Cause::Unlink);
        let object = step.take_away(child.handle, 4096);
        step.record();
        drop(step);
        archive.catch_up().unwrap();
        std::mem::forget(archive);
        for segment in std::fs::read_dir(bench.at("store/log")).unwrap() {
            std::fs::File::options().write(true).open(segment.unwrap().path()).unwrap().set_len(0).unwrap();
        }
        std::fs::remove_dir_all(bench.at("store/ring")).unwrap();
        let (cut, archive) = bench.open_after_cut();
        assert_eq!(cut, AfterCut { checked: 0, healed: 0, damaged: 0, forgotten: 1 });
        assert!(!archive.read().unwrap().knows_object(object).unwrap());
    }

    #[test]
    fn what_was_synchronised_is_not_compared() {
        let bench = Bench::new();
        let archive = bench.open();
        if archive.history().store().can_clone() {
            eprintln!("SKIPPED: the filesystem of the sources clones");
            return;
        }
        bench.before_write(archive.history(), "small");
        // The time of the last is not later than what is noted, by a clock that is read coarsely.
        std::thread::sleep(std::time::Duration::from_millis(20));
        archive.history().sync_soon();
        bench.before_write(archive.history(), "large");
        std::mem::forget(archive);
        let (cut, _) = bench.open_after_cut();
        assert_eq!(cut, AfterCut { checked: 1, healed: 0, damaged: 0, forgotten: 0 });
    }
}
