//! The catalog of one workspace, kept up to date with its log.
//!
//! Whoever has a question asks through [`Archive::read`], which folds first what was appended since, so that the answer
//! knows every change that had begun by then. Any thread may; one folds at a time, and readers have connections of
//! their own.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::after_cut::{self, AfterCut};
use super::catalog::{Applied, Catalog, CatalogError, Kept, Past, SnapshotRecord, SnapshotState};
use super::history::{EndError, EpochEnded, History};
use super::record::{Actor, Entry, SnapshotNote};
use super::roster::{Roster, RosterError, Verdict};
use super::sequence::{Epoch, Sequence};
use super::store::{BOOT_FILE, BOOT_ID};
use super::undo_log::{LogPosition, Reader};
use crate::backing::Backing;

/// Entries that are folded in one transaction.
const BATCH: usize = 4096;
/// Connections that are kept open for the next question.
const MAX_IDLE: usize = 4;

/// Why the past cannot be asked about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// The catalog is of no use.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The log cannot be read.
    #[error("cannot read the undo log")]
    Log(#[from] Errno),
    /// A snapshot could not be taken.
    #[error(transparent)]
    End(#[from] EndError),
    /// What was decided about snapshots cannot be read or written.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// The snapshot was deleted, or the trash does not reach back so far.
    #[error("this moment is not kept any more")]
    NotKept,
}

/// See the module.
pub(crate) struct Archive {
    history: Arc<History>,
    dir: PathBuf,
    folding: Mutex<Folding>,
    idle: Mutex<Vec<Past>>,
    /// Moments that somebody looks at, and how many do.
    pins: Mutex<BTreeMap<Sequence, Pinned>>,
    /// Moments since which the trash is needed, and by how many.
    windows: Mutex<BTreeMap<Sequence, usize>>,
    /// A damaged catalog that was moved aside and made again.
    set_aside: Option<PathBuf>,
    /// The catalog was not there although the workspace has a history.
    was_missing: bool,
    /// What was decided about snapshots was known when this was opened.
    had_roster: bool,
    /// What became of the copies that were not known to be on the disk when the power went.
    after_cut: Option<AfterCut>,
}

struct Folding {
    catalog: Catalog,
    reader: Reader,
    /// What [`super::undo_log::UndoLog::appends`] was when everything was folded.
    appends: Option<u64>,
}

impl Folding {
    fn catch_up(&mut self, history: &History) -> Result<Applied, ArchiveError> {
        let mut total = Applied::default();
        let appends = history.log().appends();
        if self.appends == Some(appends) {
            return Ok(total);
        }
        loop {
            let batch = self.next_batch()?;
            if batch.is_empty() {
                break;
            }
            let applied = self.catalog.apply(batch).inspect_err(|_| self.appends = None)?;
            total.entries += applied.entries;
            total.rows += applied.rows;
            total.position = applied.position;
        }
        self.appends = Some(appends);
        Ok(total)
    }

    fn next_batch(&mut self) -> Result<Vec<(Entry, LogPosition)>, ArchiveError> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            match self.reader.next()? {
                Some(entry) => batch.push((entry, self.reader.position())),
                None => break,
            }
        }
        Ok(batch)
    }
}

impl Archive {
    /// Opens the catalog in `dir`, which is the store's, and folds what was noted since it was folded last. A catalog
    /// that is damaged is moved aside and made again from what is left of the log.
    ///
    /// # Errors
    /// See [`ArchiveError`]; history goes on being kept.
    pub(crate) fn open(history: Arc<History>, dir: &Path) -> Result<Self, ArchiveError> {
        let mut set_aside = None;
        let mut was_missing = false;
        let catalog = match Catalog::open(dir) {
            Err(CatalogError::Missing { .. }) => {
                was_missing = history.first_epoch() > Epoch(1);
                Catalog::create(dir)?
            }
            Err(CatalogError::Damaged { reason, .. }) => {
                let place = Catalog::set_aside(dir, jiff::Timestamp::now())?;
                tracing::error!(reason, path = %place.display(), "history catalog is damaged; it is made again from the log");
                set_aside = Some(place);
                Catalog::create(dir)?
            }
            result => result?,
        };
        if let Some(last) = catalog.past().last_ended_epoch()? {
            history.skip_behind(last).map_err(EndError::from)?;
        }
        let reader = history.log().read_from(catalog.past().position()?)?;
        let was_closed = catalog.was_closed() && !was_missing && set_aside.is_none();
        let folding = Mutex::new(Folding { catalog, reader, appends: None });
        let (dir, idle, pins) = (dir.to_path_buf(), Mutex::default(), Mutex::default());
        let windows = Mutex::default();
        let roster = Roster::read(&dir)?;
        let had_roster = roster.is_some();
        let after_cut = None;
        let mut archive = Self {
            history,
            dir,
            folding,
            idle,
            pins,
            windows,
            set_aside,
            was_missing,
            had_roster,
            after_cut,
        };
        archive.catch_up()?;
        if let Some(roster) = roster {
            archive.follow(&roster)?;
        }
        archive.note_boot(was_closed)?;
        Ok(archive)
    }

    /// Finds out whether the machine was started since the catalog was used last. If it was, and nobody had closed the
    /// catalog, the power went: what was in memory then is lost, also of the snapshots that were not durable.
    fn note_boot(&mut self, was_closed: bool) -> Result<(), ArchiveError> {
        if !self.history.store().is_of_another_boot()? {
            return Ok(());
        }
        let (file, boot) = (self.dir.join(BOOT_FILE), std::fs::read_to_string(BOOT_ID).map_err(errno_of)?);
        if !was_closed {
            // Before anybody is shown a copy that the disk may not have.
            self.after_cut = Some(after_cut::settle(self)?);
            let first = self.history.first_epoch();
            let lost: Vec<Epoch> = self
                .read()?
                .snapshots()?
                .into_iter()
                .filter(|snapshot| snapshot.state == SnapshotState::Sealed && snapshot.epoch < first)
                .map(|snapshot| snapshot.epoch)
                .collect();
            for epoch in &lost {
                self.with_catalog(|catalog| catalog.set_state(*epoch, SnapshotState::Incomplete))?;
            }
            if !lost.is_empty() {
                tracing::warn!(
                    snapshots = lost.len(),
                    "the power went before these snapshots were durable; they may be incomplete"
                );
            }
            self.with_catalog(|catalog| catalog.sync().map(drop))?;
        }
        Ok(std::fs::write(&file, boot).map_err(errno_of)?)
    }

    /// Brings the catalog in line with what was decided.
    fn follow(&self, roster: &Roster) -> Result<(), ArchiveError> {
        self.with_catalog(|catalog| {
            for known in catalog.past().snapshots()? {
                match roster.verdict(&known) {
                    Verdict::Right => {}
                    Verdict::Removed => catalog.remove_snapshot(known.epoch)?,
                    Verdict::Other(snapshot) => catalog.set_decided(&snapshot)?,
                }
            }
            catalog.set_trash_start(roster.trash_start())
        })
    }

    /// Changes what is decided about snapshots: `decide` is given them and where the trash begins. What it makes of that
    /// is on the disk before the catalog is changed.
    fn decide<T>(
        &self,
        write: impl FnOnce(&Roster, &Path) -> Result<(), RosterError>,
        decide: impl FnOnce(&mut Vec<SnapshotRecord>, &mut Sequence) -> Result<T, CatalogError>,
    ) -> Result<T, ArchiveError> {
        let mut folding = self.folding.lock();
        folding.catch_up(&self.history)?;
        let past = folding.catalog.past();
        let before = past.snapshots()?;
        let mut trash_start = past.trash_start()?;
        let mut after = before.clone();
        let answer = decide(&mut after, &mut trash_start)?;
        // Snapshots are taken in order, and this one is in the catalog.
        let until = past.last_ended_epoch()?.unwrap_or(Epoch(0));
        write(&Roster::new(until, trash_start, &after), &self.dir)?;
        let catalog = &mut folding.catalog;
        for snapshot in &before {
            match after.iter().find(|kept| kept.epoch == snapshot.epoch) {
                None => catalog.remove_snapshot(snapshot.epoch)?,
                Some(kept) if kept != snapshot => catalog.set_decided(kept)?,
                Some(_) => {}
            }
        }
        catalog.set_trash_start(trash_start)?;
        Ok(answer)
    }

    /// Removes snapshots; what only they need becomes garbage.
    ///
    /// # Errors
    /// `NoSnapshot`, and nothing is removed; see [`ArchiveError`].
    pub(crate) fn remove_snapshots(&self, epochs: &[Epoch]) -> Result<(), ArchiveError> {
        self.decide(Roster::write_if_there_is_room, |snapshots, _| {
            check_known(snapshots, epochs)?;
            snapshots.retain(|snapshot| !epochs.contains(&snapshot.epoch));
            Ok(())
        })
    }

    /// Holds snapshots or lets them go.
    ///
    /// # Errors
    /// As [`Self::remove_snapshots`].
    pub(crate) fn set_held(&self, epochs: &[Epoch], is_held: bool) -> Result<(), ArchiveError> {
        self.decide(Roster::write, |snapshots, _| {
            check_known(snapshots, epochs)?;
            let named = snapshots.iter_mut().filter(|snapshot| epochs.contains(&snapshot.epoch));
            named.for_each(|snapshot| snapshot.is_held = is_held);
            Ok(())
        })
    }

    /// Whether the catalog was made again when this was opened, from what was left of the log.
    pub(crate) fn was_rebuilt(&self) -> bool {
        self.was_missing || self.set_aside.is_some()
    }

    /// Whether what was decided about snapshots was known when this was opened.
    pub(crate) fn had_roster(&self) -> bool {
        self.had_roster
    }

    /// Whether the catalog was not there when this was opened, although the workspace has a history.
    pub(crate) fn was_missing(&self) -> bool {
        self.was_missing
    }

    /// Returns what became of the copies that may not have been on the disk, if the power went before this was opened.
    pub(crate) fn after_cut(&self) -> Option<AfterCut> {
        self.after_cut
    }

    /// Returns what is kept.
    pub(crate) fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Returns where a damaged catalog was moved when this was opened.
    pub(crate) fn set_aside(&self) -> Option<&Path> {
        self.set_aside.as_deref()
    }

    /// Folds what was noted up to now.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn catch_up(&self) -> Result<Applied, ArchiveError> {
        self.folding.lock().catch_up(&self.history)
    }

    /// Runs `change` on the catalog, which is up to date. Nobody can ask meanwhile, so it must not take long.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn with_catalog<T>(
        &self,
        change: impl FnOnce(&mut Catalog) -> Result<T, CatalogError>,
    ) -> Result<T, ArchiveError> {
        let mut folding = self.folding.lock();
        folding.catch_up(&self.history)?;
        Ok(change(&mut folding.catalog)?)
    }

    /// Returns a connection for questions, which knows everything that was noted before.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn read(&self) -> Result<Reading<'_>, ArchiveError> {
        self.catch_up()?;
        let idle = self.idle.lock().pop();
        let past = match idle {
            Some(past) => past,
            None => Past::open(&self.dir)?,
        };
        Ok(Reading { past: Some(past), archive: self })
    }

    /// Takes a snapshot. When this returns it survives the death of every process; a power cut once the store's
    /// filesystem is synchronised.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn take_snapshot(
        &self,
        backing: &Backing,
        actor: Actor,
        note: SnapshotNote,
    ) -> Result<EpochEnded, ArchiveError> {
        let ended = self.history.end_epoch(backing, actor, Some(note))?;
        self.catch_up()?;
        Ok(ended)
    }

    /// Keeps everything that a moment needs as long as the pin is held, whatever becomes of its snapshot and of the
    /// trash.
    ///
    /// # Errors
    /// `NotKept`; see [`ArchiveError`].
    pub(crate) fn pin(self: &Arc<Self>, moment: Sequence) -> Result<Pin, ArchiveError> {
        let is_kept = {
            let mut pins = self.pins.lock();
            let pinned = pins.entry(moment).or_default();
            pinned.count += 1;
            pinned.is_kept
        };
        let pin = Pin { archive: Arc::clone(self), moment, is_window: false };
        if is_kept {
            return Ok(pin);
        }
        // Looked at after it was pinned: whoever sweeps from now on spares it, and whoever swept before had first noted
        // that it is not kept.
        if !self.read()?.is_kept(moment)? {
            return Err(ArchiveError::NotKept);
        }
        if let Some(pinned) = self.pins.lock().get_mut(&moment) {
            pinned.is_kept = true;
        }
        Ok(pin)
    }

    /// Keeps the trash since a moment as long as the pin is held.
    ///
    /// # Errors
    /// `NotKept`; see [`ArchiveError`].
    pub(crate) fn pin_since(self: &Arc<Self>, moment: Sequence) -> Result<Pin, ArchiveError> {
        *self.windows.lock().entry(moment).or_default() += 1;
        let pin = Pin { archive: Arc::clone(self), moment, is_window: true };
        // As above.
        if self.read()?.trash_start()? > moment { Err(ArchiveError::NotKept) } else { Ok(pin) }
    }

    /// Lets the trash begin later, but not after a moment since which somebody needs it.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn shorten_trash(&self, start: Sequence) -> Result<(), ArchiveError> {
        self.decide(Roster::write_if_there_is_room, |_, trash_start| {
            let floor = self.windows.lock().keys().next().copied();
            *trash_start = floor.map_or(start, |floor| floor.min(start)).max(*trash_start);
            Ok(())
        })
    }

    /// Whether a moment can be asked about although neither snapshot nor trash keep it: somebody has pinned it before.
    pub(super) fn holds(&self, moment: Sequence) -> bool {
        self.pins.lock().get(&moment).is_some_and(|pinned| pinned.is_kept)
    }

    /// Returns the moments that somebody looks at.
    pub(crate) fn pinned(&self) -> Vec<Sequence> {
        self.pins.lock().keys().copied().collect()
    }

    /// Returns what is to be kept: snapshots, trash, and what somebody looks at.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn kept(&self) -> Result<Kept, ArchiveError> {
        let kept = self.read()?.kept()?;
        Ok(kept.and(self.pinned()))
    }

    /// Returns the directory of the store.
    pub(crate) fn directory(&self) -> &Path {
        &self.dir
    }

    /// Makes what is folded durable and removes log segments that are not needed any more.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn trim_log(&self) -> Result<(), ArchiveError> {
        let position = self.folding.lock().catalog.sync()?;
        self.history.log().remove_before(position)?;
        Ok(())
    }
}

fn check_known(snapshots: &[SnapshotRecord], epochs: &[Epoch]) -> Result<(), CatalogError> {
    let is_known = |epoch: &Epoch| snapshots.iter().any(|snapshot| snapshot.epoch == *epoch);
    match epochs.iter().find(|epoch| !is_known(epoch)) {
        Some(epoch) => Err(CatalogError::NoSnapshot { epoch: epoch.0 }),
        None => Ok(()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is used as a function of map_err")]
fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

impl Drop for Archive {
    fn drop(&mut self) {
        // The next opening checks it then.
        if let Err(error) = self.folding.get_mut().catalog.close() {
            tracing::warn!(%error, "history catalog is not marked as closed");
        }
    }
}

/// Somebody looks at a moment.
pub(crate) struct Pin {
    archive: Arc<Archive>,
    moment: Sequence,
    /// It is about the trash since then.
    is_window: bool,
}

#[derive(Default)]
struct Pinned {
    count: usize,
    /// It was kept after it was pinned.
    is_kept: bool,
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.is_window {
            let mut windows = self.archive.windows.lock();
            if let Some(count) = windows.get_mut(&self.moment) {
                *count -= 1;
                if *count == 0 {
                    windows.remove(&self.moment);
                }
            }
            return;
        }
        let mut pins = self.archive.pins.lock();
        if let Some(pinned) = pins.get_mut(&self.moment) {
            pinned.count -= 1;
            if pinned.count == 0 {
                pins.remove(&self.moment);
            }
        }
    }
}

/// A connection on loan.
pub(crate) struct Reading<'a> {
    past: Option<Past>,
    archive: &'a Archive,
}

impl Deref for Reading<'_> {
    type Target = Past;

    fn deref(&self) -> &Past {
        self.past.as_ref().expect("it is given back by drop alone")
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut idle = self.archive.idle.lock();
        if let Some(past) = self.past.take().filter(|_| idle.len() < MAX_IDLE) {
            idle.push(past);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::snapshot::record::SnapshotReason;

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

        fn store(&self) -> PathBuf {
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
    }

    fn states(archive: &Archive) -> Vec<SnapshotState> {
        archive.read().unwrap().snapshots().unwrap().iter().map(|snapshot| snapshot.state).collect()
    }

    #[test]
    fn what_was_not_durable_is_incomplete_after_a_boot_that_nobody_expected() {
        let bench = Bench::new();
        let archive = bench.open();
        let durable = bench.take(&archive);
        archive.with_catalog(|catalog| catalog.set_state(durable, SnapshotState::Durable)).unwrap();
        bench.take(&archive);
        // A dead process closes nothing.
        std::mem::forget(archive);
        let archive = bench.open();
        assert_eq!(states(&archive), [SnapshotState::Durable, SnapshotState::Sealed], "the same boot");
        std::mem::forget(archive);
        std::fs::write(bench.store().join("boot"), "another").unwrap();
        let archive = bench.open();
        assert_eq!(states(&archive), [SnapshotState::Durable, SnapshotState::Incomplete], "another boot");
        bench.take(&archive);
        drop(archive);
        std::fs::write(bench.store().join("boot"), "another").unwrap();
        let archive = bench.open();
        let expected = [SnapshotState::Durable, SnapshotState::Incomplete, SnapshotState::Sealed];
        assert_eq!(states(&archive), expected, "it was closed before the boot");
    }

    #[test]
    fn no_epoch_is_given_twice_when_the_log_has_lost_its_end() {
        let bench = Bench::new();
        let archive = bench.open();
        for _ in 0..3 {
            bench.take(&archive);
        }
        let reached = archive.history().epoch();
        drop(archive);
        for segment in std::fs::read_dir(bench.store().join("log")).unwrap() {
            std::fs::File::options().write(true).open(segment.unwrap().path()).unwrap().set_len(0).unwrap();
        }
        std::fs::remove_file(bench.store().join(super::super::catalog::CATALOG_FILE)).unwrap();
        let archive = bench.open();
        assert!(archive.history().epoch() > reached);
        assert!(archive.was_missing());
    }

    #[test]
    fn what_was_decided_outlives_the_catalog() {
        let bench = Bench::new();
        let archive = bench.open();
        let taken: Vec<Epoch> = (0..4).map(|_| bench.take(&archive)).collect();
        archive.remove_snapshots(&taken[1..2]).unwrap();
        archive.set_held(&taken[2..3], true).unwrap();
        assert!(archive.remove_snapshots(&[taken[0], taken[1]]).is_err(), "one is gone");
        archive.shorten_trash(taken[0].end()).unwrap();
        let younger = bench.take(&archive);
        let kept = |archive: &Archive| {
            let snapshots = archive.read().unwrap().snapshots().unwrap();
            snapshots.iter().map(|snapshot| (snapshot.epoch, snapshot.is_held)).collect::<Vec<_>>()
        };
        let expected = [(taken[0], false), (taken[2], true), (taken[3], false), (younger, false)];
        assert_eq!(kept(&archive), expected);
        drop(archive);
        std::fs::remove_file(bench.store().join(super::super::catalog::CATALOG_FILE)).unwrap();
        let archive = bench.open();
        assert!(archive.was_rebuilt() && archive.had_roster());
        assert_eq!(kept(&archive), expected);
        assert_eq!(archive.read().unwrap().trash_start().unwrap(), taken[0].end());
        // A change that the catalog lost in a power cut is made up for.
        archive.remove_snapshots(&taken[..1]).unwrap();
        drop(archive);
        let roster = std::fs::read(bench.store().join("snapshots.json")).unwrap();
        let archive = bench.open();
        archive.set_held(&taken[2..3], false).unwrap();
        drop(archive);
        std::fs::write(bench.store().join("snapshots.json"), roster).unwrap();
        assert_eq!(kept(&bench.open()), expected[1..]);
    }

    #[test]
    fn the_end_that_a_power_cut_took_from_the_log_is_put_back() {
        for torn_bytes in [0, 5] {
            let bench = Bench::new();
            let archive = bench.open();
            if !archive.history().log().is_bridged() {
                eprintln!("SKIPPED: the filesystem of the sources keeps no order");
                return;
            }
            let taken: Vec<Epoch> = (0..3).map(|_| bench.take(&archive)).collect();
            // A dead process closes nothing.
            std::mem::forget(archive);
            let segment =
                std::fs::read_dir(bench.store().join("log")).unwrap().next().unwrap().unwrap().path();
            let whole = std::fs::metadata(&segment).unwrap().len();
            let left = if torn_bytes == 0 { 0 } else { whole - torn_bytes };
            std::fs::File::options().write(true).open(segment).unwrap().set_len(left).unwrap();
            for name in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
                std::fs::remove_file(bench.store().join(name)).unwrap();
            }
            std::fs::write(bench.store().join("boot"), "another").unwrap();
            let archive = bench.open();
            let snapshots = archive.read().unwrap().snapshots().unwrap();
            let found: Vec<Epoch> = snapshots.iter().map(|snapshot| snapshot.epoch).collect();
            assert_eq!(found, taken, "{torn_bytes} bytes less");
        }
    }

    #[test]
    fn pin_keeps_a_moment_whose_snapshot_is_removed_and_a_moment_that_is_gone_cannot_be_pinned() {
        let bench = Bench::new();
        let archive = bench.open();
        let (first, second) = (bench.take(&archive), bench.take(&archive));
        archive.with_catalog(|catalog| catalog.set_trash_start(second.end())).unwrap();
        let pin = archive.pin(first.end()).unwrap();
        archive.with_catalog(|catalog| catalog.remove_snapshot(first)).unwrap();
        assert!(archive.kept().unwrap().contains(first.end()), "somebody looks at it");
        drop(pin);
        assert!(!archive.kept().unwrap().contains(first.end()));
        assert!(matches!(archive.pin(first.end()), Err(ArchiveError::NotKept)));
        assert!(archive.pinned().is_empty(), "what could not be pinned holds nothing");
    }
}
