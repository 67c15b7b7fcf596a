//! `.snapshots` itself: which snapshots there are, what they are found by, and taking one.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;
use std::time::Instant;

use jiff::Timestamp;
use rustix::io::Errno;

use super::nodes::{past_node, way};
use super::{LISTING_TTL, NAME, errno_of, set_time};
use crate::backing::{Stat, stat_of};
use crate::fs::{Caller, Entry, GuardFs, borrow};
use crate::inode::Inode;
use crate::snapshot::{
    Archive, ArchiveError, CatalogError, MAX_GIVEN_NAME, Presence, SnapshotNote, SnapshotReason,
    SnapshotRecord, View, candidates, label, may_be_given,
};
use crate::sys::handle::FileHandle;
use crate::sys::identity;

/// The last digits of the modification time tell lists apart.
const DIGEST_NS: i64 = 4_000;

/// One snapshot in a list.
pub(super) struct Listed {
    pub(super) label: String,
    pub(super) number: u32,
    pub(super) inode: Inode,
}

impl GuardFs {
    /// Returns `.snapshots` of a directory that `from` stands for, as an entry of it.
    pub(in crate::fs) fn snapshots_entry(&self, from: u64) -> Result<Entry, Errno> {
        let dir = self.table.get(from)?;
        if !dir.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let listing = past_node(0, way(from, NAME.as_bytes()), dir.handle, libc::S_IFDIR);
        let stat = self.listing_attributes(&listing)?;
        self.past_entry(listing, stat, LISTING_TTL)
    }

    /// Returns the attributes of a list: those of its directory. Who may write there may take a snapshot.
    pub(super) fn listing_attributes(&self, listing: &Inode) -> Result<Stat, Errno> {
        let archive = self.archive()?;
        let mut stat = match self.backing.path_fd(&listing.handle) {
            Ok(fd) => stat_of(borrow(&fd))?,
            Err(Errno::STALE) => self.last_attributes(&archive, &listing.handle)?,
            Err(errno) => return Err(errno),
        };
        let records = snapshots(&archive)?;
        stat.stx_nlink = 2;
        stat.stx_size = 0;
        stat.stx_blocks = 0;
        // By it the kernel knows that its copy of the list is old, also when a snapshot in the middle was removed.
        let digest = records
            .iter()
            .fold(0_i64, |digest, record| (digest * 31 + i64::from(record.epoch.0)).rem_euclid(DIGEST_NS));
        let latest = records.last().map_or(0, |record| record.time_ns);
        let changed = latest - latest.rem_euclid(DIGEST_NS) + digest;
        for time in [&mut stat.stx_atime, &mut stat.stx_mtime, &mut stat.stx_ctime] {
            set_time(time, changed);
        }
        Ok(stat)
    }

    /// Returns the last known attributes of a directory that is gone.
    fn last_attributes(&self, archive: &Archive, dir: &FileHandle) -> Result<Stat, Errno> {
        let records = snapshots(archive)?;
        let presence = Presence::of(&self.backing, dir)?;
        let last = presence.first_of(archive, records.iter().rev()).map_err(|error| errno_of(&error))?;
        let moment = last.ok_or(Errno::STALE)?.moment();
        let attributes =
            View::at(archive, &self.backing, moment).and_then(|view| view.attributes(dir)).map(|(a, _)| a);
        Ok(self.stat_of_past(&attributes.map_err(|error| errno_of(&error))?))
    }

    /// Finds a snapshot in a list.
    pub(super) fn find_snapshot(&self, listing: &Inode, name: &OsStr) -> Result<Entry, Errno> {
        let archive = self.archive()?;
        let word = name.to_str().ok_or(Errno::NOENT)?;
        let presence = Presence::of(&self.backing, &listing.handle)?;
        let records = snapshots(&archive)?;
        let found = presence
            .first_of(&archive, candidates(&records, word, Timestamp::now()))
            .map_err(|error| errno_of(&error))?;
        let inode = shown(listing, name.as_bytes(), found.ok_or(Errno::NOENT)?);
        self.past_entry(inode, self.past_stat(&inode)?, LISTING_TTL)
    }

    /// Returns the snapshots of a list, oldest first.
    pub(super) fn listed_snapshots(&self, listing: &Inode) -> Result<Vec<Listed>, Errno> {
        let archive = self.archive()?;
        let presence = Presence::of(&self.backing, &listing.handle)?;
        let records = snapshots(&archive)?;
        let found = presence.among(&archive, &records).map_err(|error| errno_of(&error))?;
        let listed = found.into_iter().map(|record| {
            let label = label(record);
            let inode = shown(listing, label.as_bytes(), record);
            Listed { label, number: record.epoch.0, inode }
        });
        Ok(listed.collect())
    }

    /// Returns the label of the snapshot that a node belongs to.
    pub(super) fn label_of(&self, inode: &Inode) -> Result<String, Errno> {
        let records = snapshots(&*self.archive()?)?;
        let record = records.iter().find(|record| record.epoch.0 == inode.past);
        record.map(label).ok_or(Errno::STALE)
    }

    /// `mkdir .snapshots/NAME`: takes a snapshot of the whole workspace.
    ///
    /// # Errors
    /// `EROFS` elsewhere in a snapshot; `EINVAL` for a name that could stand for something else, `ENAMETOOLONG` for one
    /// that does not fit into a label; `EEXIST` if a snapshot has the name; `EBUSY` if there were too many in a short
    /// time; `EIO` if it cannot be taken.
    pub(in crate::fs) fn take_snapshot(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
    ) -> Result<Entry, Errno> {
        let listing = self.past_inode(parent)?;
        if listing.past != 0 {
            return Err(Errno::ROFS);
        }
        if name.len() > MAX_GIVEN_NAME {
            return Err(Errno::NAMETOOLONG);
        }
        let given = name.to_str().filter(|name| may_be_given(name)).ok_or(Errno::INVAL)?;
        identity::assume_nobody()?;
        let archive = self.archive()?;
        {
            let mut taking = self.snapshots_dir.taking.lock();
            if !candidates(&snapshots(&archive)?, given, Timestamp::now()).is_empty() {
                return Err(Errno::EXIST);
            }
            if !taking.take(Instant::now()) {
                self.snapshots_dir.refused.fetch_add(1, Ordering::AcqRel);
                return Err(Errno::BUSY);
            }
            let note = SnapshotNote {
                reason: SnapshotReason::Manual,
                name: Some(given.to_owned()),
                note: None,
                is_held: false,
            };
            let taken = archive.take_snapshot(&self.backing, caller.into(), note);
            let taken = taken.map_err(|error| errno_of(&error))?;
            tracing::info!(snapshot = taken.epoch.0, name = given, uid = caller.uid, "snapshot is taken");
        }
        self.find_snapshot(&listing, name)
    }

    /// `rmdir .snapshots/NAME`: removes a snapshot of the whole workspace. Only for its owner and root.
    ///
    /// # Errors
    /// `EROFS` elsewhere in a snapshot; `ENOENT` if there is none; `EINVAL` for a name that is found by its time, or
    /// `latest`; `EPERM` for others; `EBUSY` for one that is held; `EIO` if it cannot be removed.
    pub(in crate::fs) fn remove_snapshot(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
    ) -> Result<(), Errno> {
        let listing = self.past_inode(parent)?;
        if listing.past != 0 {
            return Err(Errno::ROFS);
        }
        let word = name.to_str().ok_or(Errno::NOENT)?;
        identity::assume_nobody()?;
        let archive = self.archive()?;
        let presence = Presence::of(&self.backing, &listing.handle)?;
        let records = snapshots(&archive)?;
        let found = presence.first_of(&archive, candidates(&records, word, Timestamp::now()));
        let record = found.map_err(|error| errno_of(&error))?.ok_or(Errno::NOENT)?;
        // The latest one before some time is another one tomorrow: nobody should remove what they did not mean.
        let is_meant = record.name.as_deref() == Some(word)
            || label(record) == word
            || word.parse() == Ok(record.epoch.0);
        if !is_meant {
            return Err(Errno::INVAL);
        }
        let owner = stat_of(self.backing.root().as_fd())?.stx_uid;
        if caller.uid != 0 && caller.uid != owner {
            return Err(Errno::PERM);
        }
        if record.is_held {
            return Err(Errno::BUSY);
        }
        archive.remove_snapshots(&[record.epoch]).map_err(|error| match error {
            // Somebody else was faster.
            ArchiveError::Catalog(CatalogError::NoSnapshot { .. }) => Errno::NOENT,
            error => errno_of(&error),
        })?;
        tracing::info!(snapshot = record.epoch.0, name = word, uid = caller.uid, "snapshot is removed");
        Ok(())
    }

    /// Reads the access ACL of a list's directory, which the list has as well.
    pub(super) fn listing_acl(&self, listing: &Inode, name: &OsStr) -> Result<Vec<u8>, Errno> {
        if name != "system.posix_acl_access" {
            return Err(Errno::NODATA);
        }
        let fd = match self.backing.path_fd(&listing.handle) {
            Err(Errno::STALE) => return Err(Errno::NODATA),
            fd => fd?,
        };
        let all = crate::snapshot::list_attributes(borrow(&fd))?;
        let found = all.into_iter().find(|(known, _)| known == name.as_bytes());
        found.map(|(_, value)| value).ok_or(Errno::NODATA)
    }
}

fn snapshots(archive: &Archive) -> Result<Vec<SnapshotRecord>, Errno> {
    let read = || -> Result<_, ArchiveError> { Ok(archive.read()?.snapshots()?) };
    read().map_err(|error| errno_of(&error))
}

/// Returns the directory of a list as a snapshot shows it. Each name that a snapshot is reached by has a tree of its own:
/// the kernel knows one place of a directory.
fn shown(listing: &Inode, name: &[u8], record: &SnapshotRecord) -> Inode {
    past_node(record.epoch.0, way(listing.node, name), listing.handle, libc::S_IFDIR)
}
