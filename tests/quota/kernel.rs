//! The kernel-quota tier on real btrfs subvolumes: who refuses, who sees the writes, and how one gets there and back.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use harness::{Backing, FsKind, GuardMount, Mapping, Output, Protection, Run, kill, wait_until};
use rustix::{io::Errno, process::Signal};
use wsguard_api::{AccountingMode, KernelQuota, LogEntry, LogOperation, LogReport, Ownership};

use super::ground::{Below, Ground};

const MIB: u64 = 1 << 20;
/// The driver looks every two seconds.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(15);

fn btrfs(arguments: &[&str], path: &Path) -> String {
    Run::new("btrfs").args(arguments).arg(path).ok()
}

/// A workspace that is a subvolume of its own. Quotas are off.
fn subvolume() -> Ground {
    Ground::prepared(Below::Btrfs, |dir| {
        fs::remove_dir(dir).unwrap();
        btrfs(&["subvolume", "create"], dir);
    })
}

/// The same, limited by the kernel.
fn limited(size: &str) -> Ground {
    let ground = subvolume();
    set(&ground, &[size, "--kernel", "--enable"]).ok();
    ground
}

fn set(ground: &Ground, arguments: &[&str]) -> Output {
    ground.mount.daemon().command().args(["quota", "set", "project:project"]).args(arguments).output()
}

fn unset(ground: &Ground, arguments: &[&str]) -> Output {
    ground.mount.daemon().command().args(["quota", "unset", "project:project"]).args(arguments).output()
}

fn shown(ground: &Ground) -> Option<KernelQuota> {
    ground.mount.daemon().status().workspaces.into_iter().next().unwrap().kernel_quota
}

/// What btrfs itself says that the limit is, bytes.
fn installed(ground: &Ground) -> Option<u64> {
    let text =
        Run::new("btrfs").args(["qgroup", "show", "--raw", "-r", "-F"]).arg(ground.mount.backing_path()).ok();
    let line = text.lines().last().unwrap();
    line.split_whitespace().nth(3).unwrap().parse().ok()
}

/// Bytes that the worker has written by system calls of its own.
fn written_by_worker(ground: &Ground) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", ground.mount.daemon().worker_pid())).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    line.parse().unwrap()
}

/// Writes `bytes` in pieces of 1 MiB and returns how many were taken, and the error if there was one.
fn fill(file: &File, bytes: u64) -> (u64, Option<Errno>) {
    let piece = vec![0x5a; MIB as usize];
    let mut taken = 0;
    while taken < bytes {
        match file.write_at(&piece, taken) {
            Ok(0) => panic!("a write took nothing"),
            Ok(length) => taken += length as u64,
            Err(error) => return (taken, Errno::from_io_error(&error)),
        }
    }
    (taken, None)
}

fn create(ground: &Ground, name: &str) -> File {
    File::create(ground.at(name)).unwrap()
}

fn wait_for(ground: &Ground, what: &str, is_so: impl Fn(Option<&KernelQuota>) -> bool) {
    wait_until(what, FOLLOWS_WITHIN, || is_so(shown(ground).as_ref()));
}

#[test]
fn the_kernel_refuses_what_is_too_much_and_the_worker_sees_no_write() {
    if !Below::Btrfs.is_there() {
        return;
    }
    let ground = limited("20M");
    assert_eq!(installed(&ground), Some(20 * MIB));
    let before = written_by_worker(&ground);
    let file = create(&ground, "large");
    wait_for(&ground, "the open file to be counted", |quota| {
        quota.is_some_and(|quota| quota.unseen_writers == 1)
    });
    let (taken, error) = fill(&file, 40 * MIB);
    assert_eq!(error, Some(Errno::DQUOT), "{taken} bytes were taken");
    assert!((15 * MIB..=20 * MIB).contains(&taken), "{taken} bytes were taken of 20 MiB");
    let passed = written_by_worker(&ground) - before;
    assert!(passed < MIB, "{passed} bytes went through the worker");
    // Nobody keeps a headroom.
    assert!(fs::write(ground.at("small"), "x").is_err());

    let space = rustix::fs::statvfs(ground.path()).unwrap();
    assert_eq!(space.f_blocks * space.f_frsize, 20 * MIB);
    let free = space.f_bavail * space.f_frsize;
    assert!(free < 5 * MIB, "{free} bytes are shown as free");
    let quota = shown(&ground).unwrap();
    assert!(quota.mechanism.starts_with("btrfs qgroup 0/"), "{quota:?}");
    assert_eq!((quota.limit_bytes, quota.failure, quota.is_ending), (Some(20 * MIB), None, false));
    assert!(quota.used_bytes >= 15 * MIB && quota.used_bytes <= 20 * MIB, "{}", quota.used_bytes);
    assert_eq!(ground.row().counting.unwrap().accounting, AccountingMode::Kernel);
    let text = ground.mount.daemon().cli(["status"]).ok();
    assert!(
        text.contains("kernel quota of project: btrfs qgroup 0/") && text.contains("coverage unknown"),
        "{text}"
    );

    // A full user can still delete, and gets the space back.
    drop(file);
    fs::remove_file(ground.at("large")).unwrap();
    let file = create(&ground, "again");
    assert_eq!(fill(&file, 10 * MIB), (10 * MIB, None));
    file.sync_all().unwrap();
    drop(file);
    let (drift, counted) = ground.check();
    assert_eq!(drift, (0, 0), "what the kernel counts is no drift");
    assert!(counted.bytes >= 10 * MIB, "{counted:?}");
}

#[test]
fn what_was_opened_under_the_kernels_limit_stays_under_it_until_it_is_closed() {
    if !Below::Btrfs.is_there() {
        return;
    }
    let ground = limited("20M");
    let old = create(&ground, "old");
    assert_eq!(fill(&old, MIB), (MIB, None));
    assert!(unset(&ground, &["--only", "kernel"]).ok().contains("kernel"));
    // New files are exact at once, the old one is still held to the limit by the kernel.
    wait_for(&ground, "the tier to end", |quota| {
        quota.is_some_and(|quota| quota.is_ending && quota.unseen_writers == 1)
    });
    let before = written_by_worker(&ground);
    let new = create(&ground, "new");
    assert_eq!(fill(&new, 2 * MIB), (2 * MIB, None));
    assert!(written_by_worker(&ground) - before >= 2 * MIB, "the write did not reach the worker");
    assert_eq!(installed(&ground), Some(20 * MIB));
    assert_eq!(fill(&old, 40 * MIB).1, Some(Errno::DQUOT));
    drop((old, new));
    wait_for(&ground, "the tier to be gone", |quota| quota.is_none());
    assert_eq!(installed(&ground), None);
    // From here on books and files agree to the byte again.
    fs::remove_file(ground.at("old")).unwrap();
    Run::new("sync").arg("-f").arg(ground.mount.backing_path()).ok();
    ground.wait_until_counted();
    ground.assert_exact("the end of the tier");
    // The policy's limit is still there, and the worker's again.
    let (taken, error) = fill(&create(&ground, "full"), 40 * MIB);
    assert_eq!(error, Some(Errno::DQUOT));
    assert!((17 * MIB..18 * MIB).contains(&taken), "{taken}");
}

#[test]
fn the_tier_survives_a_worker_and_a_restart() {
    if !Below::Btrfs.is_there() {
        return;
    }
    let mut ground = limited("24M");
    let file = create(&ground, "file");
    assert_eq!(fill(&file, 2 * MIB), (2 * MIB, None));
    let worker = ground.mount.daemon().worker_pid();
    kill(worker, Signal::KILL);
    wait_until("another worker", FOLLOWS_WITHIN, || {
        ground.mount.daemon().cli(["status", "--json"]).code == 0
            && ground.mount.daemon().worker_pid() != worker
    });
    wait_for(&ground, "the tier to be on again", |quota| {
        quota.is_some_and(|quota| quota.failure.is_none() && !quota.is_ending && quota.unseen_writers == 1)
    });
    let before = written_by_worker(&ground);
    assert_eq!(fill(&file, 4 * MIB), (4 * MIB, None));
    let other = create(&ground, "other");
    assert_eq!(fill(&other, 4 * MIB), (4 * MIB, None));
    assert!(written_by_worker(&ground) - before < MIB, "writes reach the new worker");
    drop((file, other));
    ground.mount.daemon_mut().terminate();
    assert_eq!(installed(&ground), Some(24 * MIB), "the kernel limits also while nothing is mounted");
    ground.mount.daemon_mut().start_again();
    wait_for(&ground, "the tier to be on again", |quota| quota.is_some_and(|quota| quota.failure.is_none()));
    let before = written_by_worker(&ground);
    let (_, error) = fill(&create(&ground, "large"), 40 * MIB);
    assert_eq!(error, Some(Errno::DQUOT));
    assert!(written_by_worker(&ground) - before < MIB);
    // Forgetting the workspace takes the limit along.
    ground.mount.daemon().command().args(["umount", "--forget", "project"]).ok();
    assert_eq!(installed(&ground), None);
}

#[test]
fn the_limit_of_the_kernel_follows_the_policy() {
    if !Below::Btrfs.is_there() {
        return;
    }
    let ground = limited("20M");
    set(&ground, &["30M"]).ok();
    assert_eq!(installed(&ground), Some(30 * MIB));
    let boost = ["quota", "boost", "project:project", "--by", "10M", "--for", "1h", "--reason", "test"];
    ground.mount.daemon().command().args(boost).ok();
    assert_eq!(installed(&ground), Some(40 * MIB));
    // Somebody else's change is put right.
    btrfs(&["qgroup", "limit", "5M"], ground.mount.backing_path());
    wait_until("the limit to be as it was", FOLLOWS_WITHIN, || installed(&ground) == Some(40 * MIB));
    // Taking everything away includes the tier.
    unset(&ground, &[]).ok();
    assert_eq!((installed(&ground), shown(&ground)), (None, None));
    // What is told to the audit.
    let audit = ground.mount.daemon().cli(["quota", "audit"]).ok();
    assert!(audit.contains("kernel") && audit.contains("btrfs qgroup 0/"), "{audit}");
}

#[test]
fn where_the_kernel_stops_enforcing_the_worker_does() {
    if !Below::Btrfs.is_there() {
        return;
    }
    let ground = limited("20M");
    btrfs(&["quota", "disable"], ground.mount.backing_path());
    wait_for(&ground, "the failure to be seen", |quota| quota.is_some_and(|quota| quota.failure.is_some()));
    let text = ground.mount.daemon().cli(["status"]).ok();
    assert!(
        text.contains("the kernel does not enforce its quota") && text.contains("quotas are off"),
        "{text}"
    );
    let (taken, error) = fill(&create(&ground, "large"), 40 * MIB);
    assert_eq!(error, Some(Errno::DQUOT));
    assert!(taken <= 20 * MIB, "{taken}");
    fs::remove_file(ground.at("large")).unwrap();
    btrfs(&["quota", "enable"], ground.mount.backing_path());
    wait_for(&ground, "the tier to be on again", |quota| quota.is_some_and(|quota| quota.failure.is_none()));
    assert_eq!(installed(&ground), Some(20 * MIB));
}

#[test]
fn a_directory_that_the_kernel_cannot_limit_is_refused_with_the_reason() {
    if !Below::Btrfs.is_there() || !Below::Ext4.is_there() {
        return;
    }
    let refused = |ground: &Ground, arguments: &[&str], code: i32, reason: &str| {
        let output = set(ground, arguments);
        assert!(output.code == code && output.stderr.contains(reason), "{output:?}");
        assert!(output.stderr.contains("hint: "), "{output:?}");
        assert_eq!(ground.row().bytes_hard, None, "a limit was set although it was refused");
        assert_eq!(shown(ground), None);
    };
    let ext4 = Ground::new(Below::Ext4);
    refused(&ext4, &["1G", "--kernel"], 7, "it is not btrfs");
    let plain = Ground::new(Below::Btrfs);
    refused(&plain, &["1G", "--kernel", "--enable"], 7, "not a btrfs subvolume");
    let off = subvolume();
    refused(&off, &["1G", "--kernel"], 4, "quotas are off");
    refused(&off, &["--kernel"], 2, "no hard limit");
    refused(&off, &["1G", "--kernel", "--mode", "track"], 2, "no hard limit");
    let user = off.mount.daemon().command().args(["quota", "set", "user:root", "1G", "--kernel"]).output();
    assert!(user.code == 2 && user.stderr.contains("only a workspace"), "{user:?}");
    // A dry run looks and changes nothing.
    set(&off, &["1G", "--kernel", "--enable"]).ok();
    unset(&off, &[]).ok();
    assert!(set(&off, &["1G", "--kernel", "--dry-run"]).ok().contains("btrfs qgroup 0/"));
    assert_eq!((installed(&off), shown(&off)), (None, None));
}

#[test]
fn a_half_made_limit_is_undone_at_the_start() {
    if !Below::Btrfs.is_there() {
        return;
    }
    let mut ground = limited("20M");
    set(&ground, &["20M"]).ok();
    for state in ["installing", "removing"] {
        ground.mount.daemon_mut().terminate();
        let catalog =
            rusqlite::Connection::open(ground.mount.daemon().state_dir().join("catalog.sqlite")).unwrap();
        let sql = "UPDATE quota_kernel SET state = ?1, before_bytes = 9437184";
        assert_eq!(catalog.execute(sql, [state]).unwrap(), 1);
        drop(catalog);
        ground.mount.daemon_mut().start_again();
        wait_for(&ground, "the rest to be undone", |quota| quota.is_none());
        assert_eq!(installed(&ground), Some(9 * MIB), "what the filesystem had before");
        set(&ground, &["20M", "--kernel"]).ok();
    }
}

#[test]
fn histories_tell_who_had_a_file_open_and_nothing_else() {
    if !Below::Btrfs.is_there() {
        return;
    }
    let ground = limited("20M");
    let script = "head -c 3000000 /dev/zero > written; exec 3<> untouched; exec 3>&-; exec 3<> rewritten; printf x >&3";
    fs::write(ground.at("untouched"), "abc").unwrap();
    fs::write(ground.at("rewritten"), "abc").unwrap();
    let begun = ground.mount.daemon().status().generated_at;
    thread::sleep(Duration::from_millis(20));
    Run::new("bash").args(["-c", script]).current_dir(ground.path()).ok();
    let path = ground.path().to_str().unwrap();
    let log = || -> Vec<LogEntry> {
        let text = ground.mount.daemon().cli(["log", path, "--since", &begun, "--json"]).ok();
        let report: LogReport = serde_json::from_str(&text).unwrap();
        report.entries
    };
    wait_until("both writes to be told", FOLLOWS_WITHIN, || log().len() >= 2);
    let told = log();
    let name = |entry: &LogEntry| entry.path.as_ref().unwrap().rsplit('/').next().unwrap().to_owned();
    // Creating and writing at once is one entry; the range is the whole file, and 0 bytes say that nobody counted.
    let seen: Vec<_> = told
        .iter()
        .map(|entry| (name(entry), entry.operation, entry.start..entry.end, entry.bytes))
        .collect();
    let expected = [("written", LogOperation::Create, 3_000_000), ("rewritten", LogOperation::Write, 3)];
    assert_eq!(seen, expected.map(|(name, operation, end)| (name.to_owned(), operation, 0..end, 0)));
    assert!(told.iter().all(|entry| entry.command == "bash"), "{told:?}");
    assert!((3_000_000..4_000_000).contains(&told[0].delta_bytes), "{told:?}");
}

#[test]
fn files_behave_as_before_when_the_worker_sees_no_write() {
    if !Below::Btrfs.is_there() {
        return;
    }
    let ground = limited("64M");
    let path = ground.at("file");
    fs::write(&path, vec![1; 8192]).unwrap();
    // One opened before the change, which the worker serves, beside those of after it.
    unset(&ground, &["--only", "kernel"]).ok();
    wait_for(&ground, "the tier to be gone", |quota| quota.is_none());
    let exact = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    set(&ground, &["--kernel"]).ok();
    let passed = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let reader = File::open(&path).unwrap();
    let byte_at = |file: &File, at: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0]
    };
    exact.write_all_at(&[2], 0).unwrap();
    passed.write_all_at(&[3], 1).unwrap();
    let mapping = Mapping::new(&passed, 8192, Protection::ReadWrite).unwrap();
    mapping.store(2, &[4]);
    for file in [&exact, &passed, &reader] {
        assert_eq!([0, 1, 2].map(|at| byte_at(file, at)), [2, 3, 4]);
    }
    exact.set_len(4096).unwrap();
    assert_eq!(passed.metadata().unwrap().len(), 4096);
    drop(mapping);
    // Appenders of both kinds lose no line.
    let lines = ground.at("lines");
    let append = || OpenOptions::new().append(true).create(true).open(&lines).unwrap();
    let appenders: Vec<File> = (0..4).map(|_| append()).collect();
    thread::scope(|scope| {
        for mut file in &appenders {
            scope.spawn(move || (0..500).for_each(|_| file.write_all(b"0123456789\n").unwrap()));
        }
    });
    let text = fs::read_to_string(&lines).unwrap();
    assert_eq!(text.len(), 4 * 500 * 11);
    assert!(text.lines().all(|line| line == "0123456789"));
    // A user's write takes the setuid bit away.
    let program = ground.at("program");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4777)).unwrap();
    fs::set_permissions(ground.path(), fs::Permissions::from_mode(0o777)).unwrap();
    Run::new("sh").args(["-c", "echo more >> program"]).current_dir(ground.path()).user(1234, 1234).ok();
    let below = ground.below_at("program");
    assert_eq!(fs::metadata(&below).unwrap().permissions().mode() & 0o7777, 0o777);
    // A sparse file may be larger than the limit: only what is stored counts.
    let sparse =
        OpenOptions::new().read(true).write(true).create_new(true).open(ground.at("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(&[1; 4096], 1 << 29).unwrap();
    sparse.sync_all().unwrap();
    assert_eq!(fs::read(ground.below_at("file")).unwrap().len(), 4096);
}

#[test]
fn a_user_at_a_limit_above_writes_through_the_worker() {
    if !Below::Btrfs.is_there() {
        return;
    }
    let mount = GuardMount::builder()
        .backing(Backing::on(FsKind::Btrfs))
        .ownership(Ownership::Preserve)
        .name("project")
        .deadline(Duration::from_secs(600))
        .mount_prepared(|dir| {
            fs::remove_dir(dir).unwrap();
            btrfs(&["subvolume", "create"], dir);
        });
    let ground = Ground { mount, below: Below::Btrfs };
    ground.wait_until_counted();
    set(&ground, &["100M", "--kernel", "--enable"]).ok();
    ground.mount.daemon().command().args(["quota", "set", "user:root", "10M"]).ok();
    // Who is at work goes on: only the limit of the workspace holds them.
    let first = create(&ground, "first");
    assert_eq!(fill(&first, 12 * MIB), (12 * MIB, None));
    wait_until("the use to be measured", FOLLOWS_WITHIN, || ground.used().bytes >= 12 * MIB);
    let path: PathBuf = ground.at("second");
    let second = File::create(&path).unwrap();
    assert_eq!(fill(&second, MIB), (0, Some(Errno::DQUOT)));
}
