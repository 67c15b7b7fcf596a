//! The virtual directory `.wsguard` at the root of a mount.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::{
        fs::{FileExt, MetadataExt, PermissionsExt},
        io::AsFd,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{GuardMount, Run, kill, require, run_as, wait_until};
use rustix::{
    fs::{XattrFlags, getxattr, listxattr, setxattr},
    io::Errno,
    process::Signal,
};
use wsguard_api::{QuotaReport, QuotaRow};

const OWNER: u32 = 4_321;
const PATIENCE: Duration = Duration::from_secs(20);
const ATTRIBUTE: &str = "user.wsguard.quota";

fn mounted() -> GuardMount {
    GuardMount::builder().owner(OWNER).name("bert").mount()
}

fn limit(mount: &GuardMount, hard: &str) {
    mount.daemon().command().args(["quota", "set", "project:bert", hard, "--allow-over"]).ok();
}

/// What the command says of the workspace.
fn row(mount: &GuardMount) -> QuotaRow {
    let command = mount.daemon().command().args(["quota", "get", "project:bert", "--json"]).ok();
    let report: QuotaReport = serde_json::from_str(&command).unwrap();
    report.items.into_iter().next().unwrap()
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Errno {
    Errno::from_io_error(&result.unwrap_err()).unwrap()
}

fn names(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into()).collect()
}

fn attribute(path: &Path) -> Result<String, Errno> {
    let mut value = vec![0; 4_096];
    let length = getxattr(path, ATTRIBUTE, &mut value)?;
    value.truncate(length);
    Ok(String::from_utf8(value).unwrap())
}

#[test]
fn quota_is_readable_by_everybody_when_nothing_fits_any_more() {
    require!(fuse);
    let mount = mounted();
    limit(&mount, "2M");
    let mut file = File::create(mount.path().join("full")).unwrap();
    let error = loop {
        match file.write_all(&[1; 65_536]) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
    let before = row(&mount).used;
    let screen =
        run_as(OWNER + 1, OWNER + 1, &[], Path::new("cat")).arg(mount.path().join(".wsguard/quota")).ok();
    assert!(screen.contains("project  bert") && screen.contains("of 2 MiB"), "{screen}");
    assert!(screen.contains(&format!("user     uid {OWNER}")), "{screen}");
    let json = Run::new("cat").arg(mount.path().join(".wsguard/quota.json")).ok();
    serde_json::from_str::<QuotaReport>(&json).unwrap();
    assert_eq!(row(&mount).used, before);
}

#[test]
fn directory_is_found_by_name_and_never_listed() {
    require!(fuse);
    let mount = mounted();
    fs::write(mount.path().join("file"), "x").unwrap();
    assert!(mount.path().join(".wsguard/quota").is_file());
    assert_eq!(names(mount.path()), [PathBuf::from("file")]);
    let found = Run::new("find").arg(mount.path()).ok();
    assert!(!found.contains(".wsguard"), "{found}");
    assert_eq!(fs::read_dir(mount.backing_path()).unwrap().count(), 1);
    let mut inside = names(&mount.path().join(".wsguard"));
    inside.sort_unstable();
    assert_eq!(inside, ["log", "notices", "quota", "quota.json", "request", "top"].map(PathBuf::from));
    let copy = mount.path().join("copy");
    Run::new("cp").arg(mount.path().join(".wsguard/quota")).arg(&copy).ok();
    assert!(fs::read_to_string(&copy).unwrap().starts_with("project"));
    let metadata = fs::metadata(mount.path().join(".wsguard/quota")).unwrap();
    assert_eq!((metadata.uid(), metadata.permissions().mode() & 0o7777), (OWNER, 0o444));
    assert!(metadata.len() > 0 && metadata.blocks() == 0);
}

#[test]
fn directory_and_its_name_cannot_be_changed() {
    require!(fuse);
    let mount = mounted();
    let (dir, other) = (mount.path().join(".wsguard"), mount.path().join("other"));
    fs::create_dir(&other).unwrap();
    assert_eq!(errno(fs::rename(&dir, mount.path().join("away"))), Errno::PERM);
    assert_eq!(errno(fs::rename(&other, &dir)), Errno::PERM);
    assert_eq!(errno(fs::remove_dir(&dir)), Errno::PERM);
    // The kernel sees that the name is there, and asks nobody.
    assert_eq!(errno(fs::create_dir(&dir)), Errno::EXIST);
    assert_eq!(errno(File::create(&dir)), Errno::ISDIR);
    let quota = dir.join("quota");
    assert_eq!(errno(File::create(dir.join("new"))), Errno::ROFS);
    assert_eq!(errno(fs::create_dir(dir.join("new"))), Errno::ROFS);
    assert_eq!(errno(fs::remove_file(&quota)), Errno::ROFS);
    assert_eq!(errno(OpenOptions::new().write(true).open(&quota)), Errno::ROFS);
    assert_eq!(errno(fs::hard_link(&quota, mount.path().join("link"))), Errno::ROFS);
    assert_eq!(errno(fs::rename(&quota, mount.path().join("away"))), Errno::ROFS);
    assert_eq!(errno(fs::set_permissions(&quota, fs::Permissions::from_mode(0o666))), Errno::ROFS);
    assert_eq!(names(mount.path()), [PathBuf::from("other")]);
}

#[test]
fn json_and_attribute_agree_with_the_command() {
    require!(fuse);
    let mount = mounted();
    limit(&mount, "1G");
    let (dir, file) = (mount.path().join("dir"), mount.path().join("dir/file"));
    fs::create_dir(&dir).unwrap();
    fs::write(&file, vec![1; 100_000]).unwrap();
    let text = || fs::read_to_string(mount.path().join(".wsguard/quota.json")).unwrap();
    let in_file = || serde_json::from_str::<QuotaReport>(&text()).unwrap().items.into_iter().next().unwrap();
    wait_until("the file says what the command says", PATIENCE, || in_file() == row(&mount));
    let row = row(&mount);
    let used = row.used.unwrap();
    assert_eq!(used.bytes, 102_400);
    let expected = format!("used_bytes=102400 soft_bytes=unlimited hard_bytes={}", 1_u64 << 30);
    wait_until("the attribute is up to date", PATIENCE, || attribute(&dir).unwrap().starts_with(&expected));
    assert!(attribute(mount.path()).unwrap().contains("used_inodes=3 "));
    assert_eq!(attribute(&file), Err(Errno::NODATA));
    let mut listed = [0_u8; 4_096];
    let length = listxattr(&dir, &mut listed).unwrap();
    assert!(!listed[..length].windows(7).any(|part| part == b"wsguard"));
    assert_eq!(setxattr(&dir, ATTRIBUTE, b"1", XattrFlags::empty()), Err(Errno::PERM));
    let output = Run::new("getfattr").args(["--only-values", "-n", ATTRIBUTE]).arg(&dir).ok();
    assert!(output.starts_with(&expected), "{output}");
}

#[test]
fn first_refusal_of_a_process_and_each_crossing_are_noticed_once() {
    require!(fuse);
    let mount = mounted();
    limit(&mount, "4M");
    fs::create_dir(mount.path().join("runs")).unwrap();
    let target = mount.path().join("runs/step\n1.pt");
    // Each of them fails twice.
    let script = "head -c 5000000 /dev/zero > \"$1\"; head -c 5000000 /dev/zero >> \"$1\"; true";
    Run::new("bash").args(["-c", script, "sh"]).arg(&target).output();
    let notices = || fs::read_to_string(mount.path().join(".wsguard/notices")).unwrap();
    wait_until("the notices are there", PATIENCE, || notices().matches("write refused").count() >= 2);
    let text = notices();
    let refused: Vec<&str> = text.lines().filter(|line| line.contains("write refused")).collect();
    assert_eq!(refused.len(), 2, "one for each process: {text}");
    assert!(refused[0].contains(": runs/step?1.pt (head -c 5000000 /dev/zero, pid "), "{text}");
    assert!(refused[0].contains("project bert has used 3.9 MiB of 3.9 MiB"), "{text}");
    assert!(text.lines().any(|line| line.contains("project bert is full:")), "{text}");
    let events = mount.daemon().command().args(["events", "--json"]).ok();
    for kind in ["quota-crossed", "quota-refused"] {
        assert!(events.contains(kind), "{kind}: {events}");
    }
    let before = notices();
    kill(mount.daemon().worker_pid(), Signal::KILL);
    wait_until("the notices are there again", PATIENCE, || {
        let now = notices();
        before.lines().all(|line| now.contains(line))
    });
}

#[test]
fn top_shows_who_writes_and_what_is_large() {
    require!(fuse);
    let mount = mounted();
    fs::create_dir(mount.path().join("models")).unwrap();
    fs::write(mount.path().join("models/a.pt"), vec![1; 3 << 20]).unwrap();
    let mut open = File::create(mount.path().join("models/b.pt")).unwrap();
    let mut top = || {
        open.write_all(&[1; 4_096]).unwrap();
        fs::read_to_string(mount.path().join(".wsguard/top")).unwrap()
    };
    let pid = std::process::id();
    wait_until("the writer and the directory are shown", PATIENCE, || {
        let text = top();
        let is_writer = |line: &str| line.contains("/s  ") && line.contains(&format!("(pid {pid})"));
        text.lines().any(is_writer) && text.contains("  models/b.pt (pid ") && text.contains("MiB  models/")
    });
}

#[test]
fn entry_of_the_users_own_wins() {
    require!(fuse);
    let mount = mounted();
    assert!(mount.path().join(".wsguard/quota").is_file());
    let own = mount.backing_path().join(".wsguard");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("mine"), "mine").unwrap();
    let seen = mount.path().join(".wsguard");
    wait_until("the user's own entry shows", PATIENCE, || fs::read_to_string(seen.join("mine")).is_ok());
    assert_eq!(names(mount.path()), [PathBuf::from(".wsguard")]);
    assert_eq!(errno(File::open(seen.join("quota"))), Errno::NOENT);
    fs::rename(&seen, mount.path().join("away")).unwrap();
    assert!(seen.join("quota").is_file());
    assert_eq!(names(mount.path()), [PathBuf::from("away")]);
}

#[test]
fn open_file_and_directory_outlive_the_worker() {
    require!(fuse);
    let mount = mounted();
    let dir = mount.path().join(".wsguard");
    let file = File::open(dir.join("quota")).unwrap();
    let held = File::open(&dir).unwrap();
    let mut text = vec![0; 8_192];
    let length = file.read_at(&mut text, 0).unwrap();
    assert!(text[..length].starts_with(b"project"));
    kill(mount.daemon().worker_pid(), Signal::KILL);
    assert_eq!(errno(file.read_at(&mut [0; 16], 7)), Errno::STALE, "the rest of another text");
    assert_eq!(file.read_at(&mut [0; 16], 100_000).unwrap(), 0);
    assert!(file.read_at(&mut text, 0).unwrap() > 0);
    assert_eq!(file.read_at(&mut [0; 16], 7).unwrap(), 16);
    assert_eq!(file.metadata().unwrap().ino(), fs::metadata(dir.join("quota")).unwrap().ino());
    let opened = rustix::fs::openat(
        held.as_fd(),
        OsStr::new("quota.json"),
        rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    );
    serde_json::from_reader::<_, QuotaReport>(File::from(opened.unwrap())).unwrap();
    wait_until("the workspace is known again", PATIENCE, || {
        fs::read_to_string(dir.join("quota")).unwrap().starts_with("project  bert")
    });
}
