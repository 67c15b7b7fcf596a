//! What differs from POSIX or from the filesystem below on purpose. Each test belongs to a paragraph of
//! `fs/doc/SEMANTICS.md`; one that fails because the mount got better means that the paragraph has to go.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use harness::{Backing, Daemon, FsKind, Run, kill, require, wait_until};
use rustix::{
    fs::{
        AtFlags, CWD, FlockOperation, Mode, OFlags, StatxFlags, XattrFlags, copy_file_range, flock, getxattr,
        ioctl_ficlone, ioctl_getflags, listxattr, mkfifoat, openat, sendfile, setxattr, statvfs, statx,
        syncfs,
    },
    io::Errno,
    mount::{UnmountFlags, unmount},
    process::{Resource, Rlimit, Signal, getrlimit, setrlimit},
};

use super::{
    ground::Ground,
    sys::{Mapping, Protection},
};

fn ground() -> Ground {
    Ground::guarded(Backing::Directory)
}

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn tmpfile_is_refused() {
    require!(fuse);
    let ground = ground();
    let unnamed = |path: &Path| openat(CWD, path, OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(0o600));
    assert_eq!(unnamed(&ground.mounted).unwrap_err(), Errno::OPNOTSUPP);
    unnamed(&ground.backing).unwrap();
    // The usual library falls back to a named file.
    drop(tempfile::tempfile_in(&ground.mounted).unwrap());
    assert_eq!(fs::read_dir(&ground.mounted).unwrap().count(), 0);
}

#[test]
fn private_attribute_names_are_hidden_and_refused() {
    require!(fuse);
    let ground = ground();
    let (path, below) = (ground.mounted.join("file"), ground.backing.join("file"));
    File::create(&path).unwrap();
    setxattr(&below, "trusted.wsguard.note", b"ours", XattrFlags::empty()).unwrap();
    setxattr(&below, "user.wsguard.note", b"ours", XattrFlags::empty()).unwrap();
    setxattr(&path, "user.visible", b"x", XattrFlags::empty()).unwrap();
    let mut buffer = vec![0; 4096];
    let len = listxattr(&path, &mut buffer).unwrap();
    assert_eq!(String::from_utf8_lossy(&buffer[..len]).matches("wsguard").count(), 0);
    for name in ["trusted.wsguard.note", "user.wsguard.note", "user.wsguard.other", "trusted.wsguard.x"] {
        assert_eq!(setxattr(&path, name, b"theirs", XattrFlags::empty()), Err(Errno::PERM), "{name}");
        assert_eq!(getxattr(&path, name, &mut buffer), Err(Errno::NODATA), "{name}");
        assert!(rustix::fs::removexattr(&path, name).is_err(), "{name}");
    }
    assert_eq!(getxattr(&below, "user.wsguard.note", &mut buffer).unwrap(), 4);
    setxattr(&path, "user.wsguardian", b"only the prefix with its dot is ours", XattrFlags::empty()).unwrap();
}

#[test]
fn syncfs_succeeds_without_reaching_the_daemon() {
    require!(fuse);
    let ground = ground();
    let file = read_write(&ground.mounted.join("file"));
    file.write_all_at(b"x", 0).unwrap();
    syncfs(&file).unwrap();
}

#[test]
fn sync_command_reaches_the_backing() {
    require!(fuse);
    let ground = ground();
    fs::write(ground.mounted.join("file"), "x").unwrap();
    ground.mount().daemon().command().arg("sync").arg(&ground.mounted).ok();
}

#[test]
fn birth_time_is_not_reported() {
    require!(fuse);
    let ground = ground();
    File::create(ground.mounted.join("file")).unwrap();
    let mask = |root: &Path| {
        let found = statx(CWD, root.join("file"), AtFlags::empty(), StatxFlags::ALL).unwrap();
        StatxFlags::from_bits_retain(found.stx_mask)
    };
    assert!(!mask(&ground.mounted).contains(StatxFlags::BTIME));
    assert!(mask(&ground.mounted).contains(StatxFlags::BASIC_STATS));
    assert!(mask(&ground.backing).contains(StatxFlags::BTIME));
}

#[test]
fn locks_are_not_seen_below_the_mount() {
    require!(fuse);
    let ground = ground();
    let guarded = read_write(&ground.mounted.join("file"));
    flock(&guarded, FlockOperation::LockExclusive).unwrap();
    let direct = read_write(&ground.backing.join("file"));
    flock(&direct, FlockOperation::NonBlockingLockExclusive).unwrap();
    let second = read_write(&ground.mounted.join("file"));
    assert_eq!(flock(&second, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
}

#[test]
fn mapped_store_moves_mtime_while_the_file_is_open_and_after() {
    require!(fuse);
    let ground = ground();
    let path = ground.mounted.join("file");
    fs::write(&path, vec![0; 8192]).unwrap();
    let modified = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mtime(), metadata.mtime_nsec())
    };
    let before = modified(&path);
    thread::sleep(Duration::from_millis(30));
    let file = read_write(&path);
    let mapping = Mapping::new(&file, 8192, Protection::ReadWrite).unwrap();
    mapping.store(0, b"stored");
    mapping.sync().unwrap();
    let below = ground.backing.join("file");
    let agrees = || modified(&path) == modified(&below) && modified(&path) > before;
    wait_until("stat to show a mapped store", Duration::from_secs(3), agrees);
    thread::sleep(Duration::from_millis(30));
    mapping.store(4096, b"again");
    mapping.sync().unwrap();
    drop((mapping, file));
    wait_until("stat to show a mapped store after close", Duration::from_secs(3), agrees);
}

/// sendfile(2) from a descriptor that can be written to fills the mount's own page cache, the only thing that does. A
/// write(2) drops such pages itself, a store through a mapping does not.
#[test]
fn sendfile_sees_a_mapped_store_after_a_moment() {
    require!(fuse);
    let ground = ground();
    let path = ground.mounted.join("file");
    fs::write(&path, vec![0; 8192]).unwrap();
    let file = read_write(&path);
    let sent = || {
        let target = tempfile::tempfile().unwrap();
        assert_eq!(sendfile(&target, &file, Some(&mut 0), 8192).unwrap(), 8192);
        let mut bytes = vec![0xff; 8192];
        target.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert!(sent() == vec![0; 8192]);
    file.write_all_at(b"written", 0).unwrap();
    assert_eq!(&sent()[..7], b"written");

    let mapping = Mapping::new(&file, 8192, Protection::ReadWrite).unwrap();
    mapping.store(4096, b"stored");
    let mut read = [0; 6];
    file.read_exact_at(&mut read, 4096).unwrap();
    assert_eq!(&read, b"stored", "read(2) is late as well");
    wait_until("sendfile to show a mapped store", Duration::from_secs(1), || {
        &sent()[4096..4102] == b"stored"
    });
}

/// Split into requests of 1 MiB, but complete and in order.
#[test]
fn writes_above_one_mebibyte_are_complete() {
    require!(fuse);
    let ground = ground();
    let path = ground.mounted.join("file");
    let data: Vec<u8> = (0..(5 << 20) + 77).map(|at: usize| (at / 4093) as u8).collect();
    let file = read_write(&path);
    assert_eq!(file.write_at(&data, 3).unwrap(), data.len());
    assert!(fs::read(ground.backing.join("file")).unwrap()[3..] == data[..]);
    let mut back = vec![0; data.len()];
    assert_eq!(file.read_at(&mut back, 3).unwrap(), data.len());
    assert!(back == data);
}

/// A call that waits for a stopped worker ends with SIGKILL as long as the worker has not read the request.
#[test]
fn unread_request_ends_with_its_process() {
    require!(fuse);
    let ground = ground();
    fs::create_dir(ground.mounted.join("directory")).unwrap();
    let worker = ground.mount().daemon().worker_pid();
    kill(worker, Signal::STOP);
    let mut child = Command::new("stat")
        .arg(ground.mounted.join("directory/never seen before"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(300));
    child.kill().unwrap();
    let mut ended = false;
    for _ in 0..40 {
        ended = child.try_wait().unwrap().is_some();
        if ended {
            break;
        }
        thread::sleep(Duration::from_millis(25));
    }
    kill(worker, Signal::CONT);
    child.wait().unwrap();
    assert!(ended, "a process that waits for an unread request could not be killed");
    assert!(fs::metadata(ground.mounted.join("directory")).unwrap().is_dir());
}

#[test]
fn reflinks_and_inode_flags_are_refused() {
    require!(fuse);
    require!(btrfs);
    let ground = Ground::guarded(Backing::on(FsKind::Btrfs));
    fs::write(ground.mounted.join("from"), vec![7; 100_000]).unwrap();
    let source = File::open(ground.mounted.join("from")).unwrap();
    let target = read_write(&ground.mounted.join("to"));
    assert_eq!(ioctl_ficlone(&target, &source), Err(Errno::OPNOTSUPP));
    assert_eq!(ioctl_getflags(&source).unwrap_err(), Errno::NOTTY);
    let (from, to) = (ground.mounted.join("from"), ground.mounted.join("copy"));
    Run::new("cp").args(["--reflink=auto"]).args([&from, &to]).ok();
    assert!(fs::read(ground.backing.join("copy")).unwrap() == vec![7; 100_000]);
}

#[test]
fn copy_file_range_does_not_cross_the_mount() {
    require!(fuse);
    let ground = ground();
    fs::write(ground.backing.join("outside"), "text").unwrap();
    let outside = File::open(ground.backing.join("outside")).unwrap();
    let inside = read_write(&ground.mounted.join("inside"));
    assert_eq!(copy_file_range(&outside, Some(&mut 0), &inside, Some(&mut 0), 4), Err(Errno::XDEV));
}

/// The daemon's buffers are not aligned, so it drops O_DIRECT, and with it the demand for alignment of writers.
#[test]
fn unaligned_direct_writes_are_accepted() {
    require!(fuse);
    require!(ext4);
    let ground = Ground::guarded(Backing::on(FsKind::Ext4));
    let open = |root: &Path| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .custom_flags(libc::O_DIRECT)
            .open(root.join("file"))
            .unwrap()
    };
    open(&ground.mounted).write_all_at(b"odd", 1).unwrap();
    assert_eq!(fs::read(ground.mounted.join("file")).unwrap(), b"\0odd");
    let refused = open(&ground.backing).write_at(b"odd", 1).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
}

/// A tmpfs that covers a directory; detached on drop.
struct Covering(PathBuf);

impl Covering {
    fn mount(directory: PathBuf) -> Covering {
        Run::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "wsguard-test"]).arg(&directory).ok();
        Covering(directory)
    }
}

impl Drop for Covering {
    fn drop(&mut self) {
        let result = unmount(&self.0, UnmountFlags::DETACH);
        // A second panic would hide the first.
        assert!(result.is_ok() || thread::panicking(), "cannot detach {}: {result:?}", self.0.display());
    }
}

#[test]
fn directory_with_a_mount_point_below_is_refused() {
    require!(fuse);
    let daemon = Daemon::start();
    let project = daemon.make_dir("project");
    fs::create_dir(project.join("data")).unwrap();
    let covering = Covering::mount(project.join("data"));
    let refused = daemon.cli(["mount".as_ref(), project.as_os_str()]).expect_code(4);
    assert!(refused.stderr.contains("mount point"), "{}", refused.stderr);
    drop(covering);
    daemon.mount(&project);
}

#[test]
fn filesystems_mounted_on_the_plain_directory_are_not_visible() {
    require!(fuse);
    let ground = ground();
    fs::create_dir(ground.mounted.join("data")).unwrap();
    fs::write(ground.mounted.join("data/covered"), "below").unwrap();
    let covering = Covering::mount(ground.backing.join("data"));
    fs::write(ground.backing.join("data/covering"), "above").unwrap();
    let covered = fs::read(ground.mounted.join("data/covered"));
    let is_visible = ground.mounted.join("data/covering").exists();
    drop(covering);
    assert_eq!(covered.unwrap(), b"below");
    assert!(!is_visible);
}

#[test]
fn subvolumes_get_numbers_of_their_own() {
    require!(fuse);
    require!(btrfs);
    let ground = Ground::prepared(Backing::on(FsKind::Btrfs), |dir| {
        for name in ["one", "two"] {
            Run::new("btrfs").args(["subvolume", "create"]).arg(dir.join(name)).ok();
            fs::write(dir.join(name).join("file"), name).unwrap();
        }
    });
    let inode = |name: &str| fs::metadata(ground.mounted.join(name)).unwrap().ino();
    let below = |name: &str| fs::metadata(ground.backing.join(name)).unwrap().ino();
    assert_eq!((below("one"), below("one/file")), (below("two"), below("two/file")));
    let numbers = [inode("one"), inode("two"), inode("one/file"), inode("two/file")];
    for (at, number) in numbers.iter().enumerate() {
        assert!(!numbers[..at].contains(number), "{numbers:?}");
    }
    for name in ["one", "two"] {
        assert_eq!(fs::read(ground.mounted.join(name).join("file")).unwrap(), name.as_bytes());
        fs::write(ground.mounted.join(name).join("new"), "x").unwrap();
    }
    let moved = fs::rename(ground.mounted.join("one/file"), ground.mounted.join("two/moved")).unwrap_err();
    assert_eq!(moved.raw_os_error(), Some(libc::EXDEV));
}

/// ext4 keeps 5 % for root; a workspace's user, also as a container's root, must not use up what the host needs.
#[test]
fn reserved_blocks_are_not_available() {
    require!(fuse);
    require!(ext4);
    let ground = Ground::guarded(Backing::Loop(FsKind::Ext4, 64 << 20));
    let file = read_write(&ground.mounted.join("big"));
    let chunk = vec![1; 256 * 1024];
    let mut written = 0;
    let error = loop {
        match file.write_at(&chunk, written) {
            Ok(count) => written += count as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    file.sync_all().unwrap();
    let free = statvfs(&ground.backing).unwrap();
    assert!(free.f_bfree * free.f_frsize > 2 << 20, "only {} blocks are left for root", free.f_bfree);
}

/// The mount is `nosuid`: the bits are kept and shown, but give nothing.
#[test]
fn set_id_bits_have_no_effect() {
    require!(fuse);
    let ground = ground();
    let program = ground.mounted.join("id");
    Run::new("cp").args(["/usr/bin/id".as_ref(), program.as_os_str()]).ok();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o7777, 0o4755);
    assert_eq!(Run::new(&program).arg("-u").user(4001, 4001).ok().trim(), "4001");
}

/// The kernel keeps the times of a FUSE inode itself only in writeback mode, and a pipe's data never reaches the daemon.
#[test]
fn fifo_times_stand_still() {
    require!(fuse);
    let ground = ground();
    let modified_by_a_write = |root: &Path| {
        let path = root.join("fifo");
        mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        thread::sleep(Duration::from_millis(30));
        read_write(&path).write_all(b"x").unwrap();
        let after = fs::metadata(&path).unwrap().modified().unwrap();
        fs::remove_file(path).unwrap();
        after > before
    };
    assert!(modified_by_a_write(&ground.backing));
    assert!(!modified_by_a_write(&ground.mounted));
}

/// A deleted inode that nobody has open, but somebody still refers to (a working directory, an `O_PATH` descriptor), is
/// kept by a descriptor of the daemon, and there are 1,024 of these.
#[test]
fn deleted_inodes_beyond_the_bound_answer_estale() {
    const KEPT: usize = 1024;
    const FILES: usize = KEPT + 176;
    require!(fuse);
    require!(ext4);
    let ground = Ground::guarded(Backing::on(FsKind::Ext4));
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let path = |kind: &str, number: usize| ground.mounted.join(format!("{kind}-{number}"));
    let references: Vec<OwnedFd> = (0..FILES)
        .map(|number| {
            File::create(path("old", number)).unwrap();
            openat(CWD, path("old", number), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
        })
        .collect();
    (0..FILES).for_each(|number| fs::remove_file(path("old", number)).unwrap());
    // ext4 gives the freed inode numbers to the new files at once.
    (0..FILES).for_each(|number| fs::write(path("new", number), number.to_string()).unwrap());
    let mut kept = 0;
    for reference in &references {
        match statx(reference, "", AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS) {
            Ok(found) => {
                assert_eq!((found.stx_nlink, found.stx_size), (0, 0));
                kept += 1;
            }
            Err(error) => assert!(matches!(error, Errno::STALE | Errno::IO), "{error}"),
        }
    }
    assert!((KEPT..FILES).contains(&kept), "{kept} of {FILES} deleted inodes answer");
    for number in 0..FILES {
        assert_eq!(fs::read_to_string(path("new", number)).unwrap(), number.to_string());
    }
}
