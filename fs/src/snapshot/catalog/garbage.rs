//! What no kept moment needs goes, in small steps.
//!
//! A crash between any two steps leaves nothing that is wrong: the row of content is moved to the condemned in one
//! transaction ([`Catalog::sweep`]), so that no question finds it any more; then the object is removed or what is not
//! needed of it is freed, by the caller ([`Past::condemned`]); then the condemned row goes ([`Catalog::disposed`]).
//! Whoever dies in between does the second step again, to which it makes no difference that the object is gone. An
//! object is removed only when its last row is condemned.
//!
//! Entries of the running epoch are never swept: their objects are being added to.

use std::ops::Range;

use rusqlite::{Transaction, params};

use super::apply::remove_empty_entry;
use super::as_of::ContentRow;
use super::columns::{self, stored_span};
use super::lifetimes::Inode;
use super::{Catalog, CatalogError, Kept, Past};
use crate::snapshot::record::{ObjectId, Span};
use crate::snapshot::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

/// How far a search for garbage has come. It lives in memory: a new one begins from the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sweep {
    stage: Stage,
    /// The last row that was looked at: its directory or inode, its name and its moment.
    after: Option<(FileHandle, Vec<u8>, Sequence)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    #[default]
    Names,
    Attributes,
    Xattrs,
    Content,
    Mapped,
    Outside,
    Lives,
    Epochs,
    Finished,
}

impl Sweep {
    /// Returns a search for bytes alone, for when they are needed at once.
    pub(crate) fn of_content() -> Self {
        Self { stage: Stage::Content, after: None }
    }

    /// Whether such a search is done with the bytes.
    pub(crate) fn is_past_content(&self) -> bool {
        !matches!(self.stage, Stage::Names | Stage::Attributes | Stage::Xattrs | Stage::Content)
    }
}

impl Stage {
    fn next(self) -> Self {
        match self {
            Self::Names => Self::Attributes,
            Self::Attributes => Self::Xattrs,
            Self::Xattrs => Self::Content,
            Self::Content => Self::Mapped,
            Self::Mapped => Self::Outside,
            Self::Outside => Self::Lives,
            Self::Lives => Self::Epochs,
            Self::Epochs | Self::Finished => Self::Finished,
        }
    }
}

/// What a step of a search found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SweepStep {
    /// Rows that nobody needed.
    pub(crate) rows: u64,
    /// Rows of content among them, which are condemned now.
    pub(crate) condemned: u64,
    /// What their bytes in the store take.
    pub(crate) bytes: u64,
    /// Everything was looked at.
    pub(crate) is_finished: bool,
}

/// An object of which something is not needed any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Condemned {
    /// The object.
    pub(crate) object: ObjectId,
    /// What to do with it.
    pub(crate) disposal: Disposal,
    /// What that gives back at most.
    pub(crate) bytes: u64,
    rows: Vec<i64>,
}

/// What to do with an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Disposal {
    /// Nobody needs it.
    Remove,
    /// Nobody needs these bytes of it.
    Punch(Vec<Range<u64>>),
}

impl Catalog {
    /// Looks at about `limit` more rows and takes out those that no kept moment needs. One transaction.
    ///
    /// # Errors
    /// If the disk does not let us, or a row makes no sense: then nothing was taken out.
    pub(crate) fn sweep(
        &mut self,
        sweep: &mut Sweep,
        kept: &Kept,
        limit: usize,
    ) -> Result<SweepStep, CatalogError> {
        let running = self.past.last_ended_epoch()?.map_or(Sequence::ZERO, Epoch::end);
        let kept = kept.with_window_from(running);
        let mut next = sweep.clone();
        let transaction =
            self.past.connection.unchecked_transaction().map_err(self.past.failed("begin to sweep"))?;
        let mut step = SweepStep::default();
        let has_more = match next.stage {
            Stage::Names => self.past.sweep_names(&transaction, &mut next, &kept, limit, &mut step)?,
            Stage::Attributes => {
                self.past.sweep_inodes(&transaction, "attributes", &mut next, &kept, limit, &mut step)?
            }
            Stage::Xattrs => {
                self.past.sweep_inodes(&transaction, "xattrs", &mut next, &kept, limit, &mut step)?
            }
            Stage::Content => self.past.sweep_content(&transaction, &mut next, &kept, limit, &mut step)?,
            Stage::Mapped => {
                let key = "(inode, at, since)";
                self.past.sweep_before(&transaction, "mapped", key, kept.oldest(), limit, &mut step)?
            }
            Stage::Outside => {
                let key = "(inode, at, name)";
                self.past.sweep_before(&transaction, "outside", key, kept.oldest(), limit, &mut step)?
            }
            Stage::Lives => self.past.sweep_lives(&transaction, &mut next, limit)?,
            Stage::Epochs => self.past.sweep_epochs(&transaction, kept.oldest().epoch(), limit)?,
            Stage::Finished => false,
        };
        transaction.commit().map_err(self.past.failed("finish a step of sweeping"))?;
        if !has_more {
            next = Sweep { stage: next.stage.next(), after: None };
        }
        step.is_finished = next.stage == Stage::Finished;
        *sweep = next;
        Ok(step)
    }

    /// Notes that condemned objects are removed or punched.
    ///
    /// # Errors
    /// If the disk does not let us.
    pub(crate) fn disposed(&mut self, condemned: &[Condemned]) -> Result<(), CatalogError> {
        let remove = || {
            let transaction = self.past.connection.unchecked_transaction()?;
            for id in condemned.iter().flat_map(|condemned| &condemned.rows) {
                let mut statement =
                    transaction.prepare_cached("DELETE FROM condemned WHERE id = ?1 RETURNING bytes")?;
                let bytes: i64 =
                    statement.query_map([id], |row| row.get::<_, i64>(0))?.sum::<rusqlite::Result<_>>()?;
                add_bytes(&transaction, -bytes)?;
            }
            transaction.commit()
        };
        remove().map_err(self.past.failed("remove condemned rows"))
    }

    /// Notes the hash of content that was not read when it was kept, and what it was found to take of the disk. Does
    /// nothing if the row is gone.
    ///
    /// # Errors
    /// If the disk does not let us.
    pub(crate) fn note_content(
        &mut self,
        row: &ContentRow,
        hash: [u8; 32],
        bytes: u64,
    ) -> Result<(), CatalogError> {
        let note = || {
            let transaction = self.past.connection.unchecked_transaction()?;
            let new = i64::try_from(bytes).unwrap_or(i64::MAX);
            let (offset, _) = stored_span(row.span);
            let changed = transaction
                .prepare_cached(
                    "UPDATE content SET hash = ?5, bytes = ?6
                     WHERE inode = ?1 AND at = ?2 AND offset = ?3 AND object = ?4 AND bytes = ?7",
                )?
                .execute(params![
                    row.inode,
                    row.at,
                    offset,
                    row.object,
                    hash,
                    new,
                    row.bytes.cast_signed()
                ])?;
            if changed > 0 {
                let more = new.saturating_sub(row.bytes.cast_signed());
                add_bytes(&transaction, more)?;
                transaction
                    .prepare_cached("UPDATE entry SET bytes = bytes + ?2 WHERE at = ?1")?
                    .execute(params![row.at, more])?;
            }
            transaction.commit()
        };
        note().map_err(self.past.failed("note a hash"))
    }
}

impl Past {
    /// Returns objects of which something is condemned, at most `limit`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn condemned(&self, limit: usize) -> Result<Vec<Condemned>, CatalogError> {
        self.consistent(|| {
            let sql = "SELECT DISTINCT object FROM condemned ORDER BY object LIMIT ?1";
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let objects: Vec<ObjectId> =
                self.rows("read condemned objects", sql, [limit], |row| row.get(0))?;
            objects.into_iter().map(|object| self.condemned_object(object)).collect()
        })
    }

    fn condemned_object(&self, object: ObjectId) -> Result<Condemned, CatalogError> {
        let sql = "SELECT offset, length, id, bytes FROM condemned WHERE object = ?1";
        let condemned = self.rows("read condemned rows", sql, [object], |row| {
            Ok((columns::span(row, 0)?, row.get::<_, i64>(2)?, columns::unsigned(row, 3)?))
        })?;
        let sql = "SELECT offset, length FROM content WHERE object = ?1";
        let needed = self.rows("read the rows of an object", sql, [object], |row| columns::span(row, 0))?;
        let disposal = match needed.is_empty() {
            true => Disposal::Remove,
            false => Disposal::Punch(without(condemned.iter().map(|(span, ..)| *span), &needed)),
        };
        Ok(Condemned {
            object,
            disposal,
            bytes: condemned.iter().map(|(.., bytes)| bytes).sum(),
            rows: condemned.iter().map(|(_, id, _)| *id).collect(),
        })
    }

    fn sweep_names(
        &self,
        transaction: &Transaction<'_>,
        sweep: &mut Sweep,
        kept: &Kept,
        limit: usize,
        step: &mut SweepStep,
    ) -> Result<bool, CatalogError> {
        let (parent, name, at) = position(sweep.after.as_ref());
        let sql = "SELECT parent, name, at FROM name WHERE (parent, name, at) > (?1, ?2, ?3)
                   ORDER BY parent, name, at LIMIT ?4";
        let rows: Vec<(FileHandle, Vec<u8>, Sequence)> =
            self.rows("read names", sql, params![parent, name, at, bound(limit)], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        let has_more = rows.len() >= limit.max(1);
        for row in rows {
            let since = match &sweep.after {
                Some(last) if last.0 == row.0 && last.1 == row.1 => last.2,
                _ => Sequence::ZERO,
            };
            if !kept.meets(since, row.2) {
                let sql = "DELETE FROM name WHERE parent = ?1 AND name = ?2 AND at = ?3";
                self.remove_row(transaction, sql, params![row.0, row.1, row.2], row.2)?;
                step.rows += 1;
            }
            sweep.after = Some(row);
        }
        Ok(has_more)
    }

    /// Sweeps a table whose key is inode and moment.
    fn sweep_inodes(
        &self,
        transaction: &Transaction<'_>,
        table: &'static str,
        sweep: &mut Sweep,
        kept: &Kept,
        limit: usize,
        step: &mut SweepStep,
    ) -> Result<bool, CatalogError> {
        let (inode, _, at) = position(sweep.after.as_ref());
        let sql = format!(
            "SELECT row.inode, row.at, life.born, life.died FROM {table} AS row
             LEFT JOIN life ON life.inode = row.inode
             WHERE (row.inode, row.at) > (?1, ?2) ORDER BY row.inode, row.at LIMIT ?3"
        );
        let rows = self.rows("read attributes", &sql, params![inode, at, bound(limit)], |row| {
            let life: (Option<Sequence>, Option<Sequence>) = (row.get(2)?, row.get(3)?);
            Ok((row.get::<_, FileHandle>(0)?, row.get::<_, Sequence>(1)?, life.0.zip(life.1)))
        })?;
        let has_more = rows.len() >= limit.max(1);
        let sql = format!("DELETE FROM {table} WHERE inode = ?1 AND at = ?2");
        for (inode, at, life) in rows {
            let before = match &sweep.after {
                Some(last) if last.0 == inode => last.2,
                _ => Sequence::ZERO,
            };
            let born = Inode { life, xattrs: Vec::new() }.born(at);
            if !kept.meets(before.max(born), at) {
                self.remove_row(transaction, &sql, params![inode, at], at)?;
                step.rows += 1;
            }
            sweep.after = Some((inode, Vec::new(), at));
        }
        Ok(has_more)
    }

    fn sweep_content(
        &self,
        transaction: &Transaction<'_>,
        sweep: &mut Sweep,
        kept: &Kept,
        limit: usize,
        step: &mut SweepStep,
    ) -> Result<bool, CatalogError> {
        let page = self.content_after(sweep.after.as_ref().map(|last| &last.0), limit)?;
        for (rows, since) in &page {
            for (row, since) in rows.iter().zip(since) {
                if !kept.meets(*since, row.at) {
                    self.condemn(transaction, row)?;
                    step.rows += 1;
                    step.condemned += 1;
                    step.bytes += row.bytes;
                }
                sweep.after = Some((row.inode, Vec::new(), row.at));
            }
        }
        Ok(!page.is_empty())
    }

    fn condemn(&self, transaction: &Transaction<'_>, row: &ContentRow) -> Result<(), CatalogError> {
        let (offset, length) = stored_span(row.span);
        let bytes = row.bytes.cast_signed();
        transaction
            .prepare_cached("INSERT INTO condemned (object, offset, length, bytes) VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut insert| insert.execute(params![row.object, offset, length, bytes]))
            .map_err(self.failed("condemn a row"))?;
        let sql = "DELETE FROM content WHERE inode = ?1 AND at = ?2 AND offset = ?3 AND object = ?4";
        self.remove_row(transaction, sql, params![row.inode, row.at, offset, row.object], row.at)
    }

    /// Sweeps what no moment at or after `at` needs.
    fn sweep_before(
        &self,
        transaction: &Transaction<'_>,
        table: &'static str,
        key: &'static str,
        oldest: Sequence,
        limit: usize,
        step: &mut SweepStep,
    ) -> Result<bool, CatalogError> {
        let columns = key.trim_matches(['(', ')']);
        let sql = format!(
            "DELETE FROM {table} WHERE {key} IN (SELECT {columns} FROM {table} WHERE at <= ?1 LIMIT ?2) RETURNING at"
        );
        let removed: Vec<Sequence> =
            self.rows("remove old rows", &sql, params![oldest, bound(limit)], |row| row.get(0))?;
        for at in &removed {
            self.release_entry(transaction, *at).map_err(self.failed("remove an entry"))?;
        }
        step.rows += removed.len() as u64;
        Ok(removed.len() >= limit.max(1))
    }

    fn sweep_lives(
        &self,
        transaction: &Transaction<'_>,
        sweep: &mut Sweep,
        limit: usize,
    ) -> Result<bool, CatalogError> {
        let (inode, ..) = position(sweep.after.as_ref());
        let sql = "
            SELECT inode, EXISTS (SELECT 1 FROM attributes WHERE attributes.inode = life.inode)
                       OR EXISTS (SELECT 1 FROM xattrs WHERE xattrs.inode = life.inode)
                       OR EXISTS (SELECT 1 FROM content WHERE content.inode = life.inode)
            FROM life WHERE inode > ?1 ORDER BY inode LIMIT ?2";
        let lives: Vec<(FileHandle, bool)> =
            self.rows("read lives", sql, params![inode, bound(limit)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let has_more = lives.len() >= limit.max(1);
        for (inode, is_needed) in lives {
            if !is_needed {
                transaction
                    .prepare_cached("DELETE FROM life WHERE inode = ?1")
                    .and_then(|mut delete| delete.execute([inode]))
                    .map_err(self.failed("remove a life"))?;
            }
            sweep.after = Some((inode, Vec::new(), Sequence::ZERO));
        }
        Ok(has_more)
    }

    fn sweep_epochs(
        &self,
        transaction: &Transaction<'_>,
        oldest: Epoch,
        limit: usize,
    ) -> Result<bool, CatalogError> {
        // The last one that ended stays: it says where the running one begins.
        let sql = "
            DELETE FROM epoch WHERE epoch IN (
                SELECT epoch FROM epoch
                WHERE epoch < ?1 AND epoch < (SELECT max(epoch) FROM epoch WHERE ended_ns IS NOT NULL)
                      AND epoch NOT IN (SELECT epoch FROM snapshot)
                ORDER BY epoch LIMIT ?2)";
        let removed = transaction
            .prepare_cached(sql)
            .and_then(|mut delete| delete.execute(params![oldest, bound(limit)]))
            .map_err(self.failed("remove old epochs"))?;
        Ok(removed >= limit.max(1))
    }

    fn remove_row(
        &self,
        transaction: &Transaction<'_>,
        sql: &str,
        key: impl rusqlite::Params,
        at: Sequence,
    ) -> Result<(), CatalogError> {
        let remove = || {
            transaction.prepare_cached(sql)?.execute(key)?;
            self.release_entry(transaction, at)
        };
        remove().map_err(self.failed("remove a row"))
    }

    /// Notes that one row less has this moment.
    fn release_entry(&self, transaction: &Transaction<'_>, at: Sequence) -> rusqlite::Result<()> {
        transaction.prepare_cached("UPDATE entry SET rows = rows - 1 WHERE at = ?1")?.execute([at])?;
        remove_empty_entry(transaction, at)
    }
}

fn add_bytes(transaction: &Transaction<'_>, bytes: i64) -> rusqlite::Result<()> {
    transaction.prepare_cached("UPDATE standing SET bytes = bytes + ?1")?.execute([bytes]).map(drop)
}

/// Returns a place before all rows, or that of the last one, as it is bound to a statement.
fn position(after: Option<&(FileHandle, Vec<u8>, Sequence)>) -> (Vec<u8>, Vec<u8>, Sequence) {
    match after {
        Some((inode, name, at)) => (inode.to_bytes(), name.clone(), *at),
        None => (Vec::new(), Vec::new(), Sequence::ZERO),
    }
}

fn bound(limit: usize) -> i64 {
    i64::try_from(limit.max(1)).unwrap_or(i64::MAX)
}

/// Returns the bytes of `spans` that are in none of `needed`.
fn without(spans: impl Iterator<Item = Span>, needed: &[Span]) -> Vec<Range<u64>> {
    let range = |span: Span| match span {
        Span::Whole => 0..u64::MAX,
        Span::Range { offset, length } => offset..offset.saturating_add(length),
    };
    let mut needed: Vec<Range<u64>> = needed.iter().map(|span| range(*span)).collect();
    needed.sort_unstable_by_key(|range| range.start);
    let mut free = Vec::new();
    for mut rest in spans.map(range) {
        for hole in &needed {
            if rest.start < hole.start.min(rest.end) {
                free.push(rest.start..hole.start.min(rest.end));
            }
            rest.start = rest.start.max(hole.end);
        }
        if rest.start < rest.end {
            free.push(rest);
        }
    }
    free
}
