//! What a burst of deletions took, in one question: restoring tens of thousands of files one by one would ask for each.

use rusqlite::params;

use super::columns::{self, Hash};
use super::{CatalogError, Past};
use crate::snapshot::record::{Actor, Attributes, Cause, Named, ObjectId, Origin};
use crate::snapshot::sequence::Sequence;
use crate::sys::handle::FileHandle;

/// A name that a burst took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lost {
    /// When.
    pub(crate) at: Sequence,
    /// What was done.
    pub(crate) cause: Cause,
    /// The directory.
    pub(crate) parent: FileHandle,
    /// The name.
    pub(crate) name: Vec<u8>,
    /// What it stood for.
    pub(crate) before: Named,
    /// The inode itself, if the store has it: it lost its last name then.
    pub(crate) object: Option<ObjectId>,
    /// BLAKE3 of the object, if somebody has read it.
    pub(crate) hash: Option<[u8; 32]>,
    /// How the inode was before the burst, if that was noted.
    pub(crate) attributes: Option<Attributes>,
    /// Nothing else of the inode was changed between the beginning of the burst and this.
    pub(crate) is_as_it_was: bool,
}

impl Past {
    /// Returns the names that a process took between two moments, both included, in the order of the moments. What it
    /// had made itself in between is not among them.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn lost_by(
        &self,
        actor: Actor,
        first: Sequence,
        last: Sequence,
    ) -> Result<Vec<Lost>, CatalogError> {
        // The first row after the moment before the burst is how the inode was at that moment.
        let sql = "
            SELECT name.at, entry.cause, name.parent, name.name, name.before, name.file_type,
                   content.object, content.hash, was.at,
                   NOT EXISTS (SELECT 1 FROM xattrs WHERE inode = name.before AND at >= ?1 AND at < name.at)
                       AND NOT EXISTS (SELECT 1 FROM content WHERE inode = name.before AND at >= ?1 AND at < name.at),
                   was.ino, was.mode, was.uid, was.gid, was.nlink, was.size, was.blocks,
                   was.accessed_ns, was.modified_ns, was.changed_ns, was.born_ns, was.device
            FROM name
            JOIN entry ON entry.at = name.at
            LEFT JOIN content
                ON content.inode = name.before AND content.at = name.at AND content.origin = ?5
            LEFT JOIN attributes AS was
                ON was.inode = name.before
                AND was.at = (SELECT min(at) FROM attributes WHERE inode = name.before AND at >= ?1)
            WHERE name.is_lost = 1 AND name.before IS NOT NULL AND name.at BETWEEN ?1 AND ?2
                AND entry.uid = ?3 AND entry.pid = ?4
                AND NOT EXISTS (SELECT 1 FROM name AS earlier WHERE earlier.parent = name.parent
                    AND earlier.name = name.name AND earlier.at >= ?1 AND earlier.at < name.at)
            ORDER BY name.at, name.parent, name.name";
        let values = params![first, last, actor.uid, actor.pid, Origin::TakenAway];
        self.rows("read what a burst took", sql, values, |row| {
            let at: Sequence = row.get(0)?;
            let noted: Option<Sequence> = row.get(8)?;
            let is_untouched: bool = row.get(9)?;
            Ok(Lost {
                at,
                cause: row.get(1)?,
                parent: row.get(2)?,
                name: row.get(3)?,
                before: Named { inode: row.get(4)?, file_type: row.get(5)? },
                object: row.get(6)?,
                hash: row.get::<_, Option<Hash>>(7)?.map(|hash| hash.0),
                attributes: noted.map(|_| columns::attributes_from(row, 10)).transpose()?,
                is_as_it_was: is_untouched && noted.is_none_or(|noted| noted == at),
            })
        })
    }

    /// Returns the files that a process cut off between two moments, both included, each once.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn truncated_by(
        &self,
        actor: Actor,
        first: Sequence,
        last: Sequence,
    ) -> Result<Vec<FileHandle>, CatalogError> {
        let sql = "
            SELECT DISTINCT inode FROM content WHERE at IN (
                SELECT at FROM entry
                WHERE at BETWEEN ?1 AND ?2 AND lost > 0 AND uid = ?3 AND pid = ?4 AND cause = ?5)";
        let values = params![first, last, actor.uid, actor.pid, Cause::Truncate];
        self.rows("read what a burst cut off", sql, values, |row| row.get(0))
    }
}
