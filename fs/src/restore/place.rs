//! Putting one file or directory in its place.
//!
//! The order for a file that is copied: a temporary name in its directory, its bytes, its attributes, what the store's
//! hashes say, fsync, and then a rename to its name. Whatever fails before the rename leaves what stood there as it was.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::Ordering;

use rustix::fs::{OFlags, RenameFlags, Timespec};
use rustix::io::Errno;

use super::Ground;
use super::execute::{Executor, Obstacle};
use super::ledger::Deed;
use super::plan::{Item, Source};
use crate::fs::{SetTime, SettableAttributes};
use crate::snapshot::{Attributes, ContentRow, ObjectId, PastFile, Sequence, Span};
use crate::sys::handle::FileHandle;

/// Read at a time.
const CHUNK: usize = 256 << 10;
/// Mode of what is not complete yet.
const PRIVATE: u32 = 0o600;
/// Mode of a directory that is not complete yet.
const PRIVATE_DIRECTORY: u32 = 0o700;

/// No change.
const NOTHING: SettableAttributes = SettableAttributes {
    mode: None,
    uid: None,
    gid: None,
    size: None,
    accessed: SetTime::Keep,
    modified: SetTime::Keep,
};

type Outcome = Result<(Deed, Option<String>), Obstacle>;

impl Executor<'_> {
    /// Gives an item its name, in the place of a file that stands there or (`Taken`) not.
    pub(super) fn put(&mut self, item: &Item, (parent, name): (u64, &OsStr), replaces: bool) -> Outcome {
        match item.source {
            Source::Directory => self.put_directory(item, (parent, name), replaces),
            Source::Object { object, hash, is_as_it_was } => {
                match self.put_object(item, (parent, name), replaces, (object, hash, is_as_it_was)) {
                    // It is somebody's file again, or has been thrown away since the plan was made.
                    Err(Obstacle::Errno(Errno::NOENT)) => self.put_copy(item, (parent, name), replaces),
                    result => result,
                }
            }
            Source::Inode => self.put_link(item, (parent, name), replaces),
            Source::Bytes | Source::New => self.put_copy(item, (parent, name), replaces),
        }
    }

    fn put_directory(&mut self, item: &Item, (parent, name): (u64, &OsStr), replaces: bool) -> Outcome {
        let fs = &self.ground.fs;
        if replaces {
            fs.remove_name(self.caller, (parent, name), false, self.telling)?;
        }
        let mode = libc::S_IFDIR | PRIVATE_DIRECTORY;
        let entry = fs.make(self.caller, (parent, name), mode, 0, self.telling)?;
        self.directories.push((entry.node, item.moment, item.named.inode, item.attributes));
        Ok((Deed::Made, None))
    }

    fn put_object(
        &mut self,
        item: &Item,
        (parent, name): (u64, &OsStr),
        replaces: bool,
        (object, hash, is_as_it_was): (ObjectId, Option<[u8; 32]>, bool),
    ) -> Outcome {
        let must_be_read = item.named.file_type == libc::S_IFREG && !is_untouched(self.ground, item)?;
        if let Some(hash) = hash.filter(|_| must_be_read) {
            verify(self.ground, object, Span::Whole, Some(item.attributes.size), &hash)?;
        }
        let temporary = self.temporary(name);
        let target = if replaces { temporary.as_os_str() } else { name };
        let ground = self.ground;
        let put_back =
            || ground.fs.put_back(self.caller, object, item.named.inode, (parent, target), self.telling);
        match put_back() {
            // Of an attempt that broke off.
            Err(Errno::EXIST) if replaces => {
                ground.fs.remove_name(self.caller, (parent, target), false, self.telling)?;
                put_back()?;
            }
            result => result?,
        }
        let mut reason = None;
        if !is_as_it_was {
            let entry = ground.fs.lookup(parent, target)?;
            let dressed = self.dress_if_needed(entry.node, item);
            ground.fs.forget(entry.node, 1);
            reason = dressed?;
        }
        if replaces {
            self.move_over((parent, target), name, true)?;
        }
        Ok((Deed::PutBack, reason))
    }

    /// Sets what differs of an inode that came back.
    fn dress_if_needed(&mut self, node: u64, item: &Item) -> Result<Option<String>, Obstacle> {
        let inode = item.named.inode;
        let live = self.ground.live_inode(&inode)?.ok_or(Errno::STALE)?;
        let then = self.view(item.moment)?.extended_attributes(&inode)?;
        let is_alike = Ground::is_alike(&item.attributes, &live.attributes)
            && then == self.ground.live_xattrs(&inode)?;
        if is_alike { Ok(None) } else { self.dress(node, item.moment, &inode, &item.attributes) }
    }

    fn put_link(&mut self, item: &Item, (parent, name): (u64, &OsStr), replaces: bool) -> Outcome {
        let ground = self.ground;
        let copy = self.copies.get(&item.named.inode).copied();
        if copy.is_none() && self.planner.copies_alone() {
            return Err(Obstacle::Reason("its other name was not restored".to_owned()));
        }
        let handle = copy.unwrap_or(item.named.inode);
        let entry = ground.fs.reach_inode(&handle)?;
        // What has no name any more but the store's must not get one beside it.
        let is_in_store = self.ground.object_of(&handle)?.is_some();
        if is_in_store {
            ground.fs.forget(entry.node, 1);
            return Err(Obstacle::Reason("its other name was not restored".to_owned()));
        }
        let temporary = self.temporary(name);
        let target = if replaces { temporary.as_os_str() } else { name };
        let linked = ground.fs.link_as_it_was(self.caller, entry.node, (parent, target), self.telling);
        ground.fs.forget(entry.node, 1);
        linked?;
        if replaces {
            self.move_over((parent, target), name, true)?;
        }
        Ok((Deed::Linked, None))
    }

    fn put_copy(&mut self, item: &Item, (parent, name): (u64, &OsStr), replaces: bool) -> Outcome {
        let temporary = self.temporary(name);
        let ground = self.ground;
        // Cheaper than a copy for nothing.
        if !replaces && ground.fs.lookup(parent, name).map(|entry| ground.fs.forget(entry.node, 1)).is_ok() {
            return Err(Obstacle::Taken);
        }
        let entry = match self.make_empty(item, (parent, &temporary)) {
            Err(Obstacle::Taken) => {
                ground.fs.remove_name(self.caller, (parent, &temporary), false, self.telling)?;
                self.make_empty(item, (parent, &temporary))?
            }
            result => result?,
        };
        let filled = self.complete(item, entry);
        let moved = filled.and_then(|reason| {
            self.move_over((parent, &temporary), name, replaces)?;
            Ok(reason)
        });
        if moved.is_ok() && item.attributes.nlink > 1 {
            self.remember_copy(item, (parent, name));
        }
        ground.fs.forget(entry, 1);
        match moved {
            Ok(reason) => {
                let deed = if item.source == Source::New { Deed::Made } else { Deed::Copied };
                Ok((deed, reason))
            }
            Err(obstacle) => {
                if let Err(errno) =
                    ground.fs.remove_name(self.caller, (parent, &temporary), false, self.telling)
                {
                    tracing::warn!(%errno, "a file that could not be restored is left under a temporary name");
                }
                Err(obstacle)
            }
        }
    }

    pub(super) fn remember_copy(&mut self, item: &Item, (parent, name): (u64, &OsStr)) {
        let ground = self.ground;
        if let Ok(entry) = ground.fs.lookup(parent, name) {
            if let Some(handle) = ground.fs.handle_of_node(entry.node) {
                self.copies.insert(item.named.inode, handle);
            }
            ground.fs.forget(entry.node, 1);
        }
    }

    /// Makes a file without content, and returns its node, which is held.
    fn make_empty(&mut self, item: &Item, at: (u64, &OsStr)) -> Result<u64, Obstacle> {
        let ground = self.ground;
        let file_type = item.named.file_type;
        let entry = if file_type == libc::S_IFLNK {
            let target = self.view(item.moment)?.read_link(&item.named.inode)?;
            ground.fs.make_link_to(self.caller, at, OsStr::from_bytes(&target), self.telling)?
        } else {
            let mode = file_type | PRIVATE;
            ground.fs.make(self.caller, at, mode, item.attributes.device, self.telling)?
        };
        Ok(entry.node)
    }

    /// Fills a file and sets its attributes.
    fn complete(&mut self, item: &Item, node: u64) -> Result<Option<String>, Obstacle> {
        if item.named.file_type == libc::S_IFREG {
            let file = self.view(item.moment)?.open(&item.named.inode)?;
            verify_all(self.ground, &file)?;
            self.fill(&file, node)?;
        }
        self.dress(node, item.moment, &item.named.inode, &item.attributes)
    }

    fn fill(&mut self, file: &PastFile, node: u64) -> Result<(), Obstacle> {
        let archive = &self.ground.archive;
        let size = file.attributes().size;
        let store = archive.history().store();
        let whole = if store.can_clone() { file.whole(archive)? } else { None };
        if let Some(row) = whole {
            match store.open_object(row.object, OFlags::RDONLY) {
                Ok(object) => {
                    self.ground.fs.fill_by_cloning(node, size, object.as_fd())?;
                    self.progress.done_bytes.fetch_add(size, Ordering::Relaxed);
                    return Ok(());
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // What is written is noted first: if nothing is noted still, what was cloned is what it was.
        if store.can_clone()
            && size > 0
            && file.is_live(archive)?
            && let Some(live) = file.live()
            && rustix::fs::fstat(live)?.st_size.cast_unsigned() == size
        {
            self.ground.fs.fill_by_cloning(node, size, live)?;
            if file.is_live(archive)? {
                self.progress.done_bytes.fetch_add(size, Ordering::Relaxed);
                return Ok(());
            }
        }
        let mut failure = None;
        let filled = self.ground.fs.fill(node, size, |offset, buffer| {
            if self.progress.is_cancelled() {
                failure = Some(Obstacle::Cancelled);
                return Err(Errno::CANCELED);
            }
            match file.read(archive, offset, buffer) {
                Ok(read) => {
                    self.progress.done_bytes.fetch_add(read as u64, Ordering::Relaxed);
                    Ok(read)
                }
                Err(error) => {
                    failure = Some(error.into());
                    Err(Errno::IO)
                }
            }
        });
        match (filled, failure) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(failure)) => Err(failure),
            (Err(errno), None) => Err(Obstacle::Errno(errno)),
        }
    }

    /// Gives what was restored under a temporary name its own.
    fn move_over(&self, from: (u64, &OsStr), name: &OsStr, replaces: bool) -> Result<(), Obstacle> {
        let flags = if replaces { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let moved = self.ground.fs.move_name(self.caller, from, (from.0, name), flags, self.telling);
        match moved {
            Err(Errno::ISDIR) => Err(Obstacle::Taken),
            result => Ok(result?),
        }
    }

    /// Sets owner, extended attributes, mode and times, in this order: an owner that changes takes privilege bits and
    /// capabilities away, an access list changes the mode. Returns what could not be set.
    pub(super) fn dress(
        &mut self,
        node: u64,
        moment: Sequence,
        inode: &FileHandle,
        attributes: &Attributes,
    ) -> Result<Option<String>, Obstacle> {
        let ground = self.ground;
        let owner = SettableAttributes { uid: Some(attributes.uid), gid: Some(attributes.gid), ..NOTHING };
        ground.fs.set_as_it_was(self.caller, node, owner)?;
        let then = match self.known_xattrs.remove(inode) {
            Some(known) => known,
            None => self.view(moment)?.extended_attributes(inode)?,
        };
        let refused = self.set_xattrs(node, &then)?;
        let time = |ns: i64| {
            SetTime::To(Timespec {
                tv_sec: ns.div_euclid(1_000_000_000),
                tv_nsec: ns.rem_euclid(1_000_000_000),
            })
        };
        let is_link = attributes.mode & libc::S_IFMT == libc::S_IFLNK;
        let rest = SettableAttributes {
            mode: Some(attributes.mode & 0o7777).filter(|_| !is_link),
            accessed: time(attributes.accessed_ns),
            modified: time(attributes.modified_ns),
            ..NOTHING
        };
        ground.fs.set_as_it_was(self.caller, node, rest)?;
        Ok((!refused.is_empty()).then(|| format!("restored without {}", refused.join(", "))))
    }

    /// Sets extended attributes and removes others; returns those that this workspace does not allow.
    fn set_xattrs(&self, node: u64, then: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<String>, Obstacle> {
        let fs = &self.ground.fs;
        let mut refused = Vec::new();
        let listed = match fs.xattr_names(node) {
            Err(Errno::OPNOTSUPP) => Vec::new(),
            result => result?,
        };
        for name in listed.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if then.iter().any(|(wanted, _)| wanted == name) {
                continue;
            }
            match fs.remove_xattr(self.caller, node, OsStr::from_bytes(name)) {
                Ok(()) | Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        for (name, value) in then {
            match fs.set_xattr(self.caller, node, OsStr::from_bytes(name), value, 0) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => {
                    refused.push(String::from_utf8_lossy(name).into_owned());
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(refused)
    }

    pub(super) fn merge(&mut self, item: &Item, (parent, name): (u64, &OsStr), sets: bool) -> Outcome {
        let entry = match self.ground.fs.lookup(parent, name) {
            Err(Errno::NOENT) => return self.put_directory(item, (parent, name), false),
            result => result?,
        };
        let is_dir = u32::from(entry.stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
        if !is_dir || !sets {
            self.ground.fs.forget(entry.node, 1);
            return if is_dir { Ok((Deed::Unchanged, None)) } else { Err(Obstacle::Taken) };
        }
        self.directories.push((entry.node, item.moment, item.named.inode, item.attributes));
        Ok((Deed::Attributes, None))
    }

    pub(super) fn set_attributes(&mut self, item: &Item, (parent, name): (u64, &OsStr)) -> Outcome {
        let ground = self.ground;
        let entry = ground.fs.lookup(parent, name)?;
        let is_as_planned = u32::from(entry.stat.stx_mode) & libc::S_IFMT == item.named.file_type;
        let result = if is_as_planned {
            self.dress(entry.node, item.moment, &item.named.inode, &item.attributes)
        } else {
            Err(Obstacle::Taken)
        };
        ground.fs.forget(entry.node, 1);
        Ok((Deed::Attributes, result?))
    }

    /// Removes what did not exist then, with everything below it.
    pub(super) fn remove_tree(&mut self, at: (u64, &OsStr), item: &Item) -> Outcome {
        let is_dir = item.named.file_type == libc::S_IFDIR;
        if is_dir {
            let entry = match self.ground.fs.lookup(at.0, at.1) {
                Err(Errno::NOENT) => return Ok((Deed::Unchanged, None)),
                result => result?,
            };
            let emptied = self.empty(entry.node);
            self.ground.fs.forget(entry.node, 1);
            emptied?;
        }
        self.remove_one(at, item)
    }

    fn empty(&self, dir: u64) -> Result<(), Obstacle> {
        let fs = &self.ground.fs;
        let Some(handle) = fs.handle_of_node(dir) else { return Ok(()) };
        for name in self.ground.live_names(&handle)? {
            if self.progress.is_cancelled() {
                return Err(Obstacle::Cancelled);
            }
            let entry = match fs.lookup(dir, &name) {
                Err(Errno::NOENT) => continue,
                result => result?,
            };
            let is_dir = u32::from(entry.stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
            let emptied = if is_dir { self.empty(entry.node) } else { Ok(()) };
            fs.forget(entry.node, 1);
            emptied?;
            match fs.remove_name(self.caller, (dir, &name), is_dir, self.telling) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(Obstacle::Errno(errno)),
            }
        }
        Ok(())
    }

    pub(super) fn remove_one(&mut self, at: (u64, &OsStr), item: &Item) -> Outcome {
        let is_dir = item.named.file_type == libc::S_IFDIR;
        match self.ground.fs.remove_name(self.caller, at, is_dir, self.telling) {
            Ok(()) => Ok((Deed::Removed, None)),
            Err(Errno::NOENT) => Ok((Deed::Unchanged, None)),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                Ok((Deed::Skipped, Some("the directory holds files that came later".to_owned())))
            }
            Err(errno) => Err(Obstacle::Errno(errno)),
        }
    }

    /// Returns the name that a file has until it is complete. Another attempt of the same restore finds it again.
    fn temporary(&self, name: &OsStr) -> OsString {
        let hash = blake3::hash(name.as_bytes()).to_hex();
        let hash = hash.get(..16).unwrap_or_default();
        OsString::from_vec(format!(".wsguard-restore-{}-{hash}", self.job).into_bytes())
    }
}

/// Whether nobody has touched an inode of the store since it was taken away. It comes back without being read.
pub(super) fn is_untouched(ground: &Ground, item: &Item) -> Result<bool, Errno> {
    if !matches!(item.source, Source::Object { is_as_it_was: true, .. }) {
        return Ok(false);
    }
    let of = |attributes: &Attributes| (attributes.modified_ns, attributes.size);
    Ok(ground.live_inode(&item.named.inode)?.is_some_and(|kept| of(&kept.attributes) == of(&item.attributes)))
}

/// Reads everything of the store that a file is made of and of which a hash is known.
pub(super) fn verify_all(ground: &Ground, file: &PastFile) -> Result<(), Obstacle> {
    for ContentRow { object, span, size, hash, .. } in file.rows(&ground.archive)? {
        if let Some(hash) = hash {
            match verify(ground, object, span, size, &hash) {
                // It is somebody's file again; what it is made of is looked up anew when it is read.
                Err(Obstacle::Errno(Errno::NOENT)) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

fn verify(
    ground: &Ground,
    object: ObjectId,
    span: Span,
    size: Option<u64>,
    hash: &[u8; 32],
) -> Result<(), Obstacle> {
    let file = ground.archive.history().store().open_object(object, OFlags::RDONLY)?;
    let (mut at, end) = match span {
        Span::Range { offset, length } => (offset, offset.saturating_add(length)),
        Span::Whole => (0, size.unwrap_or(u64::MAX)),
    };
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        match rustix::io::pread(&file, &mut buffer[..wanted], at) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(Obstacle::Reason(format!("what is kept of it cannot be read: {errno}")));
            }
        }
    }
    // Ranges are hashed with the zeros behind the end of the object.
    while at < end && matches!(span, Span::Range { .. }) {
        let zeros = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        buffer[..zeros].fill(0);
        hasher.update(&buffer[..zeros]);
        at += zeros as u64;
    }
    if hasher.finalize().as_bytes() == hash {
        return Ok(());
    }
    tracing::error!(object = object.0, "preserved bytes are damaged and are not restored");
    Err(Obstacle::Reason("damaged: what is kept of it is not what was kept".to_owned()))
}
