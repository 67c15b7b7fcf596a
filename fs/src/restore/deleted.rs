//! What was deleted, and whether and how it can be had back.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use wsguard_api::{DeletionState, PastKind, RestoreWhen, VersionCertainty};

use super::look::{kind_of, shown};
use super::moment::last_lost;
use super::{Ground, RestoreError};
use crate::snapshot::{ArchiveError, Below, Deletion, Event, Places, Sequence, SnapshotRecord, Then};
use crate::sys::handle::{FileHandle, handle_of};

/// How many files are looked at closely: each is opened, and the catalog is asked about its bytes.
const MOST_LOOKED_AT: usize = 1_000;
/// Directories that may have had one path, one after the other.
const MOST_DIRECTORIES: usize = 1_000;

/// Something that was deleted.
pub(crate) struct Deleted {
    /// Where it was, relative to the workspace, if that is known.
    pub(crate) path: Option<PathBuf>,
    /// When, and who did it.
    pub(crate) event: Event,
    /// What it was.
    pub(crate) kind: PastKind,
    /// The size of the file, bytes, if it was noted.
    pub(crate) size: Option<u64>,
    /// Whether it can be had back.
    pub(crate) state: DeletionState,
    /// How well it is known; `None` if that was not looked at.
    pub(crate) certainty: Option<VersionCertainty>,
    /// What a restore of `path` has to be told.
    pub(crate) when: Option<RestoreWhen>,
}

/// Returns what was deleted at `path` (relative to the workspace) or below it, from `since_ns` (since 1970) on: the last
/// `limit` of those that `may_be_wanted` by their event and are wanted by event and path; latest first.
///
/// # Errors
/// See [`RestoreError`].
pub(crate) fn deleted(
    ground: &Ground,
    path: &Path,
    since_ns: Option<i64>,
    limit: usize,
    may_be_wanted: impl Fn(&Event) -> bool,
    is_wanted: impl Fn(&Event, Option<&Path>) -> bool,
) -> Result<Vec<Deleted>, RestoreError> {
    let past = ground.archive.read()?;
    let since = match since_ns {
        Some(since_ns) => past.moment_at_time(since_ns.saturating_sub(1)).map_err(ArchiveError::from)?,
        None => Sequence::ZERO,
    };
    let snapshots = past.snapshots().map_err(ArchiveError::from)?;
    let trash_start = past.trash_start().map_err(ArchiveError::from)?;
    drop(past);
    let mut live_parent = |dir: &FileHandle| parent_of(ground, dir);
    let below = match path.components().next() {
        Some(_) => Some(below(ground, path, &mut live_parent)?),
        None => None,
    };
    let mut paths = Vec::new();
    let past = ground.archive.read()?;
    let found = past.deleted(since, below, limit, |past, deletion| {
        if paths.len() == limit || !may_be_wanted(&deletion.event) {
            return Ok(false);
        }
        let mut places = Places::at(ground.backing(), deletion.event.at.before());
        let path = places.of_entry(past, &deletion.parent, &deletion.name)?;
        let is_wanted = is_wanted(&deletion.event, path.as_deref());
        if is_wanted {
            paths.push(path);
        }
        Ok(is_wanted)
    });
    drop(past);
    let mut looker = Looker { ground, snapshots, trash_start, left: MOST_LOOKED_AT };
    let mut answer = Vec::with_capacity(paths.len());
    for (path, deletion) in paths.into_iter().zip(found.map_err(ArchiveError::from)?) {
        if !has_failed(ground, &deletion)? {
            answer.push(looker.look(path, &deletion)?);
        }
    }
    Ok(answer)
}

/// Finds the directories that had a path, and those in which its last component was a name.
fn below<'a>(
    ground: &Ground,
    path: &Path,
    live_parent: &'a mut dyn FnMut(&FileHandle) -> Option<FileHandle>,
) -> Result<Below<'a>, RestoreError> {
    let mut parents = Vec::new();
    let mut directories = vec![ground.backing().root_handle()];
    let mut last = Vec::new();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let mut next = Vec::new();
        for dir in &directories {
            next.extend(ground.live_at(dir, name)?.filter(|live| live.is_dir()).map(|live| live.handle));
            let past = ground.archive.read()?;
            next.extend(past.former_directories(dir, name.as_bytes()).map_err(ArchiveError::from)?);
        }
        let mut known = rustc_hash::FxHashSet::default();
        next.retain(|dir| known.insert(*dir));
        next.truncate(MOST_DIRECTORIES);
        last = name.as_bytes().to_vec();
        parents = std::mem::replace(&mut directories, next);
    }
    Ok(Below { directories, entry: Some((parents, last)), live_parent })
}

fn parent_of(ground: &Ground, dir: &FileHandle) -> Option<FileHandle> {
    if *dir == ground.backing().root_handle() {
        return None;
    }
    // Gone, or not to be looked at: then it is nowhere.
    let fd = ground.backing().path_fd(dir).ok()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(fd.as_fd(), "..", flags, Mode::empty()).ok()?;
    handle_of(parent.as_fd()).ok()
}

/// Whether the name stands for the same inode after it: the operation did not happen after all.
fn has_failed(ground: &Ground, deletion: &Deletion) -> Result<bool, RestoreError> {
    Ok(match &deletion.after {
        Then::Was(after) => *after == Some(deletion.before),
        Then::AsNow => stands_there(ground, deletion)?,
    })
}

fn stands_there(ground: &Ground, deletion: &Deletion) -> Result<bool, RestoreError> {
    let live = ground.live_at(&deletion.parent, OsStr::from_bytes(&deletion.name))?;
    Ok(live.is_some_and(|live| live.handle == deletion.before.inode))
}

struct Looker<'a> {
    ground: &'a Ground,
    snapshots: Vec<SnapshotRecord>,
    trash_start: Sequence,
    /// Files that may still be looked at closely.
    left: usize,
}

impl Looker<'_> {
    fn look(&mut self, path: Option<PathBuf>, deletion: &Deletion) -> Result<Deleted, RestoreError> {
        let mut found = Deleted {
            path,
            event: deletion.event,
            kind: kind_of(deletion.before.file_type),
            size: deletion.size.filter(|_| deletion.before.file_type == libc::S_IFREG),
            state: DeletionState::NotKept,
            certainty: None,
            when: None,
        };
        if self.is_there_again(&found, deletion)? {
            found.state = DeletionState::Returned;
            return Ok(found);
        }
        let Some(moment) = self.last_kept(deletion)? else { return Ok(found) };
        match self.certainty(deletion, moment) {
            Ok(certainty) => found.certainty = certainty,
            // Let go meanwhile, or nothing was kept of it.
            Err(RestoreError::Archive(ArchiveError::NotKept | ArchiveError::Log(Errno::STALE))) => {
                return Ok(found);
            }
            Err(error) => return Err(error),
        }
        if found.certainty == Some(VersionCertainty::Damaged) {
            found.state = DeletionState::Damaged;
            return Ok(found);
        }
        found.state = DeletionState::Restorable;
        if let Some(path) = found.path.as_deref().filter(|path| path.to_str().is_some()) {
            found.when = self.when(path, deletion, moment)?;
        }
        Ok(found)
    }

    /// Whether the same inode, or for a directory a directory, stands at the path.
    fn is_there_again(&self, found: &Deleted, deletion: &Deletion) -> Result<bool, RestoreError> {
        if stands_there(self.ground, deletion)? {
            return Ok(true);
        }
        let Some(live) = found.path.as_deref().map(|path| self.ground.live(path)).transpose()?.flatten()
        else {
            return Ok(false);
        };
        let is_dir = deletion.before.file_type == libc::S_IFDIR;
        Ok(live.handle == deletion.before.inode || (is_dir && live.is_dir()))
    }

    /// Returns the last moment with it that is kept.
    fn last_kept(&self, deletion: &Deletion) -> Result<Option<Sequence>, RestoreError> {
        let before = deletion.event.at.before();
        if before >= self.trash_start {
            return Ok(Some(before));
        }
        let last = self.snapshots.iter().rev().map(SnapshotRecord::moment).find(|moment| *moment <= before);
        let Some(moment) = last else { return Ok(None) };
        Ok(self.was_there(deletion, moment)?.then_some(moment))
    }

    fn was_there(&self, deletion: &Deletion, moment: Sequence) -> Result<bool, RestoreError> {
        let past = self.ground.archive.read()?;
        let then = past.name_at(&deletion.parent, &deletion.name, moment).map_err(ArchiveError::from)?;
        Ok(then == Then::Was(Some(deletion.before)))
    }

    fn certainty(
        &mut self,
        deletion: &Deletion,
        moment: Sequence,
    ) -> Result<Option<VersionCertainty>, RestoreError> {
        let view = self.ground.view(moment)?;
        let inode = &deletion.before.inode;
        view.attributes(inode)?;
        if deletion.before.file_type != libc::S_IFREG {
            return Ok(Some(VersionCertainty::Exact));
        }
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let archive = &self.ground.archive;
        let file = view.open(inode)?;
        let rows = file.rows(archive)?;
        let store = archive.history().store();
        let is_lost = |object| matches!(store.open_object(object, OFlags::PATH), Err(Errno::NOENT));
        let is_damaged = |row: &crate::snapshot::ContentRow| {
            row.is_damaged || (is_lost(row.object) && !(row.is_inode_itself() && file.live().is_some()))
        };
        if rows.iter().any(is_damaged) {
            return Ok(Some(VersionCertainty::Damaged));
        }
        Ok(Some(shown(view.certainty(&file)?)))
    }

    /// Returns what brings it back to its path.
    fn when(
        &self,
        path: &Path,
        deletion: &Deletion,
        moment: Sequence,
    ) -> Result<Option<RestoreWhen>, RestoreError> {
        let before = deletion.event.at.before();
        if moment == before {
            let last = last_lost(self.ground, path)?;
            let is_last =
                last.is_some_and(|(event, _, dir)| event.at == deletion.event.at && dir == deletion.parent);
            if is_last {
                return Ok(Some(RestoreWhen::BeforeDelete));
            }
            let past = self.ground.archive.read()?;
            let time_ns = deletion.event.time_ns.saturating_sub(1);
            let at = past.moment_at_time(time_ns).map_err(ArchiveError::from)?;
            drop(past);
            let time = Timestamp::from_nanosecond(time_ns.into()).ok();
            if let Some(time) = time
                && at <= before
                && at >= self.trash_start
                && self.leads_to(path, deletion, at)?
            {
                return Ok(Some(RestoreWhen::At(time.to_string())));
            }
        }
        let with_it = self.snapshots.iter().rev().find(|snapshot| snapshot.moment() <= before);
        match with_it {
            Some(snapshot) if self.leads_to(path, deletion, snapshot.moment())? => {
                Ok(Some(RestoreWhen::Snapshot(snapshot.epoch.0.to_string())))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Whether the path stood for it at that moment.
    fn leads_to(&self, path: &Path, deletion: &Deletion, moment: Sequence) -> Result<bool, RestoreError> {
        let named = self.ground.view(moment)?.resolve(path)?;
        Ok(named.is_some_and(|named| named.inode == deletion.before.inode))
    }
}
