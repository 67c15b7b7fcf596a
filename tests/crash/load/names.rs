use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, RenameFlags, XattrFlags},
    io::Errno,
};

use super::{Work, ok};

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn exchange(one: &Path, other: &Path) -> Result<(), Errno> {
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
}

/// Creates `path` with `text`; it must not exist.
fn create(path: &Path, text: &str) {
    let mut file = ok("create a file", OpenOptions::new().write(true).create_new(true).mode_644().open(path));
    ok("write a file", file.write_all(text.as_bytes()));
}

/// The mode is spelt out because the test's umask is nobody's business here.
trait Mode644 {
    fn mode_644(&mut self) -> &mut Self;
}

impl Mode644 for OpenOptions {
    fn mode_644(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::mode(self, 0o644)
    }
}

fn text(path: &Path) -> String {
    ok(format!("read {}", path.display()), fs::read_to_string(path))
}

#[track_caller]
fn fails<T>(what: &str, result: std::io::Result<T>, expected: Errno) {
    match result {
        Ok(_) => panic!("{what} succeeded; {expected} was expected"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(expected.raw_os_error()), "{what}: {error}"),
    }
}

/// Goes through every operation on names with the exact result of each step, whoever answers it.
pub(super) fn each_step_happens_once(work: &Work) {
    let mut round = 0_u64;
    while work.goes_on() {
        let name = format!("round-{round}");
        one_round(&work.mounted.join(&name), &work.backing.join(&name), round);
        round += 1;
    }
    for dir in [&work.mounted, &work.backing] {
        assert_eq!(ok("list", fs::read_dir(dir)).count(), 0, "{}", dir.display());
    }
}

fn one_round(dir: &Path, below: &Path, round: u64) {
    ok("mkdir", fs::create_dir(dir));
    fails("mkdir again", fs::create_dir(dir), Errno::EXIST);
    assert!(below.is_dir());
    let (a, b, c) = (dir.join("a"), dir.join("b"), dir.join("c"));
    files(&a, &b, &c, below, round);
    links(&a, &c, below);
    attributes(&a, below, round);
    directories(dir, below);
    for path in [&a, &b] {
        ok("unlink", fs::remove_file(path));
        fails("unlink again", fs::remove_file(path), Errno::NOENT);
    }
    assert_eq!(ok("list", fs::read_dir(dir)).count(), 0, "left in {}", dir.display());
    ok("rmdir", fs::remove_dir(dir));
    fails("rmdir again", fs::remove_dir(dir), Errno::NOENT);
    assert!(!exists(below));
}

/// Leaves `a` and `b` with the texts `b ROUND` and `a ROUND`, `c` free.
fn files(a: &Path, b: &Path, c: &Path, below: &Path, round: u64) {
    let (text_a, text_b) = (format!("a {round}"), format!("b {round}"));
    create(a, &text_a);
    fails("create again", OpenOptions::new().write(true).create_new(true).open(a), Errno::EXIST);
    create(b, &text_b);
    ok("exchange", exchange(a, b));
    assert_eq!((text(a), text(b)), (text_b.clone(), text_a.clone()), "after one exchange");
    assert_eq!(text(&below.join("a")), text_b, "after one exchange, below");
    ok("rename", fs::rename(a, c));
    fails("rename again", fs::rename(a, c), Errno::NOENT);
    assert_eq!(text(&below.join("c")), text_b);
    create(a, "to be replaced");
    let no_replace = rustix::fs::renameat_with(CWD, c, CWD, a, RenameFlags::NOREPLACE);
    assert_eq!(no_replace, Err(Errno::EXIST));
    ok("rename over a file", fs::rename(c, a));
    assert!(!exists(c) && !exists(&below.join("c")));
    assert_eq!((text(a), text(b)), (text_b, text_a));
    ok("rename without replacing", rustix::fs::renameat_with(CWD, a, CWD, c, RenameFlags::NOREPLACE));
    ok("rename back", fs::rename(c, a));
}

fn links(a: &Path, c: &Path, below: &Path) {
    ok("link", fs::hard_link(a, c));
    fails("link again", fs::hard_link(a, c), Errno::EXIST);
    assert_eq!(ok("stat", fs::metadata(a)).nlink(), 2);
    assert_eq!(ok("stat below", fs::metadata(below.join("c"))).nlink(), 2);
    ok("unlink a link", fs::remove_file(c));
    assert_eq!(ok("stat", fs::metadata(a)).nlink(), 1);
    ok("symlink", symlink("a", c));
    fails("symlink again", symlink("a", c), Errno::EXIST);
    assert_eq!(ok("readlink", fs::read_link(c)), Path::new("a"));
    assert_eq!(text(c), text(a));
    ok("unlink a symlink", fs::remove_file(c));
    ok("mkfifo", rustix::fs::mknodat(CWD, c, FileType::Fifo, Mode::from_raw_mode(0o600), 0));
    let again = rustix::fs::mknodat(CWD, c, FileType::Fifo, Mode::from_raw_mode(0o600), 0);
    assert_eq!(again, Err(Errno::EXIST), "mkfifo again");
    ok("unlink a fifo", fs::remove_file(c));
    assert!(!exists(&below.join("c")));
}

fn attributes(a: &Path, below: &Path, round: u64) {
    let value = round.to_string();
    let set = |flags| rustix::fs::setxattr(a, "user.round", value.as_bytes(), flags);
    assert_eq!(set(XattrFlags::REPLACE), Err(Errno::NODATA));
    ok("setxattr, create", set(XattrFlags::CREATE));
    assert_eq!(set(XattrFlags::CREATE), Err(Errno::EXIST));
    ok("setxattr, replace", set(XattrFlags::REPLACE));
    let mut buffer = [0; 64];
    let length = ok("getxattr", rustix::fs::getxattr(below.join("a"), "user.round", &mut buffer[..]));
    assert_eq!(&buffer[..length], value.as_bytes());
    ok("removexattr", rustix::fs::removexattr(a, "user.round"));
    assert_eq!(rustix::fs::removexattr(a, "user.round"), Err(Errno::NODATA));
    let mode = 0o600 | (round % 8) as u32;
    ok("chmod", rustix::fs::chmod(a, Mode::from_raw_mode(mode)));
    assert_eq!(ok("stat below", fs::metadata(below.join("a"))).mode() & 0o7777, mode);
}

fn directories(dir: &Path, below: &Path) {
    let (one, other) = (dir.join("one"), dir.join("other"));
    ok("mkdir", fs::create_dir(&one));
    ok("rename a directory", fs::rename(&one, &other));
    ok("mkdir", fs::create_dir(&one));
    create(&one.join("inside"), "in one");
    ok("exchange directories", exchange(&one, &other));
    assert_eq!(text(&below.join("other/inside")), "in one");
    let full = fs::remove_dir(&other);
    fails("rmdir of a full directory", full, Errno::NOTEMPTY);
    ok("unlink", fs::remove_file(other.join("inside")));
    for path in [&one, &other] {
        ok("rmdir", fs::remove_dir(path));
        fails("rmdir again", fs::remove_dir(path), Errno::NOENT);
    }
}
