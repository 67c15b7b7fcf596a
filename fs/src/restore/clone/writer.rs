//! Making a clone outside the workspace, item by item of a plan.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::Ordering;

use rustc_hash::FxHashMap;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Target;
use crate::restore::execute::{Done, Obstacle, Progress};
use crate::restore::ledger::Deed;
use crate::restore::place::verify_all;
use crate::restore::plan::{Item, Source};
use crate::restore::{Ground, RestoreError};
use crate::snapshot::{ArchiveError, Attributes, PastFile, Sequence, Sought, View};
use crate::sys::handle::FileHandle;
use crate::sys::on_behalf::OnBehalf;

/// Copied at a time.
const CHUNK: usize = 256 << 10;
/// What is left as a hole if it is zeros.
const BLOCK: usize = 4096;
/// `FUSE_SUPER_MAGIC` of linux/magic.h. syncfs(2) does not reach a FUSE server's files.
const FUSE_MAGIC: u64 = 0x6573_5546;

const NEW: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

type Outcome = Result<(Deed, Option<String>), Obstacle>;

/// See the module.
pub(in crate::restore) struct Writer<'a> {
    ground: &'a Ground,
    hand: &'a OnBehalf,
    groups: &'a [u32],
    target: &'a Target,
    progress: &'a Progress,
    view: View<'a>,
    /// The new directory, then the directories on the way to where something is made, each with its name.
    open: Vec<(OsString, OwnedFd)>,
    /// Where the first name of an inode with several was made.
    names: FxHashMap<FileHandle, PathBuf>,
    /// Directories that get their attributes at the end.
    directories: Vec<(PathBuf, FileHandle, Attributes)>,
    /// Each file is synchronised by itself.
    syncs_each: bool,
}

impl<'a> Writer<'a> {
    pub(in crate::restore) fn new(
        ground: &'a Ground,
        (hand, groups): (&'a OnBehalf, &'a [u32]),
        target: &'a Target,
        progress: &'a Progress,
        moment: Sequence,
    ) -> Result<Self, RestoreError> {
        let view = ground.view(moment)?;
        let (open, names, directories) = (Vec::new(), FxHashMap::default(), Vec::new());
        Ok(Self { ground, hand, groups, target, progress, view, open, names, directories, syncs_each: false })
    }

    /// Makes everything; `note` is called with what became of each item. Returns whether it was broken off.
    ///
    /// # Errors
    /// The new directory cannot be made, or cannot get its name. Whatever was made is removed then, and also if it was
    /// broken off.
    pub(in crate::restore) fn run(
        &mut self,
        items: &[Item],
        mut note: impl FnMut(&Item, Done),
    ) -> Result<(), RestoreError> {
        let made = self.make_all(items, &mut note);
        self.open.clear();
        let result = match made {
            Ok(()) if self.progress.is_cancelled() => Ok(()),
            Ok(()) => match self.target.finish(self.hand) {
                Ok(()) => return Ok(()),
                Err(errno) => Err(RestoreError::NoPlace { path: self.target.temporary_path(), errno }),
            },
            Err(errno) => Err(RestoreError::NoPlace { path: self.target.temporary_path(), errno }),
        };
        if let Err(errno) = self.target.discard(self.hand) {
            let path = self.target.temporary_path();
            tracing::warn!(path = %path.display(), %errno, "what was made of a clone is left");
            return Err(RestoreError::NoPlace { path, errno });
        }
        result
    }

    fn make_all(&mut self, items: &[Item], note: &mut impl FnMut(&Item, Done)) -> Result<(), Errno> {
        let top = self.target.begin(self.hand)?;
        self.syncs_each = rustix::fs::fstatfs(&top)?.f_type as u64 == FUSE_MAGIC;
        self.open.push((OsString::new(), top));
        for item in items {
            if self.progress.is_cancelled() {
                return Ok(());
            }
            let (deed, reason) = match self.make(item) {
                Ok(done) => done,
                Err(Obstacle::Cancelled) => return Ok(()),
                Err(obstacle) => (Deed::Failed, Some(obstacle.reason())),
            };
            note(item, Done { deed, path: item.to.clone(), reason });
        }
        self.dress_directories(items, note);
        let top = self.top();
        if self.syncs_each { rustix::fs::fsync(top) } else { rustix::fs::syncfs(top) }
    }

    fn top(&self) -> &OwnedFd {
        &self.open.first().expect("it is opened before anything is made and closed after everything").1
    }

    /// Returns a directory of the clone.
    fn enter(&mut self, path: &Path) -> Result<&OwnedFd, Errno> {
        let names: Vec<&OsStr> = path
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        let open = self.open.get(1..).unwrap_or_default();
        let common = open.iter().zip(&names).take_while(|((held, _), name)| held == *name).count();
        self.open.truncate(common + 1);
        for name in names.get(common..).unwrap_or_default() {
            let (_, last) = self.open.last().ok_or(Errno::NOENT)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = self.hand.run(|| rustix::fs::openat(last, *name, flags, Mode::empty()))?;
            self.open.push(((*name).to_owned(), next));
        }
        Ok(&self.open.last().ok_or(Errno::NOENT)?.1)
    }

    fn make(&mut self, item: &Item) -> Outcome {
        let inode = item.named.inode;
        if !self.may_read(item)? {
            return Err(Obstacle::Reason("its owner does not let you read it".to_owned()));
        }
        let Some(name) = item.to.file_name().map(OsStr::to_owned) else {
            self.directories.push((PathBuf::new(), inode, item.attributes));
            return Ok((Deed::Made, None));
        };
        let (hand, view) = (self.hand, self.view);
        let first = self.names.get(&inode).cloned();
        if let (Some(first), Source::Inode) = (&first, item.source) {
            let from = dup(self.enter(first.parent().unwrap_or(Path::new("")))?)?;
            let old = first.file_name().unwrap_or_default().to_owned();
            let dir = self.enter(parent(item))?;
            hand.run(|| rustix::fs::linkat(&from, &old, dir, &name, AtFlags::empty()))?;
            return Ok((Deed::Linked, None));
        }
        let dir = self.enter(parent(item))?;
        let result = match item.named.file_type {
            libc::S_IFDIR => {
                hand.run(|| rustix::fs::mkdirat(dir, &name, Mode::RWXU))?;
                self.directories.push((item.to.clone(), inode, item.attributes));
                return Ok((Deed::Made, None));
            }
            libc::S_IFLNK => {
                let to = OsString::from_vec(view.read_link(&inode)?);
                hand.run(|| rustix::fs::symlinkat(&to, dir, &name))?;
                let left = dress_link(hand, dir, &name, &item.attributes)?;
                (Deed::Made, left)
            }
            libc::S_IFREG => {
                let dir = dup(dir)?;
                let file = hand.run(|| rustix::fs::openat(&dir, &name, NEW, Mode::RUSR | Mode::WUSR))?;
                match self.complete(item, &file) {
                    Ok(left) => (Deed::Copied, left),
                    Err(obstacle) => {
                        // Better none than one that is not what it was.
                        hand.run(|| rustix::fs::unlinkat(&dir, &name, AtFlags::empty()))?;
                        return Err(obstacle);
                    }
                }
            }
            kind => {
                let kind = rustix::fs::FileType::from_raw_mode(kind);
                let mode = Mode::from_raw_mode(item.attributes.mode & 0o777);
                hand.run(|| rustix::fs::mknodat(dir, &name, kind, mode, item.attributes.device))?;
                (Deed::Made, dress_link(hand, dir, &name, &item.attributes)?)
            }
        };
        if item.attributes.nlink > 1 {
            self.names.insert(inode, item.to.clone());
        }
        Ok(result)
    }

    /// Whether the caller could have read it as it was: what a workspace's owner cannot read there, such as a file of
    /// root's, does not become readable as their own copy.
    fn may_read(&self, item: &Item) -> Result<bool, Obstacle> {
        let (uid, past) = (self.hand.uid(), &item.attributes);
        if uid == 0 || uid == past.uid || !matches!(item.named.file_type, libc::S_IFREG | libc::S_IFDIR) {
            return Ok(true);
        }
        let xattrs = self.view.extended_attributes(&item.named.inode)?;
        // A list may let less be read than the mode says, or be the only one that lets; not evaluated, so not trusted.
        if xattrs.iter().any(|(name, _)| name == b"system.posix_acl_access") {
            return Ok(false);
        }
        let wanted = if item.named.file_type == libc::S_IFDIR { 0o5 } else { 0o4 };
        let shift = if self.groups.contains(&past.gid) { 3 } else { 0 };
        Ok((past.mode >> shift) & wanted == wanted)
    }

    fn complete(&mut self, item: &Item, out: &OwnedFd) -> Result<Option<String>, Obstacle> {
        let file = self.view.open(&item.named.inode)?;
        verify_all(self.ground, &file)?;
        if !self.share(&file, out)? {
            self.copy(&file, out)?;
        }
        let left = self.dress(out, &item.named.inode, &item.attributes)?;
        if self.syncs_each {
            rustix::fs::fsync(out)?;
        }
        Ok(left)
    }

    /// Makes the new file share the blocks of the old one, if one file has all of it and the filesystem can.
    fn share(&self, file: &PastFile, out: &OwnedFd) -> Result<bool, Obstacle> {
        let (archive, size) = (&self.ground.archive, file.attributes().size);
        let is_of_size = |from: &dyn AsFd| -> Result<bool, Errno> {
            Ok(u64::try_from(rustix::fs::fstat(from.as_fd())?.st_size) == Ok(size))
        };
        let clone = |from: &dyn AsFd| match self.hand.run(|| rustix::fs::ioctl_ficlone(out, from.as_fd())) {
            Ok(()) => Ok(true),
            Err(Errno::DQUOT | Errno::NOSPC | Errno::IO) => Err(Errno::NOSPC),
            Err(_) => Ok(false),
        };
        if size == 0 {
            return Ok(false);
        }
        let shared = if let Some(row) = file.whole(archive)? {
            match archive.history().store().open_object(row.object, OFlags::RDONLY) {
                Ok(object) => is_of_size(&object)? && clone(&object)?,
                Err(Errno::NOENT) => false,
                Err(errno) => return Err(errno.into()),
            }
        } else if let Some(live) = file.live().filter(|_| file.is_live(archive).unwrap_or(false)) {
            // What is written is noted first: if nothing is noted still, what was cloned is what it was.
            is_of_size(&live)? && clone(&live)? && file.is_live(archive)?
        } else {
            false
        };
        if shared {
            self.progress.done_bytes.fetch_add(size, Ordering::Relaxed);
        } else {
            self.hand.run(|| rustix::fs::ftruncate(out, 0))?;
        }
        Ok(shared)
    }

    fn copy(&self, file: &PastFile, out: &OwnedFd) -> Result<(), Obstacle> {
        let (archive, size) = (&self.ground.archive, file.attributes().size);
        let mut buffer = vec![0_u8; CHUNK];
        let mut at = 0;
        while at < size {
            if self.progress.is_cancelled() {
                return Err(Obstacle::Cancelled);
            }
            let data = match file.seek(archive, at, Sought::Data) {
                Ok(data) => data.max(at) / BLOCK as u64 * BLOCK as u64,
                Err(ArchiveError::Log(Errno::NXIO)) => size,
                Err(error) => return Err(error.into()),
            };
            let skipped = data.saturating_sub(at);
            at = data.max(at);
            self.progress.done_bytes.fetch_add(skipped, Ordering::Relaxed);
            if at >= size {
                break;
            }
            let read = file.read(archive, at, &mut buffer)?;
            if read == 0 {
                break;
            }
            self.write(out, at, buffer.get(..read).unwrap_or_default())?;
            at += read as u64;
            self.progress.done_bytes.fetch_add(read as u64, Ordering::Relaxed);
        }
        Ok(self.hand.run(|| rustix::fs::ftruncate(out, size))?)
    }

    /// Writes what is not zero, in whole blocks.
    fn write(&self, out: &OwnedFd, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.hand.run(|| {
            for (index, block) in
                bytes.chunks(BLOCK).enumerate().filter(|(_, block)| !block.iter().all(|b| *b == 0))
            {
                let mut done = 0;
                while let Some(rest) = block.get(done..).filter(|rest| !rest.is_empty()) {
                    match rustix::io::pwrite(out, rest, offset + (index * BLOCK + done) as u64) {
                        Ok(0) => return Err(Errno::IO),
                        Ok(written) => done += written,
                        Err(Errno::INTR) => {}
                        Err(errno) => return Err(errno),
                    }
                }
            }
            Ok(())
        })
    }

    /// Sets owner, extended attributes, mode and times, in this order; returns what could not be set.
    fn dress(&self, fd: &OwnedFd, inode: &FileHandle, past: &Attributes) -> Result<Option<String>, Obstacle> {
        let mut left = own(self.hand, past, |uid, gid| rustix::fs::fchown(fd, uid, gid))?;
        for (name, value) in self.view.extended_attributes(inode)? {
            let flags = rustix::fs::XattrFlags::empty();
            match self.hand.run(|| rustix::fs::fsetxattr(fd, OsStr::from_bytes(&name), &value, flags)) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL) => {
                    left.push(String::from_utf8_lossy(&name).into_owned());
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        // Of somebody else's file no privilege is passed on.
        let mask = if left.iter().any(|what| what == OWNER) { 0o1777 } else { 0o7777 };
        self.hand.run(|| rustix::fs::fchmod(fd, Mode::from_raw_mode(past.mode & mask)))?;
        self.hand.run(|| rustix::fs::futimens(fd, &times(past)))?;
        Ok(without(&left))
    }

    /// Deepest first: what lies in a directory changes its times, and its mode may shut it.
    fn dress_directories(&mut self, items: &[Item], note: &mut impl FnMut(&Item, Done)) {
        for (path, inode, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let opened = self.enter(&path).and_then(dup);
            let dressed = opened.map_err(Obstacle::from).and_then(|fd| self.dress(&fd, &inode, &attributes));
            let (deed, reason) = match dressed {
                Ok(None) => continue,
                Ok(Some(reason)) => (Deed::Attributes, reason),
                Err(obstacle) => (Deed::Failed, obstacle.reason()),
            };
            if let Some(item) = items.iter().find(|item| item.to == path) {
                note(item, Done { deed, path, reason: Some(reason) });
            }
        }
    }
}

const OWNER: &str = "its owner";

fn parent(item: &Item) -> &Path {
    item.to.parent().unwrap_or(Path::new(""))
}

fn dup(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0)
}

fn times(past: &Attributes) -> Timestamps {
    let time =
        |ns: i64| Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) };
    Timestamps { last_access: time(past.accessed_ns), last_modification: time(past.modified_ns) }
}

fn without(left: &[String]) -> Option<String> {
    (!left.is_empty()).then(|| format!("cloned without {}", left.join(", ")))
}

/// Gives it its owner and group as far as the caller may; returns what stays the caller's.
fn own(
    hand: &OnBehalf,
    past: &Attributes,
    chown: impl Fn(Option<Uid>, Option<Gid>) -> Result<(), Errno>,
) -> Result<Vec<String>, Errno> {
    let (uid, gid) = (Uid::from_raw(past.uid), Gid::from_raw(past.gid));
    match hand.run(|| chown(Some(uid), Some(gid))) {
        Ok(()) => return Ok(Vec::new()),
        Err(Errno::PERM | Errno::INVAL) => {}
        Err(errno) => return Err(errno),
    }
    let mut left = Vec::new();
    if past.uid != hand.uid() {
        left.push(OWNER.to_owned());
    }
    match hand.run(|| chown(None, Some(gid))) {
        Ok(()) => {}
        Err(Errno::PERM | Errno::INVAL) => left.push("its group".to_owned()),
        Err(errno) => return Err(errno),
    }
    Ok(left)
}

/// As for a file, of what cannot be opened: links and special files.
fn dress_link(
    hand: &OnBehalf,
    dir: &OwnedFd,
    name: &OsStr,
    past: &Attributes,
) -> Result<Option<String>, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let left = own(hand, past, |uid, gid| rustix::fs::chownat(dir, name, uid, gid, flags))?;
    hand.run(|| rustix::fs::utimensat(dir, name, &times(past), flags))?;
    Ok(without(&left))
}
