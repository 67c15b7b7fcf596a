//! Directories of the backing tree, opened without ever leaving it.
//!
//! A container can replace a directory by a symbolic link at any moment, so every open resolves beneath the
//! root and through no link (`openat2`, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS), and everything after that
//! goes by descriptor.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::directories::DirectoryKey;

/// An open directory.
pub(super) struct Listing {
    fd: OwnedFd,
    key: DirectoryKey,
}

/// A directory that exists but cannot be looked at, so that changes in it would go unseen.
#[derive(Debug, thiserror::Error)]
#[error("cannot list {path:?} in the workspace: {source}")]
pub(super) struct ListingError {
    path: PathBuf,
    #[source]
    source: Errno,
}

/// What counting found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// So many directories, the root included.
    Exactly(usize),
    /// More than the limit; counting stopped there.
    TooMany,
    /// The flag was set.
    Interrupted,
}

impl Listing {
    /// Opens the directory at `path` below `root` (empty for `root` itself); `None` if there is no directory
    /// by that name, or no longer.
    ///
    /// # Errors
    /// If it is there but cannot be opened.
    pub(super) fn open(root: BorrowedFd<'_>, path: &Path) -> Result<Option<Self>, ListingError> {
        let relative = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let opened = rustix::fs::openat2(
            root,
            relative,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH
                | ResolveFlags::NO_SYMLINKS
                | ResolveFlags::NO_MAGICLINKS
                | ResolveFlags::NO_XDEV,
        )
        .and_then(|fd| rustix::fs::fstat(&fd).map(|stat| (fd, stat)));
        match opened {
            Ok((fd, stat)) => {
                Ok(Some(Self { fd, key: DirectoryKey { device: stat.st_dev, inode: stat.st_ino } }))
            }
            // Gone, replaced by something else, or a mount point: not a directory of this tree.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::XDEV) => Ok(None),
            Err(source) => Err(ListingError { path: path.to_owned(), source }),
        }
    }

    /// Returns what the directory is.
    pub(super) fn key(&self) -> DirectoryKey {
        self.key
    }

    /// Returns the descriptor.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Calls `visit` with each name and whether it may be a directory. An entry that comes or goes meanwhile
    /// may be left out; a watch that began before tells of it.
    ///
    /// # Errors
    /// If the directory cannot be read to its end; one that was removed just ends.
    pub(super) fn for_each(
        &self,
        path: &Path,
        mut visit: impl FnMut(&OsStr, bool),
    ) -> Result<(), ListingError> {
        let failed = |source| ListingError { path: path.to_owned(), source };
        let mut entries = Dir::read_from(&self.fd).map_err(failed)?;
        while let Some(entry) = entries.read() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::NOENT | Errno::STALE) => break,
                Err(source) => return Err(failed(source)),
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            // Filesystems that keep no types in their directories say `Unknown`; trying is the way to know.
            let may_be_directory = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            visit(OsStr::from_bytes(name), may_be_directory);
        }
        Ok(())
    }
}

/// Counts the directories below and including `root`, up to `limit`.
///
/// # Errors
/// If one of them cannot be listed.
pub(super) fn count_directories(
    root: BorrowedFd<'_>,
    limit: usize,
    interrupted: &AtomicBool,
) -> Result<Count, ListingError> {
    let mut found = 0;
    let mut ahead = vec![PathBuf::new()];
    while let Some(path) = ahead.pop() {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(Count::Interrupted);
        }
        let Some(directory) = Listing::open(root, &path)? else { continue };
        found += 1;
        if found > limit {
            return Ok(Count::TooMany);
        }
        let mut inside: Vec<OsString> = Vec::new();
        directory.for_each(&path, |name, may_be_directory| {
            if may_be_directory {
                inside.push(name.to_owned());
            }
        })?;
        ahead.extend(inside.into_iter().map(|name| path.join(name)));
    }
    Ok(Count::Exactly(found))
}

/// Returns the name of a filesystem whose changes are not all made on this machine, so that inotify cannot
/// see them all.
pub(super) fn remote_filesystem(root: BorrowedFd<'_>) -> Result<Option<&'static str>, Errno> {
    let magic = rustix::fs::fstatfs(root)?.f_type;
    // linux/magic.h and the sources of Lustre and GPFS. The field is signed on some machines; 32 bits count.
    Ok(match (magic as u64) & 0xffff_ffff {
        0x6969 => Some("nfs"),
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => Some("smb"),
        0x00c3_6400 => Some("ceph"),
        0x0102_1997 => Some("9p"),
        0x5346_414f | 0x6b41_4653 => Some("afs"),
        0x7375_7245 => Some("coda"),
        0x7461_636f => Some("ocfs2"),
        0x0116_1970 => Some("gfs2"),
        0x0bd0_0bd0 => Some("lustre"),
        0x4750_4653 => Some("gpfs"),
        0x6573_5546 => Some("fuse"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_root(dir: &Path) -> OwnedFd {
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn symbolic_link_is_no_directory_of_the_tree() {
        let (tree, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(outside.path().join("secret")).unwrap();
        std::os::unix::fs::symlink(outside.path(), tree.path().join("link")).unwrap();
        let root = open_root(tree.path());
        assert!(Listing::open(root.as_fd(), Path::new("link")).unwrap().is_none());
        assert!(Listing::open(root.as_fd(), Path::new("link/secret")).unwrap().is_none());
        let count = count_directories(root.as_fd(), 10, &AtomicBool::new(false)).unwrap();
        assert_eq!(count, Count::Exactly(1));
    }

    #[test]
    fn counting_stops_at_the_limit() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("a/b/c")).unwrap();
        let root = open_root(tree.path());
        let count = |limit| count_directories(root.as_fd(), limit, &AtomicBool::new(false)).unwrap();
        assert_eq!(count(4), Count::Exactly(4));
        assert_eq!(count(3), Count::TooMany);
    }

    #[test]
    fn listing_names_everything_but_the_dots() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("d")).unwrap();
        std::fs::write(tree.path().join("f"), "").unwrap();
        let root = open_root(tree.path());
        let mut names = Vec::new();
        let listing = Listing::open(root.as_fd(), Path::new("")).unwrap().unwrap();
        listing.for_each(Path::new(""), |name, _| names.push(name.to_owned())).unwrap();
        names.sort();
        assert_eq!(names, ["d", "f"]);
    }
}
