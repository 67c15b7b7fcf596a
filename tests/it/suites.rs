//! External suites that judge a filesystem: each must find nothing.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{Backing, FsKind, GuardMount, Run, Scratch, require, require_tool};

const LIMIT: Duration = Duration::from_secs(1_800);

/// Two users that every Debian has; the suite needs them to act as somebody who is not root.
const PJDFSTEST: &str = r#"
[features]
posix_fallocate = {}
utimensat = {}
utime_now = {}
rename_ctime = {}
stat_st_birthtime = {}

[settings]
naptime = 0.01

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// All operations that both sets share. Not of zero bytes: fallocate(2) refuses those everywhere.
const FSX: &str = "
flen = 262144

[opsize]
min = 1
max = 65536

[weights]
close_open = 1
invalidate = 1
mapread = 10
read = 10
write = 10
truncate = 5
fsync = 1
fdatasync = 1
posix_fallocate = 3
punch_hole = 3
posix_fadvise = 1
copy_file_range = 3
";

/// What is added to them. Not both at once: the kernel answers sendfile(2) from a descriptor that is open for
/// writing out of a page cache that stores through a mapping do not reach at once (SEMANTICS.md, "sendfile").
#[derive(Clone, Copy)]
enum Extra {
    Stores,
    Sendfile,
}

impl Extra {
    fn weights(self) -> &'static str {
        match self {
            Self::Stores => "mapwrite = 10\nsendfile = 0\n",
            Self::Sendfile => "mapwrite = 0\nsendfile = 5\n",
        }
    }
}

fn mount_on(backing: Backing) -> GuardMount {
    GuardMount::builder().backing(backing).deadline(LIMIT).mount()
}

/// Runs the suite in a directory and returns the names of the tests that failed.
fn pjdfstest(tool: &Path, dir: &Path) -> BTreeSet<String> {
    let scratch = Scratch::new();
    let config = scratch.path().join("pjdfstest.toml");
    fs::write(&config, PJDFSTEST).unwrap();
    let output = Run::new(tool).arg("-c").arg(&config).arg("-p").arg(dir).timeout(LIMIT).output();
    let summary = output.stdout.lines().find(|line| line.starts_with("Summary:")).unwrap_or("no summary");
    let passed = summary.split(", ").find_map(|part| part.strip_suffix(" passed")?.parse::<u32>().ok());
    assert!(passed.is_some_and(|passed| passed > 350), "{summary}\n{}", output.stderr);
    let failed = output.stdout.lines().filter_map(|line| line.trim_end().strip_suffix("FAILED"));
    failed.map(|name| name.trim().to_owned()).collect()
}

/// Checks that the guard adds no failure to those of the filesystem itself: on btrfs a directory's link count
/// is always 1, which the suite does not like.
fn pjdfstest_as_below(tool: &Path, kind: FsKind) {
    let mount = mount_on(Backing::on(kind));
    let plain = mount.backing().path().join("plain");
    fs::create_dir(&plain).unwrap();
    assert_eq!(pjdfstest(tool, mount.path()), pjdfstest(tool, &plain));
}

#[test]
fn pjdfstest_finds_nothing() {
    require!(fuse);
    let Some(tool) = require_tool("pjdfstest") else { return };
    assert_eq!(pjdfstest(&tool, mount_on(Backing::Directory).path()), BTreeSet::new());
}

#[test]
fn pjdfstest_finds_nothing_on_xfs_that_xfs_does_not_have() {
    require!(fuse, xfs);
    let Some(tool) = require_tool("pjdfstest") else { return };
    pjdfstest_as_below(&tool, FsKind::Xfs);
}

#[test]
fn pjdfstest_finds_nothing_on_btrfs_that_btrfs_does_not_have() {
    require!(fuse, btrfs);
    let Some(tool) = require_tool("pjdfstest") else { return };
    pjdfstest_as_below(&tool, FsKind::Btrfs);
}

fn fsx(tool: &Path, mount: &GuardMount, extra: Extra, seeds: std::ops::RangeInclusive<u32>, operations: u32) {
    let scratch = Scratch::new();
    let config = scratch.path().join("fsx.toml");
    fs::write(&config, format!("{FSX}{}", extra.weights())).unwrap();
    // At the same time, because most of the time goes into waiting for the disk.
    std::thread::scope(|scope| {
        for seed in seeds {
            let (artifacts, file) =
                (scratch.dir(&format!("seed-{seed}")), mount.path().join(format!("fsx-{seed}")));
            let run = Run::new(tool).arg("-f").arg(&config).args(["-N", &operations.to_string()]);
            let run = run.args(["-S", &seed.to_string()]).arg("-P").arg(artifacts).arg(file).timeout(LIMIT);
            scope.spawn(move || {
                let printed = run.ok();
                assert!(printed.contains("A-OK"), "{printed}");
            });
        }
    });
}

#[test]
fn fsx_finds_nothing_in_five_times_twenty_thousand_operations() {
    require!(fuse);
    let Some(tool) = require_tool("fsx") else { return };
    fsx(&tool, &mount_on(Backing::Directory), Extra::Stores, 1..=5, 20_000);
}

#[test]
fn fsx_finds_nothing_with_sendfile() {
    require!(fuse);
    let Some(tool) = require_tool("fsx") else { return };
    fsx(&tool, &mount_on(Backing::Directory), Extra::Sendfile, 6..=7, 20_000);
}

#[test]
fn fsx_finds_nothing_on_xfs_and_btrfs() {
    require!(fuse, xfs, btrfs);
    let Some(tool) = require_tool("fsx") else { return };
    fsx(&tool, &mount_on(Backing::on(FsKind::Xfs)), Extra::Stores, 11..=11, 5_000);
    fsx(&tool, &mount_on(Backing::on(FsKind::Btrfs)), Extra::Stores, 12..=12, 5_000);
}

#[test]
fn fsx_finds_nothing_in_a_million_operations() {
    require!(fuse, long);
    let Some(tool) = require_tool("fsx") else { return };
    let mount = GuardMount::builder().deadline(Duration::from_secs(3_600)).mount();
    fsx(&tool, &mount, Extra::Stores, 100..=104, 180_000);
    fsx(&tool, &mount, Extra::Sendfile, 105..=105, 100_000);
}

#[test]
fn fio_reads_back_what_it_wrote() {
    require!(fuse);
    let Some(fio) = require_tool("fio") else { return };
    let mount = mount_on(Backing::Directory);
    let jobs: [(&str, &[&str]); 5] = [
        ("psync", &["--ioengine=psync", "--rw=write", "--fsync=32"]),
        ("random", &["--ioengine=psync", "--rw=randwrite", "--norandommap"]),
        ("mapped", &["--ioengine=mmap", "--rw=randwrite"]),
        ("aio", &["--ioengine=libaio", "--rw=randrw", "--iodepth=16"]),
        ("direct", &["--ioengine=libaio", "--rw=randwrite", "--iodepth=16", "--direct=1"]),
    ];
    for (name, options) in jobs {
        Run::new(&fio)
            .arg(format!("--name={name}"))
            .arg(format!("--directory={}", mount.path().display()))
            .args([
                "--size=32m",
                "--bs=4k",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--output-format=terse",
            ])
            .args(options)
            .timeout(LIMIT)
            .ok();
    }
}

#[test]
fn stress_ng_finds_no_difference() {
    require!(fuse);
    let Some(tool) = require_tool("stress-ng") else { return };
    let rounds: [&[&str]; 4] = [
        &["--access", "--chmod", "--copy-file", "--dentry", "--dir", "--fallocate", "--fcntl"],
        &["--flock", "--fstat", "--link", "--lockf", "--mmap", "--fpunch", "--rename", "--seek"],
        &["--symlink", "--touch", "--getdent", "--utime", "--xattr", "--hdd", "--locka", "--chown"],
        &["--sendfile", "--sync-file", "--readahead", "--filename", "--dirmany", "--msync"],
    ];
    for stressors in rounds {
        stress(&tool, "2s", stressors);
    }
}

#[test]
fn stress_ng_finds_no_difference_in_a_minute() {
    require!(fuse, long);
    let Some(tool) = require_tool("stress-ng") else { return };
    stress(
        &tool,
        "60s",
        &["--dentry", "--dir", "--fallocate", "--hdd", "--link", "--fpunch", "--rename", "--xattr"],
    );
}

/// Runs one worker of each stressor at the same time; each checks its own results.
fn stress(tool: &PathBuf, time: &str, stressors: &[&str]) {
    let mount = mount_on(Backing::Directory);
    let workers = stressors.iter().flat_map(|stressor| [*stressor, "1"]);
    let output = Run::new(tool)
        .args(workers)
        .args([
            "--timeout",
            time,
            "--verify",
            "--hdd-bytes",
            "16m",
            "--fallocate-bytes",
            "16m",
            "--temp-path",
        ])
        .arg(mount.path())
        // A stressor that the kernel refuses is skipped with exit code 0; failures are 2, killed ones 3.
        .timeout(LIMIT)
        .output();
    output.expect_code(0);
}
