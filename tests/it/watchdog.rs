//! A worker that hangs is replaced, and one that is only slow is not.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use harness::{GuardMount, kill, require, wait_for, wait_until};
use rustix::process::Signal;
use wsguard_api::DaemonStatus;

/// Stops a worker. The signal reaches its threads one by one, and until then they answer.
fn stop(worker: u32) {
    kill(worker, Signal::STOP);
    wait_until("every thread of the worker to stop", Duration::from_secs(5), || {
        let tasks = fs::read_dir(format!("/proc/{worker}/task")).unwrap();
        tasks.flatten().all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    });
}

/// Asks for the status for as long as nobody answers.
fn status_of_generation(mount: &GuardMount, generation: u64) -> DaemonStatus {
    wait_for(&format!("worker {generation}"), Duration::from_secs(20), || {
        let output = mount.daemon().cli(["status", "--json"]);
        let status: DaemonStatus = serde_json::from_str(&output.stdout).ok()?;
        let is_told = status.events.last().is_none_or(|event| event.stall_ms.is_some());
        (status.generation >= generation && is_told).then_some(status)
    })
}

#[test]
fn worker_that_is_stopped_for_two_seconds_stays_and_callers_wait() {
    require!(fuse);
    let mount = GuardMount::new();
    let worker = mount.daemon().worker_pid();
    stop(worker);
    std::thread::scope(|scope| {
        let started = Instant::now();
        let writer = scope.spawn(|| fs::write(mount.path().join("file"), "waited"));
        std::thread::sleep(Duration::from_secs(2));
        kill(worker, Signal::CONT);
        writer.join().unwrap().unwrap();
        assert!(started.elapsed() >= Duration::from_secs(2));
    });
    // Longer than the limit: no sign of life may be missing afterwards either.
    std::thread::sleep(Duration::from_secs(6));
    let status = mount.daemon().status();
    assert_eq!((status.worker_pid, status.generation, status.restarts), (worker, 1, 0));
    assert!(status.events.is_empty(), "{:?}", status.events);
    assert_eq!(fs::read(mount.path().join("file")).unwrap(), b"waited");
}

#[test]
fn worker_that_stays_stopped_is_replaced_and_the_application_goes_on() {
    require!(fuse);
    let mount = GuardMount::new();
    let worker = mount.daemon().worker_pid();
    let mut log = File::options().create(true).append(true).open(mount.path().join("log")).unwrap();
    log.write_all(b"1").unwrap();
    stop(worker);
    let started = Instant::now();
    log.write_all(b"2").unwrap();
    let waited = started.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(8)).contains(&waited), "{waited:?}");
    log.write_all(b"3").unwrap();
    log.sync_all().unwrap();
    let mut content = [0; 8];
    let length = File::open(mount.path().join("log")).unwrap().read_at(&mut content, 0).unwrap();
    assert_eq!(&content[..length], b"123");

    let status = status_of_generation(&mount, 2);
    assert_ne!(status.worker_pid, worker);
    assert_eq!((status.generation, status.restarts), (2, 1));
    let [event] = &status.events[..] else { panic!("one worker died: {:?}", status.events) };
    assert_eq!(event.generation, 1);
    let silence =
        event.reason.strip_prefix("hung: no heartbeat for ").and_then(|rest| rest.strip_suffix(" s"));
    let silence: f64 = silence.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{event:?}"));
    assert!((5.0..6.5).contains(&silence), "{event:?}");
    assert!(event.stall_ms.is_some_and(|stall| stall < 2_000), "{event:?}");
    let text = mount.daemon().cli(["status"]).ok();
    assert!(text.contains("1 worker died") && text.contains(&event.reason), "{text}");
}

#[test]
fn limit_can_be_set_and_a_killed_worker_is_told_with_its_signal() {
    require!(fuse);
    let daemon = harness::Daemon::builder().config("[daemon]\nwatchdog-seconds = 2\n");
    let mount = GuardMount::builder().daemon(daemon).mount();
    kill(mount.daemon().worker_pid(), Signal::KILL);
    let status = status_of_generation(&mount, 2);
    let signalled = &status.events[0];
    assert!(signalled.reason.contains("SIGKILL") && signalled.stall_ms.is_some(), "{signalled:?}");
    let mounted = |line: &String| line.contains("workspace mounted") && line.contains(&mount.workspace().id);
    assert!(signalled.log.iter().any(mounted), "the last lines are missing: {signalled:?}");
    assert!(mount.daemon().log().contains(&signalled.log[0]), "{signalled:?} is not in the log");
    let text = mount.daemon().cli(["status"]).ok();
    assert!(text.contains("last lines of worker 1:") && text.contains("workspace mounted"), "{text}");
    stop(status.worker_pid);
    let started = Instant::now();
    fs::write(mount.path().join("file"), "waited").unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let status = status_of_generation(&mount, 3);
    assert!(status.events[1].reason.starts_with("hung: no heartbeat for 2."), "{:?}", status.events);
}

#[test]
fn daemon_that_was_stopped_as_a_whole_goes_on_with_its_worker() {
    require!(fuse);
    let mount = GuardMount::new();
    let (keeper, worker) = (mount.daemon().keeper_pid(), mount.daemon().worker_pid());
    kill(keeper, Signal::STOP);
    stop(worker);
    std::thread::sleep(Duration::from_secs(8));
    kill(keeper, Signal::CONT);
    // The keeper runs first, and finds eight silent seconds.
    std::thread::sleep(Duration::from_millis(500));
    kill(worker, Signal::CONT);
    fs::write(mount.path().join("file"), "waited").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let status = mount.daemon().status();
    assert_eq!((status.worker_pid, status.generation), (worker, 1));
}
