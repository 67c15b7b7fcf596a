//! What a restore will do, found out without changing anything.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashSet;
use rustix::io::Errno;
use wsguard_api::{RestoreConflict, RestoreCounts, RestoreNote};

use super::decide::{Decision, Former, Sameness, Standing, decide};
use super::ground::Live;
use super::ledger::Root;
use super::moment::not_then;
use super::{Ground, RestoreError};
use crate::snapshot::{ArchiveError, Attributes, Certainty, Named, ObjectId, PastFile, Sequence, View};
use crate::sys::handle::FileHandle;

/// Notes that are kept.
const MOST_NOTES: usize = 100;
/// Compared at a time.
const CHUNK: usize = 256 << 10;

/// Where what is restored comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// It is a directory and is made.
    Directory,
    /// The inode lies in the store and comes back itself.
    Object {
        /// The object.
        object: ObjectId,
        /// BLAKE3 of it, if that is known.
        hash: Option<[u8; 32]>,
        /// Nothing of it needs to be set afterwards.
        is_as_it_was: bool,
    },
    /// The inode has another name, or will have: it gets one more.
    Inode,
    /// Its bytes are copied or cloned.
    Bytes,
    /// It is a symbolic link or a special file and is made anew.
    New,
}

/// One entry of a plan.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Where it is restored.
    pub(super) to: PathBuf,
    /// From when.
    pub(super) moment: Sequence,
    /// What it was.
    pub(super) named: Named,
    /// How it was.
    pub(super) attributes: Attributes,
    /// Where it comes from.
    pub(super) source: Source,
    /// What becomes of it.
    pub(super) decision: Decision,
    /// How well it is known.
    pub(super) certainty: Certainty,
}

/// See the module. Directories come before what lies in them.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) items: Vec<Item>,
    pub(super) counts: RestoreCounts,
    /// Bytes that it takes at most.
    pub(super) needed_bytes: u64,
    /// Inodes that it takes at most.
    pub(super) needed_inodes: u64,
    pub(super) notes: Vec<RestoreNote>,
    /// What cannot be restored at all, with the reason.
    pub(super) failed: Vec<(PathBuf, String)>,
    /// What is as it was is an item all the same: an earlier attempt may have made it so and not have noted it.
    keeps_unchanged: bool,
}

impl Plan {
    pub(super) fn note(&mut self, path: &Path, reason: impl Into<String>) {
        if self.notes.len() < MOST_NOTES {
            let path = path.to_string_lossy().into_owned();
            self.notes.push(RestoreNote { path, reason: reason.into() });
        }
    }

    pub(super) fn fail(&mut self, path: &Path, reason: impl Into<String>) {
        let reason = reason.into();
        self.counts.failed += 1;
        self.note(path, reason.clone());
        self.failed.push((path.to_path_buf(), reason));
    }

    /// Adds an item, and counts it.
    pub(super) fn push(&mut self, item: Item) {
        let counts = &mut self.counts;
        let is_dir = item.named.file_type == libc::S_IFDIR;
        match item.decision {
            Decision::Unchanged => {
                counts.unchanged += 1;
                if !self.keeps_unchanged {
                    return;
                }
            }
            Decision::Leave(reason) => {
                counts.skipped += 1;
                return self.note(&item.to, reason);
            }
            Decision::Refuse(reason) => return self.fail(&item.to, reason),
            Decision::Merge { sets_attributes } => {
                if sets_attributes {
                    counts.attributes += 1;
                } else {
                    counts.unchanged += 1;
                    return;
                }
            }
            Decision::Attributes => counts.attributes += 1,
            Decision::RemoveTree | Decision::RemoveOne => counts.removed += 1,
            Decision::Place | Decision::Beside | Decision::Replace => {
                counts.beside += u64::from(item.decision == Decision::Beside);
                counts.replaced += u64::from(item.decision == Decision::Replace);
                // What is replaced is there until its successor is complete.
                self.needed_inodes += u64::from(item.source != Source::Inode);
                if is_dir {
                    counts.directories += 1;
                    self.needed_bytes += 4096;
                } else {
                    counts.files += 1;
                    counts.bytes += item.attributes.size;
                    counts.put_back += u64::from(matches!(item.source, Source::Object { .. }));
                    counts.fuzzy += u64::from(item.certainty == Certainty::Fuzzy);
                    self.needed_bytes += match item.source {
                        Source::Object { .. } => item.attributes.blocks.saturating_mul(512),
                        // Holes stay holes; what the file takes now it may have taken then.
                        Source::Bytes => {
                            item.attributes.size.min(item.attributes.blocks.saturating_mul(512).max(4096))
                        }
                        Source::Directory | Source::Inode | Source::New => 0,
                    };
                }
                if item.certainty == Certainty::Fuzzy {
                    self.note(&item.to, "fuzzy: a mapping may have changed it unseen at about that time");
                }
            }
        }
        self.items.push(item);
    }
}

/// Makes a plan.
pub(super) struct Planner<'a> {
    pub(super) ground: &'a Ground,
    pub(super) conflict: RestoreConflict,
    /// What was changed past the mount is restored as it is.
    pub(super) accepts_changed: bool,
    /// Asked now and then; `true` breaks off.
    pub(super) is_cancelled: &'a dyn Fn() -> bool,
    pub(super) plan: Plan,
    /// When an earlier attempt began, nanoseconds since 1970.
    resumed_ns: Option<i64>,
    /// Inodes that are restored under a name already.
    placed: FxHashSet<FileHandle>,
    /// Directories that are made on the way.
    made: FxHashSet<PathBuf>,
    /// What is planned now is restored under another path than it had.
    is_moved: bool,
    /// Where what is planned lies.
    place: Where,
}

/// Where what is planned lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Where {
    /// In the workspace. Inodes may come out of the store, and get further names.
    Here,
    /// In the workspace, of copies alone.
    HereCopied,
    /// Elsewhere, where nothing stands, of copies alone.
    Elsewhere,
}

/// An entry that is still to be looked at.
struct Pending {
    named: Named,
    to: PathBuf,
    live: Option<Live>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        ground: &'a Ground,
        conflict: RestoreConflict,
        accepts_changed: bool,
        is_cancelled: &'a dyn Fn() -> bool,
    ) -> Self {
        let (placed, made) = (FxHashSet::default(), FxHashSet::default());
        let plan = Plan::default();
        let (resumed_ns, is_moved, place) = (None, false, Where::Here);
        Self {
            ground,
            conflict,
            accepts_changed,
            is_cancelled,
            plan,
            resumed_ns,
            placed,
            made,
            is_moved,
            place,
        }
    }

    /// Goes on with what was begun at a time, nanoseconds since 1970.
    pub(super) fn resume(&mut self, began_ns: i64) {
        self.resumed_ns = Some(began_ns);
        self.plan.keeps_unchanged = true;
    }

    /// Says where what is planned lies.
    pub(super) fn lies(&mut self, place: Where) {
        self.place = place;
    }

    /// Whether nothing but copies may be made.
    pub(super) fn copies_alone(&self) -> bool {
        self.place != Where::Here
    }

    /// When an earlier attempt began.
    pub(super) fn resumed_ns(&self) -> Option<i64> {
        self.resumed_ns
    }

    /// Plans one path with everything below it, unless it is a single one.
    pub(super) fn root(&mut self, root: &Root) -> Result<(), RestoreError> {
        let moment = Sequence::from_i64(root.moment).unwrap_or(Sequence::ZERO);
        let view = self.ground.view(moment)?;
        let (from, to) = (root.from.path(), root.to.path());
        let is_here = self.place != Where::Elsewhere;
        let live = if is_here { self.ground.live(&to)? } else { None };
        let Some(named) = view.resolve(&from)? else {
            return self.absent(&view, root, live);
        };
        if is_here {
            self.ancestors(&view, &from, &to)?;
        }
        self.is_moved = from != to;
        self.entries(&view, Pending { named, to, live }, root.is_single)
    }

    /// A path that did not exist then.
    fn absent(&mut self, view: &View<'_>, root: &Root, live: Option<Live>) -> Result<(), RestoreError> {
        let to = root.to.path();
        match live {
            Some(live) if self.conflict == RestoreConflict::Exact && !to.as_os_str().is_empty() => {
                let decision = if root.is_single { Decision::RemoveOne } else { Decision::RemoveTree };
                self.remove(view, live, to, decision);
                Ok(())
            }
            None if root.is_single => Ok(()),
            _ => Err(not_then(&root.from.path())),
        }
    }

    fn remove(&mut self, view: &View<'_>, live: Live, to: PathBuf, decision: Decision) {
        self.plan.push(Item {
            to,
            moment: view.moment(),
            named: Named { inode: live.handle, file_type: live.attributes.mode & libc::S_IFMT },
            attributes: live.attributes,
            source: Source::New,
            decision,
            certainty: Certainty::Exact,
        });
    }

    /// Plans the directories above a path that do not exist.
    fn ancestors(&mut self, view: &View<'_>, from: &Path, to: &Path) -> Result<(), RestoreError> {
        let mut missing: Vec<&Path> = Vec::new();
        for ancestor in to.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
            if self.made.contains(ancestor) || self.ground.live(ancestor)?.is_some_and(|live| live.is_dir()) {
                break;
            }
            missing.push(ancestor);
        }
        for path in missing.into_iter().rev() {
            let former = if from == to { view.resolve(path)? } else { None };
            let former = former.filter(|named| named.file_type == libc::S_IFDIR);
            let (named, attributes) = match former {
                Some(named) => (named, view.attributes(&named.inode)?.0),
                // A directory that never was: like the workspace itself.
                None => {
                    let root = self.ground.live(Path::new(""))?.ok_or(Errno::STALE)?;
                    let now = crate::snapshot::now_ns();
                    let attributes = Attributes {
                        modified_ns: now,
                        accessed_ns: now,
                        mode: libc::S_IFDIR | 0o755,
                        ..root.attributes
                    };
                    (Named { inode: root.handle, file_type: libc::S_IFDIR }, attributes)
                }
            };
            self.made.insert(path.to_path_buf());
            self.plan.push(Item {
                to: path.to_path_buf(),
                moment: view.moment(),
                named,
                attributes,
                source: Source::Directory,
                decision: Decision::Place,
                certainty: Certainty::Exact,
            });
        }
        Ok(())
    }

    fn entries(&mut self, view: &View<'_>, first: Pending, is_single: bool) -> Result<(), RestoreError> {
        let mut pending = vec![first];
        while let Some(entry) = pending.pop() {
            if (self.is_cancelled)() {
                return Ok(());
            }
            let Some((decision, to)) = self.entry(view, &entry)? else { continue };
            let goes_on = matches!(
                decision,
                Decision::Place | Decision::Beside | Decision::Replace | Decision::Merge { .. }
            );
            if is_single || entry.named.file_type != libc::S_IFDIR || !goes_on {
                continue;
            }
            let live = entry.live.filter(|_| matches!(decision, Decision::Merge { .. }));
            self.children(view, &entry.named.inode, &to, live, &mut pending)?;
        }
        Ok(())
    }

    fn children(
        &mut self,
        view: &View<'_>,
        dir: &FileHandle,
        to: &Path,
        live_dir: Option<Live>,
        pending: &mut Vec<Pending>,
    ) -> Result<(), RestoreError> {
        let mut listed = view.list(dir)?;
        listed.sort_unstable_by(|a, b| b.name.cmp(&a.name));
        let mut names: FxHashSet<OsString> = FxHashSet::default();
        for entry in listed {
            let name = OsString::from_vec(entry.name);
            let named = match entry.named {
                Some(named) => Some(named),
                None => view.lookup(dir, &name)?,
            };
            // Gone this moment, below the mount.
            let Some(named) = named else { continue };
            let live = match live_dir {
                Some(live_dir) => self.ground.live_at(&live_dir.handle, &name)?,
                None => None,
            };
            pending.push(Pending { named, to: to.join(&name), live });
            names.insert(name);
        }
        if let (Some(live_dir), RestoreConflict::Exact) = (live_dir, self.conflict) {
            for name in self.ground.live_names(&live_dir.handle)? {
                if names.contains(&name) {
                    continue;
                }
                if let Some(live) = self.ground.live_at(&live_dir.handle, &name)? {
                    self.remove(view, live, to.join(&name), Decision::RemoveTree);
                }
            }
        }
        Ok(())
    }

    /// Plans one entry, and returns what becomes of it and under which path; `None` if it cannot be restored.
    fn entry(
        &mut self,
        view: &View<'_>,
        entry: &Pending,
    ) -> Result<Option<(Decision, PathBuf)>, RestoreError> {
        let Named { inode, file_type } = entry.named;
        let (attributes, known) = match view.attributes(&inode) {
            Ok(found) => found,
            Err(ArchiveError::Log(Errno::STALE)) => {
                self.plan.fail(&entry.to, "it is not in the store any more");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let is_dir = file_type == libc::S_IFDIR;
        let file = if file_type == libc::S_IFREG { Some(view.open(&inode)?) } else { None };
        let decision = self.judge(view, &entry.named, &attributes, file.as_ref(), entry.live.as_ref())?;
        let is_restored = matches!(decision, Decision::Place | Decision::Beside | Decision::Replace);
        let mut certainty = if is_dir { Certainty::Exact } else { known };
        if let Some(file) = file.as_ref().filter(|_| is_restored) {
            certainty = match view.certainty(file) {
                Ok(certainty) => certainty.max(known),
                Err(ArchiveError::Log(Errno::STALE)) => {
                    self.plan.fail(&entry.to, "it is not in the store any more");
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            };
        }
        if is_restored && certainty == Certainty::ChangedOutside && !self.accepts_changed {
            self.plan.fail(
                &entry.to,
                "changed outside: it was changed past the mount since then, and what it was is not known",
            );
            return Ok(None);
        }
        let to = match decision {
            Decision::Beside => beside(&entry.to, view.time_ns(), 0),
            _ => entry.to.clone(),
        };
        let source =
            if is_restored { self.source(&entry.named, &attributes, file.as_ref())? } else { Source::New };
        let (moment, named) = (view.moment(), entry.named);
        self.plan.push(Item { to: to.clone(), moment, named, attributes, source, decision, certainty });
        Ok(Some((decision, to)))
    }

    /// Decides what becomes of an entry, by what stands there.
    pub(super) fn judge(
        &self,
        view: &View<'_>,
        named: &Named,
        attributes: &Attributes,
        file: Option<&PastFile>,
        live: Option<&Live>,
    ) -> Result<Decision, RestoreError> {
        let standing = match live {
            None => Standing::Nothing,
            Some(live) if live.is_dir() => Standing::Directory,
            Some(live) => {
                let sameness = self.sameness(view, named, attributes, file, live)?;
                Standing::File { sameness, modified_ns: live.attributes.modified_ns }
            }
        };
        let former = Former { is_dir: named.file_type == libc::S_IFDIR, modified_ns: attributes.modified_ns };
        let decision = decide(self.conflict, former, standing);
        // One that an earlier attempt made has not got its attributes yet.
        let is_of_earlier_attempt =
            live.is_some_and(|live| self.resumed_ns.is_some_and(|began| live.attributes.born_ns >= began));
        Ok(match decision {
            Decision::Merge { .. } if is_of_earlier_attempt => Decision::Merge { sets_attributes: true },
            decision => decision,
        })
    }

    /// Compares what was with what is.
    fn sameness(
        &self,
        view: &View<'_>,
        named: &Named,
        attributes: &Attributes,
        file: Option<&PastFile>,
        live: &Live,
    ) -> Result<Sameness, RestoreError> {
        if live.attributes.mode & libc::S_IFMT != named.file_type {
            return Ok(Sameness::Different);
        }
        let is_same_content = match file {
            Some(file) => self.is_same_bytes(file, &named.inode, live)?,
            None if live.handle == named.inode => true,
            None if named.file_type == libc::S_IFLNK => {
                view.read_link(&named.inode)? == view.read_link(&live.handle)?
            }
            None => attributes.device == live.attributes.device,
        };
        if !is_same_content {
            return Ok(Sameness::Different);
        }
        let is_alike = Ground::is_alike(attributes, &live.attributes)
            && view.extended_attributes(&named.inode)? == self.ground.live_xattrs(&live.handle)?;
        Ok(if is_alike { Sameness::Same } else { Sameness::SameContent })
    }

    fn is_same_bytes(&self, file: &PastFile, inode: &FileHandle, live: &Live) -> Result<bool, RestoreError> {
        if file.attributes().size != live.attributes.size {
            return Ok(false);
        }
        if live.handle == *inode && file.is_live(&self.ground.archive)? {
            return Ok(true);
        }
        let present = match self.ground.backing().open(
            &live.handle,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW,
        ) {
            Ok(present) => present,
            Err(Errno::STALE) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let (mut then, mut now) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut at = 0;
        while at < live.attributes.size {
            let read = match file.read(&self.ground.archive, at, &mut then) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                // It is found out when it is restored.
                Err(ArchiveError::Log(Errno::IO)) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let mut got = 0;
            while got < read {
                match rustix::io::pread(&present, &mut now[got..read], at + got as u64) {
                    Ok(0) => return Ok(false),
                    Ok(more) => got += more,
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            if then[..read] != now[..read] {
                return Ok(false);
            }
            at += read as u64;
        }
        Ok(true)
    }

    /// Finds out where an inode can be had from.
    pub(super) fn source(
        &mut self,
        named: &Named,
        attributes: &Attributes,
        file: Option<&PastFile>,
    ) -> Result<Source, RestoreError> {
        if named.file_type == libc::S_IFDIR {
            return Ok(Source::Directory);
        }
        if self.placed.contains(&named.inode) {
            return Ok(Source::Inode);
        }
        let archive = &self.ground.archive;
        let copies = self.copies_alone();
        let object = if copies { None } else { self.ground.object_of(&named.inode)? };
        if let Some(row) = object {
            let is_it = match file {
                None => true,
                Some(file) if file.attributes().size == 0 => row.size == Some(0),
                Some(file) => file.whole(archive)?.is_some_and(|whole| whole.object == row.object),
            };
            if is_it {
                self.placed.insert(named.inode);
                return Ok(Source::Object { object: row.object, hash: row.hash, is_as_it_was: false });
            }
        } else if attributes.nlink > 1
            // In another place it would be a name of a file that somebody works with.
            && !copies
            && !self.is_moved
            && let Some(live) = self.ground.live_inode(&named.inode)?
        {
            let is_unchanged = match file {
                None => true,
                Some(file) => live.attributes.size == attributes.size && file.is_live(archive)?,
            };
            if is_unchanged {
                return Ok(Source::Inode);
            }
        }
        if attributes.nlink > 1 {
            // Its other names become links of the copy.
            self.placed.insert(named.inode);
        }
        Ok(if file.is_some() { Source::Bytes } else { Source::New })
    }

    /// Notes that an inode is restored under a name.
    pub(super) fn note_placed(&mut self, inode: FileHandle) -> bool {
        self.placed.insert(inode)
    }
}

/// Returns the name beside one that is taken.
pub(super) fn beside(path: &Path, time_ns: Option<i64>, number: u32) -> PathBuf {
    let at = time_ns
        .and_then(|time| jiff::Timestamp::from_nanosecond(time.into()).ok())
        .unwrap_or_else(jiff::Timestamp::now)
        .to_zoned_datetime(jiff::tz::TimeZone::system());
    let mut suffix = format!(".restored-{}", at.strftime("%Y-%m-%dT%H-%M-%S"));
    if number > 0 {
        suffix += &format!("-{number}");
    }
    let name = path.file_name().unwrap_or(OsStr::new("workspace"));
    // 255 bytes is what a name may have.
    let kept = name.len().min(255 - suffix.len());
    let mut name = std::os::unix::ffi::OsStrExt::as_bytes(name)[..kept].to_vec();
    name.extend_from_slice(suffix.as_bytes());
    path.with_file_name(OsString::from_vec(name))
}
