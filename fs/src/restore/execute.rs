//! Carrying a plan out.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::io::Errno;
use wsguard_api::{RestoreConflict, RestoreCounts, RestoreNote};

use super::decide::Decision;
use super::ledger::{Deed, Ledger, Line, StoredPath};
use super::plan::{Item, Plan, Planner, Source, Where};
use super::walk::Walk;
use super::{Ground, RestoreError};
use crate::fs::{Caller, Telling};
use crate::snapshot::{Attributes, Certainty, Sequence, View};
use crate::sys::handle::FileHandle;

/// Failures and notes that are told.
const MOST_TOLD: usize = 100;
/// So many inodes of one directory are put back by two threads.
const LEAST_TOGETHER: usize = 32;
/// Between two looks at whether the restore was broken off.
const MOST_TOGETHER: usize = 512;
/// Names that are tried beside one that is taken.
const MOST_BESIDE: u32 = 100;

/// How far a restore is, for whoever asks while it runs.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) total: AtomicU64,
    pub(super) total_bytes: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) done_bytes: AtomicU64,
    pub(super) is_cancelled: AtomicBool,
    /// Only the record is still to be written.
    pub(super) has_ended: AtomicBool,
    pub(super) told: Mutex<Told>,
}

/// What was done, and what went wrong.
#[derive(Clone, Default)]
pub(super) struct Told {
    pub(super) counts: RestoreCounts,
    pub(super) failures: Vec<RestoreNote>,
    pub(super) notes: Vec<RestoreNote>,
}

impl Progress {
    pub(super) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// Counts what became of an item.
    pub(super) fn count(&self, item: &Item, done: &Done) {
        let mut told = self.told.lock();
        let counts = &mut told.counts;
        let is_dir = item.named.file_type == libc::S_IFDIR;
        match done.deed {
            Deed::PutBack | Deed::Copied | Deed::Linked | Deed::Made if !is_dir => {
                counts.files += 1;
                counts.bytes += item.attributes.size;
                counts.put_back += u64::from(done.deed == Deed::PutBack);
                counts.beside += u64::from(item.decision == Decision::Beside || done.path != item.to);
                counts.replaced += u64::from(item.decision == Decision::Replace);
                counts.fuzzy += u64::from(item.certainty == Certainty::Fuzzy);
            }
            Deed::PutBack | Deed::Copied | Deed::Linked | Deed::Made => counts.directories += 1,
            Deed::Attributes => counts.attributes += 1,
            Deed::Removed => counts.removed += 1,
            Deed::Unchanged => counts.unchanged += 1,
            Deed::Skipped => counts.skipped += 1,
            Deed::Failed => {}
        }
        drop(told);
        if done.deed == Deed::Failed || done.reason.is_some() {
            self.tell(done.deed, &done.path, done.reason.as_deref());
        }
        if !matches!(item.source, Source::Bytes) || done.deed != Deed::Copied {
            self.done_bytes.fetch_add(planned_bytes(item), Ordering::Relaxed);
        }
    }

    /// Notes what became of a path.
    pub(super) fn tell(&self, deed: Deed, path: &Path, reason: Option<&str>) {
        let mut told = self.told.lock();
        let note = RestoreNote {
            path: path.to_string_lossy().into_owned(),
            reason: reason.unwrap_or_default().to_owned(),
        };
        let list = if deed == Deed::Failed {
            told.counts.failed += 1;
            &mut told.failures
        } else {
            &mut told.notes
        };
        if list.len() < MOST_TOLD {
            list.push(note);
        }
    }
}

/// What became of an item.
pub(super) struct Done {
    pub(super) deed: Deed,
    pub(super) path: PathBuf,
    pub(super) reason: Option<String>,
}

/// Why an item is not restored.
pub(super) enum Obstacle {
    /// Something stands at the name.
    Taken,
    /// A system call failed.
    Errno(Errno),
    /// Anything else, as a sentence.
    Reason(String),
    /// Somebody broke the restore off.
    Cancelled,
}

impl From<Errno> for Obstacle {
    fn from(errno: Errno) -> Self {
        if errno == Errno::EXIST { Self::Taken } else { Self::Errno(errno) }
    }
}

impl From<RestoreError> for Obstacle {
    fn from(error: RestoreError) -> Self {
        Self::Reason(crate::error_chain::one_line(&error))
    }
}

impl From<crate::snapshot::ArchiveError> for Obstacle {
    fn from(error: crate::snapshot::ArchiveError) -> Self {
        match error {
            crate::snapshot::ArchiveError::Log(Errno::IO) => {
                Self::Reason("a part of it is missing from the store or cannot be read".to_owned())
            }
            error => Self::Reason(crate::error_chain::one_line(&error)),
        }
    }
}

impl Obstacle {
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Taken => "something else appeared at its name again and again".to_owned(),
            Self::Errno(Errno::DQUOT) => "it does not fit into the quota".to_owned(),
            Self::Errno(Errno::NOSPC) => "the filesystem is full".to_owned(),
            Self::Errno(Errno::NOENT) => "its directory is not there".to_owned(),
            Self::Errno(Errno::NOTDIR) => "what should be its directory is none".to_owned(),
            Self::Errno(Errno::STALE) => "it is not in the store any more".to_owned(),
            Self::Errno(errno) => errno.to_string(),
            Self::Reason(reason) => reason.clone(),
            Self::Cancelled => "broken off".to_owned(),
        }
    }
}

/// Names with their values.
type ExtendedAttributes = Vec<(Vec<u8>, Vec<u8>)>;

/// See the module.
pub(super) struct Executor<'a> {
    pub(super) ground: &'a Ground,
    pub(super) caller: Caller,
    pub(super) telling: Telling,
    pub(super) job: u64,
    pub(super) progress: &'a Progress,
    walk: Walk<'a>,
    pub(super) planner: Planner<'a>,
    view: Option<View<'a>>,
    /// Directories that get their attributes at the end, with the node that is held.
    pub(super) directories: Vec<(u64, Sequence, FileHandle, Attributes)>,
    /// Copies of inodes that had several names.
    pub(super) copies: FxHashMap<FileHandle, FileHandle>,
    /// Directories that got another name than was planned.
    renamed: Vec<(PathBuf, PathBuf)>,
    touched: FxHashSet<u64>,
    /// Extended attributes that directories get at the end.
    pub(super) known_xattrs: FxHashMap<FileHandle, ExtendedAttributes>,
}

impl<'a> Executor<'a> {
    pub(super) fn new(
        ground: &'a Ground,
        job: u64,
        progress: &'a Progress,
        conflict: RestoreConflict,
        telling: Telling,
        (place, never): (Where, &'a dyn Fn() -> bool),
    ) -> Self {
        let mut planner = Planner::new(ground, conflict, true, never);
        planner.lies(place);
        Self {
            ground,
            caller: Caller { uid: 0, gid: 0, pid: std::process::id() },
            telling,
            job,
            progress,
            walk: Walk::new(&ground.fs),
            planner,
            view: None,
            directories: Vec::new(),
            copies: FxHashMap::default(),
            renamed: Vec::new(),
            touched: FxHashSet::default(),
            known_xattrs: FxHashMap::default(),
        }
    }

    /// Carries it out, as far as nobody breaks it off. What cannot be restored is told and left out.
    ///
    /// # Errors
    /// The ledger cannot be kept; what was begun is complete all the same.
    pub(super) fn run(&mut self, plan: &Plan, ledger: &mut Ledger) -> Result<(), RestoreError> {
        let mut result = Ok(());
        for (path, reason) in &plan.failed {
            self.progress.tell(Deed::Failed, path, Some(reason));
        }
        self.note_xattrs(plan)?;
        let mut items = plan.items.as_slice();
        'all: while !items.is_empty() {
            let together = self.put_back_together(items);
            // Otherwise one by one.
            let together = if together.is_empty() { vec![false] } else { together };
            for (item, is_back) in items.iter().zip(together) {
                if self.progress.is_cancelled() && !is_back {
                    break 'all;
                }
                let done = if is_back {
                    Done { deed: Deed::PutBack, path: item.to.clone(), reason: None }
                } else {
                    self.restore(item)
                };
                self.progress.count(item, &done);
                let line = Line { path: StoredPath::new(&done.path), deed: done.deed, reason: done.reason };
                result = ledger.add(&line);
                if result.is_err() {
                    break 'all;
                }
                self.progress.done.fetch_add(1, Ordering::Relaxed);
                items = items.get(1..).unwrap_or_default();
            }
        }
        self.finish();
        result.and_then(|()| ledger.sync())
    }

    /// Notes the extended attributes that directories get at the end. Asked for then, each question would first have to
    /// wait until the catalog has what the restore itself did.
    fn note_xattrs(&mut self, plan: &Plan) -> Result<(), RestoreError> {
        let is_made = |item: &&Item| {
            item.source == Source::Directory
                && matches!(item.decision, Decision::Place | Decision::Merge { sets_attributes: true })
        };
        for item in plan.items.iter().filter(is_made) {
            // What cannot be found is asked for again when it is due, and told then.
            if let Ok(known) = self.view(item.moment)?.extended_attributes(&item.named.inode) {
                self.known_xattrs.insert(item.named.inode, known);
            }
        }
        Ok(())
    }

    /// Puts back what heads a list, as long as it is nothing but deleted inodes of one directory, by two threads: most of
    /// the time goes by in the kernel. Returns of each whether it is back; of none if they are few. What is not back has
    /// not been tried to its end.
    fn put_back_together(&mut self, items: &[Item]) -> Vec<bool> {
        let is_simple = |item: &Item| {
            item.decision == Decision::Place
                && matches!(item.source, Source::Object { is_as_it_was: true, .. })
        };
        let parent_of = |item: &Item| item.to.parent().map(Path::to_path_buf);
        let Some(first) = items.first().filter(|first| is_simple(first)) else { return Vec::new() };
        let Some(parent_path) = parent_of(first).filter(|_| self.renamed.is_empty()) else {
            return Vec::new();
        };
        let is_like = |item: &&Item| is_simple(item) && item.to.parent() == Some(&parent_path);
        let count = items.iter().take(MOST_TOGETHER).take_while(is_like).count();
        if count < LEAST_TOGETHER {
            return Vec::new();
        }
        let Ok(parent) = self.walk.enter(&parent_path) else { return Vec::new() };
        self.touched.insert(parent);
        let (ground, caller, telling) = (self.ground, self.caller, self.telling);
        let put_back = |items: &[Item]| -> Vec<bool> {
            items.iter().map(|item| put_back_untouched(ground, caller, telling, parent, item)).collect()
        };
        let run = items.get(..count).unwrap_or_default();
        let (here, there) = run.split_at(count / 2);
        std::thread::scope(|scope| {
            let other = std::thread::Builder::new().name("restore-2".to_owned());
            let other = other.spawn_scoped(scope, || put_back(there));
            let mut all = put_back(here);
            match other {
                // A panic there is one here.
                Ok(other) => {
                    all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
                }
                Err(_) => all.extend(put_back(there)),
            }
            all
        })
    }

    /// Returns the view at a moment.
    pub(super) fn view(&mut self, moment: Sequence) -> Result<&View<'a>, RestoreError> {
        if self.view.as_ref().is_none_or(|view| view.moment() != moment) {
            self.view = None;
        }
        match self.view.take() {
            Some(view) => Ok(self.view.insert(view)),
            None => {
                let ground = self.ground;
                Ok(self.view.insert(ground.view(moment)?))
            }
        }
    }

    fn restore(&mut self, item: &Item) -> Done {
        let mut path = self.actual(&item.to);
        match self.attempt(item, &mut path) {
            Ok((deed, reason)) => Done { deed, path, reason },
            Err(Obstacle::Cancelled) => {
                Done { deed: Deed::Skipped, path, reason: Some("broken off".to_owned()) }
            }
            Err(obstacle) => Done { deed: Deed::Failed, path, reason: Some(obstacle.reason()) },
        }
    }

    /// Returns where something is restored below a directory that got another name than was planned.
    fn actual(&self, path: &Path) -> PathBuf {
        for (planned, actual) in self.renamed.iter().rev() {
            if let Ok(rest) = path.strip_prefix(planned) {
                return if rest.as_os_str().is_empty() { actual.clone() } else { actual.join(rest) };
            }
        }
        path.to_path_buf()
    }

    /// Restores an item; `path` becomes where that was.
    fn attempt(&mut self, item: &Item, path: &mut PathBuf) -> Result<(Deed, Option<String>), Obstacle> {
        let Some(name) = path.file_name().map(std::ffi::OsStr::to_owned) else {
            return self.attempt_root(item);
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let parent = match self.walk.enter(&parent_path) {
            Ok(parent) => parent,
            // It may have been removed and made again.
            Err(_) => {
                self.walk.start_over();
                self.walk.enter(&parent_path)?
            }
        };
        self.touched.insert(parent);
        let mut decision = item.decision;
        for _ in 0..MOST_BESIDE {
            let result = match decision {
                Decision::Unchanged => {
                    if self.planner.copies_alone() && item.attributes.nlink > 1 {
                        self.remember_copy(item, (parent, &name));
                    }
                    return Ok((Deed::Unchanged, None));
                }
                Decision::Leave(reason) => return Ok((Deed::Skipped, Some(reason.to_owned()))),
                Decision::Refuse(reason) => return Err(Obstacle::Reason(reason.to_owned())),
                Decision::Merge { sets_attributes } => self.merge(item, (parent, &name), sets_attributes),
                Decision::Attributes => self.set_attributes(item, (parent, &name)),
                Decision::RemoveTree => self.remove_tree((parent, &name), item),
                Decision::RemoveOne => self.remove_one((parent, &name), item),
                Decision::Beside => return self.beside(item, parent, path),
                Decision::Place => self.put(item, (parent, &name), false),
                Decision::Replace => self.put(item, (parent, &name), true),
            };
            match result {
                // Somebody made it, or removed it, since the plan was made.
                Err(Obstacle::Taken) => {}
                result => return result,
            }
            decision = self.judge_again(item, path)?;
            if decision == Decision::Beside {
                let time = self.view(item.moment)?.time_ns();
                *path = super::plan::beside(path, time, 0);
                if item.named.file_type == libc::S_IFDIR {
                    self.renamed.push((item.to.clone(), path.clone()));
                }
            }
        }
        Err(Obstacle::Taken)
    }

    fn attempt_root(&mut self, item: &Item) -> Result<(Deed, Option<String>), Obstacle> {
        match item.decision {
            Decision::Merge { sets_attributes: true } => {
                let handle = self.ground.backing().root_handle();
                let entry = self.ground.fs.reach_inode(&handle)?;
                self.directories.push((entry.node, item.moment, item.named.inode, item.attributes));
                Ok((Deed::Attributes, None))
            }
            _ => Ok((Deed::Unchanged, None)),
        }
    }

    fn judge_again(&mut self, item: &Item, path: &Path) -> Result<Decision, Obstacle> {
        let live = self.ground.live(path)?;
        self.view(item.moment)?;
        let Some(view) = &self.view else { return Err(Obstacle::Taken) };
        let file =
            if item.named.file_type == libc::S_IFREG { Some(view.open(&item.named.inode)?) } else { None };
        Ok(self.planner.judge(view, &item.named, &item.attributes, file.as_ref(), live.as_ref())?)
    }

    /// Restores an item beside what stands at its name.
    fn beside(
        &mut self,
        item: &Item,
        parent: u64,
        path: &mut PathBuf,
    ) -> Result<(Deed, Option<String>), Obstacle> {
        let planned = path.clone();
        for number in 1..=MOST_BESIDE {
            let name =
                path.file_name().map(std::ffi::OsStr::to_owned).ok_or(Obstacle::Errno(Errno::INVAL))?;
            let result = self.put(item, (parent, &name), false);
            if !matches!(result, Err(Obstacle::Taken)) {
                if planned != *path && item.named.file_type == libc::S_IFDIR {
                    self.renamed.push((item.to.clone(), path.clone()));
                }
                return result;
            }
            // An earlier attempt may have put it there.
            match self.judge_again(item, path)? {
                Decision::Unchanged | Decision::Attributes => return Ok((Deed::Unchanged, None)),
                Decision::Merge { .. } => return self.merge(item, (parent, &name), true),
                _ => {}
            }
            let mut name = planned.file_name().unwrap_or_default().to_owned();
            name.push(format!("-{number}"));
            *path = planned.with_file_name(name);
        }
        Err(Obstacle::Taken)
    }

    /// Sets the attributes of directories, deepest first, and tells the kernel.
    fn finish(&mut self) {
        let directories = std::mem::take(&mut self.directories);
        for (node, moment, inode, attributes) in directories.into_iter().rev() {
            let dressed = self.dress(node, moment, &inode, &attributes);
            self.ground.fs.forget(node, 1);
            let reason = match dressed {
                Ok(None) => continue,
                Ok(Some(reason)) => (Deed::Made, reason),
                Err(Obstacle::Errno(Errno::STALE | Errno::NOENT)) => continue,
                Err(obstacle) => (Deed::Failed, obstacle.reason()),
            };
            let path = self.ground.path_of(&inode).ok().flatten().unwrap_or_default();
            self.progress.tell(reason.0, &path, Some(&reason.1));
        }
        self.walk.start_over();
        if self.telling == Telling::AtTheEnd {
            self.ground.fs.tell_of_all(std::mem::take(&mut self.touched));
        }
    }
}

/// Puts one inode back that is as it was; `false` if that takes more than a rename.
fn put_back_untouched(ground: &Ground, caller: Caller, telling: Telling, parent: u64, item: &Item) -> bool {
    let (Source::Object { object, hash, .. }, Some(name)) = (item.source, item.to.file_name()) else {
        return false;
    };
    if hash.is_some() && !super::place::is_untouched(ground, item).unwrap_or(false) {
        return false;
    }
    ground.fs.put_back(caller, object, item.named.inode, (parent, name), telling).is_ok()
}

/// Returns the bytes that an item counts for.
pub(super) fn planned_bytes(item: &Item) -> u64 {
    let is_restored = matches!(item.decision, Decision::Place | Decision::Beside | Decision::Replace);
    if is_restored && item.named.file_type == libc::S_IFREG { item.attributes.size } else { 0 }
}
