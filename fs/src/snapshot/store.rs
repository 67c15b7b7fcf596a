//! The preserve store: where what was deleted or overwritten is kept.
//!
//! It lies on the filesystem of the workspace, outside the tree that users see, and belongs to root alone. It is
//! reached through the workspace's own detached mount, by handle: rename(2) and link(2) refuse to cross from one mount
//! to another even on one filesystem, and its path can be mounted over or renamed without harm.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;

use super::record::ObjectId;
use super::sequence::Epoch;
use crate::sys::handle::{FileHandle, handle_of, open_by_handle};

/// Directories that objects are spread over.
const DIRECTORIES: u64 = 64;
/// Copied at a time.
const BUFFER_BYTES: usize = 256 << 10;
/// The last epoch that was begun is a part of the name of an empty file.
const MARK: &str = "epoch-";
/// So is up to when what was copied is on the disk.
const SYNCED: &str = "synced-";
/// Holds the number of the boot in which the catalog was used last.
pub(super) const BOOT_FILE: &str = "boot";
/// random(4).
pub(super) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why a directory cannot hold what is preserved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Something cannot be done.
    #[error("cannot {action} the preserve store")]
    Unusable {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
    /// Deleted files could not be moved there.
    #[error(
        "the preserve store is not on the workspace's filesystem, or files cannot be moved between the two"
    )]
    Elsewhere,
}

/// See the module.
pub(crate) struct Store {
    dir: OwnedFd,
    /// A descriptor for each of the directories in it would be 64 a workspace.
    objects: OwnedFd,
    can_clone: bool,
}

/// What was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Copied {
    /// BLAKE3 of the range, holes as zeros; `None` for a hole, of which nothing was read.
    pub(crate) hash: Option<[u8; 32]>,
    /// Bytes of the range; fewer than were asked for at the end of the file.
    pub(crate) length: u64,
}

impl Store {
    /// Opens the store in `dir`, which is root's own, as the mount that `root` (readable) lies on sees it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) fn open(dir: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Result<Self, StoreError> {
        let failed = |action| move |source| StoreError::Unusable { action, source };
        let handle = handle_of(dir).map_err(failed("identify"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let reached = open_by_handle(root, &handle, flags).map_err(|_| StoreError::Elsewhere)?;
        // A handle of another filesystem may by chance be that of a directory here.
        let identity = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
        if identity(reached.as_fd()).map_err(failed("look at"))?
            != identity(dir).map_err(failed("look at"))?
        {
            return Err(StoreError::Elsewhere);
        }
        let objects = subdirectory(reached.as_fd(), OsStr::new("objects")).map_err(failed("make"))?;
        let last = directory_of(DIRECTORIES - 1);
        // A successor's callers wait: it finds them made.
        if rustix::fs::accessat(&objects, last.as_str(), rustix::fs::Access::EXISTS, AtFlags::empty())
            .is_err()
        {
            for number in 0..DIRECTORIES {
                subdirectory(objects.as_fd(), OsStr::new(&directory_of(number))).map_err(failed("make"))?;
            }
        }
        let store = Self { dir: reached, objects, can_clone: false };
        let can_clone = store.probe(root)?;
        Ok(Self { can_clone, ..store })
    }

    /// Finds out whether files can be moved from the workspace to the store, and cloned, with a file that nobody sees.
    fn probe(&self, root: BorrowedFd<'_>) -> Result<bool, StoreError> {
        let failed = |action| move |source| StoreError::Unusable { action, source };
        let mode = Mode::RUSR | Mode::WUSR;
        let temporary = |dir: BorrowedFd<'_>| {
            rustix::fs::openat(dir, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode)
        };
        let (here, there) = match (temporary(root), temporary(self.dir.as_fd())) {
            (Ok(here), Ok(there)) => (here, there),
            // Without O_TMPFILE the first deletion finds out.
            (Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL), _) => return Ok(false),
            (Err(source), _) | (_, Err(source)) => return Err(failed("try")(source)),
        };
        let name = OsStr::new("probe");
        // One that a worker left which died at this place.
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(source) => return Err(failed("try")(source)),
        }
        match rustix::fs::linkat(&here, "", &self.dir, name, AtFlags::EMPTY_PATH) {
            Ok(()) => rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()).map_err(failed("try"))?,
            Err(Errno::XDEV) => return Err(StoreError::Elsewhere),
            Err(source) => return Err(failed("try")(source)),
        }
        rustix::io::pwrite(&here, &[1; 4096], 0).map_err(failed("try"))?;
        Ok(rustix::fs::ioctl_ficlone(&there, &here).is_ok())
    }

    /// Whether files can be cloned instead of copied.
    pub(crate) fn can_clone(&self) -> bool {
        self.can_clone
    }

    /// Returns the last epoch that was begun, or was about to be.
    ///
    /// # Errors
    /// As reading the directory.
    pub(crate) fn last_epoch(&self) -> Result<Option<Epoch>, Errno> {
        let mut last = None;
        for entry in rustix::fs::Dir::read_from(&self.dir)? {
            let entry = entry?;
            let number =
                entry.file_name().to_str().ok().and_then(|name| name.strip_prefix(MARK)?.parse().ok());
            last = last.max(number);
        }
        Ok(last.map(Epoch))
    }

    /// Notes that an epoch is about to begin. The log may lose its end in a power cut, but a name does not get to the
    /// disk after the names of objects that were made later, so no object's number is given twice.
    ///
    /// # Errors
    /// As renameat(2) and openat(2).
    pub(crate) fn mark_epoch(&self, before: Epoch, epoch: Epoch) -> Result<(), Errno> {
        let name = |epoch: Epoch| format!("{MARK}{:08}", epoch.0);
        self.rename_mark(&name(before), &name(epoch))
    }

    /// Returns the epoch and the time, nanoseconds since 1970, before which everything that was copied is on the disk;
    /// `None` if that was never noted.
    ///
    /// # Errors
    /// As reading the directory.
    pub(crate) fn synced_until(&self) -> Result<Option<(Epoch, i64)>, Errno> {
        let mut last = None;
        for entry in rustix::fs::Dir::read_from(&self.dir)? {
            let entry = entry?;
            let found = entry.file_name().to_str().ok().and_then(|name| {
                let (epoch, time) = name.strip_prefix(SYNCED)?.split_once('-')?;
                Some((Epoch(epoch.parse().ok()?), time.parse().ok()?))
            });
            last = last.max(found);
        }
        Ok(last)
    }

    /// Notes that everything that was copied before is on the disk. As a name, this does not get there before it.
    ///
    /// # Errors
    /// As renameat(2) and openat(2).
    pub(crate) fn mark_synced(&self, (epoch, time): (Epoch, i64), now: (Epoch, i64)) -> Result<(), Errno> {
        let name = |(epoch, time): (Epoch, i64)| format!("{SYNCED}{:08}-{time}", epoch.0);
        self.rename_mark(&name((epoch, time)), &name(now))
    }

    fn rename_mark(&self, before: &str, now: &str) -> Result<(), Errno> {
        match rustix::fs::renameat(&self.dir, before, &self.dir, now) {
            Err(Errno::NOENT) => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&self.dir, now, flags, Mode::RUSR | Mode::WUSR).map(drop)
            }
            result => result,
        }
    }

    /// Whether the machine was started since the catalog was used last, or nobody ever used it.
    ///
    /// # Errors
    /// As reading the files.
    pub(crate) fn is_of_another_boot(&self) -> Result<bool, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, BOOT_FILE, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(true),
            Err(errno) => return Err(errno),
        };
        // Torn, it is no boot's.
        let mut known = [0; 64];
        let length = rustix::io::read(&file, &mut known[..])?;
        let boot =
            std::fs::read(BOOT_ID).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(known.get(..length) != Some(&boot[..]))
    }

    /// Writes all of the filesystem back.
    ///
    /// # Errors
    /// As syncfs(2).
    pub(crate) fn sync_all(&self) -> Result<(), Errno> {
        rustix::fs::syncfs(&self.dir)
    }

    /// Opens a file that lives in the workspace.
    ///
    /// # Errors
    /// As open_by_handle_at(2): `ESTALE` if it is gone.
    pub(crate) fn open_living(&self, file: &FileHandle, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_by_handle(self.dir.as_fd(), file, flags)
    }

    /// Returns a directory of the store, which is made if it is missing.
    ///
    /// # Errors
    /// As mkdirat(2) and openat(2).
    pub(crate) fn directory(&self, name: &str) -> Result<OwnedFd, Errno> {
        subdirectory(self.dir.as_fd(), OsStr::new(name))
    }

    fn place(&self, object: ObjectId) -> (BorrowedFd<'_>, String) {
        (self.objects.as_fd(), format!("{}/{:016x}", directory_of(object.0 % DIRECTORIES), object.0))
    }

    /// Moves the entry `name` of `dir` into the store, whatever it is but a directory.
    ///
    /// # Errors
    /// As renameat2(2), `EEXIST` included.
    pub(crate) fn take_away(&self, dir: BorrowedFd<'_>, name: &OsStr, object: ObjectId) -> Result<(), Errno> {
        let (to, place) = self.place(object);
        rustix::fs::renameat_with(dir, name, to, place, RenameFlags::NOREPLACE)
    }

    /// Gives the inode behind `fd` a name in the store.
    ///
    /// # Errors
    /// As linkat(2).
    pub(crate) fn link(&self, fd: BorrowedFd<'_>, object: ObjectId) -> Result<(), Errno> {
        let (to, place) = self.place(object);
        rustix::fs::linkat(fd, "", to, place, AtFlags::EMPTY_PATH)
    }

    /// Moves an object out of the store.
    ///
    /// # Errors
    /// As renameat2(2): `EEXIST` if the name is taken, `ENOENT` if there is no such object.
    pub(crate) fn put_back(&self, object: ObjectId, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        let (from, place) = self.place(object);
        rustix::fs::renameat_with(from, place, dir, name, RenameFlags::NOREPLACE)
    }

    /// Removes an object; one that is not there is as good as removed.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub(crate) fn remove(&self, object: ObjectId) -> Result<(), Errno> {
        let (dir, place) = self.place(object);
        match rustix::fs::unlinkat(dir, place, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Opens an object.
    ///
    /// # Errors
    /// As openat(2): `ENOENT` if there is none, `ELOOP` for a symbolic link without `O_PATH`.
    pub(crate) fn open_object(&self, object: ObjectId, flags: OFlags) -> Result<OwnedFd, Errno> {
        let (dir, place) = self.place(object);
        rustix::fs::openat(dir, place, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    /// Makes an empty object, or opens the one that is there.
    ///
    /// # Errors
    /// As openat(2).
    pub(crate) fn create(&self, object: ObjectId) -> Result<OwnedFd, Errno> {
        let (dir, place) = self.place(object);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(dir, place, flags, Mode::RUSR | Mode::WUSR)
    }

    /// Makes an object that shares the blocks of a file.
    ///
    /// # Errors
    /// As ioctl_ficlone(2).
    pub(crate) fn clone_file(&self, file: BorrowedFd<'_>, object: ObjectId) -> Result<(), Errno> {
        let target = self.create(object)?;
        rustix::fs::ioctl_ficlone(&target, file).inspect_err(|_| self.discard(object))
    }

    /// Removes an object that was only begun.
    pub(crate) fn discard(&self, object: ObjectId) {
        if let Err(errno) = self.remove(object) {
            tracing::warn!(object = object.0, %errno, "an object that was begun stays until the store is scanned");
        }
    }

    /// Calls `visit` with every object that is there.
    ///
    /// # Errors
    /// As reading the directories.
    pub(crate) fn for_each_object(&self, mut visit: impl FnMut(ObjectId)) -> Result<(), Errno> {
        for number in 0..DIRECTORIES {
            let dir = subdirectory(self.objects.as_fd(), OsStr::new(&directory_of(number)))?;
            for entry in rustix::fs::Dir::new(dir)? {
                let name = entry?;
                let number = name.file_name().to_str().ok().filter(|name| name.len() == 16);
                if let Some(number) = number.and_then(|name| u64::from_str_radix(name, 16).ok()) {
                    visit(ObjectId(number));
                }
            }
        }
        Ok(())
    }
}

/// Copies `offset..offset + length` of a file to the same place of another, leaving holes where there are some.
///
/// # Errors
/// As pread(2) and pwrite(2).
pub(crate) fn copy_range(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    offset: u64,
    length: u64,
) -> Result<Copied, Errno> {
    thread_local! {
        static BUFFER: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
    }
    let end = offset.saturating_add(length);
    if next_data(from, offset)?.is_none_or(|data| data >= end) {
        let size = size_of(from)?;
        return Ok(Copied { hash: None, length: end.min(size).saturating_sub(offset) });
    }
    let mut buffer = BUFFER.take();
    buffer.resize(BUFFER_BYTES, 0);
    let mut hasher = blake3::Hasher::new();
    let mut at = offset;
    let result = loop {
        let wanted = usize::try_from(end - at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        let Some(part) = buffer.get_mut(..wanted).filter(|part| !part.is_empty()) else { break Ok(()) };
        let read = match rustix::io::pread(from, &mut *part, at) {
            Ok(0) => break Ok(()),
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(errno) => break Err(errno),
        };
        let bytes = part.get(..read).unwrap_or_default();
        hasher.update(bytes);
        if let Err(errno) = write_sparse(to, bytes, at) {
            break Err(errno);
        }
        at += read as u64;
    };
    BUFFER.set(buffer);
    result?;
    Ok(Copied { hash: Some(*hasher.finalize().as_bytes()), length: at - offset })
}

/// Writes what is not zero, in whole blocks.
fn write_sparse(to: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    const BLOCK: usize = 4096;
    let mut start = 0;
    while start < bytes.len() {
        let is_zero = |chunk: &[u8]| chunk.iter().all(|byte| *byte == 0);
        let run =
            bytes[start..].chunks(BLOCK).take_while(|chunk| !is_zero(chunk)).map(<[u8]>::len).sum::<usize>();
        let mut rest = &bytes[start..start + run];
        let mut at = offset + start as u64;
        while !rest.is_empty() {
            match rustix::io::pwrite(to, rest, at) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => {
                    at += written as u64;
                    rest = &rest[written..];
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        start += run;
        start +=
            bytes[start..].chunks(BLOCK).take_while(|chunk| is_zero(chunk)).map(<[u8]>::len).sum::<usize>();
    }
    Ok(())
}

/// Returns where data begins at or behind `offset`; `None` if there is none up to the end.
///
/// # Errors
/// As lseek(2).
pub(crate) fn next_data(file: BorrowedFd<'_>, offset: u64) -> Result<Option<u64>, Errno> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        // All of it may be data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
        Err(errno) => Err(errno),
    }
}

fn size_of(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    u64::try_from(rustix::fs::fstat(file)?.st_size).map_err(|_| Errno::IO)
}

fn directory_of(number: u64) -> String {
    format!("{number:02x}")
}

fn subdirectory(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    struct Bench {
        _kept: tempfile::TempDir,
        root: std::fs::File,
        store: Store,
    }

    fn bench() -> Bench {
        let kept = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for name in ["root", "store"] {
            std::fs::create_dir(kept.path().join(name)).unwrap();
        }
        let root = std::fs::File::open(kept.path().join("root")).unwrap();
        let dir = std::fs::File::open(kept.path().join("store")).unwrap();
        let store = Store::open(dir.as_fd(), root.as_fd()).unwrap();
        Bench { _kept: kept, root, store }
    }

    #[test]
    fn what_is_taken_away_can_be_put_back_as_the_same_inode() {
        let bench = bench();
        let path = bench._kept.path().join("root/a");
        std::fs::write(&path, b"kept").unwrap();
        let ino = std::fs::metadata(&path).unwrap().ino();
        let object = ObjectId(0x1234);
        bench.store.take_away(bench.root.as_fd(), OsStr::new("a"), object).unwrap();
        assert!(!path.exists());
        let mut found = Vec::new();
        bench.store.for_each_object(|object| found.push(object)).unwrap();
        assert_eq!(found, [object]);
        std::fs::write(&path, b"new").unwrap();
        let back = |name| bench.store.put_back(object, bench.root.as_fd(), OsStr::new(name));
        assert_eq!(back("a"), Err(Errno::EXIST));
        back("b").unwrap();
        assert_eq!(std::fs::metadata(bench._kept.path().join("root/b")).unwrap().ino(), ino);
        assert_eq!(back("c"), Err(Errno::NOENT));
    }

    #[test]
    fn a_copy_has_the_bytes_the_hash_and_the_holes() {
        let bench = bench();
        let file = std::fs::File::create_new(bench._kept.path().join("root/f")).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[7; 5000], 1 << 20).unwrap();
        let file = std::fs::File::open(bench._kept.path().join("root/f")).unwrap();
        let copy: std::fs::File = bench.store.create(ObjectId(1)).unwrap().into();
        let copied = copy_range(file.as_fd(), copy.as_fd(), 65_536, 4 << 20).unwrap();
        assert_eq!(copied.length, 4 << 20);
        let mut expected = vec![0; 4 << 20];
        file.read_exact_at(&mut expected, 65_536).unwrap();
        assert_eq!(copied.hash, Some(*blake3::hash(&expected).as_bytes()));
        copy.set_len(8 << 20).unwrap();
        let mut found = vec![1; 4 << 20];
        copy.read_exact_at(&mut found, 65_536).unwrap();
        assert!(found == expected);
        assert!(copy.metadata().unwrap().blocks() * 512 <= 16_384);
        let hole = copy_range(file.as_fd(), copy.as_fd(), 4 << 20, 8 << 20).unwrap();
        assert_eq!(hole, Copied { hash: None, length: 4 << 20 });
    }

    #[test]
    fn another_filesystem_is_refused() {
        let here = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (root, dir) =
            (std::fs::File::open(here.path()).unwrap(), std::fs::File::open("/dev/shm").unwrap());
        assert!(matches!(Store::open(dir.as_fd(), root.as_fd()), Err(StoreError::Elsewhere)));
    }
}
