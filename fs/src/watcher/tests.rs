//! The watcher against a real directory: what others change is reported, what we change is not.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::Condvar;
use rustix::fs::{Mode, OFlags};

use super::*;
use crate::sys::shared_memory::{PAGE_BYTES, SharedMemory};

/// The promise, on a machine that has a CPU to spare now and then.
const PROMISED: Duration = Duration::from_secs(1);

/// When a test gives up; other tests may keep all CPUs busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longer than a window and everything around it: what has not been reported by then never will be.
const SILENCE: Duration = Duration::from_millis(300);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Report {
    Entry(PathBuf, OsString),
    Inode(PathBuf),
    Everything,
}

#[derive(Default)]
struct Recorder {
    reports: Mutex<Vec<Report>>,
    reported: Condvar,
}

impl Recorder {
    fn push(&self, report: Report) {
        self.reports.lock().push(report);
        self.reported.notify_all();
    }
}

impl ChangeSink for Recorder {
    fn entry_changed(&self, dir: &Path, name: &OsStr) {
        self.push(Report::Entry(dir.to_owned(), name.to_owned()));
    }

    fn inode_changed(&self, path: &Path) {
        self.push(Report::Inode(path.to_owned()));
    }

    fn everything_changed(&self) {
        self.push(Report::Everything);
    }
}

struct Watched {
    tree: tempfile::TempDir,
    recorder: Arc<Recorder>,
    own: Arc<OwnMutations>,
    root: Arc<OwnedFd>,
    watcher: Watcher,
}

impl Watched {
    /// Watches a tree with these directories.
    fn new(directories: &[&str]) -> Self {
        let watched = Self::limited(directories, 1000);
        watched.wait_until(|state| matches!(state, Coherence::Watched { .. }));
        watched
    }

    fn limited(directories: &[&str], limit: usize) -> Self {
        Self::started_by(StartedBy::Mount, directories, limit)
    }

    fn started_by(started_by: StartedBy, directories: &[&str], limit: usize) -> Self {
        let tree = tempfile::tempdir().unwrap();
        for directory in directories {
            fs::create_dir_all(tree.path().join(directory)).unwrap();
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = Arc::new(rustix::fs::open(tree.path(), flags, Mode::empty()).unwrap());
        Self::of(tree, root, limit, started_by)
    }

    fn of(tree: tempfile::TempDir, root: Arc<OwnedFd>, limit: usize, started_by: StartedBy) -> Self {
        let (recorder, own) = (Arc::new(Recorder::default()), Arc::new(OwnMutations::new()));
        let watcher = Watcher::start(root.clone(), limit, started_by, own.clone(), recorder.clone());
        Self { tree, recorder, own, root, watcher }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.tree.path().join(relative)
    }

    fn key(&self, relative: &str) -> u64 {
        rustix::fs::stat(self.path(relative)).unwrap().st_ino
    }

    fn wait_until(&self, is_reached: impl Fn(&Coherence) -> bool) -> Coherence {
        let begun = Instant::now();
        loop {
            let state = self.watcher.state();
            if is_reached(&state) {
                return state;
            }
            assert!(begun.elapsed() < PATIENCE, "still {state:?} after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for all of these reports.
    fn sees(&self, expected: &[Report]) {
        let until = Instant::now() + PATIENCE;
        let mut reports = self.recorder.reports.lock();
        loop {
            let missing: Vec<_> = expected.iter().filter(|report| !reports.contains(report)).collect();
            if missing.is_empty() {
                return;
            }
            let timed_out = self.recorder.reported.wait_until(&mut reports, until).timed_out();
            let last = &reports[reports.len().saturating_sub(20)..];
            assert!(!timed_out, "no {missing:?} within {PATIENCE:?}; last reports {last:?}");
        }
    }

    /// Returns what has been reported once nothing more comes, and forgets it.
    fn settle(&self) -> HashSet<Report> {
        let mut reports = self.recorder.reports.lock();
        while !self.recorder.reported.wait_for(&mut reports, SILENCE).timed_out() {}
        reports.drain(..).collect()
    }
}

fn entry(dir: &str, name: &str) -> Report {
    Report::Entry(dir.into(), name.into())
}

fn inode(path: &str) -> Report {
    Report::Inode(path.into())
}

#[test]
fn foreign_changes_are_seen_in_root_and_below() {
    let watched = Watched::new(&["a/b"]);
    let places = [("", ""), ("a/b", "a/b/")];
    for (_, place) in places {
        for name in ["open", "mode", "old", "doomed"] {
            fs::write(watched.path(&format!("{place}{name}")), "x").unwrap();
        }
    }
    watched.settle();

    let mut expected = HashSet::new();
    for (dir, place) in places {
        let path = |name: &str| watched.path(&format!("{place}{name}"));
        fs::write(path("new"), "x").unwrap();
        fs::read(path("open")).unwrap();
        fs::set_permissions(path("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(path("old"), path("young")).unwrap();
        fs::remove_file(path("doomed")).unwrap();
        expected.extend(["new", "old", "young", "doomed"].map(|name| entry(dir, name)));
        expected.extend(["new", "mode"].map(|name| inode(&format!("{place}{name}"))));
    }
    watched.sees(&Vec::from_iter(expected.iter().cloned()));
    assert_eq!(watched.settle(), expected);
}

#[test]
fn foreign_change_is_seen_within_the_promised_time() {
    let watched = Watched::new(&["a"]);
    let mut took: Vec<_> = (0..5)
        .map(|round| {
            let name = round.to_string();
            let begun = Instant::now();
            fs::write(watched.path("a").join(&name), "x").unwrap();
            watched.sees(&[entry("a", &name)]);
            begun.elapsed()
        })
        .collect();
    took.sort();
    assert!(took[2] < PROMISED, "{took:?}");
}

/// The root that the daemon really uses has no path: a detached clone of the mount.
#[test]
fn tree_is_watched_through_a_detached_clone_of_its_mount() {
    use rustix::mount::{OpenTreeFlags, open_tree};
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir_all(tree.path().join("a/b")).unwrap();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let root = match open_tree(rustix::fs::CWD, tree.path(), flags) {
        Ok(root) => Arc::new(root),
        Err(errno) => {
            eprintln!("skipped: a mount can only be cloned with CAP_SYS_ADMIN ({errno})");
            return;
        }
    };
    let watched = Watched::of(tree, root, 1000, StartedBy::Mount);
    watched.wait_until(|state| *state == Coherence::Watched { directories: 3 });
    fs::write(watched.path("a/b/f"), "x").unwrap();
    watched.sees(&[entry("a/b", "f")]);
}

#[test]
fn attributes_of_the_root_itself_are_watched() {
    let watched = Watched::new(&[]);
    fs::set_permissions(watched.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    watched.sees(&[inode("")]);
}

#[test]
fn own_namespace_changes_are_not_reported() {
    let watched = Watched::new(&["d"]);
    let (root, dir) = (watched.key(""), watched.key("d"));
    let expect = |key, name: &str| watched.own.expect(key, OsStr::new(name));

    expect(root, "f");
    rustix::fs::mknodat(
        &*watched.root,
        "f",
        rustix::fs::FileType::RegularFile,
        Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    expect(root, "f");
    expect(dir, "g");
    fs::rename(watched.path("f"), watched.path("d/g")).unwrap();
    expect(root, "hard");
    fs::hard_link(watched.path("d/g"), watched.path("hard")).unwrap();
    expect(root, "soft");
    symlink("d", watched.path("soft")).unwrap();
    for name in ["hard", "soft"] {
        expect(root, name);
        fs::remove_file(watched.path(name)).unwrap();
    }
    for _ in 0..2 {
        expect(root, "sub");
        expect(dir, "g");
    }
    expect(root, "sub");
    fs::create_dir(watched.path("sub")).unwrap();
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(&*watched.root, "sub", &*watched.root, "d/g", exchange).unwrap();

    // A hard link changes the attributes of its target, a new directory is looked at again once its watch has
    // begun: attributes only, no name is dropped.
    let reports = watched.settle();
    assert!(reports.iter().all(|report| matches!(report, Report::Inode(_))), "{reports:?}");

    // Every expectation was consumed, so nothing hides what others do to the same names.
    fs::remove_dir(watched.path("d/g")).unwrap();
    fs::remove_file(watched.path("sub")).unwrap();
    watched.sees(&[entry("d", "g"), entry("", "sub")]);
}

#[test]
fn foreign_change_right_after_an_own_one_is_seen() {
    let watched = Watched::new(&[]);
    watched.own.expect(watched.key(""), OsStr::new("f"));
    fs::write(watched.path("f"), "own").unwrap();
    fs::remove_file(watched.path("f")).unwrap();
    watched.sees(&[entry("", "f")]);
}

#[test]
fn foreign_change_that_beat_a_failed_own_one_is_seen() {
    let watched = Watched::new(&[]);
    let root = watched.key("");
    watched.own.expect(root, OsStr::new("f"));
    fs::create_dir(watched.path("f")).unwrap();
    assert!(!watched.settle().contains(&entry("", "f")));
    watched.own.retract(root, OsStr::new("f"));
    watched.sees(&[entry("", "f")]);
}

#[test]
fn new_directories_are_watched_however_fast_they_are_filled() {
    let watched = Watched::new(&["a"]);
    fs::create_dir_all(watched.path("a/1/2/3/4/5/6/7/8/9")).unwrap();
    fs::write(watched.path("a/1/2/3/4/5/6/7/8/9/early"), "x").unwrap();
    watched.sees(&[entry("a", "1"), entry("a/1/2/3/4/5/6/7/8", "9"), entry("a/1/2/3/4/5/6/7/8/9", "early")]);
    watched.settle();
    fs::write(watched.path("a/1/2/3/4/5/6/7/8/9/late"), "x").unwrap();
    watched.sees(&[entry("a/1/2/3/4/5/6/7/8/9", "late")]);
    assert_eq!(watched.watcher.state(), Coherence::Watched { directories: 11 });
}

#[test]
fn directory_made_by_us_is_watched_too() {
    let watched = Watched::new(&[]);
    watched.own.expect(watched.key(""), OsStr::new("d"));
    fs::create_dir(watched.path("d")).unwrap();
    watched.own.expect(watched.key("d"), OsStr::new("mine"));
    fs::write(watched.path("d/mine"), "x").unwrap();
    fs::write(watched.path("d/theirs"), "x").unwrap();
    // What is in ours is reported whether the watch came before it was written or after: it may be theirs.
    watched.sees(&[entry("d", "theirs"), inode("d/mine")]);
    assert!(!watched.settle().contains(&entry("", "d")));
    fs::remove_file(watched.path("d/theirs")).unwrap();
    watched.sees(&[entry("d", "theirs")]);
}

#[test]
fn tree_moved_in_is_watched_and_moved_out_is_not() {
    let watched = Watched::new(&["a"]);
    let outside = tempfile::tempdir_in(watched.tree.path().parent().unwrap()).unwrap();
    fs::create_dir_all(outside.path().join("tree/x/y")).unwrap();

    fs::rename(outside.path().join("tree"), watched.path("a/in")).unwrap();
    watched.sees(&[entry("a", "in"), entry("a/in/x", "y")]);
    watched.settle();
    fs::write(watched.path("a/in/x/y/f"), "x").unwrap();
    watched.sees(&[entry("a/in/x/y", "f")]);
    watched.settle();

    fs::rename(watched.path("a/in"), outside.path().join("out")).unwrap();
    watched.sees(&[entry("a", "in")]);
    watched.wait_until(|state| *state == Coherence::Watched { directories: 2 });
    watched.settle();
    fs::write(outside.path().join("out/x/y/f"), "changed").unwrap();
    fs::remove_dir_all(outside.path().join("out")).unwrap();
    assert_eq!(watched.settle(), HashSet::new());
}

#[test]
fn renamed_directory_reports_its_new_path() {
    let watched = Watched::new(&["a/b/c", "d"]);
    fs::rename(watched.path("a/b"), watched.path("d/moved")).unwrap();
    fs::rename(watched.path("d"), watched.path("e")).unwrap();
    fs::write(watched.path("e/moved/c/f"), "x").unwrap();
    watched.sees(&[entry("a", "b"), entry("", "d"), entry("", "e"), entry("e/moved/c", "f")]);
    watched.settle();
    fs::create_dir(watched.path("e/moved/c/sub")).unwrap();
    fs::write(watched.path("e/moved/c/sub/f"), "x").unwrap();
    watched.sees(&[entry("e/moved/c/sub", "f")]);
}

#[test]
fn directory_made_below_one_that_is_renamed_at_once_is_watched() {
    let watched = Watched::new(&["a/b"]);
    for round in 0..50 {
        let (old, new) = (format!("a{round}"), format!("b{round}"));
        fs::rename(watched.path(if round == 0 { "a" } else { "moving" }), watched.path(&old)).unwrap();
        fs::create_dir(watched.path(&format!("{old}/b/{round}"))).unwrap();
        fs::rename(watched.path(&old), watched.path(&new)).unwrap();
        fs::rename(watched.path(&new), watched.path("moving")).unwrap();
    }
    watched.wait_until(|state| *state == Coherence::Watched { directories: 53 });
    watched.settle();
    for round in 0..50 {
        fs::write(watched.path(&format!("moving/b/{round}/f")), "x").unwrap();
    }
    let expected: Vec<_> = (0..50).map(|round| entry(&format!("moving/b/{round}"), "f")).collect();
    watched.sees(&expected);
}

#[test]
fn symbolic_links_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let watched = Watched::new(&["a"]);
    symlink(outside.path(), watched.path("a/link")).unwrap();
    watched.sees(&[entry("a", "link")]);
    for _ in 0..100 {
        fs::create_dir(watched.path("a/swap")).unwrap();
        fs::remove_dir(watched.path("a/swap")).unwrap();
        symlink(outside.path(), watched.path("a/swap")).unwrap();
        fs::remove_file(watched.path("a/swap")).unwrap();
    }
    symlink(outside.path(), watched.path("a/swap")).unwrap();
    watched.settle();
    fs::write(outside.path().join("f"), "x").unwrap();
    assert_eq!(watched.settle(), HashSet::new());
    assert_eq!(watched.watcher.state(), Coherence::Watched { directories: 2 });
}

#[test]
fn reused_inode_number_does_not_hide_a_new_directory() {
    let watched = Watched::new(&["a"]);
    for round in 0..200 {
        fs::remove_dir(watched.path("a")).unwrap();
        fs::create_dir(watched.path("a")).unwrap();
        assert!(watched.watcher.is_watched(), "round {round}");
    }
    watched.settle();
    fs::write(watched.path("a/f"), "x").unwrap();
    watched.sees(&[entry("a", "f")]);
    assert_eq!(watched.watcher.state(), Coherence::Watched { directories: 2 });
}

#[test]
fn removal_of_a_large_tree_does_not_delay_the_next_report() {
    const DIRECTORIES: usize = 3000;
    let directories: Vec<_> =
        (0..DIRECTORIES).map(|index| format!("doomed/{}/{index}", index % 50)).collect();
    let directories: Vec<_> = directories.iter().map(String::as_str).collect();
    let watched = Watched::limited(&directories, 2 * DIRECTORIES);
    watched.wait_until(|state| matches!(state, Coherence::Watched { .. }));
    fs::remove_dir_all(watched.path("doomed")).unwrap();
    let begun = Instant::now();
    fs::write(watched.path("after"), "x").unwrap();
    watched.sees(&[entry("", "after")]);
    assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
    watched.wait_until(|state| *state == Coherence::Watched { directories: 1 });
    assert!(!watched.recorder.reports.lock().contains(&Report::Everything));
}

#[test]
fn names_that_are_no_text_are_reported_as_they_are() {
    use std::os::unix::ffi::OsStrExt;
    let watched = Watched::new(&[]);
    let name = OsStr::from_bytes(b"\xff\xfe n\nl");
    fs::write(watched.tree.path().join(name), "x").unwrap();
    watched.sees(&[Report::Entry(PathBuf::new(), name.to_owned())]);
}

/// Nothing tells of the store itself; the file's last close does, and a mapping holds the file open.
#[test]
fn store_through_a_mapping_is_seen_when_the_mapping_ends() {
    let watched = Watched::new(&["a"]);
    fs::write(watched.path("a/f"), [0; PAGE_BYTES]).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(watched.path("a/f")).unwrap();
    let mapping = SharedMemory::map(file.as_fd(), PAGE_BYTES).unwrap();
    drop(file);
    watched.settle();
    mapping.line(0)[0].store(1, Ordering::Relaxed);
    drop(mapping);
    watched.sees(&[inode("a/f")]);
}

/// What changed in between may have been missed.
#[test]
fn takeover_drops_all_caches_before_the_tree_counts_as_watched() {
    let watched = Watched::started_by(StartedBy::Takeover, &["a"], 1000);
    watched.wait_until(|state| matches!(state, Coherence::Watched { .. }));
    assert_eq!(*watched.recorder.reports.lock(), [Report::Everything]);
    fs::write(watched.path("a/f"), "x").unwrap();
    watched.sees(&[entry("a", "f")]);

    let watched = Watched::new(&["a"]);
    assert!(watched.recorder.reports.lock().is_empty());
}

#[test]
fn takeover_drops_all_caches_also_if_there_can_be_no_watch() {
    let watched = Watched::started_by(StartedBy::Takeover, &["a", "b"], 1);
    watched.sees(&[Report::Everything]);
    assert!(matches!(watched.watcher.state(), Coherence::ShortTtl { .. }));
}

#[test]
fn more_directories_than_the_limit_are_not_watched() {
    let watched = Watched::limited(&["a", "b", "c"], 3);
    let state = watched.wait_until(|state| matches!(state, Coherence::ShortTtl { .. }));
    assert!(matches!(state, Coherence::ShortTtl { reason } if reason.starts_with("more than 3 directories")));
    assert!(!watched.watcher.is_watched());
    assert_eq!(watched.settle(), HashSet::new());
}

#[test]
fn tree_that_outgrows_the_limit_drops_the_caches_and_the_watch() {
    let watched = Watched::limited(&["a", "b"], 4);
    watched.wait_until(|state| *state == Coherence::Watched { directories: 3 });
    fs::create_dir_all(watched.path("c/d")).unwrap();
    watched.sees(&[Report::Everything]);
    assert!(matches!(watched.watcher.state(), Coherence::ShortTtl { .. }));
    assert!(!watched.own.take(watched.key(""), OsStr::new("x")));
}

#[test]
fn lost_events_drop_all_caches_and_the_watch_comes_back() {
    let watched = Watched::new(&["a"]);
    let everything =
        || watched.recorder.reports.lock().iter().filter(|it| **it == Report::Everything).count();
    let files = ["a/x", "a/y"].map(|name| fs::File::create(watched.path(name)).unwrap());
    {
        // The reader gets stuck at the first event, and the kernel's queue overflows behind it. (Equal events
        // are merged, so they alternate. A few are in the reader's buffer.)
        let _stalled = watched.own.stall();
        fs::write(watched.path("a/z"), "x").unwrap();
        let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let queue: usize = queue.trim().parse().unwrap();
        for index in 0..queue + 1000 {
            files[index % 2].set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    watched.sees(&[Report::Everything]);
    watched.wait_until(|state| everything() == 2 && matches!(state, Coherence::Watched { directories: 2 }));
    fs::write(watched.path("a/f"), "x").unwrap();
    watched.sees(&[entry("a", "f")]);
}

/// Set for the child, which has no inotify instance to be had.
const WITHOUT_INSTANCES: &str = "WSGUARD_TEST_WITHOUT_INOTIFY_INSTANCES";

#[test]
fn lack_of_inotify_instances_is_told_with_the_limit_to_raise() {
    if std::env::var_os(WITHOUT_INSTANCES).is_some() {
        let watched = Watched::limited(&[], 1000);
        let state = watched.wait_until(|state| *state != Coherence::Starting);
        let names_limit = |reason: &str| reason.contains("fs.inotify.max_user_instances");
        assert!(matches!(&state, Coherence::ShortTtl { reason } if names_limit(reason)), "{state:?}");
        assert!(!watched.watcher.is_watched());
        return;
    }
    // Limits of a user namespace are its own: the instances of all other tests are left alone.
    const SCRIPT: &str = r#"echo 0 > /proc/sys/user/max_inotify_instances && exec "$0" --exact "$1""#;
    const THIS: &str = "watcher::tests::lack_of_inotify_instances_is_told_with_the_limit_to_raise";
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", SCRIPT])
        .arg(std::env::current_exe().unwrap())
        .arg(THIS)
        .env(WITHOUT_INSTANCES, "1")
        .output();
    match output {
        Ok(output) if matches!(output.status.code(), Some(0 | 101)) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("1 passed"), "{text}");
        }
        other => eprintln!("skipped: a user namespace with limits of its own is needed ({other:?})"),
    }
}

#[test]
fn dropping_it_ends_all_threads() {
    let watched = Watched::new(&["a", "b"]);
    let (recorder, root, own) = (watched.recorder.clone(), watched.root.clone(), watched.own.clone());
    let tree = watched.tree;
    drop(watched.watcher);
    drop((watched.recorder, watched.root, watched.own));
    assert_eq!(Arc::strong_count(&recorder), 1);
    assert_eq!(Arc::strong_count(&root), 1);
    assert_eq!(Arc::strong_count(&own), 1);
    fs::write(tree.path().join("a/f"), "x").unwrap();
    std::thread::sleep(SILENCE);
    assert!(recorder.reports.lock().is_empty());
}

#[test]
fn dropping_it_while_it_starts_does_not_hang() {
    for _ in 0..20 {
        drop(Watched::limited(&["a/b/c/d", "e/f/g"], 1000));
    }
}
