//! A dead worker of which a thread hangs in the kernel, for an answer that nobody gives.

use std::{
    fs, io,
    path::Path,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use harness::{Daemon, GuardMount, StoppedThreads, is_alive, kill, require, threads, wait_until};
use rustix::{io::Errno, process::Signal};
use wsguard_api::Coherence;

use super::ground::alone;

const SOON: Duration = Duration::from_secs(10);

/// A stop takes as long at most, whatever hangs.
const STOPS_WITHIN: Duration = Duration::from_secs(13);

/// Lets a thread of the worker hang in the kernel: it waits for a directory's lock, whose owner waits for an answer
/// of the worker, and none of the threads that answer runs. Then kills the keeper, and the worker with it, or stops the
/// keeper and kills the worker. Returns what the owner of the lock gets in the end.
fn leave_a_hanging_thread(mount: &mut GuardMount, kill_keeper: bool) -> (u32, Receiver<io::Result<()>>) {
    let (dir, plain) = (mount.path().join("dir"), mount.backing_path().join("dir"));
    fs::create_dir(&dir).unwrap();
    let (keeper, worker) = (mount.daemon().keeper_pid(), mount.daemon().worker_pid());
    let id = &mount.workspace().id;
    wait_until("the directory to be watched", SOON, || {
        mount.daemon().workspace(id).coherence == Some(Coherence::Watched { directories: 2 })
    });
    // The path to it must not have to be asked for.
    fs::metadata(&dir).unwrap();
    let answering = threads(worker).into_iter().filter(|thread| thread.1.starts_with("fuse"));
    let stopped = StoppedThreads::stop(answering.map(|thread| thread.0).collect());
    let (tell, told) = channel();
    let made = dir.join("made");
    thread::spawn(move || tell.send(fs::create_dir(made)).ok());
    thread::sleep(Duration::from_millis(200));
    fs::write(plain.join("foreign"), "an edit that the kernel is told of").unwrap();
    let hangs = |pid: u32| threads(pid).iter().any(|thread| thread.2 == "D");
    // Threads wait for the disk for moments as well.
    let hangs_on = || {
        (0..4).all(|_| {
            thread::sleep(Duration::from_millis(50));
            hangs(worker)
        })
    };
    wait_until("a thread of the worker to hang", SOON, hangs_on);
    if kill_keeper {
        mount.daemon_mut().kill_keeper();
    } else {
        // It must not start another worker, which would answer.
        kill(keeper, Signal::STOP);
        kill(worker, Signal::KILL);
    }
    drop(stopped);
    wait_until("the worker to be dead", SOON, || !is_alive(worker));
    thread::sleep(Duration::from_millis(200));
    assert!(hangs(worker), "nothing hangs: {:?}", threads(worker));
    assert!(told.try_recv().is_err(), "nobody can have answered");
    (worker, told)
}

fn assert_freed(worker: u32, told: &Receiver<io::Result<()>>) {
    let error = told.recv_timeout(SOON).expect("the caller is freed").unwrap_err();
    let freed = [Errno::NOTCONN, Errno::CONNABORTED].map(Errno::raw_os_error);
    assert!(error.raw_os_error().is_some_and(|errno| freed.contains(&errno)), "{error}");
    wait_until("the last thread of the worker to end", SOON, || {
        !Path::new(&format!("/proc/{worker}")).exists()
    });
}

#[test]
fn keeper_that_stops_frees_a_thread_that_hangs_and_its_caller() {
    require!(fuse);
    let _alone = alone();
    let mut mount = GuardMount::builder().deadline(Duration::from_secs(90)).mount();
    let (worker, told) = leave_a_hanging_thread(&mut mount, false);
    let keeper = mount.daemon().keeper_pid();
    kill(keeper, Signal::TERM);
    let started = Instant::now();
    kill(keeper, Signal::CONT);
    mount.daemon_mut().terminate();
    assert!(started.elapsed() < STOPS_WITHIN, "{:?}", started.elapsed());
    assert_freed(worker, &told);
}

#[test]
fn next_keeper_frees_a_thread_that_hangs_and_guards_again() {
    require!(fuse);
    let _alone = alone();
    let mut mount = GuardMount::builder().deadline(Duration::from_secs(90)).mount();
    let (worker, told) = leave_a_hanging_thread(&mut mount, true);
    mount.daemon_mut().start_again();
    assert_freed(worker, &told);
    fs::create_dir(mount.path().join("dir/again")).unwrap();
    assert_eq!(fs::read_dir(mount.backing_path().join("dir")).unwrap().count(), 2);
}

#[test]
fn next_worker_frees_a_thread_that_hangs_with_its_answers() {
    require!(fuse);
    let _alone = alone();
    let daemon =
        Daemon::builder().config("[daemon]\nwatchdog-seconds = 0\n").deadline(Duration::from_secs(90));
    let mut mount = GuardMount::builder().daemon(daemon).mount();
    let (worker, told) = leave_a_hanging_thread(&mut mount, false);
    kill(mount.daemon().keeper_pid(), Signal::CONT);
    told.recv_timeout(SOON).expect("the caller is answered").unwrap();
    wait_until("the last thread of the worker to end", SOON, || {
        !Path::new(&format!("/proc/{worker}")).exists()
    });
    assert_eq!(mount.daemon().status().generation, 2);
    assert!(mount.path().join("dir/made").is_dir());
}
