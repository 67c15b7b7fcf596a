//! The place of a clone outside the workspace: a free name, or an empty directory, in a directory of the caller's.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::restore::RestoreError;
use crate::sys::on_behalf::OnBehalf;

/// What fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::restore) struct Room {
    pub(in crate::restore) bytes: u64,
    /// `None` if the filesystem has no bound.
    pub(in crate::restore) inodes: Option<u64>,
}

/// See the module.
pub(in crate::restore) struct Target {
    path: PathBuf,
    parent: OwnedFd,
    name: OsString,
    temporary: OsString,
    /// An empty directory that is replaced at the end.
    is_replaced: bool,
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Target {
    /// Opens the directory that the clone will lie in, with the caller's rights.
    ///
    /// # Errors
    /// `Taken` if something stands there; `NoPlace` and `NotYours` if its directory cannot be reached or written to.
    pub(in crate::restore) fn open(
        hand: &OnBehalf,
        path: &Path,
        temporary: &str,
    ) -> Result<Self, RestoreError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(RestoreError::Taken { path: path.to_path_buf(), why: "is the root directory" });
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Links are followed with the rights of the caller; those of /proc would lead into the daemon.
        let opened =
            hand.run(|| rustix::fs::openat2(CWD, parent, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS));
        let parent = opened.map_err(|errno| no_place(parent, errno))?;
        let mut target = Self {
            path: path.to_path_buf(),
            parent,
            name: name.to_owned(),
            temporary: temporary.into(),
            is_replaced: false,
        };
        target.is_replaced = target.look(hand)?;
        let may = Access::WRITE_OK | Access::EXEC_OK;
        hand.run(|| rustix::fs::accessat(&target.parent, ".", may, AtFlags::EACCESS))
            .map_err(|errno| no_place(path.parent().unwrap_or(path), errno))?;
        Ok(target)
    }

    /// Returns whether an empty directory stands there.
    fn look(&self, hand: &OnBehalf) -> Result<bool, RestoreError> {
        let taken = |why| Err(RestoreError::Taken { path: self.path.clone(), why });
        let opened = match hand.run(|| rustix::fs::openat(&self.parent, &self.name, DIRECTORY, Mode::empty()))
        {
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::NOTDIR | Errno::LOOP) => return taken("exists and is no directory"),
            result => result.map_err(|errno| no_place(&self.path, errno))?,
        };
        let mount = |fd: BorrowedFd<'_>| {
            let found = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
            Ok::<_, Errno>(found.stx_mnt_id)
        };
        if mount(opened.as_fd())? != mount(self.parent.as_fd())? {
            return taken("is a mount point; name a new directory in it");
        }
        for entry in hand.run(|| Dir::read_from(&opened))? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return taken("exists and is not empty");
            }
        }
        Ok(true)
    }

    /// Returns what fits, as `df` says there.
    pub(in crate::restore) fn room(&self, hand: &OnBehalf) -> Result<Room, RestoreError> {
        let stat = hand.run(|| rustix::fs::fstatvfs(&self.parent))?;
        Ok(Room {
            bytes: stat.f_bavail.saturating_mul(stat.f_frsize.max(1)),
            inodes: Some(stat.f_favail).filter(|_| stat.f_files > 0),
        })
    }

    /// Makes the directory under its temporary name; what an attempt that broke off left there is removed.
    ///
    /// # Errors
    /// As mkdir(2).
    pub(super) fn begin(&self, hand: &OnBehalf) -> Result<OwnedFd, Errno> {
        let make = || rustix::fs::mkdirat(&self.parent, &self.temporary, Mode::RWXU);
        if hand.run(make) == Err(Errno::EXIST) {
            self.discard(hand)?;
            hand.run(make)?;
        }
        hand.run(|| {
            let top = rustix::fs::openat(&self.parent, &self.temporary, DIRECTORY, Mode::empty())?;
            // What the directory around it has for new entries is nothing of the clone's.
            for name in ["system.posix_acl_default", "system.posix_acl_access"] {
                match rustix::fs::fremovexattr(&top, name) {
                    Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                    Err(errno) => return Err(errno),
                }
            }
            rustix::fs::fchmod(&top, Mode::RWXU)?;
            Ok(top)
        })
    }

    /// Gives the complete directory its name.
    ///
    /// # Errors
    /// `EEXIST` and `ENOTEMPTY` if something has appeared there.
    pub(super) fn finish(&self, hand: &OnBehalf) -> Result<(), Errno> {
        let flags = if self.is_replaced { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        hand.run(|| rustix::fs::renameat_with(&self.parent, &self.temporary, &self.parent, &self.name, flags))
    }

    /// Removes what was made under the temporary name.
    ///
    /// # Errors
    /// As unlink(2).
    pub(super) fn discard(&self, hand: &OnBehalf) -> Result<(), Errno> {
        remove_tree(hand, self.parent.as_fd(), &self.temporary)
    }

    /// Where it is until it is complete.
    pub(super) fn temporary_path(&self) -> PathBuf {
        self.path.with_file_name(&self.temporary)
    }
}

fn remove_tree(hand: &OnBehalf, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let open = || rustix::fs::openat(parent, name, DIRECTORY, Mode::empty());
    let opened = match hand.run(open) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return hand.run(|| rustix::fs::unlinkat(parent, name, AtFlags::empty()));
        }
        // It has its attributes already. A link in its place leads to what is the caller's own at worst; root, who
        // could be led further, needs no permission.
        Err(Errno::ACCESS) if hand.uid() != 0 => {
            hand.run(|| rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty()))?;
            hand.run(open)?
        }
        result => result?,
    };
    if hand.uid() != 0 {
        hand.run(|| rustix::fs::fchmod(&opened, Mode::RWXU))?;
    }
    let mut names = Vec::new();
    for entry in hand.run(|| Dir::read_from(&opened))? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(<OsString as std::os::unix::ffi::OsStringExt>::from_vec(name));
        }
    }
    for name in names {
        match hand.run(|| rustix::fs::unlinkat(&opened, &name, AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => remove_tree(hand, opened.as_fd(), &name)?,
            Err(errno) => return Err(errno),
        }
    }
    hand.run(|| rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

fn no_place(path: &Path, errno: Errno) -> RestoreError {
    let path = path.to_path_buf();
    match errno {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => RestoreError::NotYours { path, errno },
        errno => RestoreError::NoPlace { path, errno },
    }
}
