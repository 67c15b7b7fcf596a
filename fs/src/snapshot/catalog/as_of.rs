//! How things were at a moment.

use std::collections::BTreeMap;
use std::ops::Range;

use rusqlite::params;

use super::columns::{self, Hash, Xattrs, named, span, unsigned};
use super::{CatalogError, Past};
use crate::snapshot::record::{Attributes, Named, ObjectId, Origin, Span};
use crate::snapshot::sequence::Sequence;
use crate::sys::handle::FileHandle;

/// How deep a trail may be: a path of 4096 bytes has no more names. Guards against a damaged catalog only.
pub(super) const DEEPEST: usize = 4096;

/// A name, and what it stood for.
pub(crate) type FormerName = (Vec<u8>, Option<Named>);

/// Names and values of extended attributes.
pub(crate) type XattrList = Vec<(Vec<u8>, Vec<u8>)>;

/// What history says of a thing at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Then<T> {
    /// It has changed since then; it was this.
    Was(T),
    /// It has not.
    AsNow,
}

/// Bytes that the store keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ContentRow {
    /// The file.
    pub(crate) inode: FileHandle,
    /// When they were overwritten, cut off or deleted.
    pub(crate) at: Sequence,
    /// Where they are, at the same offsets as in the file.
    pub(crate) object: ObjectId,
    /// Which bytes.
    pub(crate) span: Span,
    /// The size of the file, if the object is a whole one and it is known.
    pub(crate) size: Option<u64>,
    /// How they came into the store.
    pub(crate) origin: Origin,
    /// BLAKE3 of the bytes of `span`.
    pub(crate) hash: Option<[u8; 32]>,
    /// What they take of the disk at most.
    pub(crate) bytes: u64,
    /// They are not what they were when they were kept, and must not be shown.
    pub(crate) is_damaged: bool,
}

/// The columns that [`content_row`] reads.
pub(super) const CONTENT: &str = "inode, at, object, offset, length, size, origin, hash, bytes, is_damaged";

pub(super) fn content_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<ContentRow> {
    Ok(ContentRow {
        inode: row.get(0)?,
        at: row.get(1)?,
        object: row.get(2)?,
        span: span(row, 3)?,
        size: row.get::<_, Option<i64>>(5)?.map(i64::cast_unsigned),
        origin: row.get(6)?,
        hash: row.get::<_, Option<Hash>>(7)?.map(|hash| hash.0),
        bytes: unsigned(row, 8)?,
        is_damaged: row.get(9)?,
    })
}

impl ContentRow {
    /// Returns the bytes of which the row says what they were. A whole object says of every byte: beyond its size there
    /// was none.
    pub(super) fn covered(&self) -> Range<u64> {
        match self.span {
            Span::Whole => 0..u64::MAX,
            Span::Range { offset, length } => offset..offset.saturating_add(length),
        }
    }

    /// Whether the object is the inode itself: if it is not in the store, the inode is elsewhere and what it was.
    pub(crate) fn is_inode_itself(&self) -> bool {
        self.origin == Origin::TakenAway
    }

    /// Returns the bytes that it holds; of an empty file one all the same, for it stands for the inode.
    pub(super) fn held(&self) -> Range<u64> {
        match self.span {
            Span::Whole => 0..self.size.map_or(u64::MAX, |size| size.max(1)),
            Span::Range { .. } => self.covered(),
        }
    }
}

/// Where a piece of a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// In the store, at the same offset. What lies beyond the end of the object is zeros.
    Kept(ContentRow),
    /// In the file as it is now, whether that has a name or lies in the store.
    Live,
}

/// Some bytes of a file at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// Which bytes.
    pub(crate) range: Range<u64>,
    /// Where they are.
    pub(crate) source: Source,
}

/// A file at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    /// Its size; `None` if that is as now, and the pieces go on to the end that was asked for.
    pub(crate) size: Option<u64>,
    /// Its bytes in order, without gaps.
    pub(crate) pieces: Vec<Piece>,
}

/// A change below the mount that was noticed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outside {
    /// The name in the directory; `None` if it was the file itself.
    pub(crate) name: Option<Vec<u8>>,
    /// When it was noticed.
    pub(crate) at: Sequence,
}

/// The way from a directory that has not moved since a moment down to an inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Trail {
    /// Of this history knows no move since then: it is where it is now, or it is the root.
    pub(crate) top: FileHandle,
    /// The names from there, and what each stood for.
    pub(crate) names: Vec<(Vec<u8>, FileHandle)>,
}

impl Past {
    /// Returns what a name stood for at a moment.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn name_at(
        &self,
        parent: &FileHandle,
        name: &[u8],
        moment: Sequence,
    ) -> Result<Then<Option<Named>>, CatalogError> {
        let sql = "SELECT before, file_type FROM name WHERE parent = ?1 AND name = ?2 AND at > ?3 ORDER BY at LIMIT 1";
        let found =
            self.row("read a name", sql, params![parent, name, moment], |row| columns::named(row, 0))?;
        Ok(found.map_or(Then::AsNow, Then::Was))
    }

    /// Returns the names of a directory that have changed since a moment, in order, and what they stood for then. All
    /// others are as now.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn names_changed_after(
        &self,
        parent: &FileHandle,
        moment: Sequence,
    ) -> Result<Vec<FormerName>, CatalogError> {
        // With min() the other columns are those of the row that has it: sqlite.org/lang_select.html#bareagg.
        let sql =
            "SELECT name, before, file_type, min(at) FROM name WHERE parent = ?1 AND at > ?2 GROUP BY name";
        self.rows("read the names of a directory", sql, params![parent, moment], |row| {
            Ok((row.get(0)?, named(row, 1)?))
        })
    }

    /// Returns the attributes of an inode at a moment; `None`: as now.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn attributes_at(
        &self,
        inode: &FileHandle,
        moment: Sequence,
    ) -> Result<Option<Attributes>, CatalogError> {
        let sql = format!(
            "SELECT {} FROM attributes WHERE inode = ?1 AND at > ?2 ORDER BY at LIMIT 1",
            columns::ATTRIBUTES
        );
        self.row("read attributes", &sql, params![inode, moment], columns::attributes)
    }

    /// Returns the extended attributes of an inode at a moment; `None`: as now.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn xattrs_at(
        &self,
        inode: &FileHandle,
        moment: Sequence,
    ) -> Result<Option<XattrList>, CatalogError> {
        let sql = "SELECT value FROM xattrs WHERE inode = ?1 AND at > ?2 ORDER BY at LIMIT 1";
        self.row("read extended attributes", sql, params![inode, moment], |row| {
            row.get::<_, Xattrs>(0).map(|list| list.0)
        })
    }

    /// Returns where the bytes `range` of a file were at a moment. Costs a row for each change of the file since then:
    /// meant for once an open file with `0..u64::MAX`, not for every read.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn content_at(
        &self,
        inode: &FileHandle,
        moment: Sequence,
        range: Range<u64>,
    ) -> Result<Content, CatalogError> {
        self.consistent(|| {
            let size = self.attributes_at(inode, moment)?.map(|attributes| attributes.size);
            let end = range.end.min(size.unwrap_or(u64::MAX));
            let read = || {
                let mut statement = self.connection.prepare_cached(&format!(
                    "SELECT {CONTENT} FROM content WHERE inode = ?1 AND at > ?2
                     ORDER BY origin = ?3, at, offset, object"
                ))?;
                // What was taken away is the inode itself, which whoever had it open may have gone on to write to: what
                // was kept of it then comes first.
                let mut rows = statement.query(params![inode, moment, Origin::TakenAway])?;
                let mut missing = Missing::new(range.start..end);
                let mut pieces = Vec::new();
                while let Some(row) = (!missing.is_empty()).then(|| rows.next()).transpose()?.flatten() {
                    let kept = content_row(row)?;
                    let found = missing.take(kept.covered()).into_iter();
                    pieces.extend(found.map(|range| Piece { range, source: Source::Kept(kept) }));
                }
                pieces.extend(missing.rest().map(|range| Piece { range, source: Source::Live }));
                pieces.sort_unstable_by_key(|piece| piece.range.start);
                Ok(pieces)
            };
            Ok(Content { size, pieces: read().map_err(self.failed("read content"))? })
        })
    }

    /// Returns whether stores through a mapping may have changed a file between a moment and the one at which the bytes
    /// that are shown for it were kept (`None`: the file as it is now).
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn is_fuzzy(
        &self,
        inode: &FileHandle,
        moment: Sequence,
        kept: Option<Sequence>,
    ) -> Result<bool, CatalogError> {
        let sql = "SELECT 1 FROM mapped WHERE inode = ?1 AND at > ?2 AND since < ?3 LIMIT 1";
        let kept = kept.map_or(i64::MAX, Sequence::to_i64);
        let found = self.row("read mappings", sql, params![inode, moment, kept], |_| Ok(()))?;
        Ok(found.is_some())
    }

    /// Returns the changes below the mount of a directory or a file that were noticed after a moment, in order.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn outside_after(
        &self,
        inode: &FileHandle,
        moment: Sequence,
    ) -> Result<Vec<Outside>, CatalogError> {
        let sql = "SELECT name, at FROM outside WHERE inode = ?1 AND at > ?2 ORDER BY at, name";
        self.rows("read changes outside", sql, params![inode, moment], |row| {
            let name: Vec<u8> = row.get(0)?;
            Ok(Outside { name: Some(name).filter(|name| !name.is_empty()), at: row.get(1)? })
        })
    }

    /// Returns the names that an inode had at a moment and has lost since, in order: directory and name.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn former_names(
        &self,
        inode: &FileHandle,
        moment: Sequence,
    ) -> Result<Vec<(FileHandle, Vec<u8>)>, CatalogError> {
        let sql = "
            SELECT parent, name FROM name WHERE before = ?1 AND at > ?2 AND NOT EXISTS (
                SELECT 1 FROM name AS first
                WHERE first.parent = name.parent AND first.name = name.name AND first.at > ?2 AND first.at < name.at)
            ORDER BY parent, name";
        self.rows("read former names", sql, params![inode, moment], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Returns the way to an inode at a moment, as far as it was another than now. Of a file with several names, one.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn trail_at(&self, inode: &FileHandle, moment: Sequence) -> Result<Trail, CatalogError> {
        self.consistent(|| {
            let mut trail = Trail { top: *inode, names: Vec::new() };
            while trail.names.len() < DEEPEST {
                let Some((parent, name)) = self.former_names(&trail.top, moment)?.into_iter().next() else {
                    trail.names.reverse();
                    return Ok(trail);
                };
                trail.names.push((name, trail.top));
                trail.top = parent;
            }
            let reason = format!("a directory lies below itself at {moment:?}");
            Err(CatalogError::Damaged { path: self.path.clone(), reason })
        })
    }

    /// Returns when a moment was, by the clock, nanoseconds since 1970: what has a later ctime was changed after it.
    /// `None` if nothing was noted after it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn time_of(&self, moment: Sequence) -> Result<Option<i64>, CatalogError> {
        self.consistent(|| {
            let epoch = moment.epoch();
            if moment == epoch.end() {
                let sql = "SELECT ended_ns FROM epoch WHERE epoch = ?1 AND ended_ns IS NOT NULL";
                let ended = self.row("read the time of a moment", sql, [epoch], |row| row.get(0))?;
                if ended.is_some() {
                    return Ok(ended);
                }
            }
            let sql = "SELECT time_ns FROM entry WHERE at > ?1 ORDER BY at LIMIT 1";
            self.row("read the time of a moment", sql, [moment], |row| row.get(0))
        })
    }

    /// Returns the last moment at which the clock had not passed `time_ns` yet. If the clock went backwards, that is
    /// before it first passed it. Entries that are gone make no difference to what any moment shows.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn moment_at_time(&self, time_ns: i64) -> Result<Sequence, CatalogError> {
        self.consistent(|| {
            let action = "look for a moment";
            let sql = "SELECT epoch FROM epoch WHERE latest_ns > ?1 ORDER BY epoch LIMIT 1";
            let epoch = self.row(action, sql, [time_ns], |row| row.get(0))?;
            let Some(epoch) = epoch else {
                // Nothing was noted later: everything that is known has happened.
                return Ok(crate::snapshot::sequence::Epoch::LAST.end());
            };
            let first = Sequence::new(epoch, 0);
            let sql = "SELECT at FROM entry WHERE at BETWEEN ?1 AND ?2 AND time_ns > ?3 ORDER BY at LIMIT 1";
            let found: Option<Sequence> =
                self.row(action, sql, params![first, epoch.end(), time_ns], |row| row.get(0))?;
            Ok(found.map_or(epoch.end(), Sequence::before))
        })
    }
}

/// The bytes of a range that no row has been found for yet.
struct Missing(BTreeMap<u64, u64>);

impl Missing {
    fn new(range: Range<u64>) -> Self {
        Self(
            Some(range)
                .filter(|range| !range.is_empty())
                .map(|range| (range.start, range.end))
                .into_iter()
                .collect(),
        )
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what is missing of `range` out and returns it.
    fn take(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut taken = Vec::new();
        while let Some((&start, &end)) = self.0.range(..range.end).next_back() {
            if end <= range.start || range.is_empty() {
                break;
            }
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, end);
            }
            let found = start.max(range.start)..end.min(range.end);
            taken.push(found);
            if start < range.start {
                self.0.insert(start, range.start);
                break;
            }
        }
        taken
    }

    fn rest(self) -> impl Iterator<Item = Range<u64>> {
        self.0.into_iter().map(|(start, end)| start..end)
    }
}
