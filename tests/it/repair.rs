//! While a crashed daemon is replaced, nobody gets through to the plain directory.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use harness::{GuardMount, kill, require, wait_until};
use rustix::{io::Errno, process::Signal};
use wsguard_api::{DaemonStatus, WorkspaceState};

/// `FUSE_SUPER_MAGIC` of linux/magic.h.
const FUSE_MAGIC: i64 = 0x6573_5546;

const CRASHES: usize = 5;

/// Fewer than the keeper puts up with in a minute.
const WORKER_DEATHS: usize = 3;

const MARKER: &str = "marker";

/// How one access ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    /// Answered by the guard.
    Guarded,
    /// Refused, because nobody answers.
    Dead,
    /// Anything else: what was asked and what came.
    Wrong(String),
}

/// A thread that looks at a guarded path without a pause.
struct Observer {
    must_end: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<Seen, u64>>,
}

impl Observer {
    fn start(look: impl Fn() -> Seen + Send + 'static) -> Self {
        let must_end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&must_end);
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeMap::new();
            while !ended.load(Ordering::Relaxed) {
                *seen.entry(look()).or_default() += 1;
            }
            seen
        });
        Self { must_end, thread }
    }

    fn end(self) -> BTreeMap<Seen, u64> {
        self.must_end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn refusal(what: &str, error: &io::Error) -> Seen {
    match Errno::from_io_error(error) {
        Some(Errno::NOTCONN | Errno::CONNABORTED) => Seen::Dead,
        _ => Seen::Wrong(format!("{what}: {error}")),
    }
}

fn open_marker(dir: &Path, plain_device: u64) -> Seen {
    match File::open(dir.join(MARKER)).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.dev() == plain_device => Seen::Wrong("open: the plain file".into()),
        Ok(_) => Seen::Guarded,
        Err(error) => refusal("open", &error),
    }
}

fn stat_filesystem(dir: &Path) -> Seen {
    match rustix::fs::statfs(dir) {
        Ok(filesystem) if filesystem.f_type == FUSE_MAGIC => Seen::Guarded,
        Ok(filesystem) => Seen::Wrong(format!("statfs: type {:#x}", filesystem.f_type)),
        Err(errno) => refusal("statfs", &errno.into()),
    }
}

/// A write that falls through would be a file that the guard never saw.
fn create_file(dir: &Path, plain_device: u64) -> Seen {
    let path = dir.join("created");
    match File::create_new(&path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.dev() == plain_device => return Seen::Wrong("create: a plain file".into()),
        Ok(_) => {}
        // Its removal was cut short by a crash.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return refusal("create", &error),
    }
    match fs::remove_file(&path) {
        Ok(()) => Seen::Guarded,
        Err(error) => refusal("remove", &error),
    }
}

/// A guard with a marker file, and threads that look at it.
struct Watched {
    mount: GuardMount,
    observers: Vec<Observer>,
}

impl Watched {
    fn start() -> Self {
        let prepare = |dir: &Path| fs::write(dir.join(MARKER), "plain").unwrap();
        let mount = GuardMount::builder().mount_prepared(prepare);
        let plain_device = fs::metadata(mount.backing_path().join(MARKER)).unwrap().dev();
        assert_ne!(fs::metadata(mount.path().join(MARKER)).unwrap().dev(), plain_device);
        let path = || -> PathBuf { mount.path().to_path_buf() };
        let (opened, statted, created) = (path(), path(), path());
        let observers = vec![
            Observer::start(move || open_marker(&opened, plain_device)),
            Observer::start(move || stat_filesystem(&statted)),
            Observer::start(move || create_file(&created, plain_device)),
        ];
        Self { mount, observers }
    }

    /// Ends the threads, checks that none of them got through, and returns what they saw.
    fn end(self) -> Vec<BTreeMap<Seen, u64>> {
        let seen: Vec<_> = self.observers.into_iter().map(Observer::end).collect();
        println!("{seen:?}");
        for seen in &seen {
            let wrong: Vec<&Seen> = seen.keys().filter(|seen| matches!(seen, Seen::Wrong(_))).collect();
            assert!(wrong.is_empty(), "{wrong:?}");
            assert!(seen.contains_key(&Seen::Guarded), "{seen:?}");
        }
        assert!(self.mount.is_mounted());
        seen
    }
}

#[test]
fn no_window_onto_the_plain_directory_opens_while_a_crash_is_repaired() {
    require!(fuse);
    let mut watched = Watched::start();
    for _ in 0..CRASHES {
        watched.mount.daemon_mut().kill_all();
        watched.mount.daemon_mut().start_again();
    }
    for seen in watched.end() {
        assert!(seen.contains_key(&Seen::Dead), "the crashes were not noticed: {seen:?}");
    }
}

#[test]
fn no_window_onto_the_plain_directory_opens_while_a_worker_is_replaced() {
    require!(fuse);
    let watched = Watched::start();
    let daemon = watched.mount.daemon();
    let status = || -> Option<DaemonStatus> {
        let output = daemon.cli(["status", "--json"]);
        (output.code == 0).then(|| serde_json::from_str(&output.stdout).unwrap())
    };
    for _ in 0..WORKER_DEATHS {
        let before = daemon.status();
        kill(before.worker_pid, Signal::KILL);
        wait_until("the next worker to have mounted", Duration::from_secs(20), || {
            status().is_some_and(|now| {
                let is_back = now.workspaces.iter().all(|found| found.state == WorkspaceState::Mounted);
                now.generation > before.generation && is_back
            })
        });
    }
    watched.end();
}
