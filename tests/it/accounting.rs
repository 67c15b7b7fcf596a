//! One rule for the size of a file, by filesystem, in all that is counted.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::{Backing, Daemon, FsKind, GuardMount, Run, kill, require, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use wsguard_api::{
    AccountingMode, Counting, Event, EventKind, EventList, IndexState, QuotaReport, ScopeRef, UsageReport,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn on(kind: FsKind) -> GuardMount {
    GuardMount::builder().backing(Backing::on(kind)).mount()
}

/// Files whose blocks do not say how large they are: with a hole, appended to, and tiny.
fn make_files(mount: &GuardMount) {
    let file = |name: &str| mount.path().join(name);
    fs::create_dir(file("d")).unwrap();
    let mut dense = File::create(file("d/dense")).unwrap();
    for _ in 0..30 {
        dense.write_all(&[7; 10_000]).unwrap();
    }
    fs::write(file("tiny"), "x").unwrap();
    File::create(file("hole")).unwrap().set_len(1 << 20).unwrap();
    fs::hard_link(file("tiny"), file("d/link")).unwrap();
}

/// Bytes and inodes that `quota check` counts; nothing may be off.
fn checked(mount: &GuardMount) -> (u64, u64) {
    // Exit code 10 would tell of a difference.
    let text = mount.daemon().command().args(["quota", "check", "--json"]).ok();
    let list: Value = serde_json::from_str(&text).unwrap();
    let counted = &list["items"][0]["counted"];
    (counted["bytes"].as_u64().unwrap(), counted["inodes"].as_u64().unwrap())
}

/// Waits until `usage` says what `quota check` does.
fn assert_usage_equals(mount: &GuardMount, counted: (u64, u64)) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = mount.daemon().command().args(["usage", "--json"]).arg(mount.path()).output();
        let report: Option<UsageReport> = serde_json::from_str(&output.stdout).ok();
        match report {
            Some(report)
                if report.state == IndexState::Current && (report.bytes, report.inodes) == counted =>
            {
                return;
            }
            report => assert!(Instant::now() < deadline, "{counted:?} is counted, usage says {report:#?}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn usage_and_quota_agree_on_ext4_where_blocks_count() {
    require!(fuse, ext4);
    let mount = on(FsKind::Ext4);
    make_files(&mount);
    Run::new("fallocate").args(["-n", "-l", "2M"]).arg(mount.path().join("d/dense")).ok();
    let counted = checked(&mount);
    assert!(counted.0 >= (2 << 20) + 4_096, "what is allocated beyond the end counts: {counted:?}");
    assert_usage_equals(&mount, counted);
}

#[test]
fn usage_and_quota_agree_on_xfs_where_nothing_beyond_the_end_counts() {
    require!(fuse, xfs);
    let mount = on(FsKind::Xfs);
    make_files(&mount);
    let counted = checked(&mount);
    // 300,000 bytes in whole blocks, a block for the tiny file, nothing for the hole.
    assert_eq!(counted, (303_104 + 4_096, 5));
    assert_usage_equals(&mount, counted);
}

fn counting(mount: &GuardMount) -> Counting {
    let report: QuotaReport =
        serde_json::from_str(&mount.daemon().command().args(["quota", "report", "--json"]).ok()).unwrap();
    let project = ScopeRef::Project { id: mount.workspace().id.clone() };
    let row = report.items.into_iter().find(|row| row.scope == project).unwrap();
    row.counting.unwrap()
}

#[test]
fn report_tells_the_rule_and_the_last_count() {
    require!(fuse, xfs);
    let mount = on(FsKind::Xfs);
    make_files(&mount);
    let counted = checked(&mount);
    let counting = counting(&mount);
    assert_eq!(counting.accounting, AccountingMode::AllocatedToSize);
    let last = counting.last_recount.unwrap();
    assert_eq!((last.counted.bytes, last.counted.inodes), counted);
    assert_eq!((last.drift_bytes, last.drift_inodes), (0, 0));
}

/// A guarded directory on a btrfs; `prepare` gets the plain directory.
fn on_btrfs(prepare: impl FnOnce(&Path)) -> GuardMount {
    GuardMount::builder().backing(Backing::on(FsKind::Btrfs)).mount_prepared(prepare)
}

/// Writes 4 MiB that compress to nearly nothing, and a byte; returns what counts, after everything is on the disk.
fn counted_of_compressible(mount: &GuardMount) -> (u64, u64) {
    fs::write(mount.path().join("zeros"), vec![0; 4 << 20]).unwrap();
    fs::write(mount.path().join("tiny"), "x").unwrap();
    checked(mount)
}

#[test]
fn sizes_count_on_a_btrfs_that_is_mounted_with_compression() {
    require!(fuse, btrfs);
    let mount = on_btrfs(|dir| {
        let root = dir.ancestors().nth(2).unwrap();
        Run::new("mount").args(["-o", "remount,compress=zstd"]).arg(root).ok();
    });
    assert_eq!(counting(&mount).accounting, AccountingMode::Logical);
    let counted = counted_of_compressible(&mount);
    assert_eq!(counted, ((4 << 20) + 4_096, 3));
    assert_usage_equals(&mount, counted);
    // The next worker goes on with the rule that it finds.
    kill(mount.daemon().worker_pid(), Signal::KILL);
    fs::write(mount.path().join("more"), vec![0; 1 << 20]).unwrap();
    assert_eq!(checked(&mount), ((5 << 20) + 4_096, 4));
    assert_eq!(counting(&mount).accounting, AccountingMode::Logical);
}

#[test]
fn sizes_count_in_a_btrfs_directory_with_the_property_and_blocks_without() {
    require!(fuse, btrfs);
    let compressed = on_btrfs(|dir| {
        drop(Run::new("btrfs").args(["property", "set"]).arg(dir).args(["compression", "zstd"]).ok());
    });
    assert_eq!(counting(&compressed).accounting, AccountingMode::Logical);
    assert_eq!(counted_of_compressible(&compressed).0, (4 << 20) + 4_096);
    drop(compressed);
    let plain = on_btrfs(|_| {});
    assert_eq!(counting(&plain).accounting, AccountingMode::Allocated);
}

fn drifts(daemon: &Daemon) -> Vec<Event> {
    let list: EventList = serde_json::from_str(&daemon.cli(["events", "--json"]).ok()).unwrap();
    list.events.into_iter().filter(|event| event.kind == EventKind::QuotaDrift).collect()
}

#[test]
fn difference_that_nothing_explains_is_told_and_one_after_a_crash_is_not() {
    require!(fuse);
    let mut outside = PathBuf::new();
    let mount = GuardMount::builder().mount_prepared(|dir| {
        outside = dir.parent().unwrap().join("outside");
        fs::write(dir.join("file"), vec![7; 10_000]).unwrap();
        fs::hard_link(dir.join("file"), &outside).unwrap();
    });
    assert_eq!(checked(&mount), (12_288, 2));
    kill(mount.daemon().worker_pid(), Signal::KILL);
    fs::write(mount.path().join("second"), vec![7; 5_000]).unwrap();
    assert_eq!(checked(&mount), (20_480, 3));
    assert_eq!(drifts(mount.daemon()), []);
    // A name outside the workspace: nobody watches it.
    File::options().append(true).open(&outside).unwrap().write_all(&[7; 10_000]).unwrap();
    mount.daemon().command().args(["quota", "check"]).output().expect_code(10);
    wait_until("the difference is told of", PATIENCE, || !drifts(mount.daemon()).is_empty());
    let told = drifts(mount.daemon());
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].workspace.as_deref(), Some(mount.workspace().name.as_str()));
    assert!(told[0].message.contains("+8192 bytes") && told[0].message.contains("+0 inodes"), "{told:?}");
    assert_eq!(checked(&mount), (28_672, 3));
    assert_eq!(drifts(mount.daemon()).len(), 1);
}
