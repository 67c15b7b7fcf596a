//! What is different between two moments, for people.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustc_hash::{FxHashMap, FxHashSet};

use super::archive::{Archive, ArchiveError};
use super::catalog::{Below, Then};
use super::places::Places;
use super::record::Named;
use super::sequence::Sequence;
use super::view::View;
use crate::backing::Backing;
use crate::sys::handle::FileHandle;

/// A difference.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum DifferenceOf {
    /// It is there later only.
    Added,
    /// It was there earlier only.
    Removed,
    /// It was there.
    RenamedFrom(PathBuf),
    /// Another file has its name.
    Replaced,
    /// Bytes were written, or it was cut off.
    Modified,
    /// Something else than bytes was set.
    Attributes,
}

/// A path and how it differs; whether it is a directory.
pub(crate) type Compared = (PathBuf, DifferenceOf, bool);

/// Returns what is different between two moments, by path; below a directory if one is given.
///
/// # Errors
/// See [`ArchiveError`].
pub(crate) fn compare(
    archive: &Archive,
    backing: &Backing,
    (earlier, later): (Sequence, Sequence),
    below: Option<FileHandle>,
) -> Result<Vec<Compared>, ArchiveError> {
    let before = View::at(archive, backing, earlier)?;
    let after = View::at(archive, backing, later)?;
    let past = archive.read()?;
    let mut live_parent = |directory: &FileHandle| parent_now(backing, directory);
    let below = below.map(|directory| Below {
        directories: vec![directory],
        entry: None,
        live_parent: &mut live_parent,
    });
    let raw = past.difference(earlier, later, below)?;
    let (mut places_before, mut places_after) = (Places::at(backing, earlier), Places::at(backing, later));
    let mut gone: FxHashMap<FileHandle, Vec<(PathBuf, Named)>> = FxHashMap::default();
    let mut come: Vec<(PathBuf, Named)> = Vec::new();
    for name in &raw.names {
        let now = match &name.later {
            Then::Was(named) => *named,
            Then::AsNow => after.lookup(&name.parent, OsStr::from_bytes(&name.name))?,
        };
        if now.map(|named| named.inode) == name.earlier.map(|named| named.inode) {
            continue;
        }
        if let Some(named) = name.earlier
            && let Some(path) = places_before.of_entry(&past, &name.parent, &name.name)?
        {
            gone.entry(named.inode).or_default().push((path, named));
        }
        if let Some(named) = now
            && let Some(path) = places_after.of_entry(&past, &name.parent, &name.name)?
        {
            come.push((path, named));
        }
    }
    let mut found = Vec::new();
    let mut moved: FxHashSet<FileHandle> = gone.keys().copied().collect();
    let mut arrived: FxHashMap<PathBuf, Named> = FxHashMap::default();
    for (path, named) in come {
        moved.insert(named.inode);
        match gone.get_mut(&named.inode).and_then(Vec::pop) {
            Some((from, _)) => {
                found.push((path, DifferenceOf::RenamedFrom(from), named.file_type == libc::S_IFDIR));
            }
            None => {
                arrived.insert(path, named);
            }
        }
    }
    for (path, named) in gone.into_values().flatten() {
        let is_directory = named.file_type == libc::S_IFDIR;
        let kind = match arrived.remove(&path) {
            Some(other) if other.file_type == named.file_type && !is_directory => DifferenceOf::Replaced,
            Some(other) => {
                found.push((path.clone(), DifferenceOf::Added, other.file_type == libc::S_IFDIR));
                DifferenceOf::Removed
            }
            None => DifferenceOf::Removed,
        };
        found.push((path, kind, is_directory));
    }
    let added = arrived.into_iter();
    found.extend(added.map(|(path, named)| (path, DifferenceOf::Added, named.file_type == libc::S_IFDIR)));
    for inode in raw.inodes.iter().filter(|inode| !moved.contains(&inode.inode)) {
        let Some(path) = places_after.of(&past, &inode.inode)? else { continue };
        let (Ok((old, _)), Ok((new, _))) = (before.attributes(&inode.inode), after.attributes(&inode.inode))
        else {
            continue;
        };
        let is_directory = new.mode & libc::S_IFMT == libc::S_IFDIR;
        let is_same = |old: &super::record::Attributes, new: &super::record::Attributes| {
            (old.mode, old.uid, old.gid) == (new.mode, new.uid, new.gid)
        };
        // The times of a directory change with its names, which are told already.
        let has_new_times = !is_directory && old.modified_ns != new.modified_ns;
        let has_new_content = inode.is_content_changed && !is_directory;
        if has_new_content {
            found.push((path, DifferenceOf::Modified, false));
        } else if !is_same(&old, &new)
            || has_new_times
            || before.extended_attributes(&inode.inode)? != after.extended_attributes(&inode.inode)?
        {
            // A file that was only made longer has lost nothing, so nothing was kept of it.
            let kind = if has_new_times || old.size != new.size && !is_directory {
                DifferenceOf::Modified
            } else {
                DifferenceOf::Attributes
            };
            found.push((path, kind, is_directory));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Returns the directory that contains a directory now.
fn parent_now(backing: &Backing, directory: &FileHandle) -> Option<FileHandle> {
    use std::os::fd::AsFd;
    if *directory == backing.root_handle() {
        return None;
    }
    let fd = backing.path_fd(directory).ok()?;
    backing.child_at_once(fd.as_fd(), OsStr::new("..")).ok().map(|parent| parent.handle)
}
