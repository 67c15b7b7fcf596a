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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::Arc;

    use super::*;
    use crate::backing::Backing;
    use crate::snapshot::History;
    use crate::snapshot::record::Actor;

    #[test]
    fn a_copy_that_was_only_begun_goes_and_what_may_be_a_users_file_is_adopted() {
        let kept = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let at = |name: &str| kept.path().join(name);
        for name in ["root", "store"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let backing = Backing::new(std::fs::File::open(at("root")).unwrap().into()).unwrap();
        let store = std::fs::File::open(at("store")).unwrap();
        let history = Arc::new(History::begin(store.as_fd(), &backing).unwrap());
        let archive = Archive::open(history.clone(), &at("store")).unwrap();
        let object = |number: u64| at("store").join(format!("objects/{:02x}/{number:016x}", number % 256));
        let make = |number: u64, mode: u32| {
            std::fs::write(object(number), "kept").unwrap();
            std::fs::set_permissions(object(number), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let epoch = u64::from(history.epoch().0) << 32;
        make(epoch | 1, 0o600);
        make(epoch | 2, 0o644);
        symlink("somewhere", object(epoch | 3)).unwrap();
        std::fs::write(at("root/named"), "x").unwrap();
        std::fs::hard_link(at("root/named"), object(epoch | 4)).unwrap();
        let nothing_yet = Scanned { objects: 4, ..Scanned::default() };
        assert_eq!(scan(&archive, &|| true).unwrap(), nothing_yet, "the epoch runs");
        for _ in 0..2 {
            history.end_epoch(&backing, Actor::default(), None).unwrap();
        }
        make(u64::from(history.epoch().0) << 32 | 5, 0o600);
        let scanned = scan(&archive, &|| true).unwrap();
        assert_eq!(scanned, Scanned { objects: 5, removed: 2, adopted: 2 });
        let adopted = std::fs::read_dir(at("store/adopted")).unwrap().count();
        assert_eq!(adopted, 2);
        assert!(at("root/named").exists());
        assert_eq!(scan(&archive, &|| true).unwrap(), Scanned { objects: 1, ..Scanned::default() });
    }
}
