//! The virtual directory `.snapshots` in every directory: the directory as it was.
//!
//! Found by name and never listed; a user's own entry of that name wins. It lists the snapshots in which its directory
//! was there, and each of them is the directory as it was, down to the last file: read-only, with the modes, owners,
//! times, attributes, links and holes of then. `mkdir .snapshots/NAME` takes a snapshot of the workspace,
//! `rmdir .snapshots/NAME` removes one.
//!
//! Nodes: what is shown is a *past node*, with a number from the range that [`crate::inode`] leaves free: a hash of the
//! snapshot, of what is shown, and of the way on which `.snapshots` was entered. So the number of a file is the same
//! whenever it is looked at, two names of one file have one number, and no directory is met twice in one tree. (The way
//! is part of it because a directory inode has one place in the kernel's tree: `a/.snapshots/S/b` and
//! `a/b/.snapshots/S` must be two.) The nodes live in the same table as all others, so that they outlive the worker.
//!
//! Handles: none. A read says which node it is about, and what it needs is found again by any worker.
//!
//! What is shown never changes, so the kernel may keep it, pages included. It ends when the snapshot is removed: every
//! answer is given only if the snapshot is there still after it was found (ESTALE otherwise), because what a removed
//! snapshot needs may be gone.

mod allowance;
mod file;
mod listing;
mod nodes;
mod tree;

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use rustix::io::Errno;

use allowance::Allowance;

use super::{Entry, GuardFs};
use crate::backing::Stat;
use crate::error_chain::one_line;
use crate::inode::Inode;
use crate::snapshot::{Archive, ArchiveError, Attributes, Epoch, PastEntry, PastFile, View};

pub(crate) use file::PAST_HANDLE;
pub(super) use tree::Detail;

/// The directory's name.
const NAME: &str = ".snapshots";

/// How long the kernel may trust what cannot change.
const PAST_TTL: Duration = Duration::from_secs(3600);
/// How long it may trust a list of snapshots, and what names in it stand for.
const LISTING_TTL: Duration = Duration::from_secs(1);

/// Files that are kept ready to be read: a descriptor each.
const KEPT_FILES: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");
/// Directories whose names are kept between two requests.
const KEPT_LISTS: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not zero");

/// Snapshots whose time is kept.
const KEPT_TIMES: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not zero");

/// How often a thread that has time waits for the past to be opened, each time for some seconds.
const MOST_WAITS: usize = 30;

/// Opens the past of the workspace. Called by threads that serve requests: it must not take long.
pub(crate) type ArchiveSource = Arc<dyn Fn() -> Result<Arc<Archive>, NoArchive> + Send + Sync>;

/// Why the past cannot be asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NoArchive {
    /// It is being opened.
    NotYet,
    /// For this reason, a sentence.
    Never(String),
}

/// What [`GuardFs`] keeps for these directories.
pub(super) struct SnapshotsDir {
    source: OnceLock<ArchiveSource>,
    files: Mutex<LruCache<u64, Arc<PastFile>>>,
    lists: Mutex<LruCache<u64, Arc<Vec<PastEntry>>>>,
    /// When snapshots were taken, nanoseconds since 1970.
    times: Mutex<LruCache<u32, i64>>,
    /// Held while a named snapshot is taken, so that two do not get one name.
    taking: Mutex<Allowance>,
    /// Snapshots that were not taken because there were too many in a short time; not told yet.
    refused: AtomicU64,
}

impl SnapshotsDir {
    pub(super) fn new() -> Self {
        Self {
            source: OnceLock::new(),
            files: Mutex::new(LruCache::new(KEPT_FILES)),
            lists: Mutex::new(LruCache::new(KEPT_LISTS)),
            times: Mutex::new(LruCache::new(KEPT_TIMES)),
            taking: Mutex::new(Allowance::new(Instant::now())),
            refused: AtomicU64::new(0),
        }
    }
}

impl GuardFs {
    /// Says where the past is found. Without it there are no such directories.
    pub(crate) fn set_archive_source(&self, source: ArchiveSource) {
        self.snapshots_dir.source.get_or_init(|| source);
    }

    /// Returns how many snapshots were refused to containers since the last call, because there were too many.
    pub(crate) fn take_refused_snapshots(&self) -> u64 {
        self.snapshots_dir.refused.swap(0, Ordering::AcqRel)
    }

    /// Whether `name` is what the directory is found by.
    pub(super) fn is_snapshots_name(&self, name: &OsStr) -> bool {
        name == NAME && self.history.is_some()
    }

    /// Returns the catalog, for a thread that may wait until it is open.
    ///
    /// # Errors
    /// Why it cannot be opened, as a sentence.
    pub(super) fn archive_for_long(&self) -> Result<Arc<Archive>, String> {
        let source = self.snapshots_dir.source.get().ok_or("it is not known where the past is")?;
        for _ in 0..MOST_WAITS {
            match source() {
                Ok(archive) => return Ok(archive),
                // It has waited itself.
                Err(NoArchive::NotYet) => {}
                Err(NoArchive::Never(reason)) => return Err(reason),
            }
        }
        Err("opening the past takes too long".to_owned())
    }

    /// Returns the catalog.
    ///
    /// # Errors
    /// `EAGAIN` while it is being opened, `EIO` if it cannot be.
    fn archive(&self) -> Result<Arc<Archive>, Errno> {
        let source = self.snapshots_dir.source.get().ok_or(Errno::NOENT)?;
        source().map_err(|error| match error {
            NoArchive::NotYet => {
                tracing::warn!("the catalog of history is still being opened");
                Errno::AGAIN
            }
            NoArchive::Never(reason) => {
                tracing::error!(reason, "snapshots cannot be shown");
                Errno::IO
            }
        })
    }

    /// Asks how something was at the snapshot of `inode`.
    ///
    /// # Errors
    /// `ESTALE` if the snapshot is gone; `EIO` if something of it is.
    fn in_the_past<T>(
        &self,
        inode: &Inode,
        ask: impl FnOnce(&Archive, &View<'_>) -> Result<T, ArchiveError>,
    ) -> Result<T, Errno> {
        let archive = self.archive()?;
        let epoch = Epoch(inode.past);
        let answer = self.view_of(&archive, epoch).and_then(|view| ask(&archive, &view));
        // Afterwards: what it needs is kept for as long as the snapshot is in the list.
        match archive.read().and_then(|past| Ok(past.has_snapshot(epoch)?)) {
            Ok(true) => answer.map_err(|error| errno_of(&error)),
            Ok(false) => Err(Errno::STALE),
            Err(error) => Err(errno_of(&error)),
        }
    }

    fn view_of<'a>(&'a self, archive: &'a Archive, epoch: Epoch) -> Result<View<'a>, ArchiveError> {
        let known = self.snapshots_dir.times.lock().get(&epoch.0).copied();
        if let Some(time_ns) = known {
            return Ok(View::of_snapshot(archive, &self.backing, epoch.end(), time_ns));
        }
        let view = View::at(archive, &self.backing, epoch.end())?;
        if let Some(time_ns) = view.time_ns() {
            self.snapshots_dir.times.lock().put(epoch.0, time_ns);
        }
        Ok(view)
    }

    /// Counts the kernel's reference to a past node.
    fn past_entry(&self, mut inode: Inode, stat: Stat, entry_ttl: Duration) -> Result<Entry, Errno> {
        for _ in 0..nodes::MOST_COLLISIONS {
            if self.table.add_undisputed_lookup(&inode)? {
                let (node, generation) = (inode.node, inode.generation);
                let attribute_ttl = if inode.past == 0 { LISTING_TTL } else { PAST_TTL };
                return Ok(Entry { node, generation, stat, attribute_ttl, entry_ttl });
            }
            inode.node = nodes::next(inode.node);
        }
        Err(Errno::NFILE)
    }

    /// Returns a past node that the kernel knows.
    fn past_inode(&self, node: u64) -> Result<Inode, Errno> {
        self.table.get(node)
    }

    /// Lets go of what is kept for a past node.
    pub(super) fn forget_past(&self, node: u64) {
        let file = self.snapshots_dir.files.lock().pop(&node);
        let list = self.snapshots_dir.lists.lock().pop(&node);
        drop((file, list));
    }

    /// Returns attributes in the form of statx(2).
    fn stat_of_past(&self, past: &Attributes) -> Stat {
        let mut stat = *self.backing.root_stat();
        stat.stx_mode = past.mode as u16;
        stat.stx_uid = past.uid;
        stat.stx_gid = past.gid;
        stat.stx_nlink = past.nlink;
        stat.stx_size = past.size;
        stat.stx_blocks = past.blocks;
        stat.stx_rdev_major = rustix::fs::major(past.device);
        stat.stx_rdev_minor = rustix::fs::minor(past.device);
        set_time(&mut stat.stx_atime, past.accessed_ns);
        set_time(&mut stat.stx_mtime, past.modified_ns);
        set_time(&mut stat.stx_ctime, past.changed_ns);
        stat
    }
}

fn set_time(time: &mut rustix::fs::StatxTimestamp, nanoseconds: i64) {
    time.tv_sec = nanoseconds.div_euclid(1_000_000_000);
    // Between 0 and 999,999,999.
    time.tv_nsec = nanoseconds.rem_euclid(1_000_000_000) as u32;
}

/// The errno of a question that could not be answered. That something is missing from the store is `EIO`: with `ESTALE`
/// the kernel would ask again.
fn errno_of(error: &ArchiveError) -> Errno {
    match error {
        ArchiveError::Log(Errno::STALE) => Errno::IO,
        ArchiveError::Log(errno) => *errno,
        // It was deleted while somebody was in it.
        ArchiveError::NotKept => Errno::NOENT,
        ArchiveError::Catalog(_) | ArchiveError::Roster(_) | ArchiveError::End(_) => {
            tracing::error!(error = one_line(error), "a snapshot cannot be asked about");
            Errno::IO
        }
    }
}
