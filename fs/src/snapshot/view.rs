//! A workspace as it was at a moment.
//!
//! What changed since the moment comes from the store, the rest from the files as they are. The order that makes this
//! exact while others write: look at the files first, then ask the catalog, which knows of every change that had begun
//! by then; what it does not know had not been changed when it was looked at.
//!
//! What bypassed the mount cannot be known in advance, but it leaves traces: a ctime later than the moment on a file that
//! nobody changed through the mount, or the watcher's note. Then the answer says so ([`Certainty`]); the bytes are not
//! passed off as those of the moment.

mod children;
mod doubt;
mod holes;
mod presence;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;

use super::archive::{Archive, ArchiveError};
use super::catalog::{Content, ContentRow, Past, Source, Then, XattrList};
use super::history::attributes_of;
use super::record::{Attributes, Named, Origin, Span};
use super::sequence::Sequence;
use crate::backing::{Backing, proc_path, stat_of};
use crate::sys::handle::FileHandle;

pub(crate) use children::PastChild;
pub(crate) use holes::Sought;
pub(crate) use presence::Presence;

/// A coarse clock lags by so much at most, nanoseconds.
const TICK_NS: i64 = 10_000_000;

/// How well a file is known as it was.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Certainty {
    /// Bit for bit.
    Exact,
    /// Stores through a mapping may have changed it at about that moment.
    Fuzzy,
    /// It was changed past the mount since then; what it was is not known.
    ChangedOutside,
}

/// An entry of a directory as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PastEntry {
    /// The name.
    pub(crate) name: Vec<u8>,
    /// What it stood for; `None` if that is as now and was not looked up.
    pub(crate) named: Option<Named>,
    /// `st_mode & S_IFMT`; 0 if it is not known without looking the name up.
    pub(crate) file_type: u32,
}

/// See the module.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    archive: &'a Archive,
    backing: &'a Backing,
    moment: Sequence,
    /// The moment by the clock; later changes of ctime are no part of it.
    time_ns: Option<i64>,
}

impl<'a> View<'a> {
    /// Looks at `moment`.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn at(
        archive: &'a Archive,
        backing: &'a Backing,
        moment: Sequence,
    ) -> Result<Self, ArchiveError> {
        let past = archive.read()?;
        let view = Self { archive, backing, moment, time_ns: past.time_of(moment)? };
        view.confirm(&past)?;
        drop(past);
        Ok(view)
    }

    /// Finds out, after a question, whether the answer is right: nothing is swept before it is noted that it is not
    /// kept any more.
    fn confirm(&self, past: &Past) -> Result<(), ArchiveError> {
        if past.is_kept(self.moment)? || self.archive.holds(self.moment) {
            Ok(())
        } else {
            Err(ArchiveError::NotKept)
        }
    }

    /// Looks at a snapshot that was taken at `time_ns`.
    pub(crate) fn of_snapshot(
        archive: &'a Archive,
        backing: &'a Backing,
        moment: Sequence,
        time_ns: i64,
    ) -> Self {
        Self { archive, backing, moment, time_ns: Some(time_ns) }
    }

    /// Returns the moment.
    pub(crate) fn moment(&self) -> Sequence {
        self.moment
    }

    /// Returns the moment by the clock, nanoseconds since 1970; `None` if nothing was noted after it.
    pub(crate) fn time_ns(&self) -> Option<i64> {
        self.time_ns
    }

    /// Returns the root directory.
    pub(crate) fn root(&self) -> FileHandle {
        self.backing.root_handle()
    }

    /// Returns what a name stood for; `None` if there was no such name.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn lookup(&self, dir: &FileHandle, name: &OsStr) -> Result<Option<Named>, ArchiveError> {
        let now = self.named_now(dir, name)?;
        let past = self.archive.read()?;
        let then = past.name_at(dir, name.as_bytes(), self.moment)?;
        self.confirm(&past)?;
        match then {
            Then::Was(before) => Ok(before),
            Then::AsNow => Ok(now),
        }
    }

    /// Returns what a path stood for, relative to the root. Symbolic links are not followed.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn resolve(&self, path: &std::path::Path) -> Result<Option<Named>, ArchiveError> {
        let mut found = Named { inode: self.root(), file_type: libc::S_IFDIR };
        for part in path.components() {
            let std::path::Component::Normal(name) = part else { continue };
            match self.lookup(&found.inode, name)? {
                Some(named) => found = named,
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    fn named_now(&self, dir: &FileHandle, name: &OsStr) -> Result<Option<Named>, ArchiveError> {
        let found =
            self.backing.path_fd(dir).and_then(|dir| self.backing.child_at_once(dir.as_fd(), name)).map(
                |child| Named {
                    inode: child.handle,
                    file_type: u32::from(child.stat.stx_mode) & libc::S_IFMT,
                },
            );
        match found {
            Ok(named) => Ok(Some(named)),
            // The directory is gone, or was never one.
            Err(Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Returns the entries of a directory, in no order, without `.` and `..`.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn list(&self, dir: &FileHandle) -> Result<Vec<PastEntry>, ArchiveError> {
        let mut entries = self.list_now(dir)?;
        let past = self.archive.read()?;
        let changed = past.names_changed_after(dir, self.moment)?;
        self.confirm(&past)?;
        drop(past);
        if !changed.is_empty() {
            let names: rustc_hash::FxHashSet<&[u8]> =
                changed.iter().map(|(name, _)| name.as_slice()).collect();
            entries.retain(|entry| !names.contains(entry.name.as_slice()));
        }
        entries.extend(changed.into_iter().filter_map(|(name, before)| {
            let named = before?;
            Some(PastEntry { name, named: Some(named), file_type: named.file_type })
        }));
        Ok(entries)
    }

    fn list_now(&self, dir: &FileHandle) -> Result<Vec<PastEntry>, ArchiveError> {
        let opened = match self.backing.open(dir, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(opened) => opened,
            Err(Errno::STALE | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let mut found = Vec::new();
        for entry in Dir::new(opened)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                let file_type = entry.file_type().as_raw_mode() & libc::S_IFMT;
                found.push(PastEntry { name: name.to_vec(), named: None, file_type });
            }
        }
        Ok(found)
    }

    /// Returns the attributes of an inode.
    ///
    /// # Errors
    /// `ESTALE` ([`ArchiveError::Log`]) if it is gone and history does not know them; see [`ArchiveError`].
    pub(crate) fn attributes(&self, inode: &FileHandle) -> Result<(Attributes, Certainty), ArchiveError> {
        let now = self.stat_now(inode)?;
        let past = self.archive.read()?;
        let before = past.attributes_at(inode, self.moment)?;
        self.confirm(&past)?;
        if let Some(before) = before {
            return Ok((before, Certainty::Exact));
        }
        let now = now.ok_or(Errno::STALE)?;
        Ok((now, self.certainty_of_now(&now)))
    }

    fn stat_now(&self, inode: &FileHandle) -> Result<Option<Attributes>, Errno> {
        match self.backing.path_fd(inode).and_then(|fd| stat_of(fd.as_fd())) {
            Ok(stat) => Ok(Some(attributes_of(&stat))),
            Err(Errno::STALE) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn certainty_of_now(&self, now: &Attributes) -> Certainty {
        match self.time_ns {
            Some(time) if now.changed_ns > time.saturating_add(TICK_NS) => Certainty::ChangedOutside,
            _ => Certainty::Exact,
        }
    }

    /// Returns the extended attributes of an inode, ACLs included.
    ///
    /// # Errors
    /// As [`Self::attributes`].
    pub(crate) fn extended_attributes(&self, inode: &FileHandle) -> Result<XattrList, ArchiveError> {
        let now = self.backing.path_fd(inode).and_then(|fd| list_attributes(fd.as_fd()));
        let past = self.archive.read()?;
        let before = past.xattrs_at(inode, self.moment)?;
        self.confirm(&past)?;
        if let Some(before) = before {
            return Ok(before);
        }
        match now {
            // Gone with nothing noted: it had none that anybody could have set.
            Err(Errno::STALE) => Ok(Vec::new()),
            now => Ok(now?),
        }
    }

    /// Returns the value of one extended attribute; `None` if there was none of that name.
    ///
    /// # Errors
    /// As [`Self::attributes`].
    pub(crate) fn extended_attribute(
        &self,
        inode: &FileHandle,
        name: &OsStr,
    ) -> Result<Option<Vec<u8>>, ArchiveError> {
        let now = self.backing.path_fd(inode).and_then(|fd| attribute_of(fd.as_fd(), name));
        if let Some(before) = self.archive.read()?.xattrs_at(inode, self.moment)? {
            let found = before.into_iter().find(|(known, _)| known == name.as_bytes());
            return Ok(found.map(|(_, value)| value));
        }
        match now {
            // As above.
            Err(Errno::STALE) => Ok(None),
            now => Ok(now?),
        }
    }

    /// Returns the target of a symbolic link. It never changes during the life of the inode.
    ///
    /// # Errors
    /// `ESTALE` if the link is gone from the store.
    pub(crate) fn read_link(&self, inode: &FileHandle) -> Result<Vec<u8>, ArchiveError> {
        let fd = self.backing.path_fd(inode)?;
        Ok(rustix::fs::readlinkat(fd.as_fd(), "", Vec::new()).map(std::ffi::CString::into_bytes)?)
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// As [`Self::attributes`].
    pub(crate) fn open(&self, inode: &FileHandle) -> Result<PastFile, ArchiveError> {
        let (attributes, _) = self.attributes(inode)?;
        let live = match self.backing.open(inode, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW) {
            Ok(live) => Some(live),
            Err(Errno::STALE) => None,
            Err(errno) => return Err(errno.into()),
        };
        let content = Mutex::new(None);
        Ok(PastFile { inode: *inode, attributes, moment: self.moment, live, content })
    }
}

/// A regular file as it was, open for reading.
pub(crate) struct PastFile {
    inode: FileHandle,
    attributes: Attributes,
    moment: Sequence,
    live: Option<OwnedFd>,
    content: Mutex<Option<Arc<Known>>>,
}

struct Known {
    /// The log's appends that are known.
    appends: u64,
    content: Content,
}

impl PastFile {
    /// Returns its attributes.
    pub(crate) fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Returns the row of the object that holds all of it, if one does: what was deleted or cloned.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn whole(&self, archive: &Archive) -> Result<Option<ContentRow>, ArchiveError> {
        let (_, known) = self.pieces(archive)?;
        let is_whole = |row: &ContentRow| row.span == Span::Whole;
        Ok(match known.content.pieces.as_slice() {
            [piece] => match piece.source {
                Source::Kept(row) if is_whole(&row) => Some(row),
                Source::Kept(_) | Source::Live => None,
            },
            _ => None,
        })
    }

    /// Returns the file as it is now, if the inode is there.
    pub(crate) fn live(&self) -> Option<BorrowedFd<'_>> {
        self.live.as_ref().map(AsFd::as_fd)
    }

    /// Whether all of its bytes are in the file as it is now.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn is_live(&self, archive: &Archive) -> Result<bool, ArchiveError> {
        let (_, known) = self.pieces(archive)?;
        Ok(known.content.pieces.iter().all(|piece| piece.source == Source::Live))
    }

    /// Returns every row of the store that it is made of.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn rows(&self, archive: &Archive) -> Result<Vec<ContentRow>, ArchiveError> {
        let (_, known) = self.pieces(archive)?;
        let mut rows: Vec<ContentRow> = Vec::new();
        for piece in &known.content.pieces {
            if let Source::Kept(row) = piece.source
                && !rows.contains(&row)
            {
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// Returns where its bytes are, by what was noted up to now; the number tells whether more was noted since.
    fn pieces(&self, archive: &Archive) -> Result<(u64, Arc<Known>), ArchiveError> {
        let appends = archive.history().log().appends();
        let mut content = self.content.lock();
        if let Some(known) = content.as_ref().filter(|known| known.appends == appends) {
            return Ok((appends, known.clone()));
        }
        let past = archive.read()?;
        let found = past.content_at(&self.inode, self.moment, 0..self.attributes.size)?;
        if !past.is_kept(self.moment)? && !archive.holds(self.moment) {
            return Err(ArchiveError::NotKept);
        }
        drop(past);
        let known = Arc::new(Known { appends, content: found });
        *content = Some(known.clone());
        Ok((appends, known))
    }

    /// Reads from `offset`; fewer bytes than asked for only at the end.
    ///
    /// # Errors
    /// `EIO` if a part of it is missing from the store or damaged; `NotKept`; see [`ArchiveError`].
    pub(crate) fn read(
        &self,
        archive: &Archive,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, ArchiveError> {
        let left = self.attributes.size.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..length) else { return Ok(0) };
        loop {
            let (appends, known) = self.pieces(archive)?;
            let has_live = self.read_pieces(archive, &known.content, offset, buffer)?;
            // Somebody may have overwritten what was read from the file, having preserved it before.
            if !has_live || archive.history().log().appends() == appends {
                return Ok(length);
            }
            let (_, again) = self.pieces(archive)?;
            if again.content.pieces == known.content.pieces {
                return Ok(length);
            }
        }
    }

    /// Returns whether any of it came from the file as it is.
    fn read_pieces(
        &self,
        archive: &Archive,
        content: &Content,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<bool, ArchiveError> {
        let end = offset + buffer.len() as u64;
        let mut has_live = false;
        for piece in &content.pieces {
            let (from, to) = (piece.range.start.max(offset), piece.range.end.min(end));
            if from >= to {
                continue;
            }
            let place = |at: u64| usize::try_from(at - offset).map_err(|_| Errno::OVERFLOW);
            let Some(part) = buffer.get_mut(place(from)?..place(to)?) else { continue };
            match piece.source {
                Source::Live => {
                    has_live = true;
                    read_zero_filled(self.live.as_ref().ok_or(Errno::IO)?.as_fd(), from, part)?;
                }
                Source::Kept(row) if row.is_damaged => {
                    tracing::warn!(object = row.object.0, "damaged bytes are not shown");
                    return Err(Errno::IO.into());
                }
                Source::Kept(row) => {
                    match archive.history().store().open_object(row.object, OFlags::RDONLY) {
                        Ok(object) => read_zero_filled(object.as_fd(), from, part)?,
                        // It was never taken away, or was put back: the inode is what it was.
                        Err(Errno::NOENT) if row.origin == Origin::TakenAway => {
                            read_zero_filled(self.live.as_ref().ok_or(Errno::IO)?.as_fd(), from, part)?;
                        }
                        Err(errno) => {
                            tracing::error!(object = row.object.0, %errno, "preserved bytes cannot be read");
                            return Err(Errno::IO.into());
                        }
                    }
                }
            }
        }
        Ok(has_live)
    }
}

/// Reads all of `buffer`; beyond the end of the file are zeros.
fn read_zero_filled(file: BorrowedFd<'_>, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => {
                buffer[done..].fill(0);
                return Ok(());
            }
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Longest list of extended attributes, and longest value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX` of linux/limits.h).
const MAX_XATTR_BYTES: usize = 64 << 10;

fn attribute_of(fd: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
    if crate::backing::is_private_xattr(name) {
        return Ok(None);
    }
    let path = proc_path(fd);
    let mut value = Vec::new();
    loop {
        // Most ask for an ACL that is not there, which needs no buffer.
        match rustix::fs::getxattr_query(&path, name) {
            Ok(length) => value.resize(length.max(1), 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        match rustix::fs::getxattr(&path, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            // It has grown meanwhile.
            Err(Errno::RANGE) => {}
            Err(Errno::NODATA) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}

/// Returns the extended attributes of an inode, the guard's own excluded.
///
/// # Errors
/// As listxattr(2) and getxattr(2).
pub(crate) fn list_attributes(fd: BorrowedFd<'_>) -> Result<XattrList, Errno> {
    let path = proc_path(fd);
    // With an empty buffer listxattr() itself would say 0, whatever there is.
    match rustix::fs::listxattr_query(&path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(errno) => return Err(errno),
    }
    let mut names = vec![0_u8; MAX_XATTR_BYTES];
    let length = rustix::fs::listxattr(&path, &mut names[..])?;
    names.truncate(length);
    let mut found = Vec::new();
    let mut value = vec![0_u8; MAX_XATTR_BYTES];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = std::ffi::OsString::from_vec(name.to_vec());
        if crate::backing::is_private_xattr(&name) {
            continue;
        }
        match rustix::fs::getxattr(&path, name.as_os_str(), &mut value[..]) {
            Ok(length) => found.push((name.into_vec(), value.get(..length).unwrap_or_default().to_vec())),
            // Somebody removed it below the mount.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::list_attributes;

    #[test]
    fn extended_attributes_are_listed_with_their_values() {
        let kept = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let dir = std::fs::File::open(kept.path()).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        if let Err(Errno::OPNOTSUPP) = rustix::fs::fsetxattr(&dir, "user.one", b"1", flags) {
            return;
        }
        rustix::fs::fsetxattr(&dir, "user.empty", b"", flags).unwrap();
        rustix::fs::fsetxattr(&dir, "user.wsguard.own", b"x", flags).unwrap();
        let mut found = list_attributes(dir.as_fd()).unwrap();
        found.retain(|(name, _)| name.starts_with(b"user."));
        found.sort();
        assert_eq!(found, [(b"user.empty".to_vec(), Vec::new()), (b"user.one".to_vec(), b"1".to_vec())]);
    }

    use std::fs::File;

    use rustix::fs::{XattrFlags, setxattr};

    use super::*;

    #[test]
    fn extended_attributes_are_found_all_and_one_by_one_without_the_guards_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = File::create(&path).unwrap();
        assert_eq!(list_attributes(file.as_fd()), Ok(Vec::new()));
        match setxattr(&path, "user.colour", b"red", XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {
                eprintln!("SKIPPED: the filesystem of the temporary directory has no user attributes");
                return;
            }
            result => result.unwrap(),
        }
        setxattr(&path, "user.empty", b"", XattrFlags::empty()).unwrap();
        setxattr(&path, "user.wsguard.own", b"x", XattrFlags::empty()).unwrap();
        let mut found = list_attributes(file.as_fd()).unwrap();
        found.sort_unstable();
        let expected = [(&b"user.colour"[..], &b"red"[..]), (b"user.empty", b"")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_vec(), value.to_vec())));
        let one = |name: &str| attribute_of(file.as_fd(), OsStr::new(name)).unwrap();
        assert_eq!((one("user.colour"), one("user.empty")), (Some(b"red".to_vec()), Some(Vec::new())));
        assert_eq!((one("user.none"), one("user.wsguard.own")), (None, None));
    }
}
