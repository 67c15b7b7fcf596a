//! Removing what a plan names, and nothing else.
//!
//! Everything goes by descriptor from the workspace's root, through no symbolic link and into no other filesystem.
//! What is found must have the inode number of the plan, and a file its size and time as well. Between that look and
//! the removal a name could still be given to another file; removing a name cannot be made conditional.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use wsguard_api::{CleanItem, EntryType, ErrorCode};

use crate::error::CliError;

/// `FUSE_SUPER_MAGIC` of linux/magic.h.
const FUSE: u64 = 0x6573_5546;

/// Directories within each other at most: one descriptor each.
const DEEPEST: usize = 256;

/// What has been removed so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Removed {
    /// Allocated bytes of inodes whose last name went.
    pub(super) bytes: u64,
    /// Inodes whose last name went.
    pub(super) inodes: u64,
}

/// Why something stays.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stays {
    /// Nothing has that name any more, which is what was wanted.
    Gone,
    /// It is not what was found.
    Changed,
    /// Directories within each other without end.
    TooDeep,
    /// The kernel says so.
    Refused(Errno),
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("it is gone already"),
            Self::Changed => f.write_str("it has changed since it was found"),
            Self::TooDeep => write!(f, "more than {DEEPEST} directories within each other"),
            Self::Refused(errno) => write!(f, "{}", std::io::Error::from(*errno)),
        }
    }
}

impl From<Errno> for Stays {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Gone,
            // Another name, a link, or another filesystem is there now.
            Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::STALE => Self::Changed,
            other => Self::Refused(other),
        }
    }
}

/// A mounted workspace.
#[derive(Debug)]
pub(super) struct Workspace {
    root: OwnedFd,
    device: u64,
}

impl Workspace {
    /// Opens the workspace where users see it.
    ///
    /// # Errors
    /// `Unavailable` if nothing is mounted there: the plain files are never touched.
    pub(super) fn open(root: &Path) -> Result<Self, CliError> {
        let failed = |errno: Errno| {
            CliError::io(
                format!("cannot open the workspace {}", root.display()),
                &std::io::Error::from(errno),
            )
        };
        let workspace = Self::open_any(root).map_err(failed)?;
        let kind = rustix::fs::fstatfs(&workspace.root).map_err(failed)?.f_type as u64;
        if kind & 0xffff_ffff != FUSE {
            return Err(CliError::new(ErrorCode::Unavailable, format!("{} is not mounted", root.display()))
                .with_hint(
                    "mount it first with `wsguard mount`: nothing is removed behind the guard's back",
                ));
        }
        Ok(workspace)
    }

    fn open_any(root: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        let device = rustix::fs::fstat(&root)?.st_dev;
        Ok(Self { root, device })
    }

    /// Removes one item, if it still is what was found. What is removed counts in `removed` even if not all of it
    /// can be.
    ///
    /// # Errors
    /// Says why it stays, or what is left of it.
    pub(super) fn remove(&self, item: &CleanItem, removed: &mut Removed) -> Result<(), Stays> {
        let path = Path::new(&item.path);
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        let (Some(parent), Some(name)) = (path.parent().filter(|_| is_plain), path.file_name()) else {
            return Err(Stays::Changed);
        };
        let parent = self.directory(parent)?;
        let stat = self.look(parent.as_fd(), name)?;
        if !is_same(&stat, item) {
            return Err(Stays::Changed);
        }
        match item.entry {
            EntryType::File => unlink(parent.as_fd(), name, &stat, removed),
            EntryType::Directory => {
                self.empty(open_directory(parent.as_fd(), name)?, item.ino, 1, removed)?;
                remove_directory(parent.as_fd(), name, removed)
            }
        }
    }

    fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let relative = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&self.root, relative, flags, Mode::empty(), resolve)
    }

    fn look(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<Stat, Stays> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if stat.st_dev == self.device { Ok(stat) } else { Err(Stays::Changed) }
    }

    /// Removes everything in a directory; its number must be the one that was looked at.
    fn empty(
        &self,
        directory: OwnedFd,
        expected: u64,
        depth: usize,
        removed: &mut Removed,
    ) -> Result<(), Stays> {
        let stat = rustix::fs::fstat(&directory)?;
        if stat.st_ino != expected || stat.st_dev != self.device {
            return Err(Stays::Changed);
        }
        if depth > DEEPEST {
            return Err(Stays::TooDeep);
        }
        for name in names(&directory)? {
            let stat = match self.look(directory.as_fd(), &name) {
                Ok(stat) => stat,
                // Somebody else removed it, which is what was wanted.
                Err(Stays::Gone) => continue,
                Err(error) => return Err(error),
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let inside = open_directory(directory.as_fd(), &name)?;
                self.empty(inside, stat.st_ino, depth + 1, removed)?;
                remove_directory(directory.as_fd(), &name, removed)?;
            } else {
                unlink(directory.as_fd(), &name, &stat, removed)?;
            }
        }
        Ok(())
    }
}

fn is_same(stat: &Stat, item: &CleanItem) -> bool {
    let kind = FileType::from_raw_mode(stat.st_mode);
    stat.st_ino == item.ino
        && match item.entry {
            EntryType::Directory => kind == FileType::Directory,
            EntryType::File => {
                kind == FileType::RegularFile
                    && u64::try_from(stat.st_size) == Ok(item.size)
                    && stat.st_mtime == item.mtime
            }
        }
}

fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn names(directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

fn unlink(parent: BorrowedFd<'_>, name: &OsStr, stat: &Stat, removed: &mut Removed) -> Result<(), Stays> {
    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
    if stat.st_nlink == 1 {
        removed.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        removed.inodes += 1;
    }
    Ok(())
}

fn remove_directory(parent: BorrowedFd<'_>, name: &OsStr, removed: &mut Removed) -> Result<(), Stays> {
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    removed.inodes += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn item(root: &Path, path: &str, entry: EntryType) -> CleanItem {
        let metadata = std::fs::symlink_metadata(root.join(path)).unwrap();
        CleanItem {
            path: path.to_owned(),
            entry,
            ino: metadata.ino(),
            mtime: metadata.mtime(),
            size: metadata.len(),
            bytes: 0,
            inodes: 1,
            rule: "test".into(),
        }
    }

    fn ground() -> (tempfile::TempDir, Workspace) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("tree/cache/deep/er")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/kept"), b"kept").unwrap();
        std::fs::write(dir.path().join("tree/cache/deep/er/x"), vec![1; 10_000]).unwrap();
        std::fs::write(dir.path().join("tree/x.tmp"), b"x").unwrap();
        let workspace = Workspace::open_any(&dir.path().join("tree")).unwrap();
        (dir, workspace)
    }

    #[test]
    fn what_was_found_goes_and_links_in_it_are_not_followed() {
        let (dir, workspace) = ground();
        let tree = dir.path().join("tree");
        symlink(dir.path().join("outside"), tree.join("cache/link")).unwrap();
        std::fs::hard_link(tree.join("x.tmp"), tree.join("cache/second")).unwrap();
        let mut removed = Removed::default();
        workspace.remove(&item(&tree, "cache", EntryType::Directory), &mut removed).unwrap();
        assert!(!tree.join("cache").exists());
        assert!(dir.path().join("outside/kept").exists());
        // The hard link's inode has another name: nothing of it is free.
        assert_eq!(removed.inodes, 5);
        assert!(removed.bytes >= 10_000, "{removed:?}");
        workspace.remove(&item(&tree, "x.tmp", EntryType::File), &mut removed).unwrap();
        assert!(!tree.join("x.tmp").exists());
    }

    #[test]
    fn what_has_changed_or_leads_elsewhere_stays() {
        let (dir, workspace) = ground();
        let tree = dir.path().join("tree");
        let mut removed = Removed::default();
        let found = item(&tree, "x.tmp", EntryType::File);
        let grown = CleanItem { size: found.size + 1, ..found.clone() };
        assert_eq!(workspace.remove(&grown, &mut removed), Err(Stays::Changed));
        let newer = CleanItem { mtime: found.mtime - 1, ..found.clone() };
        assert_eq!(workspace.remove(&newer, &mut removed), Err(Stays::Changed));
        for path in ["../outside/kept", "/etc/passwd", "cache/../x.tmp", ""] {
            let climbing = CleanItem { path: path.to_owned(), ..found.clone() };
            assert_eq!(workspace.remove(&climbing, &mut removed), Err(Stays::Changed), "{path}");
        }
        let gone = CleanItem { path: "no/such.tmp".into(), ..found.clone() };
        assert_eq!(workspace.remove(&gone, &mut removed), Err(Stays::Gone));
        let cache = item(&tree, "cache", EntryType::Directory);
        std::fs::rename(tree.join("cache"), tree.join("moved")).unwrap();
        symlink(dir.path().join("outside"), tree.join("cache")).unwrap();
        assert_eq!(workspace.remove(&cache, &mut removed), Err(Stays::Changed));
        let through = CleanItem { path: "cache/kept".into(), ..found };
        assert_eq!(workspace.remove(&through, &mut removed), Err(Stays::Changed));
        assert!(dir.path().join("outside/kept").exists());
        assert_eq!(removed, Removed::default());
    }

    #[test]
    fn a_plain_directory_is_no_mounted_workspace() {
        let dir = tempfile::tempdir().unwrap();
        let error = Workspace::open(dir.path()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unavailable);
    }

    #[test]
    fn directories_without_end_are_left_alone() {
        let (dir, workspace) = ground();
        let tree = dir.path().join("tree");
        let mut path = tree.join("cache/a");
        for _ in 0..DEEPEST {
            path.push("a");
        }
        std::fs::create_dir_all(&path).unwrap();
        let found = item(&tree, "cache/a", EntryType::Directory);
        assert_eq!(workspace.remove(&found, &mut Removed::default()), Err(Stays::TooDeep));
    }
}
