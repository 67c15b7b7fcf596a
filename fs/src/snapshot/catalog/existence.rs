//! Whether a snapshot is there still, and a directory was there then.

use rusqlite::params;

use super::{CatalogError, Past};
use crate::snapshot::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

impl Past {
    /// Returns whether a snapshot is in the list. What one that is not shows must not be believed: what it needs may be
    /// gone.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn has_snapshot(&self, epoch: Epoch) -> Result<bool, CatalogError> {
        let sql = "SELECT 1 FROM snapshot WHERE epoch = ?1";
        Ok(self.row("look for a snapshot", sql, [epoch], |_| Ok(()))?.is_some())
    }

    /// Returns whether an inode had a name at a moment that it has lost since.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn had_other_name(&self, inode: &FileHandle, moment: Sequence) -> Result<bool, CatalogError> {
        let sql = "
            SELECT 1 FROM name WHERE before = ?1 AND at > ?2 AND NOT EXISTS (
                SELECT 1 FROM name AS first
                WHERE first.parent = name.parent AND first.name = name.name AND first.at > ?2 AND first.at < name.at)
            LIMIT 1";
        Ok(self.row("look for a former name", sql, params![inode, moment], |_| Ok(()))?.is_some())
    }
}
