//! New directories from the past: the same to the last byte, where the caller may write, and nowhere else.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
    time::Duration,
};

use harness::{Backing, FsKind, GuardMount, Scratch, require, run_as};
use wsguard_api::{ErrorCode, RestoreKind, RestorePlan, RestoreState};

use crate::ground::{Ground, assert_same, now, tree};

fn with_everything(kind: FsKind) -> Ground {
    let ground = Ground::prepared(kind, |plain| {
        fs::create_dir(plain.join("d")).unwrap();
        fs::write(plain.join("d/first"), "as it was").unwrap();
    });
    fs::hard_link(ground.at("d/first"), ground.at("twin")).unwrap();
    symlink("d/first", ground.at("link")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(ground.at("d"), "user.note", b"of the directory", flags).unwrap();
    harness::Run::new("setfacl").args(["-m", "u:4242:rw", "-m", "m::rw"]).arg(ground.at("d/first")).ok();
    fs::write(ground.at("owned"), "theirs").unwrap();
    chown(ground.at("owned"), Some(4321), Some(4322)).unwrap();
    fs::set_permissions(ground.at("owned"), fs::Permissions::from_mode(0o640)).unwrap();
    let sparse = fs::File::create(ground.at("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 8192], 32 << 20).unwrap();
    drop(sparse);
    fs::set_permissions(ground.at("d"), fs::Permissions::from_mode(0o2755)).unwrap();
    ground
}

/// Inside, outside and by a time: the same tree as then, whatever has become of the files.
fn a_clone_is_what_was(kind: FsKind) {
    if !harness::Facility::Fuse.check() || !kind.facility().check() {
        return;
    }
    let ground = with_everything(kind);
    let before = tree(ground.mount.path());
    let snapshot = ground.cli(["snapshot", "create", "--name", "paper"]).ok();
    assert!(snapshot.contains("paper"), "{snapshot}");
    let moment = now();
    fs::write(ground.at("d/first"), "something longer than it was").unwrap();
    fs::remove_file(ground.at("owned")).unwrap();
    fs::remove_file(ground.at("sparse")).unwrap();

    let outside = ground.mount.backing().path().join("outside");
    let text = ground.cli(["clone", "paper", outside.to_str().unwrap(), "--dry-run", "--json"]).ok();
    let plan: RestorePlan = serde_json::from_str(&text).unwrap();
    assert!(plan.counts.files >= 5 && plan.needed_inodes > 0 && plan.available_bytes.is_some(), "{plan:?}");
    assert!(!outside.exists(), "a dry run makes nothing");
    let job = ground.job(&["clone", "paper", outside.to_str().unwrap()], 0);
    assert_eq!((job.kind, job.state), (RestoreKind::Clone, RestoreState::Done), "{job:?}");
    assert_same(&before, &tree(&outside));
    assert!(fs::metadata(outside.join("sparse")).unwrap().blocks() * 512 < 1 << 20, "holes are left");
    // Nothing of it is a name of a file that somebody works with.
    fs::write(outside.join("twin"), "changed in the clone").unwrap();
    assert_eq!(fs::read_to_string(ground.at("twin")).unwrap(), "something longer than it was");

    fs::create_dir(ground.at("inside")).unwrap();
    ground.job(&["clone", &moment, "inside/deep"], 0);
    assert_same(&before, &tree(&ground.at("inside/deep")));
    fs::write(ground.at("inside/deep/twin"), "changed in the clone").unwrap();
    assert_eq!(fs::read_to_string(ground.at("d/first")).unwrap(), "something longer than it was");

    let part = outside.with_file_name("part");
    fs::create_dir(&part).unwrap();
    ground.job(&["clone", "paper", part.to_str().unwrap(), "--of", "d"], 0);
    assert_eq!(fs::read_to_string(part.join("first")).unwrap(), "as it was");

    // What stands somewhere stays.
    let refused = ground.cli(["clone", "paper", part.to_str().unwrap()]).expect_code(4);
    assert!(refused.stderr.contains("is not empty"), "{}", refused.stderr);
    ground.cli(["clone", "paper", "inside"]).expect_code(4);
    ground.cli(["clone", "paper", outside.join("d/first").to_str().unwrap()]).expect_code(4);
    ground.cli(["clone", "no such", "new"]).expect_code(3);
    ground.cli(["clone", "paper", outside.join("no/such").to_str().unwrap()]).expect_code(3);
    let left = fs::read_dir(outside.parent().unwrap()).unwrap().flatten();
    let left: Vec<_> = left.filter(|e| e.file_name().to_string_lossy().contains("wsguard-clone")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_clone_is_what_was_on_ext4() {
    a_clone_is_what_was(FsKind::Ext4);
}

#[test]
fn a_clone_is_what_was_on_btrfs() {
    a_clone_is_what_was(FsKind::Btrfs);
}

#[test]
fn a_user_clones_only_where_they_may_write_and_only_what_they_may_read() {
    require!(fuse, ext4, root);
    let mount = GuardMount::builder()
        .backing(Backing::on(FsKind::Ext4))
        .ownership(wsguard_api::Ownership::Preserve)
        .deadline(Duration::from_secs(300))
        .mount_prepared(|plain| {
            fs::write(plain.join("mine"), "mine").unwrap();
            fs::write(plain.join("secret"), "of root").unwrap();
            fs::set_permissions(plain.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
            chown(plain.join("mine"), Some(1000), Some(1000)).unwrap();
            chown(plain, Some(1000), Some(1000)).unwrap();
        });
    let ground = Ground { mount };
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let place = |name: &str, mode: u32, owner: u32| {
        let path = scratch.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        path
    };
    let (own, closed) = (place("own", 0o755, 1000), place("closed", 0o755, 0));
    let (hidden, group) = (place("hidden", 0o700, 0), place("group", 0o770, 0));
    chown(&group, Some(0), Some(77)).unwrap();
    symlink(&closed, own.join("way")).unwrap();
    ground.cli(["snapshot", "create", "--name", "s"]).ok();
    // The build directory may be out of reach for other users, so they get a copy.
    let binary = own.with_file_name("wsguard");
    fs::copy(harness::wsguard_binary(), &binary).unwrap();
    let clone = |to: &Path, groups: &[u32]| {
        run_as(1000, 1000, groups, &binary)
            .arg("--socket")
            .arg(ground.mount.daemon().socket())
            .args(["--json", "clone", "s"])
            .arg(to)
            .current_dir(ground.mount.path())
            .output()
    };
    for refused in [closed.join("new"), hidden.join("new"), own.join("way/new"), group.join("new")] {
        let output = clone(&refused, &[]).expect_code(9);
        assert!(!refused.exists(), "{refused:?}: {}", output.stderr);
    }
    clone(&group.join("new"), &[77]).expect_code(11);
    let output = clone(&own.join("new"), &[]).expect_code(11);
    assert!(output.stdout.contains("does not let you read it"), "{}", output.stdout);
    assert_eq!(fs::read_to_string(own.join("new/mine")).unwrap(), "mine");
    assert!(!own.join("new/secret").exists());
    assert_eq!(fs::metadata(own.join("new/mine")).unwrap().uid(), 1000);
    assert!(fs::read_dir(&closed).unwrap().next().is_none(), "nothing was made by way of a link");
}

#[test]
fn a_clone_into_another_workspace_counts_there_and_one_that_does_not_fit_leaves_nothing() {
    require!(fuse, ext4);
    let ground = with_everything(FsKind::Ext4);
    fs::write(ground.at("big"), vec![3; 6 << 20]).unwrap();
    ground.cli(["snapshot", "create", "--name", "s"]).ok();
    let before = tree(ground.mount.path());
    let other = ground.mount.backing().path().join("other");
    fs::create_dir(&other).unwrap();
    let other_name = other.to_str().unwrap();
    ground.cli(["mount", other_name, "--ownership", "preserve", "--name", "other"]).ok();
    ground.cli(["quota", "set", "project:other", "14M"]).ok();
    let job = ground.job(&["clone", "s", &format!("{other_name}/copy")], 0);
    assert_eq!(job.state, RestoreState::Done, "{job:?}");
    assert_same(&before, &tree(&other.join("copy")));
    let refused = ground.job_failed(&["clone", "s", &format!("{other_name}/second")]);
    assert_eq!(refused.0, 0, "it fits still: {}", refused.1);
    let (code, text) = ground.job_failed(&["clone", "s", &format!("{other_name}/third")]);
    assert_eq!(code, 5, "{text}");
    let names: Vec<_> = fs::read_dir(&other).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let jobs: wsguard_api::RestoreJobs =
        serde_json::from_str(&ground.cli(["restore", "--jobs", "--json"]).ok()).unwrap();
    assert_eq!(jobs.items[0].error_code, Some(ErrorCode::Denied), "{:?}", jobs.items[0]);
    ground.cli(["umount", other_name]).ok();
}
