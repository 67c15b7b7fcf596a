//! Fingerprints of checkpoints that could be there twice: a hash of their beginning and end.
//!
//! Only files that have a partner of the same size are read, 128 KiB of each, a few at a time and in the
//! background. Equal fingerprints say "probably": the middle may differ.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rusqlite::Connection;
use rustix::io::Errno;
use wsguard_api::FileKind;
use xxhash_rust::xxh3::Xxh3;

use super::index::{Index, path_of};
use super::kind;
use super::query::COMPARED_BYTES;
use super::store::{UsageError, failed};
use super::walker::{Looked, Tree};

/// Bytes at each end.
const PART: usize = 64 * 1024;

/// Files of one turn.
pub(super) const TURN: usize = 32;

struct Candidate {
    parent: u64,
    name: Vec<u8>,
    ino: u64,
    size: i64,
    mtime: i64,
}

/// Hashes some files that have none yet; returns how many were looked at.
///
/// # Errors
/// If the index cannot be read or written. A file that cannot be read gets a fingerprint of its own.
pub(super) fn take_some(index: &mut Index, tree: &Tree) -> Result<usize, UsageError> {
    let root = index.root();
    let connection = index.connection();
    let candidates = candidates(connection).map_err(failed("look for checkpoints"))?;
    for candidate in &candidates {
        let mut path =
            match path_of(connection, root, candidate.parent).map_err(failed("find a directory"))? {
                Some(path) => path,
                None => continue,
            };
        path.push(std::ffi::OsStr::from_bytes(&candidate.name));
        let hash = match tree.open_file(&path, candidate.ino).and_then(|looked| hash(looked, candidate.size))
        {
            Ok(hash) => hash,
            // Equal to nothing but itself.
            Err(_) => candidate.ino,
        };
        connection
            .execute(
                "INSERT OR REPLACE INTO fingerprint VALUES (?1, ?2, ?3, ?4)",
                (candidate.ino.cast_signed(), candidate.size, candidate.mtime, hash.cast_signed()),
            )
            .map_err(failed("keep a fingerprint"))?;
    }
    Ok(candidates.len())
}

fn candidates(connection: &Connection) -> rusqlite::Result<Vec<Candidate>> {
    let mut statement = connection.prepare_cached(
        "SELECT parent, name, ino, size, mtime FROM file \
         WHERE kind IN (1, 7, 8) AND kind = ?1 AND home = 1 AND size IN \
             (SELECT size FROM file WHERE kind IN (1, 7, 8) AND kind = ?1 AND size >= ?2 AND home = 1 \
              GROUP BY size HAVING count(*) > 1) \
         AND NOT EXISTS (SELECT 1 FROM fingerprint WHERE fingerprint.ino = file.ino \
              AND fingerprint.size = file.size AND fingerprint.mtime = file.mtime) \
         ORDER BY size DESC LIMIT ?3",
    )?;
    let rows =
        statement.query_map((kind::code(FileKind::Checkpoint), COMPARED_BYTES, TURN as i64), |row| {
            Ok(Candidate {
                parent: row.get::<_, i64>(0)?.cast_unsigned(),
                name: row.get(1)?,
                ino: row.get::<_, i64>(2)?.cast_unsigned(),
                size: row.get(3)?,
                mtime: row.get(4)?,
            })
        })?;
    rows.collect()
}

fn hash(looked: Looked<OwnedFd>, size: i64) -> Result<u64, Errno> {
    let Looked::Found(file) = looked else { return Err(Errno::NOENT) };
    let size = u64::try_from(size).unwrap_or(0);
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; PART];
    for offset in [0, size.saturating_sub(PART as u64)] {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(file.as_fd(), rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        hasher.update(buffer.get(..filled).unwrap_or_default());
    }
    Ok(hasher.digest())
}
