//! What the columns hold: handles, moments and words as SQLite stores them.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef};

use crate::snapshot::record::{Actor, Attributes, Cause, Named, ObjectId, Origin, SnapshotReason, Span};
use crate::snapshot::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

/// When something happened, and who did it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    /// The moment; how things were before it is at [`Sequence::before`].
    pub(crate) at: Sequence,
    /// By the clock, nanoseconds since 1970.
    pub(crate) time_ns: i64,
    /// Who.
    pub(crate) actor: Actor,
    /// What.
    pub(crate) cause: Cause,
}

/// The columns of `entry` that make an [`Event`], as [`event`] reads them.
pub(super) const EVENT: &str = "entry.at, entry.time_ns, entry.uid, entry.pid, entry.cause";

/// Reads [`EVENT`], which begins at column `first`.
pub(super) fn event(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Event> {
    Ok(Event {
        at: row.get(first)?,
        time_ns: row.get(first + 1)?,
        actor: Actor { uid: row.get(first + 2)?, pid: row.get(first + 3)? },
        cause: row.get(first + 4)?,
    })
}

pub(super) fn nonsense(what: &'static str) -> FromSqlError {
    FromSqlError::Other(what.into())
}

impl ToSql for FileHandle {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(Value::Blob(self.to_bytes())))
    }
}

impl FromSql for FileHandle {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::from_bytes(value.as_blob()?).ok_or_else(|| nonsense("no file handle"))
    }
}

impl ToSql for Sequence {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(Value::Integer(self.to_i64())))
    }
}

impl FromSql for Sequence {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::from_i64(value.as_i64()?).ok_or_else(|| nonsense("no moment"))
    }
}

impl ToSql for Epoch {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(Value::Integer(self.0.into())))
    }
}

impl FromSql for Epoch {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        u32::column_result(value).map(Self)
    }
}

impl ToSql for ObjectId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(Value::Integer(self.0.cast_signed())))
    }
}

impl FromSql for ObjectId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(|number| Self(number.cast_unsigned()))
    }
}

/// Words and the numbers that stand for them, which never change once released.
macro_rules! stored_as_number {
    ($type:ty, $($word:ident = $number:literal),+) => {
        impl ToSql for $type {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::Owned(Value::Integer(match self { $(Self::$word => $number),+ })))
            }
        }
        impl FromSql for $type {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                match value.as_i64()? {
                    $($number => Ok(Self::$word),)+
                    _ => Err(nonsense(concat!("no ", stringify!($type)))),
                }
            }
        }
    };
}
pub(super) use stored_as_number;

stored_as_number!(
    Cause,
    Create = 0,
    Link = 1,
    Unlink = 2,
    RemoveDirectory = 3,
    Rename = 4,
    Write = 5,
    Truncate = 6,
    SetAttributes = 7,
    Map = 8,
    Outside = 9,
    History = 10
);
stored_as_number!(Origin, TakenAway = 0, Cloned = 1, Copied = 2);
stored_as_number!(
    SnapshotReason,
    Manual = 0,
    Automatic = 1,
    BeforeRestore = 2,
    Burst = 3,
    Container = 4,
    Rotation = 5,
    Service = 6
);

/// Reads a number of bytes, which SQLite stores with a sign.
pub(super) fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

/// Reads an offset and a length of `content` or `condemned`.
pub(super) fn span(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Span> {
    let offset = unsigned(row, first)?;
    let length: Option<i64> = row.get(first + 1)?;
    Ok(length.map_or(Span::Whole, |length| Span::Range { offset, length: length.cast_unsigned() }))
}

/// Returns what [`span`] reads.
pub(super) fn stored_span(span: Span) -> (i64, Option<i64>) {
    match span {
        Span::Whole => (0, None),
        Span::Range { offset, length } => (offset.cast_signed(), Some(length.cast_signed())),
    }
}

/// Reads `before` and `file_type` of `name`.
pub(super) fn named(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Option<Named>> {
    let inode: Option<FileHandle> = row.get(first)?;
    let file_type = row.get(first + 1)?;
    Ok(inode.map(|inode| Named { inode, file_type }))
}

/// The columns that [`attributes`] reads.
pub(super) const ATTRIBUTES: &str = "ino, mode, uid, gid, nlink, size, blocks, accessed_ns, modified_ns, \
                                     changed_ns, born_ns, device";

/// Reads [`ATTRIBUTES`].
pub(super) fn attributes(row: &rusqlite::Row<'_>) -> rusqlite::Result<Attributes> {
    attributes_from(row, 0)
}

/// Reads [`ATTRIBUTES`], which begin at column `first`.
pub(super) fn attributes_from(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Attributes> {
    Ok(Attributes {
        ino: unsigned(row, first)?,
        mode: row.get(first + 1)?,
        uid: row.get(first + 2)?,
        gid: row.get(first + 3)?,
        nlink: row.get(first + 4)?,
        size: unsigned(row, first + 5)?,
        blocks: unsigned(row, first + 6)?,
        accessed_ns: row.get(first + 7)?,
        modified_ns: row.get(first + 8)?,
        changed_ns: row.get(first + 9)?,
        born_ns: row.get(first + 10)?,
        device: unsigned(row, first + 11)?,
    })
}

/// A hash of content.
#[derive(Clone, Copy)]
pub(super) struct Hash(pub(super) [u8; 32]);

impl FromSql for Hash {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_blob()?.try_into().map(Self).map_err(|_| nonsense("no hash"))
    }
}

/// Names and values of extended attributes, each after its length as 4 bytes little-endian.
pub(super) fn stored_xattrs(list: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut stored = Vec::new();
    for part in list.iter().flat_map(|(name, value)| [name, value]) {
        // Longer ones do not fit into an entry of the log.
        stored.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        stored.extend_from_slice(part);
    }
    stored
}

/// Extended attributes as [`stored_xattrs`] wrote them.
pub(super) struct Xattrs(pub(super) Vec<(Vec<u8>, Vec<u8>)>);

impl FromSql for Xattrs {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let mut rest = value.as_blob()?;
        let mut next = || {
            let (length, tail) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (part, tail) = tail.split_at_checked(length)?;
            rest = tail;
            Some((part.to_vec(), tail.is_empty()))
        };
        let mut list = Vec::new();
        if value.as_blob()?.is_empty() {
            return Ok(Self(list));
        }
        loop {
            let ((name, false), (value, is_end)) = (
                next().ok_or_else(|| nonsense("no extended attributes"))?,
                next().ok_or_else(|| nonsense("no extended attributes"))?,
            ) else {
                return Err(nonsense("no extended attributes"));
            };
            list.push((name, value));
            if is_end {
                return Ok(Self(list));
            }
        }
    }
}
