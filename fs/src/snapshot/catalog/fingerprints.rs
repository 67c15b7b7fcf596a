//! The ctimes that were noted of a file.

use rusqlite::params;

use super::columns;
use super::{CatalogError, Past};
use crate::snapshot::record::{Actor, Cause};
use crate::snapshot::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

/// What the times of a file were before a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fingerprint {
    /// When the change was noted.
    pub(crate) at: Sequence,
    /// Who made it.
    pub(crate) actor: Actor,
    /// What it was.
    pub(crate) cause: Cause,
    /// The ctime, nanoseconds since 1970.
    pub(crate) changed_ns: i64,
    /// When the inode was made; 0 if the filesystem does not tell.
    pub(crate) born_ns: i64,
}

impl Past {
    /// Returns what was noted of a file after a moment, in order.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn fingerprints_after(
        &self,
        inode: &FileHandle,
        moment: Sequence,
    ) -> Result<Vec<Fingerprint>, CatalogError> {
        let sql = format!(
            "SELECT {}, attributes.changed_ns, attributes.born_ns FROM attributes
             JOIN entry ON entry.at = attributes.at
             WHERE attributes.inode = ?1 AND attributes.at > ?2 ORDER BY attributes.at",
            columns::EVENT
        );
        self.rows("read ctimes", &sql, params![inode, moment], |row| {
            let event = columns::event(row, 0)?;
            Ok(Fingerprint {
                at: event.at,
                actor: event.actor,
                cause: event.cause,
                changed_ns: row.get(5)?,
                born_ns: row.get(6)?,
            })
        })
    }

    /// Whether anything was noted of a file from `from` to `to`, both included.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn has_fingerprint(
        &self,
        inode: &FileHandle,
        from: Sequence,
        to: Sequence,
    ) -> Result<bool, CatalogError> {
        let sql = "SELECT 1 FROM attributes WHERE inode = ?1 AND at BETWEEN ?2 AND ?3 LIMIT 1";
        Ok(self.row("look for a ctime", sql, params![inode, from, to], |_| Ok(()))?.is_some())
    }

    /// Returns the first end of an epoch, from that of `epoch` on, that is kept, and when it was, nanoseconds since 1970:
    /// what was changed first after it is noted and not swept. `None` if there is none.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn first_kept_end(&self, epoch: Epoch) -> Result<Option<(Sequence, i64)>, CatalogError> {
        let trash_epoch = self.trash_start()?.epoch();
        let sql = "SELECT epoch, ended_ns FROM epoch WHERE epoch >= ?1 AND ended_ns IS NOT NULL
                   AND (epoch >= ?2 OR epoch IN (SELECT epoch FROM snapshot)) ORDER BY epoch LIMIT 1";
        self.row("look for the end of an epoch", sql, params![epoch, trash_epoch], |row| {
            Ok((row.get::<_, Epoch>(0)?.end(), row.get(1)?))
        })
    }
}
