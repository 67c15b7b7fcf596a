//! What is to be kept, what of it is damaged, and which objects are known.

use rusqlite::params;

use super::columns::{self, stored_span};
use super::lifetimes;
use super::{Catalog, CatalogError, ContentRow, Kept, Past, SnapshotState};
use crate::snapshot::budget::Holding;
use crate::snapshot::record::{Named, ObjectId};
use crate::snapshot::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

/// For so long somebody may have watched after it was noted that somebody does: the notes are five seconds apart.
const UNWATCHED_NS: i64 = 7_000_000_000;

impl Past {
    /// Returns the moment from which on every moment can be shown: where the trash begins, or where history does.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn trash_start(&self) -> Result<Sequence, CatalogError> {
        let sql = "SELECT max(trash_start, ifnull(complete_since, 0)) FROM standing";
        let start = self.row("read where the trash begins", sql, [], |row| row.get(0))?;
        Ok(start.unwrap_or(Sequence::ZERO))
    }

    /// Returns what is to be kept: the snapshots and the trash.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn kept(&self) -> Result<Kept, CatalogError> {
        self.consistent(|| {
            let sql = "SELECT epoch FROM snapshot ORDER BY epoch";
            let epochs: Vec<Epoch> = self.rows("read snapshots", sql, [], |row| row.get(0))?;
            Ok(Kept::new(epochs.into_iter().map(Epoch::end), self.trash_start()?))
        })
    }

    /// Returns whether a moment is kept. Asked after a question about the moment, it says whether the answer is right:
    /// nothing is swept that was still kept then.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn is_kept(&self, moment: Sequence) -> Result<bool, CatalogError> {
        let epoch = moment.epoch();
        if moment == epoch.end() {
            let sql = "SELECT 1 FROM snapshot WHERE epoch = ?1";
            if self.row("look for a snapshot", sql, [epoch], |_| Ok(()))?.is_some() {
                return Ok(true);
            }
        }
        Ok(moment >= self.trash_start()?)
    }

    /// Returns when the last epoch ended, nanoseconds since 1970; `None` before the first has.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn last_epoch_ended_ns(&self) -> Result<Option<i64>, CatalogError> {
        let sql = "SELECT ended_ns FROM epoch WHERE ended_ns IS NOT NULL ORDER BY epoch DESC LIMIT 1";
        self.row("read epochs", sql, [], |row| row.get(0))
    }

    /// Whether a change of an inode at `changed_ns`, in an epoch before `first`, was made while the mount watched: before an
    /// epoch ended, or noted in the one that never did. Somebody watched until `watched_ns` and perhaps a while longer.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn explains(
        &self,
        inode: &FileHandle,
        first: Epoch,
        changed_ns: i64,
        watched_ns: i64,
    ) -> Result<bool, CatalogError> {
        let sql = "SELECT epoch, ended_ns FROM epoch
                   WHERE ended_ns IS NOT NULL AND epoch < ?1 ORDER BY epoch DESC LIMIT 1";
        let ended: Option<(Epoch, i64)> =
            self.row("read epochs", sql, [first], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (ended, ended_ns) = ended.unwrap_or((Epoch(0), i64::MIN));
        if changed_ns <= ended_ns {
            return Ok(true);
        }
        if changed_ns > watched_ns.saturating_add(UNWATCHED_NS) {
            return Ok(false);
        }
        let sql = "SELECT 1 WHERE EXISTS (SELECT 1 FROM attributes WHERE inode = ?1 AND at > ?2 AND at < ?3)
                       OR EXISTS (SELECT 1 FROM content WHERE inode = ?1 AND at > ?2 AND at < ?3)
                       OR EXISTS (SELECT 1 FROM name WHERE parent = ?1 AND at > ?2 AND at < ?3)";
        let until = Epoch(first.0.saturating_sub(1)).end();
        Ok(self
            .row("read what was noted last", sql, params![inode, ended.end(), until], |_| Ok(()))?
            .is_some())
    }

    /// Returns which moments need which bytes, for the planner. Reads every row of content.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn holdings(&self, kept: &Kept) -> Result<Vec<Holding>, CatalogError> {
        let mut holdings: Vec<Holding> = Vec::new();
        self.each_lifetime(|row, since| {
            let snapshots = kept.within(since, row.at);
            if since < row.at && row.bytes > 0 && (!snapshots.is_empty() || kept.is_in_trash(row.at)) {
                holdings.push(Holding { snapshots, until: row.at, bytes: row.bytes });
            }
        })?;
        Ok(holdings)
    }

    /// Returns whether an object is spoken of: something needs it, or it is about to be removed.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn knows_object(&self, object: ObjectId) -> Result<bool, CatalogError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM content WHERE object = ?1)
                       OR EXISTS (SELECT 1 FROM condemned WHERE object = ?1)";
        let found = self.row("look for an object", sql, [object], |row| row.get(0))?;
        Ok(found.unwrap_or(false))
    }

    /// Returns whether a row is still there: what was put back or swept meanwhile is not missing.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn has_row(&self, row: &ContentRow) -> Result<bool, CatalogError> {
        let (offset, _) = stored_span(row.span);
        let sql = "SELECT 1 FROM content WHERE inode = ?1 AND at = ?2 AND offset = ?3 AND object = ?4";
        let found =
            self.row("look for a row", sql, params![row.inode, row.at, offset, row.object], |_| Ok(()))?;
        Ok(found.is_some())
    }

    /// Returns what a name stood for last, before what it stands for now.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn last_named(&self, parent: &FileHandle, name: &[u8]) -> Result<Option<Named>, CatalogError> {
        let sql = "SELECT before, file_type FROM name
                   WHERE parent = ?1 AND name = ?2 AND before IS NOT NULL ORDER BY at DESC LIMIT 1";
        let found =
            self.row("look for a former name", sql, params![parent, name], |row| columns::named(row, 0))?;
        Ok(found.flatten())
    }

    /// Returns the moments of `kept`, the trash aside, that need a row; `None` if the row is gone.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn needed_by(
        &self,
        row: &ContentRow,
        kept: &Kept,
    ) -> Result<Option<Vec<Epoch>>, CatalogError> {
        let rows = self.content_of(&row.inode)?;
        let since = lifetimes::since(&rows, &self.lifetime_of(&rows)?);
        let place = rows
            .iter()
            .zip(since)
            .find(|(known, _)| (known.at, known.span, known.object) == (row.at, row.span, row.object));
        let Some((known, since)) = place else { return Ok(None) };
        let moments = kept.moments().get(kept.within(since, known.at)).unwrap_or_default();
        Ok(Some(moments.iter().map(|moment| moment.epoch()).collect()))
    }

    /// Returns how many objects are damaged.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn damaged_objects(&self) -> Result<u64, CatalogError> {
        let sql = "SELECT count(DISTINCT object) FROM content WHERE is_damaged = 1";
        let count: Option<i64> = self.row("count damage", sql, [], |row| row.get(0))?;
        Ok(count.unwrap_or(0).max(0).cast_unsigned())
    }
}

impl Catalog {
    /// Has the trash begin at a later moment; an earlier one changes nothing, for what was let go may be gone.
    ///
    /// # Errors
    /// If the disk does not let us.
    pub(crate) fn set_trash_start(&mut self, start: Sequence) -> Result<(), CatalogError> {
        self.past
            .connection
            .execute("UPDATE standing SET trash_start = max(trash_start, ?1)", [start])
            .map(drop)
            .map_err(self.past.failed("note where the trash begins"))
    }

    /// Marks bytes as damaged, so that they are never shown, and the snapshots that need them as degraded. Returns
    /// those snapshots; nothing happens if the row is gone.
    ///
    /// # Errors
    /// If the disk does not let us; nothing is marked then.
    pub(crate) fn note_damage(&mut self, row: &ContentRow) -> Result<Vec<Epoch>, CatalogError> {
        let kept = self.past.kept()?;
        let Some(epochs) = self.past.needed_by(row, &kept)? else { return Ok(Vec::new()) };
        let (offset, _) = stored_span(row.span);
        let note = || {
            let transaction = self.past.connection.unchecked_transaction()?;
            transaction
                .prepare_cached(
                    "UPDATE content SET is_damaged = 1
                     WHERE inode = ?1 AND at = ?2 AND offset = ?3 AND object = ?4",
                )?
                .execute(params![row.inode, row.at, offset, row.object])?;
            for epoch in &epochs {
                transaction
                    .prepare_cached("UPDATE snapshot SET state = ?2 WHERE epoch = ?1")?
                    .execute(params![epoch, SnapshotState::Degraded])?;
            }
            transaction.commit()
        };
        note().map_err(self.past.failed("note damage"))?;
        Ok(epochs)
    }
}
