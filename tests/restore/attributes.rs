//! Who and what a restored file is, and restores that end before their end.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Stdio,
    time::Duration,
};

use harness::{Backing, FsKind, GuardMount, Run, require, wait_until};
use wsguard_api::{Ownership, RestoreJobs, RestoreState};

use crate::ground::{Ground, assert_same, now, tree};

const OWNER: u32 = 1000;

#[test]
fn what_is_restored_in_a_squashed_workspace_belongs_to_its_owner() {
    require!(fuse, ext4, xfs);
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        let mount = GuardMount::builder()
            .backing(Backing::on(kind))
            .owner(OWNER)
            .deadline(Duration::from_secs(300))
            .mount();
        assert_eq!(mount.workspace().ownership, Ownership::Squash);
        let ground = Ground { mount };
        // As a container's root does it.
        fs::create_dir_all(ground.at("d/e")).unwrap();
        for name in ["d/deleted", "d/e/overwritten", "d/e/other"] {
            fs::write(ground.at(name), format!("former {name}")).unwrap();
        }
        fs::set_permissions(ground.at("d/deleted"), fs::Permissions::from_mode(0o750)).unwrap();
        // What is deleted within the epoch in which it was made is not always kept.
        ground.cli(["snapshot", "create"]).ok();
        let moment = now();
        fs::write(ground.at("d/e/overwritten"), "new").unwrap();
        fs::remove_file(ground.at("d/deleted")).unwrap();
        fs::remove_dir_all(ground.at("d/e")).unwrap();
        ground.job(&["restore", "d", "--at", &moment, "--overwrite", "--yes"], 0);
        ground.job(&["restore", "d", "--at", &moment, "--to", "copy", "--yes"], 0);
        for top in ["d", "copy/d"] {
            for name in ["", "deleted", "e", "e/overwritten", "e/other"] {
                let stat = fs::metadata(ground.at(top).join(name)).unwrap();
                assert_eq!((stat.uid(), stat.gid()), (OWNER, OWNER), "{top}/{name} on {}", kind.name());
            }
            let mode = fs::metadata(ground.at(top).join("deleted")).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o750, "{top}");
            let read = |name: &str| fs::read_to_string(ground.at(top).join(name)).unwrap();
            assert_eq!(read("deleted"), "former d/deleted");
            assert_eq!(read("e/overwritten"), "former d/e/overwritten");
        }
        assert_eq!(ground.mount.backing_owner("d/deleted"), (OWNER, OWNER));
    }
}

#[test]
fn access_lists_come_back_with_their_files() {
    require!(fuse, ext4, xfs, btrfs);
    for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs] {
        let set = |arguments: &[&str], path: &Path| drop(Run::new("setfacl").args(arguments).arg(path).ok());
        let ground = Ground::prepared(kind, |plain| {
            fs::create_dir_all(plain.join("d/e")).unwrap();
            set(&["-m", "u:1234:rwx,d:g:4321:r-x,d:u:1234:rw-"], &plain.join("d/e"));
            for name in ["d/taken-away", "d/e/inherits", "d/overwritten"] {
                fs::write(plain.join(name), "former").unwrap();
            }
            set(&["-m", "u:1234:r--,g:4321:rw-,m:rw-"], &plain.join("d/taken-away"));
            set(&["-m", "u:1234:---"], &plain.join("d/overwritten"));
            chown(plain.join("d/overwritten"), Some(77), Some(78)).unwrap();
        });
        let before = tree(&ground.at("d"));
        let acl = |name: &str| Run::new("getfacl").args(["-n", "-c"]).arg(ground.at(name)).ok();
        let names = ["d/e", "d/taken-away", "d/e/inherits", "d/overwritten"];
        let lists = names.map(acl);
        assert!(
            lists[1].contains("user:1234:r--") && lists[0].contains("default:group:4321:r-x"),
            "{lists:?}"
        );
        let moment = now();
        set(&["-b"], &ground.at("d/overwritten"));
        fs::write(ground.at("d/overwritten"), "new").unwrap();
        Run::new("rm").args(["-rf", "d/e", "d/taken-away"]).current_dir(ground.mount.path()).ok();
        ground.job(&["restore", "d", "--at", &moment, "--exact", "--yes"], 0);
        assert_eq!(names.map(acl), lists, "{}", kind.name());
        assert_same(&before, &tree(&ground.at("d")));
        ground.job(&["restore", "d", "--at", &moment, "--to", "copy", "--yes"], 0);
        assert_eq!(names.map(|name| acl(&format!("copy/{name}"))), lists, "copies on {}", kind.name());
    }
}

#[test]
fn a_restore_that_is_broken_off_leaves_whole_files_and_goes_on() {
    require!(fuse, ext4);
    let files = 2_000;
    let ground = Ground::prepared(FsKind::Ext4, |plain| {
        for n in 0..files {
            let dir = plain.join(format!("d/{}", n % 10));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(n.to_string()), format!("former {n}").repeat(200)).unwrap();
        }
    });
    let before = tree(&ground.at("d"));
    let moment = now();
    let path = |n: usize| ground.at(format!("d/{}/{n}", n % 10));
    for n in 0..files {
        fs::write(path(n), "overwritten").unwrap();
    }
    let restore = ground
        .mount
        .daemon()
        .command()
        .current_dir(ground.mount.path())
        .args(["restore", "d", "--at", &moment, "--exact", "--yes", "--json"]);
    let mut child = restore.spawn(Stdio::null(), Stdio::null(), Stdio::null());
    let jobs = || -> RestoreJobs {
        serde_json::from_str(&ground.cli(["restore", "--jobs", "--json"]).ok()).unwrap()
    };
    let mut id = 0;
    wait_until("the restore to be in the middle", Duration::from_secs(60), || {
        let found = jobs().items.into_iter().find(|job| job.state == RestoreState::Running && job.done > 20);
        id = found.as_ref().map_or(0, |job| job.id);
        found.is_some()
    });
    ground.cli(["restore", "--cancel", &id.to_string()]);
    child.wait().unwrap();
    wait_until("the restore to end", Duration::from_secs(60), || {
        jobs().items.iter().any(|job| job.id == id && job.state == RestoreState::Cancelled)
    });
    let former = |n: usize| format!("former {n}").repeat(200);
    let mut restored = 0;
    for n in 0..files {
        let found = fs::read_to_string(path(n)).unwrap();
        assert!(found == "overwritten" || found == former(n), "{n} is neither");
        restored += usize::from(found == former(n));
    }
    assert!(restored > 0 && restored < files, "{restored} of {files}");
    let names = Run::new("find").arg(ground.at("d")).args(["-name", ".wsguard-restore-*"]).ok();
    assert_eq!(names, "", "nothing temporary is left");
    ground.job(&["restore", "--resume", &id.to_string()], 0);
    assert_same(&before, &tree(&ground.at("d")));
}

#[test]
fn without_inodes_nothing_is_changed() {
    require!(fuse, ext4);
    let ground = Ground::prepared(FsKind::Ext4, |plain| {
        fs::create_dir(plain.join("d")).unwrap();
        for n in 0..50 {
            fs::write(plain.join(format!("d/{n}")), "former").unwrap();
        }
        for n in 0..10 {
            fs::write(plain.join(format!("left-{n}")), "left").unwrap();
        }
    });
    fs::remove_dir_all(ground.at("d")).unwrap();
    ground.cli(["quota", "set", "project:project", "--inodes", "40"]).ok();
    let before = tree(ground.mount.path());
    let refused = ground.cli(["undo", "--yes"]).expect_code(5);
    assert!(refused.stderr.contains("inodes, and only"), "{}", refused.stderr);
    assert_same(&before, &tree(ground.mount.path()));
    ground.cli(["quota", "set", "project:project", "--inodes", "200"]).ok();
    ground.job(&["undo", "--yes"], 0);
    assert_eq!(fs::read_dir(ground.at("d")).unwrap().count(), 50);
}
