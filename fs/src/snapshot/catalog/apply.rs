//! Folding entries of the log into the tables.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, OptionalExtension, Transaction, params};

use super::columns::{self, stored_span, stored_xattrs};
use super::{Catalog, CatalogError, LogPosition, schema};
use crate::snapshot::record::{
    Actor, Attributes, Cause, Change, Entry, Named, ObjectId, Origin, SnapshotNote, Span,
};
use crate::snapshot::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

/// What [`Catalog::apply`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Applied {
    /// Entries that were new.
    pub(crate) entries: u64,
    /// Rows that they became.
    pub(crate) rows: u64,
    /// Up to where the log is folded now.
    pub(crate) position: LogPosition,
}

impl Catalog {
    /// Folds entries, each with the position behind it, in the order of the log. One transaction: all or nothing. Some
    /// thousand at a time are best. Entries at or before the position that was reached are passed over.
    ///
    /// An object that was put back or never taken loses its rows.
    ///
    /// # Errors
    /// If the disk does not let us; nothing was folded then.
    pub(crate) fn apply(
        &mut self,
        entries: impl IntoIterator<Item = (Entry, LogPosition)>,
    ) -> Result<Applied, CatalogError> {
        let failed = self.past.failed("fold entries");
        let fold = || {
            let transaction = self.past.connection.transaction()?;
            let mut applied = Applied { position: schema::position(&transaction)?, ..Applied::default() };
            let mut folding = Folding::begin(&transaction)?;
            for (entry, position) in entries {
                if position <= applied.position {
                    continue;
                }
                if applied.position == LogPosition::default() {
                    folding.note_beginning(position)?;
                }
                applied.rows += folding.fold(&entry)?;
                applied.entries += 1;
                applied.position = position;
            }
            folding.finish(applied.position)?;
            transaction.commit()?;
            Ok(applied)
        };
        fold().map_err(failed)
    }
}

/// The statements of one transaction, and what is written once at its end.
struct Folding<'t> {
    transaction: &'t Transaction<'t>,
    entry: CachedStatement<'t>,
    name: CachedStatement<'t>,
    attributes: CachedStatement<'t>,
    content: CachedStatement<'t>,
    /// The latest time of the entries of an epoch.
    latest: BTreeMap<Epoch, i64>,
    bytes: i64,
}

/// What an entry adds up to.
#[derive(Default)]
struct Sum {
    rows: i64,
    lost: i64,
    bytes: i64,
    names: usize,
}

impl<'t> Folding<'t> {
    fn begin(transaction: &'t Transaction<'t>) -> rusqlite::Result<Self> {
        // The first pre-image of a thing wins, so what is there already stays.
        Ok(Self {
            transaction,
            entry: transaction.prepare_cached(
                "INSERT INTO entry (at, time_ns, uid, pid, cause, rows, lost, bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (at) DO UPDATE SET
                     rows = rows + excluded.rows, lost = lost + excluded.lost, bytes = bytes + excluded.bytes",
            )?,
            name: transaction.prepare_cached(
                "INSERT OR IGNORE INTO name (parent, name, at, before, file_type, is_lost)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?,
            attributes: transaction.prepare_cached(&format!(
                "INSERT OR IGNORE INTO attributes (inode, at, {})
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
                columns::ATTRIBUTES
            ))?,
            content: transaction.prepare_cached(
                "INSERT OR IGNORE INTO content (inode, at, offset, object, length, size, origin, hash, bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?,
            latest: BTreeMap::new(),
            bytes: 0,
        })
    }

    fn finish(self, position: LogPosition) -> rusqlite::Result<()> {
        let mut note = self.transaction.prepare_cached(
            "INSERT INTO epoch (epoch, latest_ns) VALUES (?1, ?2)
             ON CONFLICT (epoch) DO UPDATE SET latest_ns = max(latest_ns, excluded.latest_ns)",
        )?;
        for (epoch, latest_ns) in &self.latest {
            note.execute(params![epoch, latest_ns])?;
        }
        self.transaction
            .prepare_cached("UPDATE standing SET segment = ?1, offset = ?2, bytes = bytes + ?3")?
            .execute(params![position.segment, position.offset.cast_signed(), self.bytes])
            .map(drop)
    }

    /// The first segment of the log begins with the epoch that it is called after; what was before it is not known.
    fn note_beginning(&self, first: LogPosition) -> rusqlite::Result<()> {
        let since = Epoch(first.segment.saturating_sub(1)).end();
        let since = if first.segment <= 1 { Sequence::ZERO } else { since };
        self.transaction.execute("UPDATE standing SET complete_since = ?1", [since]).map(drop)
    }

    fn fold(&mut self, entry: &Entry) -> rusqlite::Result<u64> {
        let latest = self.latest.entry(entry.at.epoch()).or_insert(entry.time_ns);
        *latest = entry.time_ns.max(*latest);
        let mut sum = Sum::default();
        for change in &entry.changes {
            self.fold_change(entry, change, &mut sum)?;
        }
        self.bytes += sum.bytes;
        if sum.rows > 0 {
            let Actor { uid, pid } = entry.actor;
            self.entry.execute(params![
                entry.at,
                entry.time_ns,
                uid,
                pid,
                entry.cause,
                sum.rows,
                sum.lost,
                sum.bytes
            ])?;
        }
        Ok(sum.rows.cast_unsigned())
    }

    fn fold_change(&mut self, entry: &Entry, change: &Change, sum: &mut Sum) -> rusqlite::Result<()> {
        match change {
            Change::Name { parent, name, before } => {
                let is_lost = before.is_some_and(|before| is_lost(entry, &before, sum.names));
                sum.names += 1;
                let file_type = before.map_or(0, |before| before.file_type);
                let inode = before.map(|before| before.inode);
                let row = params![parent, name, entry.at, inode, file_type, is_lost];
                if self.name.execute(row)? > 0 {
                    sum.rows += 1;
                    sum.lost += i64::from(is_lost);
                    if let Some(before) = before.filter(|before| is_lost && is_last_name(entry, before)) {
                        self.note_death(&before.inode, entry.at)?;
                    }
                }
                Ok(())
            }
            Change::Attributes { inode, before } => {
                sum.rows += inserted(self.insert_attributes(inode, entry.at, before)?);
                Ok(())
            }
            Change::ExtendedAttributes { inode, before } => {
                let row = params![inode, entry.at, stored_xattrs(before)];
                sum.rows +=
                    self.insert("INSERT OR IGNORE INTO xattrs (inode, at, value) VALUES (?1, ?2, ?3)", row)?;
                Ok(())
            }
            Change::Content { inode, object, span, origin, hash } => {
                let (size, bytes) = measure(entry, inode, *span);
                let (offset, length) = stored_span(*span);
                let hash = hash.as_ref().map(|hash| hash.as_slice());
                let row = params![inode, entry.at, offset, object, length, size, origin, hash, bytes];
                if self.content.execute(row)? > 0 {
                    sum.rows += 1;
                    sum.bytes += bytes;
                    sum.lost += i64::from(entry.cause == Cause::Truncate);
                }
                Ok(())
            }
            Change::MappedSince { inode, since } => {
                let row = params![inode, entry.at, since];
                sum.rows +=
                    self.insert("INSERT OR IGNORE INTO mapped (inode, at, since) VALUES (?1, ?2, ?3)", row)?;
                Ok(())
            }
            Change::ChangedOutside { inode, name } => {
                // No name is empty, so that stands for none.
                let row = params![inode, entry.at, name.as_deref().unwrap_or_default()];
                sum.rows +=
                    self.insert("INSERT OR IGNORE INTO outside (inode, at, name) VALUES (?1, ?2, ?3)", row)?;
                Ok(())
            }
            Change::NotTaken { object } => self.forget_object(*object, Existence::NeverLeft),
            Change::PutBack { object } => self.forget_object(*object, Existence::CameBack),
            Change::EpochEnd { snapshot } => self.end_epoch(entry, snapshot.as_ref()),
        }
    }

    fn insert(&self, sql: &str, row: impl rusqlite::Params) -> rusqlite::Result<i64> {
        self.transaction.prepare_cached(sql)?.execute(row).map(inserted)
    }

    fn insert_attributes(
        &mut self,
        inode: &FileHandle,
        at: Sequence,
        before: &Attributes,
    ) -> rusqlite::Result<usize> {
        self.attributes.execute(params![
            inode,
            at,
            before.ino.cast_signed(),
            before.mode,
            before.uid,
            before.gid,
            before.nlink,
            before.size.cast_signed(),
            before.blocks.cast_signed(),
            before.accessed_ns,
            before.modified_ns,
            before.changed_ns,
            before.born_ns,
            before.device.cast_signed(),
        ])
    }

    /// Notes from when to when an inode that has no name any more had one, so that snapshots from before its birth keep
    /// nothing of it. All names that it ever had are in the table, and each became its when the row before says.
    fn note_death(&self, inode: &FileHandle, died: Sequence) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO life (inode, died, born)
                 SELECT ?1, ?2, min(ifnull((SELECT max(earlier.at) FROM name AS earlier
                                            WHERE earlier.parent = name.parent AND earlier.name = name.name
                                                  AND earlier.at < name.at), 0))
                 FROM name WHERE before = ?1",
            )?
            .execute(params![inode, died])
            .map(drop)
    }

    /// Removes what is said of an object that is not in the store.
    fn forget_object(&mut self, object: ObjectId, existence: Existence) -> rusqlite::Result<()> {
        let rows: Vec<(FileHandle, Sequence, i64)> = self
            .transaction
            .prepare_cached("DELETE FROM content WHERE object = ?1 RETURNING inode, at, bytes")?
            .query_map([object], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (inode, at, bytes) in rows {
            self.bytes -= bytes;
            let mut lost = 0_i64;
            if existence == Existence::NeverLeft {
                lost = self
                    .transaction
                    .prepare_cached(
                        "UPDATE name SET is_lost = 0 WHERE before = ?1 AND at = ?2 AND is_lost = 1",
                    )?
                    .execute(params![inode, at])
                    .map(|names| i64::try_from(names).unwrap_or(i64::MAX))?;
            }
            self.transaction
                .prepare_cached(
                    "UPDATE entry SET rows = rows - 1, bytes = bytes - ?2, lost = lost - ?3 WHERE at = ?1",
                )?
                .execute(params![at, bytes, lost])?;
            remove_empty_entry(self.transaction, at)?;
            self.transaction.prepare_cached("DELETE FROM life WHERE inode = ?1")?.execute([inode])?;
        }
        // What was condemned and has not been removed yet is somebody's file again.
        let condemned: i64 = self
            .transaction
            .prepare_cached("DELETE FROM condemned WHERE object = ?1 RETURNING bytes")?
            .query_map([object], |row| row.get::<_, i64>(0))?
            .sum::<rusqlite::Result<i64>>()?;
        self.bytes -= condemned;
        Ok(())
    }

    fn end_epoch(&self, entry: &Entry, snapshot: Option<&SnapshotNote>) -> rusqlite::Result<()> {
        let epoch = entry.at.epoch();
        self.transaction
            .prepare_cached(
                "INSERT INTO epoch (epoch, ended_ns, latest_ns) VALUES (?1, ?2, ?2)
                 ON CONFLICT (epoch) DO UPDATE SET ended_ns = excluded.ended_ns",
            )?
            .execute(params![epoch, entry.time_ns])?;
        let Some(note) = snapshot else { return Ok(()) };
        self.transaction
            .prepare_cached(
                "INSERT OR IGNORE INTO snapshot (epoch, time_ns, uid, pid, reason, name, note, is_held, state)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                epoch,
                entry.time_ns,
                entry.actor.uid,
                entry.actor.pid,
                note.reason,
                note.name,
                note.note,
                note.is_held,
                super::SnapshotState::Sealed
            ])
            .map(drop)
    }
}

/// What became of an inode whose object is not in the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existence {
    /// Its name was never gone.
    NeverLeft,
    /// It was deleted and has a name again.
    CameBack,
}

/// Whether a name that stood for something lost it: it was removed, or something else was renamed over it. `place` is
/// the name's place among those of the entry.
fn is_lost(entry: &Entry, before: &Named, place: usize) -> bool {
    match entry.cause {
        Cause::Unlink | Cause::RemoveDirectory => true,
        // Not so the old name of what was renamed, nor either of two that were exchanged.
        Cause::Rename => place > 0 && entry.changes.iter().any(|change| is_about(change, &before.inode)),
        Cause::Create
        | Cause::Link
        | Cause::Write
        | Cause::Truncate
        | Cause::SetAttributes
        | Cause::Map
        | Cause::Outside
        | Cause::History => false,
    }
}

fn is_about(change: &Change, wanted: &FileHandle) -> bool {
    matches!(change, Change::Attributes { inode, .. } | Change::Content { inode, .. } if inode == wanted)
}

/// Whether a lost name was the inode's last one.
fn is_last_name(entry: &Entry, before: &Named) -> bool {
    before.file_type == libc::S_IFDIR
        || entry.changes.iter().any(|change| {
            matches!(change, Change::Content { inode, origin: Origin::TakenAway, .. } if *inode == before.inode)
        })
}

/// Returns the size that a whole object has, and how many bytes of the disk it takes at most.
fn measure(entry: &Entry, of: &FileHandle, span: Span) -> (Option<i64>, i64) {
    match span {
        Span::Range { length, .. } => (None, i64::try_from(length).unwrap_or(i64::MAX)),
        Span::Whole => {
            let attributes = entry.changes.iter().find_map(|change| match change {
                Change::Attributes { inode, before } if inode == of => Some(before),
                _ => None,
            });
            let bytes = attributes.map_or(0, |attributes| attributes.blocks.saturating_mul(512));
            let size = attributes.and_then(|attributes| i64::try_from(attributes.size).ok());
            (size, i64::try_from(bytes).unwrap_or(i64::MAX))
        }
    }
}

fn inserted(rows: usize) -> i64 {
    i64::from(rows > 0)
}

/// Removes the entry of a moment that no row has any more.
pub(super) fn remove_empty_entry(transaction: &Transaction<'_>, at: Sequence) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM entry WHERE at = ?1 AND rows <= 0 RETURNING 1")?
        .query_row([at], |_| Ok(()))
        .optional()
        .map(drop)
}
