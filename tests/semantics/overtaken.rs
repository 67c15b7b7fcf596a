//! What the worker reads while something changes it: nobody may be left with a mixture, or with what was there before.
//!
//! strace(1) holds a thread of the worker up in between, so that what else happens once in thousands of times happens
//! each time.

use std::{
    fs::{self, File, Metadata},
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use harness::{Backing, Daemon, GuardMount, Run, require, require_tool, wait_until};
use rustix::{
    fs::{CWD, FallocateFlags, Mode, RenameFlags, XattrFlags, fallocate, fchmod, renameat_with, setxattr},
    process::{Pid, Signal, kill_process},
};

use super::ground::Ground;

/// How long the worker's system call takes to return with what it found at once.
const DELAY: Duration = Duration::from_millis(300);

/// When the change begins, after the system call has.
const HEAD_START: Duration = Duration::from_millis(100);

/// After this long the watcher has reported every change that was made before.
const SETTLED: Duration = Duration::from_millis(500);

/// After this long the kernel looks a name up again if the tree is not watched.
const EXPIRED: Duration = Duration::from_millis(1_200);

/// A worker of which one kind of system call takes [`DELAY`].
struct SlowCall(Child);

impl SlowCall {
    fn begin(worker: u32, call: &str) -> Option<Self> {
        let strace = require_tool("strace")?;
        let child = Run::new(strace)
            .args(["-f", "-qq", "-o", "/dev/null"])
            .args(["-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:delay_exit={}", DELAY.as_micros())])
            .args(["-p", &worker.to_string()])
            .spawn(Stdio::null(), Stdio::null(), Stdio::null());
        let slow = Self(child);
        wait_until("strace to hold every thread", Duration::from_secs(10), || {
            fs::read_dir(format!("/proc/{worker}/task")).unwrap().all(|task| {
                let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
                status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
            })
        });
        Some(slow)
    }
}

impl Drop for SlowCall {
    fn drop(&mut self) {
        // It lets the worker go before it ends.
        kill_process(Pid::from_child(&self.0), Signal::TERM).ok();
        self.0.wait().ok();
    }
}

fn shown(path: &Path) -> String {
    let stat = fs::symlink_metadata(path).unwrap();
    let time =
        |at: fn(&Metadata) -> i64, nanos: fn(&Metadata) -> i64| format!("{}.{:09}", at(&stat), nanos(&stat));
    format!(
        "mode {:o}, {} links, size {}, mtime {}, ctime {}",
        stat.mode(),
        stat.nlink(),
        stat.size(),
        time(MetadataExt::mtime, MetadataExt::mtime_nsec),
        time(MetadataExt::ctime, MetadataExt::ctime_nsec),
    )
}

/// Lets `change` happen between the moment at which the worker reads the attributes of `observed` and the one at which
/// the kernel receives them.
fn overtake(ground: &Ground, observed: &str, change: impl FnOnce()) {
    let path = ground.mounted.join(observed);
    thread::sleep(SETTLED);
    for above in path.ancestors().take(3) {
        fs::metadata(above).unwrap();
    }
    // Reading makes the kernel ask for the attributes again, but not before the change: that goes by the mode, which
    // stays known.
    if path.is_dir() {
        fs::read_dir(&path).unwrap().for_each(|entry| drop(entry.unwrap()));
    } else {
        fs::read(&path).unwrap();
    }
    thread::scope(|scope| {
        let asking = scope.spawn(|| fs::symlink_metadata(&path).unwrap());
        thread::sleep(HEAD_START);
        change();
        asking.join().unwrap();
    });
    let (seen, real) = (shown(&path), shown(&ground.backing.join(observed)));
    assert_eq!(seen, real, "{observed}");
}

#[test]
fn attributes_from_before_a_change_are_not_kept_after_it() {
    require!(fuse);
    let ground = Ground::guarded(Backing::Directory);
    let dir = ground.mounted.join("dir");
    fs::create_dir(&dir).unwrap();
    for name in ["one", "file"] {
        fs::write(dir.join(name), "text").unwrap();
    }
    let file = File::options().write(true).open(dir.join("file")).unwrap();
    fs::metadata(dir.join("one")).unwrap();
    let Some(_slow) = SlowCall::begin(ground.mount().daemon().worker_pid(), "statx") else { return };

    overtake(&ground, "dir", || {
        renameat_with(CWD, dir.join("one"), CWD, dir.join("other"), RenameFlags::NOREPLACE).unwrap();
    });
    overtake(&ground, "dir/file", || fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap());
    overtake(&ground, "dir/file", || {
        setxattr(dir.join("file"), "user.name", b"value", XattrFlags::empty()).unwrap();
    });
}

#[test]
fn a_name_that_is_replaced_during_its_lookup_does_not_mix_up_the_two_files() {
    require!(fuse);
    // More directories than may be watched, so that names are looked up again after a second.
    let daemon = Daemon::builder().config("[watch]\nmax-directories = 1\n");
    let mount =
        GuardMount::builder().daemon(daemon).mount_prepared(|dir| fs::create_dir(dir.join("dir")).unwrap());
    let (mounted, plain) = (mount.path(), mount.backing_path());
    fs::write(mounted.join("name"), "old").unwrap();
    fs::hard_link(mounted.join("name"), mounted.join("old")).unwrap();
    let new = File::create(mounted.join("new")).unwrap();
    let Some(_slow) = SlowCall::begin(mount.daemon().worker_pid(), "name_to_handle_at") else { return };
    thread::sleep(EXPIRED);

    thread::scope(|scope| {
        let looking_up = scope.spawn(|| fs::metadata(mounted.join("name")).unwrap());
        thread::sleep(HEAD_START);
        fs::rename(plain.join("new"), plain.join("name")).unwrap();
        // The worker goes on with the attributes of the new file while it holds the handle of the old one.
        thread::sleep(DELAY);
        fchmod(&new, Mode::from_raw_mode(0o600)).unwrap();
        looking_up.join().unwrap();
    });
    assert_eq!(fs::metadata(plain.join("name")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(plain.join("old")).unwrap().mode() & 0o777, 0o644);
}
