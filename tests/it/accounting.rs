//! One rule for the size of a file, by filesystem, in all that is counted.

use std::fs;
use std::time::{Duration, Instant};

use harness::{Backing, FsKind, GuardMount, Run, require};
use serde_json::Value;
use wsguard_api::{AccountingMode, Counting, IndexState, QuotaReport, ScopeRef, UsageReport};

const PATIENCE: Duration = Duration::from_secs(60);

fn on(kind: FsKind) -> GuardMount {
    GuardMount::builder().backing(Backing::on(kind)).mount()
}

/// Files whose blocks do not say how large they are: with a hole, allocated beyond the end, and tiny.
fn make_files(mount: &GuardMount) {
    let file = |name: &str| mount.path().join(name);
    fs::create_dir(file("d")).unwrap();
    fs::write(file("d/dense"), vec![7; 300_000]).unwrap();
    fs::write(file("tiny"), "x").unwrap();
    fs::File::create(file("hole")).unwrap().set_len(1 << 20).unwrap();
    Run::new("fallocate").args(["-n", "-l", "2M"]).arg(file("d/dense")).ok();
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
