//! How well a file is known as it was.
//!
//! A file's ctime is its fingerprint: whatever changes the file moves it on, and nobody can set it back. History notes it
//! with the attributes before the first change that goes through the mount in an epoch. If it is later then than the end
//! of an epoch since which nothing went through the mount, somebody changed the file past it; what was kept from then on
//! is not what it was before.

use super::{Certainty, PastFile, TICK_NS, View};
use crate::snapshot::archive::ArchiveError;
use crate::snapshot::catalog::{Fingerprint, Past, Source};
use crate::snapshot::record::{Actor, Attributes, Cause, Origin};
use crate::snapshot::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

impl View<'_> {
    /// Returns whether a file was changed past the mount, so that what is read of it is not what it was. Ask after reading.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn is_changed_outside(&self, file: &PastFile) -> Result<bool, ArchiveError> {
        // Before the catalog is asked, which knows then of whatever the mount did to it.
        let now = self.stat_now(&file.inode)?;
        let (_, known) = file.pieces(self.archive)?;
        let past = self.archive.read()?;
        let outside = past.outside_after(&file.inode, self.moment)?;
        let first = outside.first().map(|outside| outside.at);
        let foreign = self.foreign_since(&past, &file.inode, now.as_ref())?;
        let is_later = |since: Option<Sequence>, until: Sequence| since.is_some_and(|since| since <= until);
        Ok(known.content.pieces.iter().any(|piece| {
            let until = match piece.source {
                Source::Kept(row) => row.at,
                Source::Live => Epoch::LAST.end(),
            };
            is_later(first, until) || is_later(foreign, until)
        }))
    }

    /// Returns whether a file's bytes are known as they were.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn certainty(&self, file: &PastFile) -> Result<Certainty, ArchiveError> {
        // Before the catalog is asked, which knows then of whatever the mount did to it.
        let now = self.stat_now(&file.inode)?;
        let (_, known) = file.pieces(self.archive)?;
        let past = self.archive.read()?;
        let outside = past.outside_after(&file.inode, self.moment)?;
        let foreign = self.foreign_since(&past, &file.inode, now.as_ref())?;
        let mapped = self.archive.history().mapped_since(&file.inode);
        let mut worst = Certainty::Exact;
        for piece in &known.content.pieces {
            let kept = match piece.source {
                // What was taken away is the inode, which a mapping may go on to change.
                Source::Kept(row) if row.origin != Origin::TakenAway => Some(row.at),
                Source::Kept(_) | Source::Live => None,
            };
            let until = kept.unwrap_or(Epoch::LAST.end());
            // What is noted together with what was kept was noticed before that was.
            if outside.iter().any(|outside| outside.at <= until) {
                return Ok(Certainty::ChangedOutside);
            }
            let at = match piece.source {
                Source::Kept(row) => row.at,
                Source::Live => Epoch::LAST.end(),
            };
            if foreign.is_some_and(|since| since <= at) {
                return Ok(Certainty::ChangedOutside);
            }
            if mapped.is_some_and(|since| since < until) || past.is_fuzzy(&file.inode, self.moment, kept)? {
                worst = Certainty::Fuzzy;
            }
        }
        Ok(worst)
    }

    /// Returns from when on what was kept of a file has bytes that came past the mount after this moment, as its ctimes
    /// tell; of the file as it is now, the end of all epochs.
    fn foreign_since(
        &self,
        past: &Past,
        inode: &FileHandle,
        now: Option<&Attributes>,
    ) -> Result<Option<Sequence>, ArchiveError> {
        let prints = past.fingerprints_after(inode, self.moment)?;
        // Since when nothing went through the mount, with the time by the clock.
        let mut quiet = self.time_ns.map(|time_ns| (self.moment, time_ns));
        if let Some(first) = prints.first()
            && !self.is_quiet_from_here(past, inode, first)?
        {
            quiet = None;
        }
        // A deleted or replaced file that was put back has a later ctime by that.
        let mut was_gone = false;
        for print in &prints {
            if let Some((since, time_ns)) = quiet.filter(|_| !was_gone)
                && is_after(print.changed_ns, time_ns)
                && !is_of_mapping(print)
                && !self.may_be_mapped(past, inode, since, print.at)?
            {
                return Ok(Some(print.at));
            }
            was_gone |= matches!(print.cause, Cause::Unlink | Cause::Rename);
            quiet = past.first_kept_end(print.at.epoch())?;
        }
        let (Some((since, time_ns)), Some(now)) = (quiet.filter(|_| !was_gone), now) else { return Ok(None) };
        let end = Epoch::LAST.end();
        let is_foreign = is_after(now.changed_ns, time_ns) && !self.may_be_mapped(past, inode, since, end)?;
        Ok(is_foreign.then_some(end))
    }

    /// Whether the first change since this moment was noted. In the middle of an epoch it was not if there was one before.
    fn is_quiet_from_here(
        &self,
        past: &Past,
        inode: &FileHandle,
        first: &Fingerprint,
    ) -> Result<bool, ArchiveError> {
        let epoch = self.moment.epoch();
        if self.moment == epoch.end() {
            return Ok(true);
        }
        let start = Sequence::new(epoch, 0);
        if past.trash_start()? > start || past.has_fingerprint(inode, start, self.moment)? {
            return Ok(false);
        }
        // Of a file that is made in an epoch nothing is noted in it.
        let begun = past.time_of(start.before())?;
        Ok(begun.is_some_and(|begun| first.born_ns <= begun))
    }

    /// Whether stores through a mapping may have changed it in between.
    fn may_be_mapped(
        &self,
        past: &Past,
        inode: &FileHandle,
        since: Sequence,
        until: Sequence,
    ) -> Result<bool, ArchiveError> {
        let mapped = self.archive.history().may_be_mapped_since(inode);
        Ok(mapped.is_some_and(|mapped| mapped < until) || past.is_fuzzy(inode, since, Some(until))?)
    }
}

fn is_after(changed_ns: i64, time_ns: i64) -> bool {
    changed_ns > time_ns.saturating_add(TICK_NS)
}

/// What is mapped is preserved at the end of each epoch, a moment after it.
fn is_of_mapping(print: &Fingerprint) -> bool {
    print.cause == Cause::Map && print.actor == Actor::default()
}
