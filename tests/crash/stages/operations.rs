use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
};

use rustix::{
    fs::{CWD, FallocateFlags, FileType, Mode, RenameFlags, XattrFlags},
    io::Errno,
};

/// What a step observed: a text to compare, or an errno.
pub(super) type Observed = Result<String, i32>;

/// One operation, and where its worker can die.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// The request whose stages are meant.
    pub(super) request: &'static str,
    pub(super) stages: &'static [&'static str],
    pub(super) prepare: fn(&Path) -> Observed,
    pub(super) act: fn(&Path) -> Observed,
}

const ENTRY: &[&str] = &["begun", "effect", "counted", "done", "finished", "answered"];
const CREATION: &[&str] =
    &["begun", "effect", "counted", "registered", "numbered", "entered", "done", "finished", "answered"];
const OPEN: &[&str] = &["begun", "registered", "numbered", "entered", "done", "finished", "answered"];
const CHANGE: &[&str] = &["begun", "effect", "done", "finished", "answered"];
const PREPARED_CHANGE: &[&str] = &["begun", "prepared", "effect", "done", "finished", "answered"];
const REFUSED_CHANGE: &[&str] = &["begun", "prepared", "done", "finished", "answered"];
const RELEASE: &[&str] =
    &["begun", "taken", "noted", "recycled", "unregistered", "done", "finished", "answered"];

const LOOKUP: &[&str] = &["begun", "counted", "answered"];

pub(super) const CASES: &[Case] = &[
    case("mkdir", "mkdir", ENTRY, nothing, |dir| observe(fs::create_dir(dir.join("new")))),
    case("mkfifo", "mknod", ENTRY, nothing, make_fifo),
    case("symlink", "symlink", ENTRY, nothing, |dir| observe(symlink("target", dir.join("new")))),
    case("link", "link", ENTRY, a_file, |dir| observe(fs::hard_link(dir.join("a"), dir.join("new")))),
    case("unlink", "unlink", CHANGE, a_file, |dir| observe(fs::remove_file(dir.join("a")))),
    case("unlink one of two", "unlink", CHANGE, two_links, |dir| observe(fs::remove_file(dir.join("a")))),
    case("rmdir", "rmdir", CHANGE, a_directory, |dir| observe(fs::remove_dir(dir.join("d")))),
    case("rename", "rename", CHANGE, a_file, |dir| rename(dir, "a", "new", RenameFlags::empty())),
    case("rename over", "rename", CHANGE, two_files, |dir| rename(dir, "a", "b", RenameFlags::empty())),
    case("rename, no replace", "rename", CHANGE, a_file, |dir| {
        rename(dir, "a", "new", RenameFlags::NOREPLACE)
    }),
    case("exchange", "rename", PREPARED_CHANGE, two_files, |dir| {
        rename(dir, "a", "b", RenameFlags::EXCHANGE)
    }),
    case("rename, whiteout", "rename", PREPARED_CHANGE, a_file, |dir| {
        rename(dir, "a", "new", RenameFlags::WHITEOUT)
    }),
    case("rename a directory", "rename", CHANGE, a_directory, |dir| {
        rename(dir, "d", "e", RenameFlags::empty())
    }),
    case("create", "create", CREATION, nothing, |dir| create(dir, 0)),
    case("create, exclusive", "create", CREATION, nothing, |dir| create(dir, libc::O_EXCL)),
    case("create, truncating", "create", CREATION, nothing, |dir| create(dir, libc::O_TRUNC)),
    case("open, truncating", "open", OPEN, a_file, |dir| open(dir, libc::O_TRUNC)),
    case("truncation at open", "setattr", CHANGE, a_file, |dir| open(dir, libc::O_TRUNC)),
    case("open", "open", OPEN, a_file, |dir| open(dir, 0)),
    case("write", "write", CHANGE, a_file, write),
    case("append", "write", PREPARED_CHANGE, a_file, append),
    case("ftruncate, shorter", "setattr", CHANGE, a_file, |dir| {
        observe(OpenOptions::new().write(true).open(dir.join("a")).and_then(|file| file.set_len(3)))
    }),
    case("ftruncate, longer", "setattr", CHANGE, a_file, |dir| {
        observe(OpenOptions::new().write(true).open(dir.join("a")).and_then(|file| file.set_len(9000)))
    }),
    case("chmod", "setattr", CHANGE, a_file, |dir| {
        observe(fs::set_permissions(dir.join("a"), fs::Permissions::from_mode(0o604)))
    }),
    case("setxattr, create", "setxattr", PREPARED_CHANGE, a_file, |dir| {
        set(dir, "user.new", XattrFlags::CREATE)
    }),
    case("setxattr, create what is there", "setxattr", REFUSED_CHANGE, a_file, |dir| {
        set(dir, "user.old", XattrFlags::CREATE)
    }),
    case("setxattr, replace", "setxattr", PREPARED_CHANGE, a_file, |dir| {
        set(dir, "user.old", XattrFlags::REPLACE)
    }),
    case("setxattr, replace nothing", "setxattr", REFUSED_CHANGE, a_file, |dir| {
        set(dir, "user.new", XattrFlags::REPLACE)
    }),
    case("removexattr", "removexattr", PREPARED_CHANGE, a_file, |dir| remove_attribute(dir, "user.old")),
    case("removexattr of nothing", "removexattr", REFUSED_CHANGE, a_file, |dir| {
        remove_attribute(dir, "user.new")
    }),
    case("fallocate", "fallocate", CHANGE, a_file, allocate),
    case("copy_file_range", "copy_file_range", CHANGE, two_files, copy_range),
    case("close", "release", RELEASE, a_file, |dir| open(dir, 0)),
    case("lookup", "lookup", LOOKUP, a_file_beside_the_mount, |dir| observe(fs::metadata(dir.join("a")))),
];

const fn case(
    name: &'static str,
    request: &'static str,
    stages: &'static [&'static str],
    prepare: fn(&Path) -> Observed,
    act: fn(&Path) -> Observed,
) -> Case {
    Case { name, request, stages, prepare, act }
}

/// A call's outcome without its value.
pub(super) fn observe<T>(result: io::Result<T>) -> Observed {
    result.map(|_| String::new()).map_err(|error| error.raw_os_error().unwrap_or(-1))
}

fn observe_errno<T>(result: Result<T, Errno>) -> Observed {
    observe(result.map_err(io::Error::from))
}

fn nothing(_dir: &Path) -> Observed {
    Ok(String::new())
}

fn a_file(dir: &Path) -> Observed {
    observe(fs::write(dir.join("a"), "content of a"))?;
    observe_errno(rustix::fs::setxattr(dir.join("a"), "user.old", b"old", XattrFlags::empty()))
}

/// The kernel knows nothing of the file afterwards.
fn a_file_beside_the_mount(dir: &Path) -> Observed {
    a_file(dir)?;
    observe(fs::write("/proc/sys/vm/drop_caches", "2"))
}

fn two_links(dir: &Path) -> Observed {
    a_file(dir)?;
    observe(fs::hard_link(dir.join("a"), dir.join("b")))
}

fn two_files(dir: &Path) -> Observed {
    a_file(dir)?;
    observe(fs::write(dir.join("b"), "and this is the content of b"))
}

fn a_directory(dir: &Path) -> Observed {
    observe(fs::create_dir(dir.join("d")))
}

fn make_fifo(dir: &Path) -> Observed {
    observe_errno(rustix::fs::mknodat(CWD, dir.join("new"), FileType::Fifo, Mode::from_raw_mode(0o640), 0))
}

fn rename(dir: &Path, from: &str, to: &str, flags: RenameFlags) -> Observed {
    observe_errno(rustix::fs::renameat_with(CWD, dir.join(from), CWD, dir.join(to), flags))
}

fn create(dir: &Path, flags: i32) -> Observed {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o640).custom_flags(flags);
    observe(options.open(dir.join("new")).and_then(|mut file| file.write_all(b"first")))
}

/// Reads through the descriptor that was opened across the death.
fn open(dir: &Path, flags: i32) -> Observed {
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(dir.join("a"));
    let read = file.and_then(|mut file| {
        file.write_all(b"C")?;
        let mut content = [0; 64];
        let length = file.read_at(&mut content, 0)?;
        Ok(String::from_utf8_lossy(&content[..length]).into_owned())
    });
    read.map_err(|error| error.raw_os_error().unwrap_or(-1))
}

fn write(dir: &Path) -> Observed {
    let file = OpenOptions::new().write(true).open(dir.join("a"));
    file.and_then(|file| file.write_at(b"written", 7)).map(|length| length.to_string()).map_err(errno)
}

fn append(dir: &Path) -> Observed {
    let file = OpenOptions::new().append(true).open(dir.join("a"));
    file.and_then(|mut file| file.write(b" and more")).map(|length| length.to_string()).map_err(errno)
}

fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}

fn set(dir: &Path, name: &str, flags: XattrFlags) -> Observed {
    observe_errno(rustix::fs::setxattr(dir.join("a"), name, b"new", flags))
}

fn remove_attribute(dir: &Path, name: &str) -> Observed {
    observe_errno(rustix::fs::removexattr(dir.join("a"), name))
}

fn allocate(dir: &Path) -> Observed {
    let file = OpenOptions::new().write(true).open(dir.join("a")).map_err(errno)?;
    observe_errno(rustix::fs::fallocate(&file, FallocateFlags::empty(), 5, 5000))
}

fn copy_range(dir: &Path) -> Observed {
    let from = File::open(dir.join("a")).map_err(errno)?;
    let to = OpenOptions::new().write(true).open(dir.join("b")).map_err(errno)?;
    let copied = rustix::fs::copy_file_range(&from, Some(&mut 2), &to, Some(&mut 5), 6);
    copied.map(|length| length.to_string()).map_err(Errno::raw_os_error)
}
