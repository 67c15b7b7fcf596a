//! Objects that nobody speaks of.
//!
//! An object is made before its entry is noted when bytes are copied, so a process that died in between leaves one that
//! nothing refers to: a regular file of root's, mode 0600, that has no other name. A file that was deleted is noted
//! before it is moved into the store; it can only be unknown if the log or the catalog were lost. What might be one of
//! those is never removed, but moved to the directory `adopted` of the store, where an administrator finds it.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::snapshot::archive::{Archive, ArchiveError};
use crate::snapshot::record::ObjectId;

/// Objects that are looked up between two rests.
const PAGE: usize = 256;

/// What [`scan`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Scanned {
    /// Objects in the store.
    pub(crate) objects: u64,
    /// Copies that were begun and never noted: they are gone.
    pub(crate) removed: u64,
    /// What may be a user's file: it is in `adopted`.
    pub(crate) adopted: u64,
}

/// Looks for objects of earlier epochs that the catalog does not know.
///
/// # Errors
/// See [`ArchiveError`].
pub(crate) fn scan(archive: &Archive, go_on: &dyn Fn() -> bool) -> Result<Scanned, ArchiveError> {
    let store = archive.history().store();
    let mut objects = Vec::new();
    store.for_each_object(|object| objects.push(object))?;
    let mut scanned = Scanned { objects: objects.len() as u64, ..Scanned::default() };
    for page in objects.chunks(PAGE) {
        if !go_on() {
            return Ok(scanned);
        }
        for object in page {
            let running = archive.history().epoch().0;
            // The number of an object begins with its epoch; operations of the last two may be under way.
            let is_old = object.0 >> 32 < u64::from(running.saturating_sub(1));
            if !is_old || archive.read()?.knows_object(*object)? {
                continue;
            }
            match is_copy(archive, *object) {
                Ok(true) => {
                    store.remove(*object)?;
                    scanned.removed += 1;
                }
                Ok(false) => {
                    let adopted = store.directory("adopted")?;
                    store.put_back(*object, adopted.as_fd(), OsStr::new(&format!("{:016x}", object.0)))?;
                    scanned.adopted += 1;
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(scanned)
}

/// Whether an object is a copy or a clone that we made, or a second name of a file that has another.
fn is_copy(archive: &Archive, object: ObjectId) -> Result<bool, Errno> {
    let found = archive.history().store().open_object(object, OFlags::PATH)?;
    let stat = rustix::fs::fstat(&found)?;
    let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
    let is_ours = stat.st_uid == 0 && stat.st_gid == 0 && stat.st_mode & 0o7777 == 0o600;
    Ok(is_file && (is_ours || stat.st_nlink > 1))
}
