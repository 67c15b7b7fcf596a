//! How much of the disk history takes, and which snapshot is to blame.
//!
//! Bytes are counted by the row: a row of content is needed as a whole by whoever needs one byte of it, and is given
//! back as a whole, so that what is promised here is what deleting gives back. What a clone shares with its file counts
//! as if it was not shared: an upper bound.

use rusqlite::params;

use super::as_of::{CONTENT, ContentRow, content_row};
use super::lifetimes::{self, Inode};
use super::{CatalogError, Kept, Past};
use crate::snapshot::record::Origin;
use crate::snapshot::sequence::Sequence;
use crate::sys::handle::FileHandle;

/// What history takes, in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Space {
    /// All objects.
    pub(crate) total: u64,
    /// What no snapshot needs, only the trash.
    pub(crate) trash: u64,
    /// What nobody needs; it is gone when garbage was collected.
    pub(crate) garbage: u64,
    /// The snapshots, in order.
    pub(crate) snapshots: Vec<SnapshotSpace>,
}

/// What a snapshot takes, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotSpace {
    /// The moment that it shows.
    pub(crate) moment: Sequence,
    /// What only it needs: what deleting it gives back.
    pub(crate) unique: u64,
    /// What another snapshot or the trash needs as well.
    pub(crate) shared: u64,
}

/// The rows of content of an inode, and the moment since which each was so.
pub(super) type Lifetimes = (Vec<ContentRow>, Vec<Sequence>);

impl Past {
    /// Returns how many bytes the store takes, by what is noted of its objects.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn stored_bytes(&self) -> Result<u64, CatalogError> {
        let sql = "SELECT bytes FROM standing";
        let bytes: Option<i64> = self.row("read the size", sql, [], |row| row.get(0))?;
        Ok(bytes.unwrap_or(0).max(0).cast_unsigned())
    }

    /// Returns what each of the kept snapshots takes. Reads every row of content.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn space(&self, kept: &Kept) -> Result<Space, CatalogError> {
        let new = |moment: &Sequence| SnapshotSpace { moment: *moment, unique: 0, shared: 0 };
        let mut space = Space { snapshots: kept.moments().iter().map(new).collect(), ..Space::default() };
        space.total = self.stored_bytes()?;
        let mut needed = 0_u64;
        self.each_lifetime(|row, since| {
            let snapshots = kept.within(since, row.at);
            let is_trash = since < row.at && kept.is_in_trash(row.at);
            if !snapshots.is_empty() || is_trash {
                needed += row.bytes;
            }
            if snapshots.is_empty() && is_trash {
                space.trash += row.bytes;
            }
            let is_unique = snapshots.len() == 1 && !is_trash;
            for snapshot in space.snapshots.get_mut(snapshots).unwrap_or_default() {
                let bytes = if is_unique { &mut snapshot.unique } else { &mut snapshot.shared };
                *bytes += row.bytes;
            }
        })?;
        space.garbage = space.total.saturating_sub(needed);
        Ok(space)
    }

    /// Returns how many bytes it gives back to delete the snapshots of these moments, all of them.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn frees(&self, deleted: &[Sequence], kept: &Kept) -> Result<u64, CatalogError> {
        let is_deleted: Vec<bool> = kept.moments().iter().map(|moment| deleted.contains(moment)).collect();
        let mut bytes = 0;
        self.each_lifetime(|row, since| {
            let needing = is_deleted.get(kept.within(since, row.at)).unwrap_or_default();
            if !needing.is_empty() && !kept.is_in_trash(row.at) && needing.iter().all(|deleted| *deleted) {
                bytes += row.bytes;
            }
        })?;
        Ok(bytes)
    }

    /// Calls `see` with every row of content and the moment since which it was so.
    pub(super) fn each_lifetime(
        &self,
        mut see: impl FnMut(&ContentRow, Sequence),
    ) -> Result<(), CatalogError> {
        self.consistent(|| {
            let mut after = None;
            loop {
                let page = self.content_after(after.as_ref(), usize::MAX)?;
                for (rows, since) in &page {
                    for (row, since) in rows.iter().zip(since) {
                        see(row, *since);
                    }
                }
                after = page.last().and_then(|(rows, _)| rows.first()).map(|row| row.inode);
                if after.is_none() {
                    return Ok(());
                }
            }
        })
    }

    /// Returns the rows of content of the inodes after one, by inode, with the moments since which they were so. No more
    /// inodes than make `limit` rows, one at least.
    pub(super) fn content_after(
        &self,
        after: Option<&FileHandle>,
        limit: usize,
    ) -> Result<Vec<Lifetimes>, CatalogError> {
        const PAGE: usize = 10_000;
        let groups = self.inodes_after(after, limit.min(PAGE))?;
        let mut found = Vec::with_capacity(groups.len());
        for rows in groups {
            let inode = self.lifetime_of(&rows)?;
            let since = lifetimes::since(&rows, &inode);
            found.push((rows, since));
        }
        Ok(found)
    }

    fn inodes_after(
        &self,
        after: Option<&FileHandle>,
        limit: usize,
    ) -> Result<Vec<Vec<ContentRow>>, CatalogError> {
        let read = || {
            let mut statement = self.connection.prepare_cached(&format!(
                "SELECT {CONTENT} FROM content WHERE inode > ?1 ORDER BY inode, at, offset, object"
            ))?;
            // Shorter than every handle, so before them.
            let after = after.map_or_else(Vec::new, |after| after.to_bytes());
            let mut rows = statement.query([after])?;
            let mut groups: Vec<Vec<ContentRow>> = Vec::new();
            let mut seen = 0;
            while let Some(row) = rows.next()? {
                let row = content_row(row)?;
                let is_of_last = |group: &&mut Vec<ContentRow>| {
                    group.first().is_some_and(|first| first.inode == row.inode)
                };
                match groups.last_mut().filter(is_of_last) {
                    Some(group) => group.push(row),
                    None if seen >= limit.max(1) => break,
                    None => groups.push(vec![row]),
                }
                seen += 1;
            }
            Ok(groups)
        };
        read().map_err(self.failed("read content"))
    }

    /// Reads what bounds the lifetimes of an inode's rows.
    pub(super) fn lifetime_of(&self, rows: &[ContentRow]) -> Result<Inode, CatalogError> {
        let Some(first) = rows.first() else { return Ok(Inode::default()) };
        let life = self.life_of(&first.inode)?;
        // Only an inode that was taken away holds its extended attributes.
        let xattrs = match rows.iter().any(|row| row.origin == Origin::TakenAway) {
            true => {
                let sql = "SELECT at FROM xattrs WHERE inode = ?1 ORDER BY at";
                self.rows("read extended attributes", sql, [first.inode], |row| row.get(0))?
            }
            false => Vec::new(),
        };
        Ok(Inode { life, xattrs })
    }

    /// Returns when an inode that is gone got its first name and lost its last.
    pub(super) fn life_of(&self, inode: &FileHandle) -> Result<Option<(Sequence, Sequence)>, CatalogError> {
        let sql = "SELECT born, died FROM life WHERE inode = ?1";
        self.row("read a life", sql, params![inode], |row| Ok((row.get(0)?, row.get(1)?)))
    }
}
