//! What survives a stop, a crash and a restart of the daemon.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use harness::{Daemon, GuardMount, Run, is_alive, kill, mounts_below, require, wait_until};
use rustix::process::Signal;
use wsguard_api::WorkspaceState;

const WRITERS: usize = 4;
const RECORD: usize = 64;

/// Threads that append numbered records with fsync until they get an error.
struct Writers {
    threads: Vec<JoinHandle<ErrorKind>>,
    /// How many records of each writer fsync has acknowledged; the truth outside the mount.
    acknowledged: Arc<Mutex<Vec<u64>>>,
    must_end: Arc<AtomicBool>,
}

impl Writers {
    fn start(dir: &Path) -> Self {
        let acknowledged = Arc::new(Mutex::new(vec![0; WRITERS]));
        let must_end = Arc::new(AtomicBool::new(false));
        let threads = (0..WRITERS)
            .map(|writer| {
                let (path, acknowledged) = (dir.join(format!("writer-{writer}")), Arc::clone(&acknowledged));
                let must_end = Arc::clone(&must_end);
                std::thread::spawn(move || write_until_error(&path, writer, &acknowledged, &must_end))
            })
            .collect();
        Self { threads, acknowledged, must_end }
    }

    fn wait_for_records(&self, count: u64) {
        wait_until("the writers to have written", Duration::from_secs(60), || {
            self.acknowledged.lock().unwrap().iter().all(|done| *done >= count)
        });
    }

    /// Ends them and returns what was acknowledged.
    fn end(self) -> Vec<u64> {
        self.must_end.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        Arc::try_unwrap(self.acknowledged).unwrap().into_inner().unwrap()
    }
}

fn write_until_error(
    path: &Path,
    writer: usize,
    acknowledged: &Mutex<Vec<u64>>,
    must_end: &AtomicBool,
) -> ErrorKind {
    let mut file = File::options().create(true).append(true).open(path).unwrap();
    for number in 0.. {
        if must_end.load(Ordering::Relaxed) {
            break;
        }
        let outcome = file.write_all(&record(writer, number)).and_then(|()| file.sync_data());
        if let Err(error) = outcome {
            return error.kind();
        }
        acknowledged.lock().unwrap()[writer] = number + 1;
    }
    ErrorKind::Interrupted
}

fn record(writer: usize, number: u64) -> Vec<u8> {
    let mut record = format!("writer {writer} record {number:010} ").into_bytes();
    record.resize(RECORD - 1, b'.');
    record.push(b'\n');
    record
}

/// Checks that every acknowledged record is in the plain files, whole and in its place.
fn assert_all_there(dir: &Path, acknowledged: &[u64]) {
    for (writer, count) in acknowledged.iter().enumerate() {
        let content = fs::read(dir.join(format!("writer-{writer}"))).unwrap();
        let whole = content.len() / RECORD;
        assert!(whole as u64 >= *count, "writer {writer}: {count} acknowledged, {whole} there");
        for (number, found) in content.chunks_exact(RECORD).enumerate().take(usize::try_from(*count).unwrap())
        {
            assert_eq!(found, record(writer, number as u64), "writer {writer}, record {number}");
        }
    }
}

#[test]
fn sigterm_under_load_ends_in_time_with_every_acknowledged_record_there() {
    require!(fuse);
    let mut mount = GuardMount::new();
    let writers = Writers::start(mount.path());
    writers.wait_for_records(20);
    let stopped = mount.daemon_mut().terminate();
    let acknowledged = writers.end();
    assert_eq!(stopped.code, 0, "{}", mount.daemon().log());
    assert!(stopped.elapsed < Duration::from_secs(10), "{stopped:?}");
    assert_eq!(mounts_below(mount.path()), []);
    assert_all_there(mount.path(), &acknowledged);
}

#[test]
fn a_kill_under_load_loses_no_acknowledged_record() {
    require!(fuse);
    let mut mount = GuardMount::new();
    for _ in 0..3 {
        let writers = Writers::start(mount.path());
        writers.wait_for_records(10);
        mount.daemon_mut().kill_all();
        let acknowledged = writers.end();
        assert_all_there(mount.backing_path(), &acknowledged);
        for writer in 0..WRITERS {
            fs::remove_file(mount.backing_path().join(format!("writer-{writer}"))).unwrap();
        }
        mount.daemon_mut().start_again();
    }
}

#[test]
fn sigterm_reports_who_still_uses_a_workspace() {
    require!(fuse);
    let mut mount = GuardMount::new();
    let mut user = Run::new("sleep").arg("60").current_dir(mount.path()).spawn(
        Stdio::null(),
        Stdio::null(),
        Stdio::null(),
    );
    let stopped = mount.daemon_mut().terminate();
    user.kill().unwrap();
    user.wait().unwrap();
    assert_eq!(stopped.code, 0);
    assert!(mount.daemon().log().contains(&user.id().to_string()), "{}", mount.daemon().log());
}

#[test]
fn a_stopped_daemon_leaves_no_mount_no_process_and_no_socket() {
    require!(fuse);
    let mut mount = GuardMount::new();
    let worker = mount.daemon().worker_pid();
    mount.daemon_mut().terminate();
    assert!(!is_alive(worker));
    assert_eq!(mounts_below(mount.path()), []);
    assert_eq!(mounts_below(&mount.daemon().runtime_dir()), []);
    assert!(!mount.daemon().socket().exists());
}

#[test]
fn a_start_remounts_every_registered_workspace() {
    require!(fuse);
    let mut daemon = Daemon::start();
    let first = daemon.mount_with(&daemon.make_dir("w/first"), &["--owner", "1000"]);
    let second = daemon.mount(&daemon.make_dir("w/second"));
    let third = daemon.mount(&daemon.make_dir("w/third"));
    daemon.command().arg("umount").arg(&third.dir).ok();
    daemon.terminate();
    daemon.start_again();
    for before in [&first, &second] {
        let after = daemon.workspace(&before.id);
        assert_eq!(after.state, WorkspaceState::Mounted);
        assert_eq!(
            (&after.dir, &after.source, after.owner_uid, after.ownership),
            (&before.dir, &before.source, before.owner_uid, before.ownership)
        );
        assert!(mounts_below(&after.dir).iter().any(|mount| mount.fs_type.starts_with("fuse")));
    }
    // Unmounted on request stays so.
    assert_eq!(daemon.workspace(&third.id).state, WorkspaceState::Unmounted);
    assert_eq!(mounts_below(&third.dir), []);
}

#[test]
fn a_dead_mount_stays_in_place_until_the_next_start_repairs_it() {
    require!(fuse);
    let mut mount = GuardMount::new();
    let file = mount.path().join("file");
    fs::write(&file, "before").unwrap();
    mount.daemon_mut().kill_all();

    assert_eq!(fs::read(&file).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(fs::write(mount.path().join("stray"), "x").unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(fs::read_dir(mount.path()).unwrap_err().kind(), ErrorKind::NotConnected);
    assert!(!mount.backing_path().join("stray").exists(), "a write fell through into the plain directory");

    mount.daemon_mut().start_again();
    assert_eq!(fs::read_to_string(&file).unwrap(), "before");
    assert!(mount.is_mounted());
    mount.umount();
    assert_eq!(mounts_below(mount.path()), [], "the dead mount is still below the new one");
    assert_eq!(fs::read_to_string(&file).unwrap(), "before");
}

#[test]
fn a_dead_mount_is_removed_by_umount_forget_of_the_next_daemon() {
    require!(fuse);
    let mut mount = GuardMount::new();
    fs::write(mount.path().join("file"), "before").unwrap();
    mount.daemon_mut().kill_all();
    mount.daemon_mut().start_again();
    mount.daemon().command().arg("umount").arg(mount.path()).arg("--forget").ok();
    assert_eq!(mounts_below(mount.path()), []);
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "before");
    mount.daemon_mut().terminate();
    mount.daemon_mut().start_again();
    assert_eq!(mount.daemon().list().items, []);
    assert_eq!(mounts_below(mount.path()), []);
}

#[test]
fn an_unmounted_workspace_can_be_forgotten() {
    require!(fuse);
    let mount = GuardMount::new();
    mount.umount();
    mount.daemon().command().arg("umount").arg(mount.path()).arg("--forget").ok();
    assert_eq!(mount.daemon().list().items, []);
}

#[test]
fn a_workspace_whose_directory_is_gone_does_not_keep_the_others_from_mounting() {
    require!(fuse);
    let mut daemon = Daemon::start();
    let gone = daemon.mount(&daemon.make_dir("w/gone"));
    let kept = daemon.mount(&daemon.make_dir("w/kept"));
    daemon.terminate();
    fs::remove_dir(&gone.dir).unwrap();
    daemon.start_again();
    assert_eq!(daemon.workspace(&kept.id).state, WorkspaceState::Mounted);
    let state = daemon.workspace(&gone.id).state;
    assert!(matches!(state, WorkspaceState::Failed { .. }), "{state:?}");
}

#[test]
fn the_death_of_the_keeper_alone_leaves_nothing_that_lies() {
    require!(fuse);
    let mut mount = GuardMount::new();
    fs::write(mount.path().join("file"), "before").unwrap();
    kill(mount.daemon().keeper_pid(), Signal::KILL);
    // Whether the worker goes on alone or ends as well, an access gives the truth or an error.
    match fs::read_to_string(mount.path().join("file")) {
        Ok(text) => assert_eq!(text, "before"),
        Err(error) => assert!(
            matches!(error.kind(), ErrorKind::NotConnected | ErrorKind::ConnectionAborted),
            "unexpected error: {error}"
        ),
    }
    mount.daemon_mut().kill_all();
    mount.daemon_mut().start_again();
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "before");
}

#[test]
fn callers_wait_for_a_stopped_worker_and_lose_nothing() {
    require!(fuse);
    let mount = GuardMount::new();
    let worker = mount.daemon().worker_pid();
    let writers = Writers::start(mount.path());
    writers.wait_for_records(5);
    kill(worker, Signal::STOP);
    std::thread::sleep(Duration::from_secs(2));
    let while_stopped = writers.acknowledged.lock().unwrap().clone();
    kill(worker, Signal::CONT);
    writers.wait_for_records(while_stopped.iter().max().unwrap() + 5);
    let acknowledged = writers.end();
    assert_all_there(mount.backing_path(), &acknowledged);
}

#[test]
fn twenty_mount_cycles_leave_nothing_behind() {
    require!(fuse);
    let mut mount = GuardMount::new();
    // Of this test alone: others mount and unmount at the same time.
    let count = |mount: &GuardMount| {
        mounts_below(mount.path()).len() + mounts_below(&mount.daemon().runtime_dir()).len()
    };
    let before = count(&mount);
    let worker = mount.daemon().worker_pid();
    let cycle = |mount: &mut GuardMount| {
        mount.umount();
        mount.mount_again();
    };
    // The catalog of the past is opened a while after the mount, or by whoever asks for it first.
    let settle =
        |mount: &GuardMount| mount.daemon().command().args(["snapshot", "ls"]).arg(mount.path()).ok();
    cycle(&mut mount);
    settle(&mount);
    // What looks after the past opens what it needs within seconds as well.
    let mut fds = 0;
    wait_until("the worker's file descriptors to stay the same", Duration::from_secs(20), || {
        let before = std::mem::replace(&mut fds, harness::open_fds(worker));
        std::thread::sleep(Duration::from_secs(1));
        before == fds
    });
    for _ in 0..20 {
        cycle(&mut mount);
    }
    settle(&mount);
    wait_until("the worker's file descriptors to be back", Duration::from_secs(20), || {
        harness::open_fds(worker) <= fds + 2
    });
    assert_eq!(count(&mount), before);
}
