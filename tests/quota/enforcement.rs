//! What the limits do to programs: where a writer stops, who may use the headroom, what is never refused.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, PermissionsExt, symlink},
    },
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use harness::{Mapping, Protection, Run, wait_until};
use rustix::{
    fs::{FallocateFlags, XattrFlags},
    io::Errno,
};
use wsguard_api::QuotaState;

use super::ground::{BLOCK, Below, Ground, on_every_filesystem};

on_every_filesystem!(
    one_writer_stops_at_the_exact_block,
    racing_writers_fill_the_limit_and_never_pass_it,
    nothing_that_takes_no_space_is_refused,
    holes_of_a_file_open_for_reading_and_writing_are_reserved,
);

const MIB: u64 = 1 << 20;
/// Where the writers of a race may leave off: each may have given up with less than a block, in the middle of others'
/// worst cases.
const SLOP: u64 = 64 * 1024;

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn write_only(path: &Path) -> File {
    OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap()
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap()
}

/// Writes until it is refused. Returns how many bytes were taken and why no more.
fn fill(file: &File, from: u64, chunk: usize) -> (u64, Errno) {
    let bytes = vec![7; chunk];
    let mut at = from;
    loop {
        match file.write_at(&bytes, at) {
            Ok(written) => at += written as u64,
            Err(error) => return (at - from, errno(&error)),
        }
    }
}

fn one_writer_stops_at_the_exact_block(ground: &mut Ground) {
    ground.set(&["10M", "--headroom", "64K"]);
    let large_end = 10 * MIB - 64 * 1024;
    let file = write_only(&ground.at("large"));
    // Not a divisor of what there is: the write before the last is cut short at a block.
    let (written, why) = fill(&file, 0, 1_000_000);
    assert_eq!(why, Errno::DQUOT);
    // A large file also pays for the blocks that tell where its blocks are.
    let walked = ground.walked().bytes;
    assert!(
        written.is_multiple_of(BLOCK) && written <= large_end && walked + BLOCK > large_end,
        "{written} bytes written, {walked} used of {large_end} on {:?}",
        ground.below
    );
    if matches!(ground.below, Below::Tmpfs | Below::Xfs) {
        assert_eq!(written, large_end);
    }
    // What is refused once is refused again, and a small file may use what is left.
    assert_eq!(errno(&file.write_at(&[1; 4096], written).unwrap_err()), Errno::DQUOT);
    let small = write_only(&ground.at("small"));
    let (written, why) = fill(&small, 0, 10_000);
    assert_eq!(why, Errno::DQUOT);
    let used = ground.walked().bytes;
    assert!(used <= 10 * MIB && used + BLOCK > 10 * MIB, "{written} more bytes, {used} used");
    ground.assert_exact("a full project");
    // Space that comes back can be used at once.
    drop(file);
    fs::remove_file(ground.at("large")).unwrap();
    fs::write(ground.at("again"), vec![1; 5 << 20]).unwrap();
    ground.assert_exact("a project that was full");
}

fn racing_writers_fill_the_limit_and_never_pass_it(ground: &mut Ground) {
    const WRITERS: u64 = 16;
    ground.set(&["48M", "--headroom", "1M"]);
    let limit = 47 * MIB;
    let accepted = AtomicU64::new(0);
    thread::scope(|scope| {
        for number in 0..WRITERS {
            let (path, accepted) = (ground.at(&number.to_string()), &accepted);
            scope.spawn(move || {
                let file = write_only(&path);
                let (written, why) = fill(&file, 0, 12_345 + usize::try_from(number).unwrap() * 1_111);
                assert_eq!(why, Errno::DQUOT);
                accepted.fetch_add(written, Ordering::Relaxed);
            });
        }
    });
    let (accepted, used) = (accepted.into_inner(), ground.walked().bytes);
    assert!(accepted <= limit && used <= limit, "{accepted} bytes accepted, {used} used of {limit}");
    assert!(used > limit - SLOP, "{accepted} bytes accepted, {used} used of {limit}");
    ground.assert_exact("a race to the limit");
    // Small files fill the rest exactly.
    let mut refused = false;
    for number in 0..64 {
        let small = write_only(&ground.at(&format!("small-{number}")));
        refused |= fill_small(&small);
    }
    let used = ground.walked().bytes;
    assert!(refused && used <= 48 * MIB && used + BLOCK > 48 * MIB, "{used} used of {}", 48 * MIB);
    ground.assert_exact("the headroom was filled");
}

/// Writes 64 KiB; tells whether it was refused before that.
fn fill_small(file: &File) -> bool {
    let mut at = 0;
    while at < 64 * 1024 {
        match file.write_at(&[7; 4096], at) {
            Ok(written) => at += written as u64,
            Err(error) => {
                assert_eq!(errno(&error), Errno::DQUOT);
                return true;
            }
        }
    }
    false
}

/// Everything that quota may not refuse (Q20), in a project that has no room at all.
fn free_operations(dir: &Path) {
    let must = |what: &str, result: io::Result<()>| {
        result.unwrap_or_else(|error| panic!("{what} in a full project: {error}"));
    };
    let path = |name: &str| dir.join(name);
    let file = open(&path("kept"));
    must("overwrite in place", file.write_all_at(&[9; 50_000], 10_000));
    must("overwrite of a byte", file.write_all_at(&[9; 1], 99_999));
    must("read", fs::read(path("kept")).map(drop));
    must("fsync", file.sync_all());
    must("list", fs::read_dir(dir).map(|entries| assert_eq!(entries.count(), 3)));
    must("chmod", fs::set_permissions(path("kept"), fs::Permissions::from_mode(0o640)));
    must("chown", std::os::unix::fs::chown(path("kept"), Some(1), Some(1)));
    must("utimes", file.set_modified(std::time::SystemTime::UNIX_EPOCH));
    must("hard link", fs::hard_link(path("kept"), path("link")));
    must("rename", fs::rename(path("link"), path("renamed")));
    must("rename over", fs::rename(path("victim"), path("renamed")));
    let set = rustix::fs::fsetxattr(&file, "user.note", b"small", XattrFlags::empty());
    must("setxattr", set.map_err(Into::into));
    must("removexattr", rustix::fs::fremovexattr(&file, "user.note").map_err(Into::into));
    must("unlink", fs::remove_file(path("renamed")));
    must("rmdir", fs::remove_dir(path("empty")));
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    must("punch a hole", rustix::fs::fallocate(file.as_fd(), mode, 0, 4096).map_err(Into::into));
    must("truncate down", file.set_len(50_000));
    must("unlink while open", fs::remove_file(path("kept")));
    must("overwrite of what has no name", file.write_all_at(&[9; 10], 8_192));
}

fn prepare_free_operations(dir: &Path) {
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("kept"), [1; 100_000]).unwrap();
    fs::write(dir.join("victim"), [1; 100]).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
}

fn nothing_that_takes_no_space_is_refused(ground: &mut Ground) {
    prepare_free_operations(&ground.at("full"));
    prepare_free_operations(&ground.at("over"));
    let used = ground.used();
    // Full to the last byte and the last inode.
    ground.set(&[&format!("{}B", used.bytes), "--inodes", &used.inodes.to_string(), "--headroom", "0"]);
    assert_eq!(errno(&File::create(ground.at("new")).unwrap_err()), Errno::DQUOT);
    assert_eq!(errno(&fs::create_dir(ground.at("new")).unwrap_err()), Errno::DQUOT);
    assert_eq!(errno(&symlink("x", ground.at("new")).unwrap_err()), Errno::DQUOT);
    let append = OpenOptions::new().append(true).open(ground.at("over/victim")).unwrap().write(&[1; 5_000]);
    assert_eq!(append.unwrap(), 3_996, "what is left of the last block can be written");
    free_operations(&ground.at("full"));
    ground.assert_exact("operations in a full project");
    // Lowered below what is used.
    ground.set(&["20K", "--inodes", "2", "--allow-over"]);
    assert_eq!(ground.row().state, QuotaState::Over);
    assert_eq!(errno(&File::create(ground.at("new")).unwrap_err()), Errno::DQUOT);
    free_operations(&ground.at("over"));
    ground.assert_exact("operations in a project that is over its limit");
    ground.set(&["unlimited", "--inodes", "unlimited"]);
    fs::write(ground.at("new"), [1; 100_000]).unwrap();
    ground.assert_exact("the limits are gone");
}

fn holes_of_a_file_open_for_reading_and_writing_are_reserved(ground: &mut Ground) {
    ground.set(&["16M", "--headroom", "0"]);
    // Made for writing only: a hole that nobody can fill unseen.
    write_only(&ground.at("sparse")).set_len(32 * MIB).unwrap();
    ground.assert_exact("a sparse file");
    let refused = OpenOptions::new().read(true).write(true).open(ground.at("sparse")).unwrap_err();
    assert_eq!(errno(&refused), Errno::DQUOT);
    File::open(ground.at("sparse")).unwrap();
    OpenOptions::new().write(true).open(ground.at("sparse")).unwrap();
    // As `numpy.memmap(mode="w+")` makes its file.
    let file = open(&ground.at("map"));
    assert_eq!(errno(&file.set_len(17 * MIB).unwrap_err()), Errno::DQUOT);
    assert_eq!(file.metadata().unwrap().len(), 0);
    file.set_len(15 * MIB).unwrap();
    assert_eq!(ground.row().reserved.bytes, 15 * MIB);
    let (taken, why) = fill(&write_only(&ground.at("other")), 2 * MIB, 4096);
    assert_eq!(why, Errno::DQUOT);
    assert!(taken <= MIB, "{taken} bytes of what is reserved were given to somebody else");
    // What is reserved for the holes is there for whoever fills them, by stores or by writes.
    let mapping = Mapping::new(&file, 15 << 20, Protection::ReadWrite).unwrap();
    (0..5 << 8).for_each(|block| mapping.store(block * 4096, b"stored"));
    mapping.sync().unwrap();
    let (taken, why) = (8 * MIB..15 * MIB).step_by(65_536).map(|at| file.write_at(&[1; 65_536], at)).fold(
        (0, None),
        |(taken, why), result| match result {
            Ok(written) => (taken + written as u64, why),
            Err(error) => (taken, Some(errno(&error))),
        },
    );
    assert_eq!((taken, why), (7 * MIB, None), "of holes that were reserved");
    drop((mapping, file));
    wait_until("the reservation to end", Duration::from_secs(5), || ground.row().reserved.bytes == 0);
    ground.assert_exact("a mapping filled some of what was reserved");
    let used = ground.used().bytes;
    assert!(used <= 16 * MIB, "{used} bytes used");
}

fn df(path: &Path) -> rustix::fs::StatVfs {
    rustix::fs::statvfs(path).unwrap()
}

#[test]
fn df_shows_the_limit_and_what_is_left_of_it() {
    if !Below::Tmpfs.is_there() {
        return;
    }
    let ground = Ground::new(Below::Tmpfs);
    ground.set(&["100M", "--headroom", "1M", "--inodes", "5000"]);
    fs::write(ground.at("file"), vec![1; 10 << 20]).unwrap();
    let used = ground.used();
    let shown = df(ground.path());
    assert_eq!((shown.f_bsize, shown.f_frsize), (BLOCK, BLOCK));
    assert_eq!(shown.f_blocks * BLOCK, 100 * MIB);
    assert_eq!(shown.f_bfree * BLOCK, 100 * MIB - used.bytes);
    assert_eq!(shown.f_bavail * BLOCK, 99 * MIB - used.bytes);
    assert_eq!(shown.f_files, 5000);
    // The headroom of inodes is kept back as well: only one number is shown.
    assert!(shown.f_ffree <= 5000 - used.inodes && shown.f_ffree >= 5000 - used.inodes - 256);
    // What an open file reserves is not there for others.
    let file = open(&ground.at("map"));
    file.set_len(20 * MIB).unwrap();
    assert_eq!(df(ground.path()).f_bavail * BLOCK, 79 * MIB - used.bytes);
    drop(file);
    // Below what is used there is nothing left, and nothing wraps.
    ground.set(&["5M", "--allow-over"]);
    let shown = df(&ground.path().join("file"));
    assert_eq!((shown.f_blocks * BLOCK, shown.f_bfree, shown.f_bavail), (5 * MIB, 0, 0));
    // An expired grace period ends what is available (a soft limit, and no time above it).
    ground.set(&["100M", "--soft", "5M", "--grace", "0s"]);
    wait_until("the grace period to end", Duration::from_secs(20), || {
        ground.row().state == QuotaState::Expired
    });
    assert_eq!(df(ground.path()).f_bavail, 0);
    assert_eq!(errno(&fill_one(&ground.at("new"))), Errno::DQUOT);
    ground.set(&["unlimited", "--soft", "unlimited", "--inodes", "unlimited"]);
    let host = df(ground.mount.backing_path());
    assert_eq!(df(ground.path()).f_blocks * BLOCK, host.f_blocks * host.f_frsize);
}

/// Makes a file of a block; returns why that is refused.
fn fill_one(path: &Path) -> io::Error {
    let file = write_only(path);
    file.write_all_at(&[1; 4096], 0).expect_err("nothing more may be written")
}

#[test]
fn a_scope_may_say_enospc() {
    if !Below::Tmpfs.is_there() {
        return;
    }
    let ground = Ground::new(Below::Tmpfs);
    ground.set(&["1M", "--errno", "enospc", "--inodes", "10"]);
    let (_, why) = fill(&write_only(&ground.at("large")), 0, 100_000);
    assert_eq!(why, Errno::NOSPC);
    let made: Vec<_> = (0..20).map(|number| File::create(ground.at(&number.to_string()))).collect();
    assert_eq!(errno(made[19].as_ref().unwrap_err()), Errno::NOSPC);
    ground.assert_exact("a refusal with ENOSPC");
}

#[test]
fn a_save_that_does_not_fit_leaves_the_previous_file_intact() {
    if !Below::Ext4.is_there() {
        return;
    }
    let ground = Ground::new(Below::Ext4);
    ground.set(&["12M", "--headroom", "100K"]);
    let previous: Vec<u8> = (0..8 << 20).map(|at: u32| (at % 251) as u8).collect();
    fs::write(ground.at("model.pt"), &previous).unwrap();
    let saved = fs::write(ground.at("model.pt.tmp"), vec![1; 8 << 20])
        .and_then(|()| fs::rename(ground.at("model.pt.tmp"), ground.at("model.pt")));
    assert_eq!(errno(&saved.unwrap_err()), Errno::DQUOT);
    assert!(fs::read(ground.at("model.pt")).unwrap() == previous, "the previous save has changed");
    fs::remove_file(ground.at("model.pt.tmp")).unwrap();
    ground.assert_exact("a save that did not fit");
    // One that fits replaces it, and the old one is given back.
    fs::write(ground.at("model.pt.tmp"), [2; 100_000]).unwrap();
    fs::rename(ground.at("model.pt.tmp"), ground.at("model.pt")).unwrap();
    ground.assert_exact("a save that fits");
    assert!(ground.used().bytes < 200_000);
}

#[test]
fn preallocation_is_charged_as_a_whole_or_not_at_all() {
    if !Below::Ext4.is_there() {
        return;
    }
    let ground = Ground::new(Below::Ext4);
    ground.set(&["8M", "--headroom", "0"]);
    let file = write_only(&ground.at("f"));
    let refused = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 9 * MIB);
    assert_eq!(refused, Err(Errno::DQUOT));
    assert_eq!(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 9 * MIB), Err(Errno::DQUOT));
    assert_eq!(ground.used().bytes, 0);
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 7 * MIB).unwrap();
    ground.assert_exact("blocks beyond the end");
    // What is allocated is paid for: filling it takes nothing.
    ground.set(&["7M", "--headroom", "0", "--allow-over"]);
    let (written, why) = fill(&file, 0, 65_536);
    assert!(written >= 7 * MIB - 65_536 && why == Errno::DQUOT, "{written} bytes, {why}");
    ground.assert_exact("what was allocated is filled");
}

#[test]
fn limits_that_change_under_writers_hold_at_once() {
    if !Below::Tmpfs.is_there() {
        return;
    }
    let ground = Ground::new(Below::Tmpfs);
    ground.set(&["40M", "--headroom", "0"]);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|number| {
                let path = ground.at(&number.to_string());
                scope.spawn(move || {
                    let file = write_only(&path);
                    let ended = (0..400_u64).find_map(|at| file.write_all_at(&[1; 65_536], at << 16).err());
                    errno(&ended.expect("the limit is reached"))
                })
            })
            .collect();
        for limit in ["60M", "30M", "50M"] {
            thread::sleep(Duration::from_millis(30));
            ground.set(&[limit, "--allow-over"]);
        }
        for writer in writers {
            assert_eq!(writer.join().unwrap(), Errno::DQUOT);
        }
    });
    assert!(ground.walked().bytes <= 60 * MIB);
    ground.assert_exact("limits that changed under writers");
}

#[test]
fn a_copy_stops_where_the_limit_is() {
    if !Below::Xfs.is_there() {
        return;
    }
    // A reflink: XFS shares the blocks, the copy pays for all of them.
    let ground = Ground::new(Below::Xfs);
    fs::write(ground.at("source"), vec![1; 6 << 20]).unwrap();
    ground.set(&["10M", "--headroom", "0"]);
    let output = Run::new("cp").args(["source", "copy"]).current_dir(ground.path()).output();
    assert_ne!(output.code, 0, "{output:?}");
    assert!(output.stderr.contains("quota"), "{}", output.stderr);
    let used = ground.used().bytes;
    assert!(used <= 10 * MIB, "{used} bytes used");
    ground.assert_exact("a copy that did not fit");
    fs::remove_file(ground.at("copy")).unwrap();
    ground.assert_exact("the copy is removed");
}
