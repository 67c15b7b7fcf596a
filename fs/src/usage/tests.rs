//! The index against the tree: whatever happens, it says what a fresh walk says.

mod unreadable;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use wsguard_api::{FileKind, IndexState, UsageReport};

use super::dirty::Dirty;
use super::filler::Filler;
use super::index::{Index, path_of};
use super::query::{Subject, UsageQuery, report};
use super::walker::Tree;
use super::*;
use crate::accounting::Accounting;

struct Ground {
    dir: tempfile::TempDir,
    index: Arc<Mutex<Index>>,
    tree: Tree,
    dirty: Dirty,
}

const START: i64 = 1_900_000_000;

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tree")).unwrap();
        let tree = tree(&dir.path().join("tree"));
        let index = Arc::new(Mutex::new(Index::open(&dir.path().join("index.sqlite"), tree.ino()).unwrap()));
        Self { dir, index, tree, dirty: Dirty::default() }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join("tree").join(relative)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("index.sqlite")
    }

    fn walk(&self, second: i64) {
        walk(&self.index, &self.tree, second);
    }

    fn write(&mut self, relative: &str, size: u64, mtime: i64) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(size).unwrap();
        drop(file);
        set_mtime(&path, mtime);
        let top = self.dir.path().join("tree");
        for name in path.ancestors().take_while(|above| *above != top) {
            self.note(name);
        }
    }

    /// Notes a name by its path; the directory must still be there.
    fn note(&mut self, path: &Path) {
        let parent = std::fs::metadata(path.parent().unwrap()).unwrap().ino();
        self.dirty.name(parent, path.file_name().unwrap().to_owned());
    }

    fn examine(&mut self, second: i64) {
        let dirty = std::mem::take(&mut self.dirty);
        let left = updater::examine(&mut self.index.lock(), &self.tree, dirty, second / 3600).unwrap();
        assert!(left.is_empty(), "{left:?} are out of place");
    }

    fn report(&self, relative: &str, now: i64) -> UsageReport {
        let subject = Subject {
            workspace: "w1".into(),
            name: "bert".into(),
            path: self.path(relative),
            relative: relative.into(),
            state: IndexState::Current,
            available_bytes: Some(1 << 30),
        };
        let query = UsageQuery { top: 5, days: 7, cold_days: 30 };
        report(&self.file(), subject, query, Timestamp::from_second(now).unwrap()).unwrap()
    }
}

fn tree(path: &Path) -> Tree {
    let root = OwnedFd::from(std::fs::File::open(path).unwrap());
    // Sizes, because blocks may still change while the filesystem writes back.
    Tree::new(root, Accounting::Logical).unwrap()
}

fn walk(index: &Arc<Mutex<Index>>, tree: &Tree, second: i64) {
    let mut filler = Filler::begin(Arc::clone(index), Arc::default()).unwrap();
    let walked = tree.walk(&AtomicBool::new(false), &mut filler).unwrap();
    assert!(walked.is_complete);
    filler.finish(Timestamp::from_second(second).unwrap(), walked.unreadable).unwrap();
}

fn set_mtime(path: &Path, second: i64) {
    let time = Timespec { tv_sec: second, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Everything that the index says, by path.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    directories: BTreeMap<PathBuf, (i64, i64, i64, i64, i64)>,
    files: BTreeMap<PathBuf, (i64, i64, i64, i64, i64, bool)>,
    kinds: BTreeMap<(PathBuf, i64), (i64, i64)>,
}

fn contents(index: &Mutex<Index>) -> Contents {
    let mut index = index.lock();
    let root = index.root();
    let connection = index.connection();
    let place = |ino: i64| path_of(connection, root, ino.cast_unsigned()).unwrap().unwrap();
    let mut directories = BTreeMap::new();
    let mut statement =
        connection.prepare("SELECT ino, bytes, inodes, newest, largest, marker FROM directory").unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let values = (
            row.get(1).unwrap(),
            row.get(2).unwrap(),
            row.get(3).unwrap(),
            row.get(4).unwrap(),
            row.get(5).unwrap(),
        );
        directories.insert(place(row.get(0).unwrap()), values);
    }
    let mut files = BTreeMap::new();
    let mut statement =
        connection.prepare("SELECT parent, name, ino, kind, size, charge, mtime, home FROM file").unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let name = std::ffi::OsString::from_vec(row.get(1).unwrap());
        let values = (
            row.get(2).unwrap(),
            row.get(3).unwrap(),
            row.get(4).unwrap(),
            row.get(5).unwrap(),
            row.get(6).unwrap(),
            row.get(7).unwrap(),
        );
        files.insert(place(row.get(0).unwrap()).join(name), values);
    }
    let mut kinds = BTreeMap::new();
    let mut statement = connection.prepare("SELECT directory, kind, bytes, inodes FROM kind_total").unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        kinds.insert(
            (place(row.get(0).unwrap()), row.get(1).unwrap()),
            (row.get(2).unwrap(), row.get(3).unwrap()),
        );
    }
    Contents { directories, files, kinds }
}

fn freshly_walked(ground: &Ground) -> Contents {
    let tree = tree(&ground.dir.path().join("tree"));
    let path = ground.dir.path().join("fresh.sqlite");
    let index = Arc::new(Mutex::new(Index::open(&path, tree.ino()).unwrap()));
    walk(&index, &tree, START);
    let found = contents(&index);
    drop(index);
    store::remove(&path).unwrap();
    found
}

/// What may happen to a tree. Numbers choose among what is there.
#[derive(Clone, Debug)]
enum Change {
    Write { directory: usize, name: usize, size: u64, mtime: i64 },
    MakeDirectory { directory: usize, name: usize },
    Symlink { directory: usize, name: usize },
    Link { file: usize, directory: usize, name: usize },
    Rename { entry: usize, directory: usize, name: usize },
    Exchange { one: usize, other: usize },
    Remove { entry: usize },
    RemoveAll { directory: usize },
    Examine,
    Walk,
}

const NAMES: [&str; 8] = ["a", "b", "c.pt", "d.log", "__pycache__", "e.tmp", "f.bin", "g"];

fn change() -> impl Strategy<Value = Change> {
    let (d, n) = (0..64_usize, 0..NAMES.len());
    prop_oneof![
        6 => (d.clone(), n.clone(), 0..200_000_u64, 1..1_000_i64)
            .prop_map(|(directory, name, size, mtime)| Change::Write { directory, name, size, mtime }),
        5 => (d.clone(), n.clone()).prop_map(|(directory, name)| Change::MakeDirectory { directory, name }),
        1 => (d.clone(), n.clone()).prop_map(|(directory, name)| Change::Symlink { directory, name }),
        2 => (d.clone(), d.clone(), n.clone())
            .prop_map(|(file, directory, name)| Change::Link { file, directory, name }),
        5 => (d.clone(), d.clone(), n)
            .prop_map(|(entry, directory, name)| Change::Rename { entry, directory, name }),
        2 => (d.clone(), d.clone()).prop_map(|(one, other)| Change::Exchange { one, other }),
        3 => d.clone().prop_map(|entry| Change::Remove { entry }),
        1 => d.prop_map(|directory| Change::RemoveAll { directory }),
        2 => Just(Change::Examine),
        1 => Just(Change::Walk),
    ]
}

fn listed(top: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut directories, mut entries) = (vec![top.to_path_buf()], Vec::new());
    let mut next = 0;
    while let Some(directory) = directories.get(next).cloned() {
        let mut inside: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()).collect();
        inside.sort_by_key(std::fs::DirEntry::file_name);
        for entry in inside {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            }
            entries.push(entry.path());
        }
        next += 1;
    }
    (directories, entries)
}

fn pick(of: &[PathBuf], number: usize) -> Option<PathBuf> {
    of.get(number.checked_rem(of.len())?).cloned()
}

/// Does it if it can be done, and notes it as the records of it would. What the kernel refuses does not happen.
fn make(ground: &mut Ground, change: &Change) -> Option<()> {
    let top = ground.dir.path().join("tree");
    let (directories, entries) = listed(&top);
    let at = |directory: usize, name: usize| Some(pick(&directories, directory)?.join(NAMES[name]));
    match change {
        Change::Write { directory, name, size, mtime } => {
            let path = at(*directory, *name)?;
            let is_new = std::fs::symlink_metadata(&path).is_err();
            let file =
                std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).ok()?;
            file.set_len(*size).unwrap();
            set_mtime(&path, *mtime);
            // A write is noted of the inode, whatever its names.
            if is_new {
                ground.note(&path);
            } else {
                ground.dirty.inode(file.metadata().unwrap().ino());
            }
            if std::fs::symlink_metadata(&path).unwrap().is_symlink() {
                set_mtime(&path, 5);
                ground.note(&path);
            }
        }
        Change::MakeDirectory { directory, name } => {
            let path = at(*directory, *name)?;
            std::fs::create_dir(&path).ok()?;
            ground.note(&path);
        }
        Change::Symlink { directory, name } => {
            let path = at(*directory, *name)?;
            std::os::unix::fs::symlink("/nonexistent/target", &path).ok()?;
            set_mtime(&path, 5);
            ground.note(&path);
        }
        Change::Link { file, directory, name } => {
            let (from, path) = (pick(&entries, *file)?, at(*directory, *name)?);
            std::fs::hard_link(from, &path).ok()?;
            ground.note(&path);
        }
        Change::Rename { entry, directory, name } => {
            let (from, to) = (pick(&entries, *entry)?, at(*directory, *name)?);
            rename(ground, &from, &to, rustix::fs::RenameFlags::empty())?;
        }
        Change::Exchange { one, other } => {
            let (from, to) = (pick(&entries, *one)?, pick(&entries, *other)?);
            rename(ground, &from, &to, rustix::fs::RenameFlags::EXCHANGE)?;
        }
        Change::Remove { entry } => {
            let path = pick(&entries, *entry)?;
            std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path)).ok()?;
            ground.note(&path);
        }
        Change::RemoveAll { directory } => {
            let path = pick(&directories, *directory).filter(|path| *path != top)?;
            for entry in listed(&path).1.iter().rev() {
                ground.note(entry);
                std::fs::remove_file(entry).or_else(|_| std::fs::remove_dir(entry)).unwrap();
            }
            ground.note(&path);
            std::fs::remove_dir(&path).unwrap();
        }
        Change::Examine => ground.examine(START),
        Change::Walk => {
            ground.walk(START);
        }
    }
    Some(())
}

fn rename(ground: &mut Ground, from: &Path, to: &Path, flags: rustix::fs::RenameFlags) -> Option<()> {
    let ino = |path: &Path| std::fs::metadata(path.parent().unwrap()).unwrap().ino();
    let (from_parent, to_parent) = (ino(from), ino(to));
    rustix::fs::renameat_with(CWD, from, CWD, to, flags).ok()?;
    ground.dirty.name(to_parent, to.file_name().unwrap().to_owned());
    ground.dirty.name(from_parent, from.file_name().unwrap().to_owned());
    Some(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("WSGUARD_SEQUENCES").ok().and_then(|text| text.parse().ok()).unwrap_or(48),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn index_follows_any_change_as_a_fresh_walk_would(changes in prop::collection::vec(change(), 1..120)) {
        let mut ground = Ground::new();
        ground.walk(START);
        for change in &changes {
            // What cannot be done is not done.
            let _done = make(&mut ground, change);
        }
        ground.examine(START);
        prop_assert_eq!(contents(&ground.index), freshly_walked(&ground));
    }
}

#[test]
fn directory_that_nobody_told_of_is_read_as_a_whole() {
    let mut ground = Ground::new();
    ground.walk(START);
    ground.write("new/deep/x.pt", 5000, 7);
    ground.dirty = Dirty::default();
    let top = ground.path("new");
    ground.note(&top);
    ground.examine(START);
    assert_eq!(contents(&ground.index), freshly_walked(&ground));
}

#[test]
fn change_below_a_directory_that_moved_waits_for_the_move() {
    let mut ground = Ground::new();
    ground.write("a/b/x", 5000, 7);
    ground.walk(START);
    ground.dirty = Dirty::default();
    let inside = std::fs::metadata(ground.path("a/b")).unwrap().ino();
    std::fs::write(ground.path("a/b/y"), b"y").unwrap();
    std::fs::rename(ground.path("a"), ground.path("c")).unwrap();
    ground.dirty.name(inside, "y".into());
    let (new, old) = (ground.path("c"), ground.path("a"));
    ground.note(&new);
    ground.note(&old);
    ground.examine(START);
    assert_eq!(contents(&ground.index), freshly_walked(&ground));
}

#[test]
fn damaged_index_is_noticed_and_counted_anew() {
    let mut ground = Ground::new();
    ground.write("a/x", 5000, 7);
    ground.walk(START);
    let file = ground.file();
    ground.index.lock().connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let length = std::fs::metadata(&file).unwrap().len();
    let garbage = vec![0x5a; usize::try_from(length).unwrap() - 4096];
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(&file).unwrap(),
        &garbage,
        4096,
    )
    .unwrap();
    let mut index = Index::open(&file, ground.tree.ino()).map(|_| ()).err();
    // Damage that the first look does not meet is met by the next walk.
    if index.is_none() {
        let mut filler = Filler::begin(Arc::clone(&ground.index), Arc::default()).unwrap();
        ground.tree.walk(&AtomicBool::new(false), &mut filler).unwrap();
        index = filler.finish(Timestamp::from_second(START).unwrap(), 0).err();
    }
    let error = index.unwrap();
    assert!(ground.index.lock().replace_if_damaged(&error).unwrap(), "{error:?}");
    ground.walk(START);
    assert_eq!(contents(&ground.index), freshly_walked(&ground));
}

#[test]
fn two_names_of_a_file_go_with_their_directory() {
    let mut ground = Ground::new();
    ground.write("a/x", 5000, 7);
    std::fs::hard_link(ground.path("a/x"), ground.path("a/y")).unwrap();
    ground.walk(START);
    std::fs::remove_dir_all(ground.path("a")).unwrap();
    ground.dirty = Dirty::default();
    let gone = ground.path("a");
    ground.note(&gone);
    ground.examine(START);
    assert_eq!(contents(&ground.index), freshly_walked(&ground));
}

#[test]
fn changes_during_a_walk_are_found_after_it() {
    let mut ground = Ground::new();
    ground.write("a/x", 5000, 7);
    let mut filler = Filler::begin(Arc::clone(&ground.index), Arc::default()).unwrap();
    ground.tree.walk(&AtomicBool::new(false), &mut filler).unwrap();
    ground.dirty = Dirty::default();
    std::fs::rename(ground.path("a"), ground.path("b")).unwrap();
    let (new, old) = (ground.path("b"), ground.path("a"));
    ground.note(&new);
    ground.note(&old);
    filler.finish(Timestamp::from_second(START).unwrap(), 0).unwrap();
    ground.examine(START);
    assert_eq!(contents(&ground.index), freshly_walked(&ground));
}

#[test]
fn index_of_another_directory_is_emptied() {
    let mut ground = Ground::new();
    ground.write("a/x", 5000, 7);
    ground.walk(START);
    let root = ground.tree.ino();
    let Ground { dir, index, .. } = ground;
    drop(index);
    let index = Mutex::new(Index::open(&dir.path().join("index.sqlite"), root + 1).unwrap());
    assert_eq!(contents(&index).directories.len(), 1);
    assert!(contents(&index).files.is_empty());
}

#[test]
fn report_names_what_is_large_cold_and_growing() {
    let mut ground = Ground::new();
    let now = START + 10 * 86_400;
    ground.write("models/run7/step-1.pt", 3 << 20, START - 90 * 86_400);
    ground.write("models/run8/step-1.pt", 2 << 20, now);
    ground.write("src/train.py", 9_000, now);
    ground.write(".cache/pip/http/x", 300_000, now);
    ground.write("src/__pycache__/train.pyc", 4_000, now);
    ground.write("src/lib/__pycache__/x.pyc", 8_000, now);
    ground.walk(START);
    ground.dirty = Dirty::default();
    ground.write("models/run8/step-2.pt", 8 << 20, now);
    ground.examine(now - 3600);
    let report = ground.report("", now);
    assert_eq!(report.entries[0].path, "models");
    assert_eq!(report.bytes, ground_bytes(&ground));
    assert_eq!(report.largest_files[0].path, "models/run8/step-2.pt");
    assert_eq!(report.largest_files[1].path, "models/run7/step-1.pt");
    assert_eq!(report.coldest[0].path, "models/run7");
    assert!(!report.coldest_is_partial);
    assert_eq!(report.kinds[0].kind, FileKind::Checkpoint);
    assert_eq!(report.kinds[0].files, 3);
    let growth: Vec<_> = report.growing.iter().map(|growth| (growth.path.as_str(), growth.bytes)).collect();
    assert_eq!(growth, [("models/run8", 8 << 20)]);
    assert_eq!(report.forecast.last_day_bytes, Some(8 << 20));
    assert_eq!(report.forecast.seconds_to_full, Some(128 * 86_400));
    // The two files of one run were written together; that of the other run is another checkpoint.
    assert_eq!(report.forecast.checkpoint_bytes, Some(10 << 20));
    assert_eq!(report.caches[0].rule, "pip-cache");
    assert_eq!((report.caches[1].rule.as_str(), report.caches[1].directories), ("python-bytecode", 2));
    assert_eq!(report.caches[1].largest, "src/lib/__pycache__");
    let below = ground.report("models/run8", now);
    assert_eq!(below.bytes, 10 << 20);
    assert_eq!(below.largest_files[0].path, "step-2.pt");
    assert_eq!(below.growing[0].path, "");
}

fn ground_bytes(ground: &Ground) -> u64 {
    let files = listed(&ground.path("")).1.into_iter().map(|path| std::fs::symlink_metadata(path).unwrap());
    files.filter(std::fs::Metadata::is_file).map(|file| file.len().next_multiple_of(4096)).sum()
}

#[test]
fn path_that_is_not_there_is_said_so_and_an_unwalked_workspace_too() {
    let ground = Ground::new();
    let subject = |relative: &str| Subject {
        workspace: "w1".into(),
        name: "bert".into(),
        path: "/x".into(),
        relative: relative.into(),
        state: IndexState::Current,
        available_bytes: None,
    };
    let query = UsageQuery { top: 5, days: 7, cold_days: 30 };
    let ask = |relative: &str| report(&ground.file(), subject(relative), query, Timestamp::now());
    assert!(matches!(ask(""), Err(UsageError::Missing)));
    ground.walk(START);
    ask("").unwrap();
    assert!(matches!(ask("nowhere"), Err(UsageError::NoDirectory { .. })));
}

#[test]
fn equal_checkpoints_are_probably_duplicates_and_different_ones_are_not() {
    let mut ground = Ground::new();
    let size = 2 << 20;
    for name in ["run/step-1.pt", "run/step-2.pt", "run/step-3.pt", "run/other.pt"] {
        ground.write(name, size, START);
    }
    std::fs::write(ground.path("run/step-3.pt"), vec![7; size as usize]).unwrap();
    ground.walk(START);
    assert_eq!(ground.report("", START).duplicates_unknown, 4);
    assert_eq!(fingerprint::take_some(&mut ground.index.lock(), &ground.tree).unwrap(), 4);
    let report = ground.report("", START);
    assert_eq!(report.duplicates_unknown, 0);
    let found: Vec<_> = report.duplicates.iter().map(|group| group.paths.clone()).collect();
    assert_eq!(found, [["run/step-1.pt", "run/step-2.pt"]]);
    assert_eq!(report.duplicates[0].reclaimable_bytes, size);
}

#[test]
fn samples_are_thinned_out_but_keep_the_first_of_a_day() {
    let ground = Ground::new();
    let mut index = ground.index.lock();
    let hour = 100 * 24;
    for sampled in [hour - 93 * 24, hour - 72, hour - 71, hour - 49, hour - 2, hour - 1] {
        index.connection().execute("INSERT INTO sample VALUES (7, ?1, 0, 0)", [sampled]).unwrap();
    }
    index.prune(hour).unwrap();
    let mut statement = index.connection().prepare("SELECT hour FROM sample ORDER BY hour").unwrap();
    let left: Vec<i64> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(left, [hour - 72, hour - 2, hour - 1]);
}

#[test]
fn plan_names_idle_caches_and_leftovers_and_spares_what_is_in_use() {
    let mut ground = Ground::new();
    let (old, now) = (START, START + 60 * 86_400);
    ground.write("src/__pycache__/x.pyc", 4_000, now);
    ground.write(".cache/pip/x.whl", 9_000, old);
    ground.write(".cache/torch/x.pt", 9_000, now);
    ground.write("run/model.pt.tmp", 70_000, old);
    ground.write("run/open.pt.tmp", 70_000, old);
    ground.write("run/fresh.tmp", 70_000, now);
    ground.write("run/train.log", 5_000, old);
    ground.write(".cache/pip/inside.tmp", 5_000, old);
    ground.walk(now);
    let open = std::fs::metadata(ground.path("run/open.pt.tmp")).unwrap().ino();
    let subject = |relative: &str| CleanSubject {
        workspace: "w1".into(),
        name: "bert".into(),
        root: ground.path(""),
        relative: relative.into(),
        state: IndexState::Current,
    };
    let at = Timestamp::from_second(now).unwrap();
    let found = plan(&ground.file(), subject(""), &|ino| ino == open, at).unwrap();
    let items: Vec<_> = found.items.iter().map(|item| (item.rule.as_str(), item.path.as_str())).collect();
    assert_eq!(
        items,
        [
            ("python-bytecode", "src/__pycache__"),
            ("pip-cache", ".cache/pip"),
            ("torn-leftovers", "run/model.pt.tmp"),
            ("old-logs", "run/train.log"),
        ]
    );
    assert_eq!((found.in_use, found.unnamable), (1, 0));
    assert_eq!(found.rules.len(), 4);
    let below = plan(&ground.file(), subject("run"), &|_| false, at).unwrap();
    let paths: Vec<_> = below.items.iter().map(|item| item.path.as_str()).collect();
    assert_eq!(paths, ["run/model.pt.tmp", "run/open.pt.tmp", "run/train.log"]);
}

#[test]
fn names_that_are_not_utf8_are_counted_but_not_listed() {
    let mut ground = Ground::new();
    let odd = std::ffi::OsStr::from_bytes(b"\xff.tmp");
    std::fs::write(ground.path("").join(odd), b"x").unwrap();
    set_mtime(&ground.path("").join(odd), 7);
    ground.write("plain.tmp", 4_000, 7);
    ground.walk(START);
    let subject = CleanSubject {
        workspace: "w1".into(),
        name: "bert".into(),
        root: ground.path(""),
        relative: "".into(),
        state: IndexState::Current,
    };
    let found = plan(&ground.file(), subject, &|_| false, Timestamp::from_second(START).unwrap()).unwrap();
    assert_eq!((found.items.len(), found.unnamable), (1, 1));
    assert_eq!(ground.report("", START).largest_files.len(), 2);
}

#[test]
fn service_counts_a_workspace_and_follows_it() {
    let mut ground = Ground::new();
    ground.write("a/x.pt", 50_000, 7);
    let service = UsageService::start(ground.dir.path()).unwrap();
    let root = OwnedFd::from(std::fs::File::open(ground.path("")).unwrap());
    let feed = service.attach("w1", "bert", root, Accounting::Logical).unwrap();
    let file = service.index_path("w1");
    let bytes = |expected: u64| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let subject = Subject {
                workspace: "w1".into(),
                name: "bert".into(),
                path: "/".into(),
                relative: PathBuf::new(),
                state: service.state("w1"),
                available_bytes: None,
            };
            let query = UsageQuery { top: 5, days: 7, cold_days: 30 };
            let found = report(&file, subject, query, Timestamp::now());
            if let Ok(found) = &found
                && found.bytes == expected
                && found.state == IndexState::Current
            {
                return;
            }
            assert!(Instant::now() < deadline, "{found:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    bytes(53_248);
    std::fs::write(ground.path("a/y.pt"), vec![1; 10_000]).unwrap();
    feed.name(std::fs::metadata(ground.path("a")).unwrap().ino(), "y.pt".into());
    bytes(53_248 + 12_288);
    std::fs::write(ground.path("z"), b"unseen").unwrap();
    std::fs::File::options().write(true).open(ground.path("a/y.pt")).unwrap().set_len(0).unwrap();
    // The root is number 1 through the mount.
    feed.name(1, "z".into());
    feed.inode(std::fs::metadata(ground.path("a/y.pt")).unwrap().ino());
    bytes(53_248 + 4_096);
    service.detach("w1");
    assert_eq!(service.state("w1"), IndexState::Unwatched);
}

fn visit(filler: &mut Filler, parent: u64, ino: u64, name: &str, stat: &rustix::fs::Stat, charge: u64) {
    use super::walker::Visitor;
    filler.visit(parent, ino, std::ffi::OsStr::new(name), stat, charge).unwrap();
}

/// `WSGUARD_LONG=1 cargo test --release -p wsguard-fs usage_of_300_000 -- --nocapture` prints the times.
#[test]
fn usage_of_300_000_files_is_answered_from_the_index() {
    let files = if std::env::var_os("WSGUARD_LONG").is_some() { 300_000 } else { 3_000 };
    let ground = Ground::new();
    let root = ground.tree.ino();
    let mut filler = Filler::begin(Arc::clone(&ground.index), Arc::default()).unwrap();
    let stat = |mode: u32, size: i64| {
        let mut stat = rustix::fs::fstat(std::fs::File::open(ground.path("")).unwrap()).unwrap();
        (stat.st_mode, stat.st_size, stat.st_mtime) = (mode, size, START);
        stat
    };
    let (directory, file) = (stat(0o040_755, 4096), stat(0o100_644, 4000));
    let mut ino = root + 1;
    for top in 0..files / 100 {
        // Ten files to a directory, a compiled one beside them, so that searches have many places to look at.
        let parent = ino;
        visit(&mut filler, root, parent, &format!("d{top}"), &directory, 0);
        for inside in 0..10 {
            ino += 1;
            let below = ino;
            let name = if inside == 0 { "__pycache__".to_owned() } else { format!("s{inside}") };
            visit(&mut filler, parent, below, &name, &directory, 0);
            for number in 0..9 {
                ino += 1;
                let name = if number == 0 { "x.pt".to_owned() } else { format!("f{number}.py") };
                visit(&mut filler, below, ino, &name, &file, 4096);
            }
        }
        ino += 1;
    }
    let filled = Instant::now();
    filler.finish(Timestamp::from_second(START).unwrap(), 0).unwrap();
    let filled = filled.elapsed();
    let mut times: Vec<Duration> = (0..11)
        .map(|_| {
            let started = Instant::now();
            let report = ground.report("", START);
            assert_eq!(report.inodes, 1 + files / 100 * 101);
            assert_eq!(report.largest_files.len(), 5);
            started.elapsed()
        })
        .collect();
    times.sort();
    println!("{files} inodes: put in place in {filled:.1?}, answered in {:.1?} (median)", times[5]);
}
