//! What changed between two moments.

use std::collections::BTreeMap;

use rusqlite::params;

use super::{Below, CatalogError, Past, Then};
use crate::snapshot::record::Named;
use crate::snapshot::sequence::Sequence;
use crate::sys::handle::FileHandle;

/// What changed between two moments.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Difference {
    /// Names that stood for something else, by directory.
    pub(crate) names: Vec<NameDifference>,
    /// Inodes that were changed, in no particular order. Some of them have no name at either moment, if no directory
    /// was asked for.
    pub(crate) inodes: Vec<InodeDifference>,
}

/// A name that stood for something else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NameDifference {
    /// The directory.
    pub(crate) parent: FileHandle,
    /// The name.
    pub(crate) name: Vec<u8>,
    /// What it stood for at the earlier moment.
    pub(crate) earlier: Option<Named>,
    /// What it stood for at the later one.
    pub(crate) later: Then<Option<Named>>,
}

/// An inode that was changed. That something was noted does not say that it is different: bytes may have been written
/// that were there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InodeDifference {
    /// The inode.
    pub(crate) inode: FileHandle,
    /// Bytes were overwritten or cut off, or the file was deleted.
    pub(crate) is_content_changed: bool,
    /// Attributes or extended attributes were set, or the content or the names of the directory were changed.
    pub(crate) are_attributes_changed: bool,
}

impl Past {
    /// Returns what changed after `earlier` and up to `later`: in the whole workspace, or in a directory and below it.
    /// Reads all that is noted, so it takes a second for a few million changes.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn difference(
        &self,
        earlier: Sequence,
        later: Sequence,
        mut below: Option<Below<'_>>,
    ) -> Result<Difference, CatalogError> {
        self.consistent(|| {
            let mut difference = Difference::default();
            for (parent, name) in self.names_between(earlier, later)? {
                let Then::Was(before) = self.name_at(&parent, &name, earlier)? else { continue };
                let after = self.name_at(&parent, &name, later)?;
                if after == Then::Was(before) || !is_below(self, &mut below, &parent, earlier, later)? {
                    continue;
                }
                difference.names.push(NameDifference { parent, name, earlier: before, later: after });
            }
            for inode in self.inodes_between(earlier, later)? {
                if is_below(self, &mut below, &inode.inode, earlier, later)? {
                    difference.inodes.push(inode);
                }
            }
            Ok(difference)
        })
    }

    fn names_between(
        &self,
        earlier: Sequence,
        later: Sequence,
    ) -> Result<Vec<(FileHandle, Vec<u8>)>, CatalogError> {
        let sql = "SELECT DISTINCT parent, name FROM name WHERE at > ?1 AND at <= ?2 ORDER BY parent, name";
        self.rows("compare names", sql, params![earlier, later], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    fn inodes_between(
        &self,
        earlier: Sequence,
        later: Sequence,
    ) -> Result<Vec<InodeDifference>, CatalogError> {
        let sql = "
            SELECT inode, max(is_content) FROM (
                SELECT inode, 1 AS is_content FROM content WHERE at > ?1 AND at <= ?2
                UNION ALL SELECT inode, 0 FROM attributes WHERE at > ?1 AND at <= ?2
                UNION ALL SELECT inode, 0 FROM xattrs WHERE at > ?1 AND at <= ?2)
            GROUP BY inode, is_content";
        let rows = self.rows("compare inodes", sql, params![earlier, later], |row| {
            Ok((row.get::<_, FileHandle>(0)?, row.get::<_, bool>(1)?))
        })?;
        let mut found: BTreeMap<Vec<u8>, InodeDifference> = BTreeMap::new();
        for (inode, is_content) in rows {
            let unchanged =
                InodeDifference { inode, is_content_changed: false, are_attributes_changed: false };
            let difference = found.entry(inode.to_bytes()).or_insert(unchanged);
            difference.is_content_changed |= is_content;
            difference.are_attributes_changed |= !is_content;
        }
        Ok(found.into_values().collect())
    }
}

/// Whether something lay below the directory at either moment.
fn is_below(
    past: &Past,
    below: &mut Option<Below<'_>>,
    inode: &FileHandle,
    earlier: Sequence,
    later: Sequence,
) -> Result<bool, CatalogError> {
    match below {
        None => Ok(true),
        Some(below) => Ok(below.contains(past, inode, earlier)? || below.contains(past, inode, later)?),
    }
}
