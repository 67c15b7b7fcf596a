//! The reversal of what one process deleted at one time.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use wsguard_api::RestoreConflict;

use super::decide::Decision;
use super::ground::Live;
use super::ledger::Record;
use super::plan::{Item, Planner, Source, beside};
use super::{Ground, RestoreError};
use crate::snapshot::{Actor, ArchiveError, Attributes, Burst, Certainty, Lost, Named, Sequence, View};
use crate::sys::handle::FileHandle;

/// A coarse clock lags by so much at most, nanoseconds.
const TICK_NS: i64 = 10_000_000;
/// Paths of a burst that are told.
const MOST_PATHS: usize = 10;

/// A burst as the reversal of it is shown and asked for.
#[derive(Clone, Debug)]
pub(crate) struct PastBurst {
    /// The burst.
    pub(crate) burst: Burst,
    /// The restore that has undone it.
    pub(crate) undone_by: Option<u64>,
}

impl PastBurst {
    /// Returns what names it.
    pub(crate) fn id(&self) -> String {
        self.burst.first.at.to_i64().to_string()
    }

    /// Returns the topmost paths that it took, relative to the workspace, a few.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub(crate) fn paths(&self, ground: &Ground) -> Result<Vec<String>, RestoreError> {
        let burst = &self.burst;
        let taken = taken(ground, burst.first.actor, burst.first.at, burst.last.at)?;
        Ok(taken.topmost().iter().map(|path| path.to_string_lossy().into_owned()).collect())
    }
}

/// Returns the bursts of users, latest first; what restores did is none.
///
/// # Errors
/// See [`RestoreError`].
pub(super) fn all_bursts(ground: &Ground, records: &[Record]) -> Result<Vec<PastBurst>, RestoreError> {
    use super::ledger::Task;
    let bursts = ground.archive.read()?.bursts(Sequence::ZERO).map_err(ArchiveError::from)?;
    let is_of_restore = |burst: &Burst| {
        let (actor, time) = (burst.first.actor, burst.first.time_ns);
        records.iter().any(|record| record.did(actor.uid, actor.pid, time))
    };
    let undone_by = |burst: &Burst| {
        let undone = records.iter().rev().find(|record| match &record.task {
            Task::Undo { first, .. } => {
                *first == burst.first.at.to_i64()
                    && matches!(
                        record.state,
                        wsguard_api::RestoreState::Done | wsguard_api::RestoreState::Partial
                    )
            }
            Task::Restore { .. } | Task::Reversal { .. } | Task::Clone(_) => false,
        })?;
        // Reversed in turn, it is as if it had not been undone.
        let is_reversed = records.iter().any(|record| match &record.task {
            Task::Reversal { job, .. } => {
                *job == undone.id && record.state == wsguard_api::RestoreState::Done
            }
            Task::Restore { .. } | Task::Undo { .. } | Task::Clone(_) => false,
        });
        (!is_reversed).then_some(undone.id)
    };
    Ok(bursts
        .into_iter()
        .filter(|burst| !is_of_restore(burst))
        .map(|burst| PastBurst { undone_by: undone_by(&burst), burst })
        .collect())
}

/// As [`all_bursts`], with the records of the workspace.
///
/// # Errors
/// See [`RestoreError`].
pub(crate) fn bursts(ground: &Ground) -> Result<Vec<PastBurst>, RestoreError> {
    let records = super::ledger::Records::open(ground.archive.history())?.all()?;
    all_bursts(ground, &records)
}

/// Names of what a burst took, with the paths that they had.
pub(super) struct Taken {
    lost: Vec<(PathBuf, Lost)>,
    /// Directories that are there still, from which something was taken.
    parents: Vec<(PathBuf, FileHandle)>,
    /// Names of which it cannot be told where they were.
    unknown: u64,
}

/// Finds out what a burst took, and from where.
pub(super) fn taken(
    ground: &Ground,
    actor: Actor,
    first: Sequence,
    last: Sequence,
) -> Result<Taken, RestoreError> {
    let rows = ground.archive.read()?.lost_by(actor, first, last).map_err(ArchiveError::from)?;
    let mut directories: FxHashMap<FileHandle, (FileHandle, OsString)> = FxHashMap::default();
    for row in rows.iter().filter(|row| row.before.file_type == libc::S_IFDIR) {
        directories.insert(row.before.inode, (row.parent, OsString::from_vec(row.name.clone())));
    }
    let mut paths: FxHashMap<FileHandle, Option<PathBuf>> = FxHashMap::default();
    let mut found = Taken { lost: Vec::with_capacity(rows.len()), parents: Vec::new(), unknown: 0 };
    for row in rows {
        let Some(parent) = path_then(ground, &directories, &mut paths, &row.parent)? else {
            found.unknown += 1;
            continue;
        };
        let path = parent.join(OsString::from_vec(row.name.clone()));
        found.lost.push((path, row));
    }
    for (handle, path) in paths {
        if let Some(path) = path.filter(|_| !directories.contains_key(&handle)) {
            found.parents.push((path, handle));
        }
    }
    found.lost.sort_by(|a, b| a.0.cmp(&b.0));
    found.parents.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

impl Taken {
    /// Returns the topmost paths, a few.
    pub(super) fn topmost(&self) -> Vec<PathBuf> {
        let mut topmost: Vec<PathBuf> = Vec::new();
        for (path, _) in &self.lost {
            if topmost.last().is_some_and(|last| path.starts_with(last)) {
                continue;
            }
            if topmost.len() == MOST_PATHS {
                break;
            }
            topmost.push(path.clone());
        }
        topmost
    }
}

/// Returns where a directory was before the burst: where it is, or the path that it lost in it.
fn path_then(
    ground: &Ground,
    directories: &FxHashMap<FileHandle, (FileHandle, OsString)>,
    paths: &mut FxHashMap<FileHandle, Option<PathBuf>>,
    dir: &FileHandle,
) -> Result<Option<PathBuf>, RestoreError> {
    let mut names: Vec<(FileHandle, &OsStr)> = Vec::new();
    let mut place = *dir;
    let mut path = loop {
        if let Some(known) = paths.get(&place) {
            break known.clone();
        }
        match directories.get(&place) {
            // A path has no more than 4096 bytes; more names are a damaged catalog.
            Some((parent, name)) if names.len() < 4096 => {
                names.push((place, name));
                place = *parent;
            }
            _ => {
                let found = ground.path_of(&place)?;
                paths.insert(place, found.clone());
                break found;
            }
        }
    };
    for (handle, name) in names.into_iter().rev() {
        path = path.map(|path| path.join(name));
        paths.insert(handle, path.clone());
    }
    Ok(path)
}

/// What is reversed.
pub(super) struct Reversed {
    pub(super) actor: Actor,
    pub(super) first: Sequence,
    pub(super) last: Sequence,
    /// When it ended, nanoseconds since 1970.
    pub(super) ended_ns: i64,
}

/// Plans the reversal of a burst.
pub(super) fn plan(planner: &mut Planner<'_>, burst: &Reversed) -> Result<(), RestoreError> {
    let ground = planner.ground;
    let moment = burst.first.before();
    let view = ground.view(moment)?;
    let taken = taken(ground, burst.actor, burst.first, burst.last)?;
    if taken.unknown > 0 {
        planner.plan.counts.failed += taken.unknown;
        planner.plan.note(
            Path::new(""),
            format!("{} names were deleted from directories that are gone from the workspace", taken.unknown),
        );
    }
    let mut standing = Standings { ground, dirs: FxHashMap::default() };
    let mut moved: Vec<(PathBuf, PathBuf)> = Vec::new();
    for (path, lost) in &taken.lost {
        if (planner.is_cancelled)() {
            return Ok(());
        }
        // Below a directory that has to get another name.
        let path = match moved.iter().rev().find(|(from, _)| path.starts_with(from) && path != from) {
            Some((from, to)) => to.join(path.strip_prefix(from).unwrap_or(path)),
            None => path.clone(),
        };
        let decision = lost_name(planner, &view, &mut standing, &path, lost)?;
        if decision == Some(Decision::Beside) && lost.before.file_type == libc::S_IFDIR {
            moved.push((path.clone(), beside(&path, view.time_ns(), 0)));
        }
    }
    parents(planner, &view, &taken, burst)?;
    truncated(planner, &view, burst)
}

/// What stands at names, with the directories that were looked up.
struct Standings<'a> {
    ground: &'a Ground,
    dirs: FxHashMap<PathBuf, Option<FileHandle>>,
}

impl Standings<'_> {
    fn at(&mut self, path: &Path) -> Result<Option<Live>, RestoreError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        let dir = match self.dirs.get(parent) {
            Some(dir) => *dir,
            None => {
                let live = self.ground.live(parent)?.filter(Live::is_dir).map(|live| live.handle);
                self.dirs.insert(parent.to_path_buf(), live);
                live
            }
        };
        match dir {
            Some(dir) => Ok(self.ground.live_at(&dir, name)?),
            None => Ok(None),
        }
    }
}

fn lost_name(
    planner: &mut Planner<'_>,
    view: &View<'_>,
    standing: &mut Standings<'_>,
    path: &Path,
    lost: &Lost,
) -> Result<Option<Decision>, RestoreError> {
    let live = standing.at(path)?;
    let named = lost.before;
    // The one thing that most deletions need: nothing stands there, and the inode is in the store.
    if let (None, Some(object), Some(attributes)) = (live, lost.object, lost.attributes) {
        // Of several names one brings the inode back, and the others are links to it.
        let source = if planner.note_placed(named.inode) {
            Source::Object { object, hash: lost.hash, is_as_it_was: lost.is_as_it_was }
        } else {
            Source::Inode
        };
        push(planner, view, path, named, attributes, source, Decision::Place);
        return Ok(Some(Decision::Place));
    }
    let attributes = match lost.attributes {
        Some(attributes) => attributes,
        None => view.attributes(&named.inode)?.0,
    };
    let file = if named.file_type == libc::S_IFREG { Some(view.open(&named.inode)?) } else { None };
    let decision = planner.judge(view, &named, &attributes, file.as_ref(), live.as_ref())?;
    let is_restored = matches!(decision, Decision::Place | Decision::Beside | Decision::Replace);
    let source = match planner.source(&named, &attributes, file.as_ref())? {
        // Only a name was taken, the file has others.
        Source::Bytes | Source::New
            if is_restored
                && file.as_ref().is_none_or(|file| file.attributes().size == attributes.size)
                && planner.ground.object_of(&named.inode)?.is_none()
                && planner.ground.live_inode(&named.inode)?.is_some() =>
        {
            Source::Inode
        }
        source => source,
    };
    let to = match decision {
        Decision::Beside => beside(path, view.time_ns(), 0),
        _ => path.to_path_buf(),
    };
    if let (Some(live), Decision::Beside | Decision::Replace) = (live, decision) {
        note_where_from(planner, view, path, &live)?;
    }
    push(planner, view, &to, named, attributes, source, decision);
    Ok(Some(decision))
}

fn push(
    planner: &mut Planner<'_>,
    view: &View<'_>,
    to: &Path,
    named: Named,
    attributes: Attributes,
    source: Source,
    decision: Decision,
) {
    let (to, moment, certainty) = (to.to_path_buf(), view.moment(), Certainty::Exact);
    planner.plan.push(Item { to, moment, named, attributes, source, decision, certainty });
}

/// Notes where what stands at a name was before the burst.
fn note_where_from(
    planner: &mut Planner<'_>,
    view: &View<'_>,
    path: &Path,
    live: &Live,
) -> Result<(), RestoreError> {
    let ground = planner.ground;
    let names =
        ground.archive.read()?.former_names(&live.handle, view.moment()).map_err(ArchiveError::from)?;
    for (parent, name) in names {
        if let Some(parent) = ground.path_of(&parent)? {
            let from = parent.join(OsString::from_vec(name));
            planner.plan.note(path, format!("what is there now was moved there from {}", from.display()));
        }
    }
    Ok(())
}

/// Directories get the times back that the deletions changed, unless somebody has changed them since.
fn parents(
    planner: &mut Planner<'_>,
    view: &View<'_>,
    taken: &Taken,
    burst: &Reversed,
) -> Result<(), RestoreError> {
    for (path, handle) in &taken.parents {
        let Some(live) = planner.ground.live_inode(handle)? else { continue };
        let until = burst.ended_ns.saturating_add(TICK_NS);
        let is_of_attempt = planner.resumed_ns().is_some_and(|began| live.attributes.modified_ns >= began);
        if live.attributes.modified_ns > until && !is_of_attempt {
            continue;
        }
        let (attributes, _) = view.attributes(handle)?;
        let named = Named { inode: *handle, file_type: libc::S_IFDIR };
        let decision = Decision::Merge { sets_attributes: true };
        push(planner, view, path, named, attributes, Source::Directory, decision);
    }
    Ok(())
}

/// Files that were cut off get their bytes back.
fn truncated(planner: &mut Planner<'_>, view: &View<'_>, burst: &Reversed) -> Result<(), RestoreError> {
    let ground = planner.ground;
    let past = ground.archive.read()?;
    let files = past.truncated_by(burst.actor, burst.first, burst.last).map_err(ArchiveError::from)?;
    drop(past);
    for inode in files {
        let Some(path) = ground.path_of(&inode)? else { continue };
        let root = super::ledger::Root {
            from: super::ledger::StoredPath::new(&path),
            to: super::ledger::StoredPath::new(&path),
            moment: view.moment().to_i64(),
            is_single: true,
        };
        planner.root(&root)?;
    }
    Ok(())
}

/// Returns the conflict mode that a burst is reversed in.
pub(super) fn checked(conflict: RestoreConflict) -> Result<RestoreConflict, RestoreError> {
    match conflict {
        RestoreConflict::Exact => {
            Err(RestoreError::Invalid("a deletion cannot be undone in exact mode".to_owned()))
        }
        conflict => Ok(conflict),
    }
}
