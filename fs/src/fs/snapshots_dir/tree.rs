//! Names, attributes and listings inside `.snapshots`.

use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::nodes::past_node;
use super::{LISTING_TTL, PAST_TTL};
use crate::backing::{Stat, is_private_xattr};
use crate::fs::{DirectoryEntry, Entry, GuardFs};
use crate::inode::Inode;
use crate::snapshot::{ArchiveError, Certainty, Named, PastChild, PastEntry, View};

/// The attribute with the label of the snapshot.
const SNAPSHOT_ATTRIBUTE: &str = "user.wsguard.snapshot";
/// The attribute that says how well something is known as it was.
const CERTAINTY_ATTRIBUTE: &str = "user.wsguard.certainty";

/// Names that are looked up between two looks at whether the snapshot is there still.
const BATCH: usize = 64;
/// Offsets 1 and 2 follow `.` and `..`.
const DOTS: u64 = 2;

/// Whether a listing asks for more than names and numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fs) enum Detail {
    Names,
    Attributes,
}

/// A name with what it stands for, before the kernel is told.
struct Found {
    name: OsString,
    inode: Option<Inode>,
    stat: Option<Stat>,
    kind: u8,
    next_offset: u64,
}

impl GuardFs {
    /// Finds `name` in a past node.
    ///
    /// # Errors
    /// `ENOENT`; else see [`Self::in_the_past`].
    pub(in crate::fs) fn past_lookup(&self, parent: u64, name: &OsStr) -> Result<Entry, Errno> {
        let parent = self.past_inode(parent)?;
        if !parent.is_dir() {
            return Err(Errno::NOTDIR);
        }
        if parent.past == 0 {
            return self.find_snapshot(&parent, name);
        }
        let found = self.in_the_past(&parent, |_, view| {
            let Some(child) = view.child(&parent.handle, name)? else { return Ok(None) };
            let attributes = child.attributes.ok_or(Errno::STALE)?;
            Ok(Some((child_of(&parent, &child.named), self.stat_of_past(&attributes))))
        })?;
        match found {
            Some((inode, stat)) => self.past_entry(inode, stat, PAST_TTL),
            None if self.is_snapshots_name(name) => self.snapshots_entry(parent.node),
            None => Err(Errno::NOENT),
        }
    }

    /// Returns the attributes of a past node and how long they may be trusted.
    pub(in crate::fs) fn past_attributes(&self, node: u64) -> Result<(Stat, Duration), Errno> {
        let inode = self.past_inode(node)?;
        if inode.past == 0 {
            return Ok((self.listing_attributes(&inode)?, LISTING_TTL));
        }
        Ok((self.past_stat(&inode)?, PAST_TTL))
    }

    pub(super) fn past_stat(&self, inode: &Inode) -> Result<Stat, Errno> {
        self.in_the_past(inode, |_, view| self.stat_in(view, inode))
    }

    fn stat_in(&self, view: &View<'_>, inode: &Inode) -> Result<Stat, ArchiveError> {
        let (attributes, _) = view.attributes(&inode.handle)?;
        Ok(self.stat_of_past(&attributes))
    }

    /// Returns the target of a symbolic link as it was.
    pub(in crate::fs) fn past_link(&self, node: u64) -> Result<OsString, Errno> {
        let inode = self.past_inode(node)?;
        if inode.file_type != libc::S_IFLNK {
            return Err(Errno::INVAL);
        }
        self.in_the_past(&inode, |_, view| view.read_link(&inode.handle)).map(OsString::from_vec)
    }

    /// Reads an extended attribute as it was, or one of ours that says what is shown, into `buffer`; with an empty buffer
    /// only returns its length.
    pub(in crate::fs) fn past_xattr(
        &self,
        node: u64,
        name: &OsStr,
        buffer: &mut [u8],
    ) -> Result<usize, Errno> {
        let inode = self.past_inode(node)?;
        let value = if inode.past == 0 {
            self.listing_acl(&inode, name)?
        } else if name == SNAPSHOT_ATTRIBUTE {
            self.label_of(&inode)?.into_bytes()
        } else if name == CERTAINTY_ATTRIBUTE {
            self.certainty_of(&inode)?.as_bytes().to_vec()
        } else {
            let found = self.in_the_past(&inode, |_, view| view.extended_attribute(&inode.handle, name))?;
            found.ok_or(Errno::NODATA)?
        };
        if !buffer.is_empty() {
            buffer.get_mut(..value.len()).ok_or(Errno::RANGE)?.copy_from_slice(&value);
        }
        Ok(value.len())
    }

    /// Returns the names of the extended attributes, each ended by a NUL, without ours.
    pub(in crate::fs) fn past_xattr_names(&self, node: u64) -> Result<Vec<u8>, Errno> {
        let inode = self.past_inode(node)?;
        if inode.past == 0 {
            return Ok(Vec::new());
        }
        let all = self.in_the_past(&inode, |_, view| view.extended_attributes(&inode.handle))?;
        let names = all.into_iter().map(|(name, _)| name);
        let shown = names.filter(|name| !is_private_xattr(OsStr::from_bytes(name)));
        Ok(shown.flat_map(|name| name.into_iter().chain([0])).collect())
    }

    fn certainty_of(&self, inode: &Inode) -> Result<&'static str, Errno> {
        if inode.file_type == libc::S_IFREG {
            return self.certainty_of_file(inode);
        }
        self.in_the_past(inode, |archive, view| {
            let (_, certainty) = view.attributes(&inode.handle)?;
            let outside = archive.read()?.outside_after(&inode.handle, view.moment())?;
            Ok(word_of(if outside.is_empty() { certainty } else { Certainty::ChangedOutside }))
        })
    }

    /// Gives the entries of a past directory from `offset` on to `visit`, until it breaks or they end. With
    /// [`Detail::Attributes`] each comes with a counted reference, which is taken back of the one at which it breaks.
    ///
    /// Offsets are places in the order of names, or of snapshots: the same for any worker.
    pub(in crate::fs) fn list_past(
        &self,
        node: u64,
        offset: u64,
        detail: Detail,
        mut visit: impl FnMut(DirectoryEntry<'_>, Option<&Entry>) -> ControlFlow<()>,
    ) -> Result<(), Errno> {
        let dir = self.past_inode(node)?;
        if !dir.is_dir() {
            return Err(Errno::NOTDIR);
        }
        for (name, next_offset) in [(".", 1), ("..", DOTS)] {
            let listed =
                DirectoryEntry { name: OsStr::new(name), ino: node, kind: libc::DT_DIR, next_offset };
            if next_offset > offset && visit(listed, None).is_break() {
                return Ok(());
            }
        }
        let mut offset = offset.max(DOTS);
        loop {
            let batch = match self.batch(&dir, offset, detail) {
                Ok(batch) => batch,
                // What was visited is in the reply and counted; the kernel asks for the rest again.
                Err(_) if offset > DOTS => return Ok(()),
                Err(errno) => return Err(errno),
            };
            let Some(last) = batch.last() else { return Ok(()) };
            let last = last.next_offset;
            for found in batch {
                if self.visit_found(found, &dir, &mut visit)?.is_break() {
                    return Ok(());
                }
            }
            offset = last;
        }
    }

    fn visit_found(
        &self,
        found: Found,
        dir: &Inode,
        visit: &mut impl FnMut(DirectoryEntry<'_>, Option<&Entry>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Errno> {
        let ttl = if dir.past == 0 { LISTING_TTL } else { PAST_TTL };
        let entry = match (found.inode, found.stat) {
            (Some(inode), Some(stat)) => Some(self.past_entry(inode, stat, ttl)?),
            _ => None,
        };
        // A name whose inode is lost has a number all the same, or readers of listings would take it for removed.
        let ino = entry.as_ref().map(|entry| entry.node).or(found.inode.map(|inode| inode.node));
        let listed = DirectoryEntry {
            name: &found.name,
            ino: ino.unwrap_or(dir.node),
            kind: found.kind,
            next_offset: found.next_offset,
        };
        let flow = visit(listed, entry.as_ref());
        if let (true, Some(entry)) = (flow.is_break(), &entry) {
            self.forget(entry.node, 1);
        }
        Ok(flow)
    }

    /// Returns some entries behind `offset`; none at the end.
    fn batch(&self, dir: &Inode, offset: u64, detail: Detail) -> Result<Vec<Found>, Errno> {
        if dir.past == 0 {
            let behind = self.listed_snapshots(dir)?.into_iter();
            let behind = behind.filter(|listed| u64::from(listed.number) + DOTS > offset).take(BATCH);
            return behind
                .map(|listed| {
                    let stat = match detail {
                        Detail::Names => None,
                        Detail::Attributes => Some(self.past_stat(&listed.inode)?),
                    };
                    let next_offset = u64::from(listed.number) + DOTS;
                    let (name, inode) = (listed.label.into(), Some(listed.inode));
                    Ok(Found { name, inode, stat, kind: libc::DT_DIR, next_offset })
                })
                .collect();
        }
        let names = self.past_names(dir)?;
        let start = usize::try_from(offset - DOTS).unwrap_or(usize::MAX);
        let Some(rest) = names.get(start..).filter(|rest| !rest.is_empty()) else {
            return Ok(Vec::new());
        };
        self.in_the_past(dir, |_, view| {
            let entries = &rest[..rest.len().min(BATCH)];
            let children = view.children(&dir.handle, entries)?;
            let found = entries.iter().zip(children).zip(offset + 1..);
            Ok(found.map(|((entry, child), next)| self.found(dir, entry, child, next, detail)).collect())
        })
    }

    fn found(
        &self,
        dir: &Inode,
        entry: &PastEntry,
        child: Option<PastChild>,
        next_offset: u64,
        detail: Detail,
    ) -> Found {
        let inode = child.map(|child| child_of(dir, &child.named));
        // Of what is lost the name is shown, and looking at it says so.
        let attributes = child.and_then(|child| child.attributes).filter(|_| detail == Detail::Attributes);
        let stat = attributes.map(|attributes| self.stat_of_past(&attributes));
        let file_type = inode.map_or(entry.file_type, |inode| inode.file_type);
        let name = OsStr::from_bytes(&entry.name).to_owned();
        Found { name, inode, stat, kind: (file_type >> 12) as u8, next_offset }
    }

    /// Returns the names of a past directory in order. They never change, so that any request of a listing may use them.
    fn past_names(&self, dir: &Inode) -> Result<Arc<Vec<PastEntry>>, Errno> {
        if let Some(known) = self.snapshots_dir.lists.lock().get(&dir.node) {
            return Ok(known.clone());
        }
        let mut names = self.in_the_past(dir, |_, view| view.list(&dir.handle))?;
        names.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let names = Arc::new(names);
        let evicted = self.snapshots_dir.lists.lock().push(dir.node, names.clone());
        drop(evicted);
        Ok(names)
    }
}

/// Returns the node of what a name in a past directory stood for.
fn child_of(parent: &Inode, named: &Named) -> Inode {
    past_node(parent.past, parent.generation, named.inode, named.file_type)
}

/// The word for how well something is known.
pub(super) fn word_of(certainty: Certainty) -> &'static str {
    match certainty {
        Certainty::Exact => "exact",
        Certainty::Fuzzy => "fuzzy",
        Certainty::ChangedOutside => "changed-outside",
    }
}
