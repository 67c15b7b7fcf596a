//! What becomes of what exists.

use std::{
    fs::{self, File},
    time::{Duration, SystemTime},
};

use harness::{FsKind, require};
use wsguard_api::RestorePlan;

use crate::ground::{Ground, assert_same, now, tree};
use crate::undo::beside;

fn with_notebook(kind: FsKind) -> Ground {
    Ground::prepared(kind, |plain| {
        fs::create_dir(plain.join("d")).unwrap();
        fs::write(plain.join("n.ipynb"), "first").unwrap();
        fs::write(plain.join("d/same"), "same").unwrap();
        fs::write(plain.join("d/changed"), "as it was").unwrap();
        fs::write(plain.join("d/gone"), "gone").unwrap();
    })
}

/// Saves as editors do: a new file is renamed over the old one.
fn save_over(ground: &Ground, name: &str, text: &str) {
    fs::write(ground.at(".new"), text).unwrap();
    fs::rename(ground.at(".new"), ground.at(name)).unwrap();
}

fn read(ground: &Ground, name: &str) -> String {
    fs::read_to_string(ground.at(name)).unwrap()
}

#[test]
fn a_notebook_that_was_saved_over_comes_back_beside_or_over_it() {
    require!(fuse, ext4);
    let ground = with_notebook(FsKind::Ext4);
    save_over(&ground, "n.ipynb", "second");
    ground.job(&["restore", "n.ipynb"], 0);
    assert_eq!(read(&ground, "n.ipynb"), "second");
    assert_eq!(fs::read_to_string(beside(&ground, "n.ipynb")).unwrap(), "first");
    fs::remove_file(beside(&ground, "n.ipynb")).unwrap();
    ground.job(&["restore", "n.ipynb", "--overwrite", "--yes"], 0);
    assert_eq!(read(&ground, "n.ipynb"), "first");
}

fn a_directory_in_every_mode(kind: FsKind) {
    if !harness::Facility::Fuse.check() || !kind.facility().check() {
        return;
    }
    let ground = with_notebook(kind);
    let before = tree(&ground.at("d"));
    let moment = now();
    fs::write(ground.at("d/changed"), "in place, and longer").unwrap();
    fs::remove_file(ground.at("d/gone")).unwrap();
    fs::write(ground.at("d/new"), "new").unwrap();
    let after = tree(&ground.at("d"));
    let restore = |mode: &str| ground.job(&["restore", "d", "--at", &moment, mode, "--yes"], 0);

    let text = ground.cli(["restore", "d", "--at", &moment, "--exact", "--dry-run", "--json"]).ok();
    let plan: RestorePlan = serde_json::from_str(&text).unwrap();
    assert_eq!((plan.counts.files, plan.counts.replaced, plan.counts.removed), (2, 1, 1), "{plan:?}");
    assert!(plan.available_bytes.is_some() && plan.origins[0].at.is_some(), "{plan:?}");
    assert_same(&after, &tree(&ground.at("d")));

    let job = restore("--only-missing");
    assert_eq!((job.counts.files, job.counts.skipped), (1, 1), "{job:?}");
    assert_eq!(read(&ground, "d/changed"), "in place, and longer");
    assert_eq!(read(&ground, "d/gone"), "gone");

    let job = restore("--if-newer");
    assert_eq!((job.counts.files, job.counts.skipped), (0, 1), "what exists is newer: {job:?}");
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    File::options().write(true).open(ground.at("d/changed")).unwrap().set_modified(old).unwrap();
    let job = restore("--if-newer");
    assert_eq!(job.counts.replaced, 1, "what exists is older: {job:?}");
    assert_eq!(read(&ground, "d/changed"), "as it was");

    fs::write(ground.at("d/changed"), "once more").unwrap();
    let job = restore("--keep-both");
    assert_eq!((job.counts.files, job.counts.beside), (1, 1), "{job:?}");
    assert_eq!(read(&ground, "d/changed"), "once more");

    let unrestored = tree(&ground.at("d"));
    let job = restore("--exact");
    assert!(job.counts.removed == 2 && job.counts.failed == 0, "the new one and the one beside: {job:?}");
    assert_same(&before, &tree(&ground.at("d")));
    let again = restore("--exact");
    assert_eq!((again.counts.files, again.counts.removed), (0, 0), "{again:?}");

    // And all of that can be taken back, also that nothing was done last.
    ground.job(&["restore", "--undo", &job.id.to_string()], 0);
    assert_same(&unrestored, &tree(&ground.at("d")));
}

#[test]
fn a_directory_is_restored_in_every_mode_on_ext4() {
    a_directory_in_every_mode(FsKind::Ext4);
}

#[test]
fn a_directory_is_restored_in_every_mode_on_btrfs() {
    a_directory_in_every_mode(FsKind::Btrfs);
}

#[test]
fn patterns_snapshots_and_other_places() {
    require!(fuse, ext4);
    let ground = with_notebook(FsKind::Ext4);
    for n in 0..3 {
        fs::write(ground.at(format!("d/{n}.csv")), format!("{n}")).unwrap();
    }
    std::thread::sleep(Duration::from_millis(2_100));
    for n in 0..3 {
        fs::remove_file(ground.at(format!("d/{n}.csv"))).unwrap();
    }
    let job = ground.job(&["restore", "d/*.csv", "--to", "back/again"], 0);
    assert_eq!((job.counts.files, job.counts.directories), (3, 2), "{job:?}");
    assert_eq!(read(&ground, "back/again/2.csv"), "2");
    assert!(!ground.at("d/0.csv").exists());
    let snapshot = job.snapshot.expect("one was taken").to_string();
    ground.cli(["restore", "back", "--snapshot", &snapshot]).expect_code(3);
    let job = ground.job(&["restore", "d/same", "--snapshot", &snapshot, "--to", "back"], 0);
    assert_eq!(job.counts.files, 1, "{job:?}");
    assert_eq!(read(&ground, "back/same"), "same");
    let missing = ground.cli(["restore", "d/never"]).expect_code(3);
    assert!(missing.stderr.contains("is not in the history"), "{}", missing.stderr);
    ground.cli(["restore", "d", "--snapshot", "no such"]).expect_code(3);
    ground.cli(["restore", "d", "--at", "tomorrow"]).expect_code(2);
}

#[test]
fn patterns_in_the_middle_of_a_path_match_directories_that_are_there_or_were() {
    require!(fuse, ext4);
    let ground = Ground::prepared(FsKind::Ext4, |plain| {
        for dir in ["src/one", "src/two", "src/[x]", "other"] {
            fs::create_dir_all(plain.join(dir)).unwrap();
            fs::write(plain.join(dir).join("a.py"), dir).unwrap();
        }
    });
    let moment = now();
    fs::remove_dir_all(ground.at("src/one")).unwrap();
    fs::remove_file(ground.at("src/two/a.py")).unwrap();
    let job = ground.job(&["restore", "src/t*/a.py"], 0);
    assert_eq!(job.counts.files, 1, "{job:?}");
    fs::remove_file(ground.at("src/two/a.py")).unwrap();
    let job = ground.job(&["restore", "src/*/a.py"], 0);
    assert_eq!(job.counts.files, 2, "of one that is there and of one that is not: {job:?}");
    assert_eq!(read(&ground, "src/one/a.py"), "src/one");
    fs::write(ground.at("src/[x]/a.py"), "changed").unwrap();
    let job = ground.job(&["restore", "src/[x]/a.py", "--at", &moment, "--overwrite", "--yes"], 0);
    assert_eq!((job.counts.replaced, read(&ground, "src/[x]/a.py")), (1, "src/[x]".to_owned()), "{job:?}");
    ground.cli(["restore", "no*/a.py"]).expect_code(3);
}

#[test]
fn what_was_can_be_read_without_changing_anything() {
    require!(fuse, ext4);
    let ground = with_notebook(FsKind::Ext4);
    fs::hard_link(ground.at("d/same"), ground.at("d/twin")).unwrap();
    std::os::unix::fs::symlink("same", ground.at("d/link")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(ground.at("d/changed"), "user.note", b"v", flags).unwrap();
    let before = tree(&ground.at("d"));
    let moment = now();
    fs::write(ground.at("d/changed"), "in place").unwrap();
    fs::remove_file(ground.at("d/gone")).unwrap();
    save_over(&ground, "n.ipynb", "second");
    let after = tree(ground.mount.path());
    assert_eq!(ground.cli(["restore", "n.ipynb", "--stdout"]).ok(), "first");
    assert_eq!(ground.cli(["restore", "d/changed", "--at", &moment, "--stdout"]).ok(), "as it was");
    let wrong = ground.cli(["restore", "d", "--at", &moment, "--stdout"]).expect_code(2);
    assert!(wrong.stderr.contains("only one regular file"), "{}", wrong.stderr);
    assert_same(&after, &tree(ground.mount.path()));

    let scratch = harness::Scratch::new();
    let archive = scratch.path().join("d.tar");
    let out = File::create(&archive).unwrap();
    let run = ground.mount.daemon().command().current_dir(ground.mount.path());
    let run = run.args(["restore", "d", "--at", &moment, "--tar"]);
    let status = run.spawn(std::process::Stdio::null(), out.into(), std::process::Stdio::inherit()).wait();
    assert!(status.unwrap().success());
    let unpack = ["--xattrs", "--xattrs-include=*", "--same-owner", "-xpf"];
    harness::Run::new("tar").args(unpack).arg(&archive).current_dir(scratch.path()).ok();
    assert_same(&before, &tree(&scratch.path().join("d")));
    assert_same(&after, &tree(ground.mount.path()));
}
