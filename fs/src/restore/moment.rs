//! From when each path comes: times, snapshots and deletions, made into moments.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use wsguard_api::RestoreWhen;

use super::ledger::{Root, StoredPath};
use super::{Ground, RestoreError};
use crate::snapshot::{ArchiveError, Burst, Named, Sequence};
use crate::sys::handle::FileHandle;

/// Paths that a pattern may stand for at most.
const MOST_MATCHES: usize = 100_000;

/// Finds out what is asked for: paths relative to the workspace, `to` a directory of it.
///
/// # Errors
/// `NotFound` for a path of which history knows nothing.
pub(super) fn roots(
    ground: &Ground,
    paths: &[PathBuf],
    when: &RestoreWhen,
    to: Option<&Path>,
) -> Result<Vec<Root>, RestoreError> {
    let fixed = fixed_moment(ground, when)?;
    let mut roots = Vec::new();
    for path in paths {
        for from in expanded(ground, path, fixed)? {
            let moment = match fixed {
                Some(moment) => moment,
                None => before_delete(ground, &from)?,
            };
            let target = match (to, from.file_name()) {
                (None, _) => from.clone(),
                (Some(to), Some(name)) => to.join(name),
                (Some(to), None) => to.to_path_buf(),
            };
            roots.push(Root {
                from: StoredPath::new(&from),
                to: StoredPath::new(&target),
                moment: moment.to_i64(),
                is_single: false,
            });
        }
    }
    // What lies in another one is restored with it.
    let all: Vec<(PathBuf, i64)> = roots.iter().map(|root| (root.from.path(), root.moment)).collect();
    let mut index = 0;
    roots.retain(|root| {
        let (own, from) = (index, root.from.path());
        index += 1;
        !all.iter().enumerate().any(|(other, (path, moment))| {
            let covers = from.starts_with(path) && *moment == root.moment;
            covers && (*path != from || other < own)
        })
    });
    Ok(roots)
}

/// Returns the moment that all paths come from; `None` if each comes from its own.
pub(super) fn fixed_moment(ground: &Ground, when: &RestoreWhen) -> Result<Option<Sequence>, RestoreError> {
    let past = ground.archive.read()?;
    match when {
        RestoreWhen::BeforeDelete => Ok(None),
        RestoreWhen::At(text) => {
            let at: Timestamp = text
                .parse()
                .map_err(|error| RestoreError::Invalid(format!("{text:?} is not a time: {error}")))?;
            if at > Timestamp::now() {
                return Err(RestoreError::Invalid(format!("{text} is in the future")));
            }
            let nanoseconds = i64::try_from(at.as_nanosecond())
                .map_err(|_| RestoreError::Invalid(format!("{text:?} is out of range")))?;
            let moment = past.moment_at_time(nanoseconds).map_err(ArchiveError::from)?;
            if past.complete_since().map_err(ArchiveError::from)?.is_some_and(|since| moment < since) {
                return Err(RestoreError::Invalid(format!("history begins after {text}")));
            }
            Ok(Some(moment))
        }
        RestoreWhen::BeforeBurst(id) => {
            let first = id.parse().ok().and_then(Sequence::from_i64).filter(|first| *first > Sequence::ZERO);
            let first =
                first.ok_or_else(|| RestoreError::Invalid(format!("{id:?} is no deletion's number")))?;
            Ok(Some(first.before()))
        }
        RestoreWhen::Snapshot(wanted) => {
            let snapshots = past.snapshots().map_err(ArchiveError::from)?;
            let number = wanted.strip_prefix('#').unwrap_or(wanted).parse::<u32>().ok();
            let named = snapshots.iter().rev().find(|found| found.name.as_deref() == Some(wanted));
            let numbered = snapshots.iter().find(|found| Some(found.epoch.0) == number);
            named
                .or(numbered)
                .map(|found| Some(found.moment()))
                .ok_or_else(|| RestoreError::NoSnapshot(wanted.clone()))
        }
    }
}

/// Returns the paths that a path stands for: itself, or what its components match.
fn expanded(ground: &Ground, path: &Path, moment: Option<Sequence>) -> Result<Vec<PathBuf>, RestoreError> {
    let names: Vec<&OsStr> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let path: PathBuf = names.iter().collect();
    if !names.iter().any(|name| is_pattern(name)) || is_known(ground, &path, moment)? {
        return Ok(vec![path]);
    }
    let mut found = vec![PathBuf::new()];
    for (index, name) in names.iter().enumerate() {
        let is_last = index + 1 == names.len();
        let mut next = Vec::new();
        for parent in found {
            // A name that has such characters in it stands for itself.
            if !is_pattern(name) || (!is_last && is_directory_ever(ground, &parent.join(name), moment)?) {
                next.push(parent.join(name));
                continue;
            }
            next.extend(matching(ground, &parent, name, moment, is_last)?);
            if next.len() > MOST_MATCHES {
                return Err(RestoreError::Invalid(format!(
                    "{path:?} matches more than {MOST_MATCHES} names; restore a directory instead"
                )));
            }
        }
        found = next;
    }
    if names.iter().rev().skip(1).any(|name| is_pattern(name)) {
        // Not each directory that a component matches has what the next ones name.
        let mut known = Vec::with_capacity(found.len());
        for path in found {
            if is_known(ground, &path, moment)? {
                known.push(path);
            }
        }
        found = known;
    }
    if found.is_empty() {
        return Err(RestoreError::NotFound { path, reason: "matches nothing that can be restored" });
    }
    Ok(found)
}

fn is_pattern(name: &OsStr) -> bool {
    name.as_bytes().iter().any(|byte| b"*?[".contains(byte))
}

fn is_directory_ever(ground: &Ground, path: &Path, moment: Option<Sequence>) -> Result<bool, RestoreError> {
    Ok(match moment {
        Some(moment) => {
            ground.view(moment)?.resolve(path)?.is_some_and(|named| named.file_type == libc::S_IFDIR)
        }
        None => directory_ever(ground, path)?.is_some(),
    })
}

/// Returns what in a directory matches a component: what can be restored, or for a component that is not the last one
/// the directories that it may lie in.
fn matching(
    ground: &Ground,
    parent: &Path,
    name: &OsStr,
    moment: Option<Sequence>,
    is_last: bool,
) -> Result<Vec<PathBuf>, RestoreError> {
    let text = name.to_str().ok_or_else(|| RestoreError::Invalid("a pattern has to be UTF-8".to_owned()))?;
    let pattern = glob::Pattern::new(text)
        .map_err(|error| RestoreError::Invalid(format!("{text:?} is not a pattern: {error}")))?;
    let mut names = match moment {
        Some(moment) if is_directory_ever(ground, parent, Some(moment))? => {
            names_then(ground, parent, moment)?
        }
        Some(_) => Vec::new(),
        None if is_last => names_deleted(ground, parent)?,
        None => names_ever(ground, parent)?,
    };
    names.retain(|name| pattern.matches(&name.to_string_lossy()));
    names.sort();
    names.dedup();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let path = parent.join(name);
        if is_last || is_directory_ever(ground, &path, moment)? {
            found.push(path);
        }
    }
    Ok(found)
}

/// Returns the names that are in a directory or were.
fn names_ever(ground: &Ground, parent: &Path) -> Result<Vec<OsString>, RestoreError> {
    let Some(dir) = directory_ever(ground, parent)? else { return Ok(Vec::new()) };
    let mut names = ground.live_names(&dir)?;
    let past = ground.archive.read()?;
    let changed = past.names_changed_after(&dir, Sequence::ZERO).map_err(ArchiveError::from)?;
    names.extend(changed.into_iter().map(|(name, _)| OsString::from_vec(name)));
    Ok(names)
}

fn is_known(ground: &Ground, path: &Path, moment: Option<Sequence>) -> Result<bool, RestoreError> {
    match moment {
        Some(moment) => Ok(ground.view(moment)?.resolve(path)?.is_some()),
        None => Ok(last_lost(ground, path)?.is_some()),
    }
}

fn names_then(ground: &Ground, parent: &Path, moment: Sequence) -> Result<Vec<OsString>, RestoreError> {
    let view = ground.view(moment)?;
    let Some(dir) = view.resolve(parent)? else {
        return Err(not_then(parent));
    };
    Ok(view.list(&dir.inode)?.into_iter().map(|entry| OsString::from_vec(entry.name)).collect())
}

/// Returns the names that were deleted from a directory and are not there now.
fn names_deleted(ground: &Ground, parent: &Path) -> Result<Vec<OsString>, RestoreError> {
    let Some(dir) = directory_ever(ground, parent)? else {
        return Err(RestoreError::NotFound { path: parent.to_path_buf(), reason: "is not in the history" });
    };
    let past = ground.archive.read()?;
    let changed = past.names_changed_after(&dir, Sequence::ZERO).map_err(ArchiveError::from)?;
    let mut names = Vec::new();
    for (name, _) in changed {
        let name = OsString::from_vec(name);
        let is_lost = past.last_deletion(&dir, name.as_bytes()).map_err(ArchiveError::from)?.is_some();
        if is_lost && ground.live_at(&dir, &name)?.is_none() {
            names.push(name);
        }
    }
    Ok(names)
}

/// Returns a directory that exists, or the last one that had that path.
fn directory_ever(ground: &Ground, path: &Path) -> Result<Option<FileHandle>, RestoreError> {
    let mut dir = ground.backing().root_handle();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        dir = match ground.live_at(&dir, name)? {
            Some(live) if live.is_dir() => live.handle,
            _ => {
                let past = ground.archive.read()?;
                let stood = past.last_stood_for(&dir, name.as_bytes()).map_err(ArchiveError::from)?;
                match stood {
                    Some((_, named)) if named.file_type == libc::S_IFDIR => named.inode,
                    _ => return Ok(None),
                }
            }
        };
    }
    Ok(Some(dir))
}

/// When a path lost what it stood for last, and what that was.
pub(super) fn last_lost(
    ground: &Ground,
    path: &Path,
) -> Result<Option<(crate::snapshot::Event, Named, FileHandle)>, RestoreError> {
    let Some(name) = path.file_name() else { return Ok(None) };
    let Some(dir) = directory_ever(ground, path.parent().unwrap_or(Path::new("")))? else { return Ok(None) };
    let past = ground.archive.read()?;
    let found = past.last_deletion(&dir, name.as_bytes()).map_err(ArchiveError::from)?;
    Ok(found.map(|(event, named)| (event, named, dir)))
}

/// Returns the moment just before a path was deleted or replaced last. A directory was emptied before it was removed:
/// what counts is the beginning of what the process deleted then.
fn before_delete(ground: &Ground, path: &Path) -> Result<Sequence, RestoreError> {
    let not_found = |reason| RestoreError::NotFound { path: path.to_path_buf(), reason };
    let Some((event, named, dir)) = last_lost(ground, path)? else {
        let is_there = ground.live(path)?.is_some();
        return Err(not_found(if is_there {
            "was never deleted or replaced as far as the history goes; say as of when with --at or --snapshot"
        } else {
            "is not in the history"
        }));
    };
    let moment = event.at.before();
    if named.file_type != libc::S_IFDIR {
        return Ok(moment);
    }
    let past = ground.archive.read()?;
    let bursts = past.bursts(Sequence::ZERO).map_err(ArchiveError::from)?;
    let contains = |burst: &&Burst| {
        burst.first.actor == event.actor && burst.first.at <= event.at && event.at <= burst.last.at
    };
    let Some(burst) = bursts.iter().find(contains) else { return Ok(moment) };
    let earlier = burst.first.at.before();
    let name = path.file_name().unwrap_or(OsStr::new(""));
    let existed = past.name_at(&dir, name.as_bytes(), earlier).map_err(ArchiveError::from)?
        == crate::snapshot::Then::Was(Some(named));
    Ok(if existed { earlier } else { moment })
}

pub(super) fn not_then(path: &Path) -> RestoreError {
    RestoreError::NotFound { path: path.to_path_buf(), reason: "did not exist then" }
}
