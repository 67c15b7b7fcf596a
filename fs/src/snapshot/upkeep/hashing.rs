//! Every object gets a hash, and is compared with it.
//!
//! What was copied was hashed on the way. What was taken away or cloned has not been read by anybody, so it is hashed
//! later, at leisure; until then nothing can be said of it but that it is there.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::backing::stat_of;
use crate::snapshot::archive::{Archive, ArchiveError};
use crate::snapshot::catalog::ContentRow;
use crate::snapshot::record::{ObjectId, Origin, Span};
use crate::snapshot::sequence::Epoch;
use crate::sys::lease::{Others, is_open_elsewhere};

/// Objects that are read of at a time.
const PAGE: usize = 64;
/// Read at a time, bytes.
const BUFFER_BYTES: usize = 256 << 10;
/// A file that was deleted may be open for writing still; one that was written to so lately is hashed later. Seconds.
const SETTLED_SECS: i64 = 10;

/// What is wrong with an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Damage {
    /// What is said of it.
    pub(crate) row: ContentRow,
    /// What is wrong.
    pub(crate) kind: DamageKind,
    /// The snapshots that need it.
    pub(crate) snapshots: Vec<Epoch>,
}

/// See [`Damage`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DamageKind {
    /// It is not in the store.
    Missing,
    /// Its bytes are others than when it was kept.
    Changed,
    /// The disk does not read it.
    Unreadable(Errno),
}

/// What was compared.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Verified {
    /// Objects that were looked at.
    pub(crate) objects: u64,
    /// Bytes that were read.
    pub(crate) bytes: u64,
    /// Objects without a hash, of which only the existence was looked at.
    pub(crate) unhashed: u64,
    /// What was found, what was known before included.
    pub(crate) damage: Vec<Damage>,
    /// It stopped before the end; to be gone on with after this object.
    pub(crate) stopped_at: Option<ObjectId>,
}

/// Hashes objects after `after` that have no hash, until about `bytes` were read. Returns where to go on; `None` at the
/// end.
///
/// # Errors
/// See [`ArchiveError`].
pub(crate) fn hash_some(
    archive: &Archive,
    after: Option<ObjectId>,
    bytes: u64,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<ObjectId>, ArchiveError> {
    let mut after = after;
    let mut left = bytes;
    loop {
        let rows = archive.read()?.objects_after(after, PAGE)?;
        if rows.is_empty() {
            return Ok(None);
        }
        for row in rows {
            if row.hash.is_none()
                && !row.is_damaged
                && let Some((hash, allocated, read)) = hash_row(archive, &row, go_on)?
            {
                archive.with_catalog(|catalog| catalog.note_content(&row, hash, allocated))?;
                left = left.saturating_sub(read);
            }
            after = Some(row.object);
            if left == 0 || !go_on() {
                return Ok(after);
            }
        }
    }
}

/// Hashes what a row speaks of. `None` if that is no file, is not there, or is being changed.
fn hash_row(
    archive: &Archive,
    row: &ContentRow,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<([u8; 32], u64, u64)>, ArchiveError> {
    // What was copied is added to as long as the epoch runs.
    if row.at.epoch() >= archive.history().epoch() {
        return Ok(None);
    }
    let Some(object) = open_file(archive, row.object)? else { return Ok(None) };
    let before = stat_of(object.as_fd())?;
    let now = jiff::Timestamp::now().as_second();
    let is_settled = |stat: &rustix::fs::Statx| now - stat.stx_mtime.tv_sec > SETTLED_SECS;
    // Whoever had it open when it was deleted may write on; nobody else can open it.
    if row.origin == Origin::TakenAway
        && (!is_settled(&before) || is_open_elsewhere(object.as_fd(), Others::Writers)?)
    {
        return Ok(None);
    }
    let Some((hash, read)) = hash_span(object.as_fd(), row, go_on)? else { return Ok(None) };
    let after = stat_of(object.as_fd())?;
    let changed = |stat: &rustix::fs::Statx| (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec, stat.stx_size);
    if changed(&before) != changed(&after) {
        return Ok(None);
    }
    let allocated = match row.span {
        Span::Whole => after.stx_blocks.saturating_mul(512),
        Span::Range { .. } => row.bytes,
    };
    Ok(Some((hash, allocated, read)))
}

/// Opens an object that is a regular file; `None` for anything else, and for one that is not there.
fn open_file(archive: &Archive, object: ObjectId) -> Result<Option<std::os::fd::OwnedFd>, Errno> {
    let store = archive.history().store();
    let found = match store.open_object(object, OFlags::PATH) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    if !FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_file() {
        return Ok(None);
    }
    match store.open_object(object, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Returns BLAKE3 of the bytes of a row, and how many were read; `None` if it was stopped.
fn hash_span(
    file: BorrowedFd<'_>,
    row: &ContentRow,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<([u8; 32], u64)>, Errno> {
    let (start, end) = match row.span {
        Span::Whole => (0, u64::try_from(rustix::fs::fstat(file)?.st_size).map_err(|_| Errno::IO)?),
        Span::Range { offset, length } => (offset, offset.saturating_add(length)),
    };
    hash_range(file, start..end, go_on)
}

/// Returns BLAKE3 of a range, what lies behind the end being zeros, and how long it is; `None` if it was stopped.
///
/// # Errors
/// As pread(2).
pub(crate) fn hash_range(
    file: BorrowedFd<'_>,
    range: std::ops::Range<u64>,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<([u8; 32], u64)>, Errno> {
    let (start, end) = (range.start, range.end);
    let mut at = start;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    while at < end {
        if !go_on() {
            return Ok(None);
        }
        let wanted = usize::try_from(end - at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        let Some(part) = buffer.get_mut(..wanted) else { break };
        let read = match rustix::io::pread(file, &mut *part, at) {
            Ok(0) => {
                // Beyond the end of the object are zeros.
                part.fill(0);
                wanted
            }
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        hasher.update(part.get(..read).unwrap_or_default());
        at += read as u64;
    }
    Ok(Some((*hasher.finalize().as_bytes(), at - start)))
}

/// Looks at every object after `after`: whether it is there and, if `deep`, whether its bytes are what they were. What
/// is wrong is marked, so that it is never shown, and returned.
///
/// # Errors
/// See [`ArchiveError`].
pub(crate) fn verify(
    archive: &Archive,
    deep: bool,
    after: Option<ObjectId>,
    go_on: &dyn Fn() -> bool,
) -> Result<Verified, ArchiveError> {
    let mut verified = Verified::default();
    let mut after = after;
    loop {
        let rows = archive.read()?.objects_after(after, PAGE)?;
        if rows.is_empty() {
            return Ok(verified);
        }
        for row in rows {
            if !go_on() {
                verified.stopped_at = after;
                return Ok(verified);
            }
            verified.objects += u64::from(after != Some(row.object));
            after = Some(row.object);
            // Of links and devices there are no bytes to hash.
            let lacks_hash =
                row.hash.is_none() && open_file(archive, row.object).is_ok_and(|file| file.is_some());
            verified.unhashed += u64::from(lacks_hash);
            if let Some(kind) = look_at(archive, &row, deep, go_on, &mut verified.bytes)? {
                // Put back or given up meanwhile.
                if !archive.read()?.has_row(&row)? {
                    continue;
                }
                let snapshots = archive.with_catalog(|catalog| catalog.note_damage(&row))?;
                if !row.is_damaged {
                    tracing::error!(object = row.object.0, damage = ?kind, "preserved bytes are damaged");
                }
                verified.damage.push(Damage { row, kind, snapshots });
            }
        }
    }
}

/// Returns what is wrong with what a row speaks of.
fn look_at(
    archive: &Archive,
    row: &ContentRow,
    deep: bool,
    go_on: &dyn Fn() -> bool,
    bytes: &mut u64,
) -> Result<Option<DamageKind>, ArchiveError> {
    // Noted before it is carried out: the last operations are not in the store yet.
    if row.at.epoch() >= archive.history().epoch() {
        return Ok(None);
    }
    match archive.history().store().open_object(row.object, OFlags::PATH) {
        Ok(_) => {}
        Err(Errno::NOENT) => return Ok(Some(DamageKind::Missing)),
        Err(errno) => return Ok(Some(DamageKind::Unreadable(errno))),
    }
    let Some(hash) = row.hash.filter(|_| deep) else {
        return Ok(row.is_damaged.then_some(DamageKind::Changed));
    };
    let Some(file) = open_file(archive, row.object)? else { return Ok(None) };
    match hash_span(file.as_fd(), row, go_on) {
        Ok(Some((found, read))) => {
            *bytes += read;
            Ok((found != hash).then_some(DamageKind::Changed))
        }
        Ok(None) => Ok(None),
        Err(errno) => Ok(Some(DamageKind::Unreadable(errno))),
    }
}
