//! Who changed what: every change through the mount is in the log, with its process and container, whatever happens
//! to the process, the file or the worker.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::Path,
    time::Duration,
};

use harness::{
    Backing, Docker, FsKind, GuardMount, Run, as_user, kill, require, run_as, wait_for, wait_until,
};
use wsguard_api::{EventKind, EventList, LogEntry, LogOperation, LogReport, TopReport};

const OWNER: u32 = 1000;

fn log_with(mount: &GuardMount, arguments: &[&OsStr]) -> LogReport {
    let text = mount.daemon().command().args(["log", "--json", "-n", "100000"]).args(arguments).output().ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("log --json: {error}\n{text}"))
}

fn log(mount: &GuardMount, path: &Path) -> Vec<LogEntry> {
    log_with(mount, &[path.as_os_str()]).entries
}

/// What the entries say, relative to the workspace: operation, path, new path.
fn told(mount: &GuardMount, entries: &[LogEntry]) -> Vec<(LogOperation, String, Option<String>)> {
    let relative = |path: &String| {
        let path = Path::new(path).strip_prefix(mount.path()).expect("paths are below the mount point");
        path.to_string_lossy().into_owned()
    };
    let told = |entry: &LogEntry| {
        let path = entry.path.as_ref().unwrap_or_else(|| panic!("no path: {entry:?}"));
        (entry.operation, relative(path), entry.to_path.as_ref().map(relative))
    };
    entries.iter().map(told).collect()
}

fn top(mount: &GuardMount) -> TopReport {
    serde_json::from_str(&mount.daemon().cli(["top", "--json"]).ok()).unwrap()
}

#[test]
fn every_change_of_a_name_is_in_the_log_in_order() {
    require!(fuse);
    let mount = GuardMount::new();
    let at = |name: &str| mount.path().join(name);
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/file"), "hello").unwrap();
    fs::hard_link(at("d/file"), at("hard")).unwrap();
    std::os::unix::fs::symlink("d", at("soft")).unwrap();
    fs::rename(at("d"), at("e")).unwrap();
    fs::write(at("e/other"), "x").unwrap();
    fs::rename(at("e/other"), at("e/file")).unwrap();
    fs::remove_file(at("hard")).unwrap();
    fs::remove_file(at("e/file")).unwrap();
    fs::remove_dir(at("e")).unwrap();
    let entries = log(&mount, mount.path());
    use LogOperation::{Create, Link, MakeDirectory, MakeSymlink, RemoveDirectory, Rename, Replace, Unlink};
    let expected = [
        (MakeDirectory, "d", None),
        (Create, "d/file", None),
        (Link, "hard", None),
        (MakeSymlink, "soft", None),
        (Rename, "d", Some("e")),
        (Create, "e/other", None),
        (Replace, "e/file", None),
        (Rename, "e/other", Some("e/file")),
        (Unlink, "hard", None),
        (Unlink, "e/file", None),
        (RemoveDirectory, "e", None),
    ];
    let expected: Vec<_> = expected
        .map(|(operation, path, to_path)| (operation, path.to_owned(), to_path.map(str::to_owned)))
        .into();
    assert_eq!(told(&mount, &entries), expected);
    assert_eq!((entries[1].bytes, entries[1].end), (5, 5), "what the creator wrote at once belongs to it");
    for entry in &entries {
        assert_eq!((entry.pid, entry.uid), (std::process::id(), 0), "{entry:?}");
        assert!(entry.command_line.contains("it-"), "{entry:?}");
        assert!(entry.inode > 1, "{entry:?}");
    }
    assert!(entries.windows(2).all(|pair| pair[0].at <= pair[1].at));
}

#[test]
fn deletion_of_a_tree_from_before_the_mount_names_every_file_and_what_it_freed() {
    require!(fuse, ext4, xfs, btrfs);
    for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs] {
        // Where history is kept, it tells of deletions: restore::deleted.
        let daemon = harness::Daemon::builder().config("[snapshots]\nenabled = false\n");
        let mount = GuardMount::builder().backing(Backing::on(kind)).daemon(daemon).mount_prepared(|dir| {
            for directory in ["a/b/c", "a/d"] {
                fs::create_dir_all(dir.join(directory)).unwrap();
                fs::write(dir.join(directory).join("file"), vec![1; 10_000]).unwrap();
            }
        });
        // What is not written yet is not charged yet.
        mount.daemon().command().arg("sync").arg(mount.path()).ok();
        Run::new("rm").args(["-rf", "a"]).current_dir(mount.path()).ok();
        let report = log_with(&mount, &[OsStr::new("--deleted"), mount.path().join("a").as_os_str()]);
        let mut paths: Vec<String> =
            told(&mount, &report.entries).into_iter().map(|(_, path, _)| path).collect();
        paths.sort();
        assert_eq!(paths, ["a", "a/b", "a/b/c", "a/b/c/file", "a/d", "a/d/file"]);
        for entry in &report.entries {
            assert_eq!(entry.command, "rm", "{entry:?}");
            assert!(entry.command_line.starts_with("rm -rf a"), "{entry:?}");
            let expected = if entry.operation == LogOperation::Unlink { -12_288 } else { 0 };
            assert_eq!(entry.delta_bytes, expected, "{entry:?}");
        }
    }
}

#[test]
fn writes_are_folded_and_no_byte_is_lost() {
    require!(fuse);
    let mount = GuardMount::new();
    fs::write(mount.backing_path().join("old"), vec![0; 4096]).unwrap();
    let file = OpenOptions::new().write(true).open(mount.path().join("old")).unwrap();
    for chunk in 0..1000_u64 {
        file.write_all_at(&[7; 100], 1000 + chunk * 200).unwrap();
    }
    drop(file);
    let mut appended = OpenOptions::new().append(true).open(mount.path().join("old")).unwrap();
    let size = appended.metadata().unwrap().len();
    appended.write_all(b"0123456789").unwrap();
    drop(appended);
    let entries = log(&mount, &mount.path().join("old"));
    let written: Vec<_> = entries.iter().filter(|entry| entry.operation == LogOperation::Write).collect();
    assert!(written.len() <= 4, "{written:?}");
    assert_eq!(written.iter().map(|entry| entry.bytes).sum::<u64>(), 100_010);
    assert_eq!(written.first().unwrap().start, 1000);
    assert_eq!(written.last().unwrap().end, size + 10);
    assert_eq!(size, 1000 + 999 * 200 + 100);
}

#[test]
fn sizes_attributes_and_copies_are_recorded() {
    require!(fuse);
    let mount = GuardMount::new();
    let path = mount.path().join("f");
    fs::write(&path, vec![1; 100_000]).unwrap();
    log(&mount, &path);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.set_len(5).unwrap();
    drop(file);
    rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    File::create(&path).unwrap();
    fs::copy(&path, mount.path().join("copy")).unwrap();
    let operations: Vec<_> = log(&mount, &path).iter().map(|entry| (entry.operation, entry.end)).collect();
    assert_eq!(
        operations,
        [
            (LogOperation::Create, 100_000),
            (LogOperation::Truncate, 5),
            (LogOperation::SetAttributes, 0),
            (LogOperation::Truncate, 0),
        ]
    );
}

#[test]
fn file_that_was_written_as_a_temporary_one_is_followed_back() {
    require!(fuse);
    let mount = GuardMount::new();
    fs::create_dir(mount.path().join("ckpt")).unwrap();
    fs::write(mount.path().join("step.tmp"), vec![1; 9000]).unwrap();
    fs::rename(mount.path().join("step.tmp"), mount.path().join("ckpt/latest.pt")).unwrap();
    let entries = log(&mount, &mount.path().join("ckpt/latest.pt"));
    assert_eq!(
        told(&mount, &entries),
        [
            (LogOperation::Create, "step.tmp".to_owned(), None),
            (LogOperation::Rename, "step.tmp".to_owned(), Some("ckpt/latest.pt".to_owned())),
        ]
    );
    assert_eq!(entries[0].bytes, 9000);
}

#[test]
fn short_lived_processes_are_named_and_found_by_pid_and_user() {
    require!(fuse);
    let mount = GuardMount::builder().owner(OWNER).mount();
    for i in 0..20 {
        Run::new("touch").arg(mount.path().join(format!("touched-{i}"))).ok();
    }
    let child = Run::new("sh")
        .args(["-c", "echo $$; cp /etc/passwd copied; rm copied"])
        .current_dir(mount.path())
        .output()
        .ok();
    let by_pid = log_with(&mount, &[OsStr::new("--by"), OsStr::new(child.trim())]);
    assert_eq!(by_pid.entries.len(), 0, "the shell itself changed nothing: {by_pid:?}");
    let touched: Vec<_> = log(&mount, mount.path())
        .into_iter()
        .filter(|entry| entry.path.as_ref().is_some_and(|path| path.contains("touched-")))
        .collect();
    assert!(touched.len() >= 20);
    assert!(touched.iter().all(|entry| entry.command == "touch"), "{touched:?}");
    let copied = log(&mount, &mount.path().join("copied"));
    let commands: Vec<_> = copied.iter().map(|entry| entry.command.as_str()).collect();
    assert_eq!((commands.first(), commands.last()), (Some(&"cp"), Some(&"rm")));
    let pid = copied[0].pid.to_string();
    let of_cp = log_with(&mount, &[OsStr::new("--by"), OsStr::new(&pid)]).entries;
    assert!(!of_cp.is_empty() && of_cp.iter().all(|entry| entry.command == "cp"), "{of_cp:?}");
    run_as(OWNER, OWNER, &[], "touch").arg(mount.path().join("mine")).ok();
    let by_user = log_with(&mount, &[OsStr::new("--by"), OsStr::new("user:1000")]).entries;
    assert!(!by_user.is_empty() && by_user.iter().all(|entry| entry.uid == OWNER), "{by_user:?}");
}

#[test]
fn container_that_wrote_is_named_after_it_is_gone() {
    require!(fuse, docker);
    let mount = GuardMount::builder().owner(OWNER).mount();
    let container = Docker::engine()
        .run()
        .volume(mount.path(), "/workspace")
        .user("1000:1000")
        .shell_in_background("sleep 600");
    container.shell("echo x >/workspace/made && mv /workspace/made /workspace/moved").ok();
    container
        .shell("dd if=/dev/zero of=/workspace/big bs=64k count=64 2>/dev/null && rm /workspace/big")
        .ok();
    drop(container);
    fs::write(mount.path().join("by-host"), "x").unwrap();
    let entries = log(&mount, mount.path());
    let id = entries
        .iter()
        .find_map(|entry| entry.container.clone())
        .unwrap_or_else(|| panic!("no container: {entries:#?}"));
    assert_eq!(id.len(), 64);
    for entry in &entries {
        let is_ours = entry.path.as_ref().unwrap().ends_with("by-host");
        assert_eq!(entry.container.is_none(), is_ours, "{entry:?}");
    }
    let of = |name: &str| {
        let named = |entry: &&LogEntry| entry.path.as_ref().unwrap().ends_with(name);
        entries.iter().filter(named).cloned().collect::<Vec<_>>()
    };
    assert_eq!(of("big").iter().map(|entry| entry.bytes).sum::<u64>(), 4 << 20);
    assert!(of("big").iter().any(|entry| entry.operation == LogOperation::Unlink && entry.command == "rm"));
    let by = format!("container:{}", &id[..12]);
    let by_container = log_with(&mount, &[OsStr::new("--by"), OsStr::new(&by)]).entries;
    assert_eq!(by_container.len(), entries.len() - of("by-host").len());
}

#[test]
fn top_shows_who_writes_now_and_what_is_open() {
    require!(fuse);
    let mount = GuardMount::new();
    fs::create_dir(mount.path().join("run")).unwrap();
    let script = "exec 3>run/step; while :; do head -c 1000000 /dev/zero >&3; sleep 0.05; done";
    let mut child = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(mount.path())
        .spawn()
        .expect("sh is there");
    let workspace = wait_for("a writer with a speed", Duration::from_secs(20), || {
        let report = top(&mount);
        let workspace = report.workspaces.first()?.clone();
        let writer = workspace.writers.iter().find(|writer| writer.pid == child.id())?;
        (writer.bytes_per_second > 100_000.0).then_some(workspace)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(workspace.id, mount.workspace().id);
    let file = workspace.open_files.iter().find(|file| file.pid == child.id()).unwrap();
    assert!(file.path.as_ref().unwrap().ends_with("/run/step"), "{file:?}");
    assert_eq!(file.command, "sh");
    assert!(file.bytes > 0);
    let text = mount.daemon().cli(["top", "--once"]).ok();
    assert!(text.starts_with(char::is_numeric), "{text}");
    wait_until("the writer to go", Duration::from_secs(30), || top(&mount).workspaces.is_empty());
}

#[test]
fn death_of_the_worker_keeps_the_history_and_tells_the_gap() {
    require!(fuse);
    let mount = GuardMount::new();
    fs::write(mount.path().join("before"), "x").unwrap();
    // Stored from here on.
    assert_eq!(log(&mount, mount.path()).len(), 1);
    let open = File::create(mount.path().join("open")).unwrap();
    open.write_all_at(b"first", 0).unwrap();
    let worker = mount.daemon().status().worker_pid;
    kill(worker, rustix::process::Signal::KILL);
    open.write_all_at(b"second", 5).unwrap();
    drop(open);
    fs::write(mount.path().join("after"), "x").unwrap();
    let answers = || mount.daemon().cli(["status"]).code == 0;
    wait_until("the next worker's socket", Duration::from_secs(20), answers);
    let report = log_with(&mount, &[mount.path().as_os_str()]);
    let told = told(&mount, &report.entries);
    for name in ["before", "after"] {
        assert!(told.contains(&(LogOperation::Create, name.to_owned(), None)), "{told:?}");
    }
    let second: Vec<_> = report
        .entries
        .iter()
        .filter(|entry| {
            entry.operation == LogOperation::Write && entry.path.as_ref().unwrap().ends_with("open")
        })
        .collect();
    assert!(second.iter().any(|entry| entry.bytes == 6 && entry.end == 11), "{:?}", report.entries);
    assert!(report.gaps.iter().any(|gap| gap.reason.contains("worker died")), "{:?}", report.gaps);
    let events: EventList = serde_json::from_str(&mount.daemon().cli(["events", "--json"]).ok()).unwrap();
    let kinds: Vec<_> = events.events.iter().map(|event| event.kind).collect();
    assert!(kinds.starts_with(&[EventKind::DaemonStarted, EventKind::Mounted]), "{events:?}");
    assert!(
        kinds.contains(&EventKind::WorkerDied) && kinds.contains(&EventKind::WorkerTookOver),
        "{events:?}"
    );
}

#[test]
fn restart_goes_on_with_the_same_history_and_no_gap() {
    require!(fuse);
    let mut mount = GuardMount::new();
    fs::write(mount.path().join("first"), "x").unwrap();
    assert_eq!(mount.daemon_mut().terminate().code, 0);
    mount.daemon_mut().start_again();
    fs::write(mount.path().join("second"), "x").unwrap();
    let report = log_with(&mount, &[mount.path().as_os_str()]);
    let paths: Vec<_> = told(&mount, &report.entries).into_iter().map(|(_, path, _)| path).collect();
    assert_eq!(paths, ["first", "second"]);
    assert_eq!(report.gaps, []);
}

#[test]
fn users_see_their_own_history_only() {
    require!(fuse);
    let mount = GuardMount::builder().owner(OWNER).mount();
    fs::write(mount.path().join("secret"), "x").unwrap();
    let as_user = |uid: u32, arguments: &[&str]| {
        as_user(uid, uid, &[], || mount.daemon().command().args(arguments).output())
    };
    let own = as_user(OWNER, &["log", "--json"]).ok();
    let own: LogReport = serde_json::from_str(&own).unwrap();
    assert_eq!(own.entries.len(), 1);
    let other: LogReport = serde_json::from_str(&as_user(OWNER + 1, &["log", "--json"]).ok()).unwrap();
    assert_eq!(other.entries, []);
    let refused = as_user(OWNER + 1, &["log", mount.path().to_str().unwrap()]);
    assert_eq!(refused.code, 3, "{refused:?}");
    let events: EventList = serde_json::from_str(&as_user(OWNER + 1, &["events", "--json"]).ok()).unwrap();
    assert!(events.events.iter().all(|event| event.workspace.is_none()), "{events:?}");
}

#[test]
fn events_can_be_followed_over_a_death() {
    require!(fuse);
    let mount = GuardMount::new();
    let out = mount.daemon().dir().join("followed");
    let mut follower = std::process::Command::new(harness::wsguard_binary())
        .args(["events", "--follow", "--json", "-n", "0"])
        .env("WSGUARD_RUNTIME_DIR", mount.daemon().runtime_dir())
        .env("WSGUARD_STATE_DIR", mount.daemon().state_dir())
        .env("WSGUARD_CONFIG", mount.daemon().config_file())
        .stdout(File::create(&out).unwrap())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // It has asked for what is to come once it has said that it begins with nothing.
    std::thread::sleep(Duration::from_millis(500));
    kill(mount.daemon().status().worker_pid, rustix::process::Signal::KILL);
    // Not `wait_until`: the follower has to end whatever comes.
    let has_told = |words: &[&str]| {
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            let text = fs::read_to_string(&out).unwrap();
            words.iter().all(|word| text.contains(word))
        })
    };
    let told_death = has_told(&["worker-died", "worker-took-over"]);
    mount.umount();
    let told_unmount = has_told(&["unmounted"]);
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert!(told_death && told_unmount, "{}", fs::read_to_string(&out).unwrap());
}

#[test]
fn odd_names_come_back_and_do_not_steer_the_terminal() {
    require!(fuse);
    let mount = GuardMount::new();
    for name in [b"new\nline".as_slice(), b"\x1b[2J", b"not-utf8-\xff", b"it's \"quoted\"; DROP TABLE record"]
    {
        fs::write(mount.path().join(OsStr::from_bytes(name)), "x").unwrap();
    }
    let entries = log(&mount, mount.path());
    let last = |entry: &LogEntry| entry.path.as_ref().unwrap().rsplit('/').next().unwrap().to_owned();
    let names: Vec<_> = entries.iter().map(last).collect();
    assert_eq!(names, ["new\nline", "\u{1b}[2J", "not-utf8-\u{fffd}", "it's \"quoted\"; DROP TABLE record"]);
    let text = mount.daemon().command().arg("log").arg(mount.path()).output().ok();
    assert!(!text.contains('\u{1b}') && text.lines().count() == 5, "{text:?}");
}

#[test]
fn wrong_questions_are_refused_and_say_why() {
    require!(fuse);
    let mount = GuardMount::new();
    let refused = |arguments: &[&str], code: i32, word: &str| {
        let output = mount.daemon().cli(arguments);
        assert_eq!(output.code, code, "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(word), "{arguments:?}: {output:?}");
    };
    refused(&["log", "--by", "nobody-of-that-name"], 2, "nobody-of-that-name");
    refused(&["log", "--since", "someday"], 2, "someday");
    refused(&["log", "-n", "0"], 2, "0");
    refused(&["log", "/"], 3, "not in a workspace");
    refused(&["log", "/nonexistent/../x"], 3, "..");
    refused(&["top", "--interval", "0"], 2, "0");
}

#[test]
fn many_changes_at_once_are_all_recorded() {
    require!(fuse);
    const THREADS: usize = 8;
    const FILES: usize = 500;
    let mount = GuardMount::new();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let dir = mount.path().join(format!("t{thread}"));
            scope.spawn(move || {
                fs::create_dir(&dir).unwrap();
                for i in 0..FILES {
                    fs::write(dir.join(format!("f{i}")), [1; 10]).unwrap();
                }
                for i in 0..FILES {
                    fs::remove_file(dir.join(format!("f{i}"))).unwrap();
                }
            });
        }
    });
    let report = log_with(&mount, &[mount.path().as_os_str()]);
    assert_eq!(report.gaps, []);
    let count = |operation| report.entries.iter().filter(|entry| entry.operation == operation).count();
    assert_eq!(count(LogOperation::Create), THREADS * FILES);
    assert_eq!(count(LogOperation::Unlink), THREADS * FILES);
    assert_eq!(report.entries.iter().map(|entry| entry.bytes).sum::<u64>(), (THREADS * FILES * 10) as u64);
    let one = log(&mount, &mount.path().join("t3/f77"));
    assert_eq!(one.len(), 2, "{one:?}");
}
