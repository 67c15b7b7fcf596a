//! A look at the past without restoring anything: a directory as it was beside what is in its place now, and the
//! beginning of a file as it was.
//!
//! What is asked for is bounded, so that somebody who leafs through a large workspace costs no more than `ls` does. Bytes
//! that are not those of the moment are not given: the answer says why instead.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::io::Errno;
use wsguard_api::{
    ExactBytes, PastChange, PastEntry, PastKind, PastListing, PastPiece, RestoreWhen, SCHEMA_VERSION,
    VersionCertainty,
};

use super::ground::Live;
use super::moment::{fixed_moment, not_then};
use super::{Ground, RestoreError};
use crate::snapshot::{
    ArchiveError, Attributes, Certainty, Epoch, PastChild, PastEntry as Listed, Sequence, View,
};
use crate::sys::handle::FileHandle;

/// Most entries of an answer.
const MOST_ENTRIES: usize = 10_000;
/// Most bytes of an answer.
const MOST_BYTES: usize = 1 << 20;
/// How many files of a directory are looked at closely: each is opened, and the catalog is asked about its bytes.
const MOST_CERTAINTIES: usize = 1_000;

/// Returns what is in the directory `path` (relative to the workspace) as of `when`, now if `None`.
///
/// # Errors
/// `NotFound` if there is no such directory, neither then nor now; `Invalid` for what is no directory.
pub(crate) fn list(
    ground: &Ground,
    path: &Path,
    when: Option<&RestoreWhen>,
    limit: usize,
) -> Result<PastListing, RestoreError> {
    let moment = moment_of(ground, when)?;
    let _pin = ground.archive.pin(moment)?;
    let view = ground.view(moment)?;
    let then = view.resolve(path)?;
    let now = ground.live(path)?;
    if then.is_none() && now.is_none() {
        return Err(not_then(path));
    }
    let is_no_directory = match (&then, &now) {
        (Some(then), _) => then.file_type != libc::S_IFDIR,
        (None, now) => now.is_some_and(|live| !live.is_dir()),
    };
    if is_no_directory {
        return Err(RestoreError::Invalid(format!("{path:?} was no directory then")));
    }
    let now = now.filter(Live::is_dir).map(|live| live.handle);
    let mut names: BTreeMap<Vec<u8>, Option<Listed>> = BTreeMap::new();
    for name in now.map_or_else(|| Ok(Vec::new()), |dir| ground.live_names(&dir))? {
        names.insert(name.into_vec(), None);
    }
    if let Some(then) = then {
        for entry in view.list(&then.inode)? {
            names.insert(entry.name.clone(), Some(entry));
        }
    }
    let most = if limit == 0 { MOST_ENTRIES } else { limit.min(MOST_ENTRIES) };
    let left_out = names.len().saturating_sub(most) as u64;
    let names: Vec<(Vec<u8>, Option<Listed>)> = names.into_iter().take(most).collect();
    let mut looker = Looker { ground, view, is_past: when.is_some(), left: MOST_CERTAINTIES };
    let mut entries = looker.entries(then.map(|then| then.inode), now, names)?;
    entries.sort_by_cached_key(|entry| (entry.kind != PastKind::Directory, entry.name.clone()));
    Ok(PastListing {
        schema: SCHEMA_VERSION,
        workspace: String::new(),
        mount_point: PathBuf::new(),
        path: path.to_path_buf(),
        existed: then.is_some(),
        exists: now.is_some(),
        entries,
        left_out,
    })
}

/// Returns the beginning of what `path` (relative to the workspace) was as of `when`, now if `None`.
///
/// # Errors
/// `NotFound` if it was not there then.
pub(crate) fn read(
    ground: &Ground,
    path: &Path,
    when: Option<&RestoreWhen>,
    limit: usize,
) -> Result<PastPiece, RestoreError> {
    let moment = moment_of(ground, when)?;
    let _pin = ground.archive.pin(moment)?;
    let view = ground.view(moment)?;
    let named = view.resolve(path)?.ok_or_else(|| not_then(path))?;
    let (attributes, mut certainty) = view.attributes(&named.inode)?;
    let mut bytes = Vec::new();
    match named.file_type {
        libc::S_IFREG => {
            let most = if limit == 0 { MOST_BYTES } else { limit.min(MOST_BYTES) };
            let mut buffer = vec![0; most];
            let file = view.open(&named.inode)?;
            if when.is_some() {
                certainty = certainty_of(&view, &named.inode)?;
            }
            if matches!(certainty, Certainty::Exact | Certainty::Fuzzy) {
                match file.read(&ground.archive, 0, &mut buffer) {
                    Ok(read) => bytes = buffer.get(..read).unwrap_or_default().to_vec(),
                    Err(ArchiveError::Log(Errno::IO)) => {
                        return Ok(piece(
                            named.file_type,
                            &attributes,
                            VersionCertainty::Damaged,
                            Vec::new(),
                        ));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            // Asked after reading: until then somebody may have changed the file past the mount.
            if when.is_some() && view.is_changed_outside(&file)? {
                certainty = Certainty::ChangedOutside;
                bytes.clear();
            }
        }
        libc::S_IFLNK => bytes = view.read_link(&named.inode)?,
        _ => {}
    }
    Ok(piece(named.file_type, &attributes, shown(certainty), bytes))
}

fn piece(file_type: u32, attributes: &Attributes, certainty: VersionCertainty, bytes: Vec<u8>) -> PastPiece {
    PastPiece {
        schema: SCHEMA_VERSION,
        workspace: String::new(),
        kind: kind_of(file_type),
        size: attributes.size,
        modified: time(attributes.modified_ns),
        certainty,
        bytes: ExactBytes(bytes),
    }
}

fn moment_of(ground: &Ground, when: Option<&RestoreWhen>) -> Result<Sequence, RestoreError> {
    let Some(when) = when else { return Ok(Epoch::LAST.end()) };
    fixed_moment(ground, when)?.ok_or_else(|| {
        RestoreError::Invalid("say as of when: each thing in a directory was deleted at another time".into())
    })
}

/// What the entries of one directory are compared with.
struct Looker<'a> {
    ground: &'a Ground,
    view: View<'a>,
    is_past: bool,
    /// Files that may still be looked at closely.
    left: usize,
}

impl Looker<'_> {
    fn entries(
        &mut self,
        then: Option<FileHandle>,
        now: Option<FileHandle>,
        names: Vec<(Vec<u8>, Option<Listed>)>,
    ) -> Result<Vec<PastEntry>, RestoreError> {
        let listed: Vec<Listed> = names.iter().filter_map(|(_, listed)| listed.clone()).collect();
        let mut children = match then {
            Some(dir) => self.view.children(&dir, &listed)?.into_iter(),
            None => Vec::new().into_iter(),
        };
        let mut entries = Vec::with_capacity(names.len());
        for (name, listed) in names {
            let child = if listed.is_some() { children.next().flatten() } else { None };
            let live = match now {
                Some(dir) => self.ground.live_at(&dir, OsStr::from_bytes(&name))?,
                None => None,
            };
            let name = OsString::from_vec(name).into();
            match (child, live) {
                (Some(child), live) => entries.push(self.past(name, &child, live.as_ref())?),
                (None, Some(live)) => entries.push(new(name, &live.attributes)),
                // It came and went meanwhile.
                (None, None) => {}
            }
        }
        Ok(entries)
    }

    fn past(
        &mut self,
        name: ExactBytes,
        child: &PastChild,
        live: Option<&Live>,
    ) -> Result<PastEntry, RestoreError> {
        let is_file = child.named.file_type == libc::S_IFREG;
        let certainty = match (is_file, child.attributes) {
            (false, Some(_)) => None,
            (_, None) => Some(VersionCertainty::Damaged),
            (true, Some(_)) if !self.is_past => Some(VersionCertainty::Exact),
            (true, Some(_)) => self.certainty(&child.named.inode)?,
        };
        Ok(PastEntry {
            name,
            kind: kind_of(child.named.file_type),
            size: child.attributes.map(|attributes| attributes.size),
            modified: child.attributes.map(|attributes| time(attributes.modified_ns)),
            change: change(child, live),
            certainty,
        })
    }

    fn certainty(&mut self, inode: &FileHandle) -> Result<Option<VersionCertainty>, RestoreError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        if self.is_damaged(inode)? {
            return Ok(Some(VersionCertainty::Damaged));
        }
        match certainty_of(&self.view, inode) {
            Ok(certainty) => Ok(Some(shown(certainty))),
            // The attributes are known, the bytes are not.
            Err(RestoreError::Archive(ArchiveError::Log(Errno::STALE))) => {
                Ok(Some(VersionCertainty::Damaged))
            }
            Err(error) => Err(error),
        }
    }

    fn is_damaged(&self, inode: &FileHandle) -> Result<bool, RestoreError> {
        match self.view.open(inode).and_then(|file| file.rows(&self.ground.archive)) {
            Ok(rows) => Ok(rows.iter().any(|row| row.is_damaged)),
            Err(ArchiveError::Log(Errno::STALE)) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

fn certainty_of(view: &View<'_>, inode: &FileHandle) -> Result<Certainty, RestoreError> {
    Ok(view.certainty(&view.open(inode)?)?)
}

fn change(child: &PastChild, live: Option<&Live>) -> PastChange {
    let Some(live) = live else { return PastChange::Deleted };
    let Some(then) = child.attributes else { return PastChange::Changed };
    let now = &live.attributes;
    let has_other_content = child.named.inode != live.handle
        || then.modified_ns != now.modified_ns
        || (child.named.file_type == libc::S_IFREG && then.size != now.size);
    if has_other_content {
        PastChange::Changed
    } else if (then.mode, then.uid, then.gid) != (now.mode, now.uid, now.gid) {
        PastChange::Attributes
    } else {
        PastChange::Same
    }
}

fn new(name: ExactBytes, now: &Attributes) -> PastEntry {
    PastEntry {
        name,
        kind: kind_of(now.mode & libc::S_IFMT),
        size: Some(now.size),
        modified: Some(time(now.modified_ns)),
        change: PastChange::New,
        certainty: None,
    }
}

pub(super) fn kind_of(file_type: u32) -> PastKind {
    match file_type {
        libc::S_IFREG => PastKind::File,
        libc::S_IFDIR => PastKind::Directory,
        libc::S_IFLNK => PastKind::Symlink,
        _ => PastKind::Other,
    }
}

pub(super) fn shown(certainty: Certainty) -> VersionCertainty {
    match certainty {
        Certainty::Exact => VersionCertainty::Exact,
        Certainty::Fuzzy => VersionCertainty::Fuzzy,
        Certainty::ChangedOutside => VersionCertainty::ChangedOutside,
    }
}

fn time(ns: i64) -> String {
    Timestamp::from_nanosecond(ns.into()).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}
