//! `wsguard log --deleted`: what was deleted, who did it, and whether and how it comes back.

use std::{fs, path::Path};

use harness::{FsKind, Run, require};
use wsguard_api::{
    DeletionState, LogDeletion, LogOperation, LogReport, PastKind, RestoreWhen, VersionCertainty,
};

use crate::ground::{Ground, assert_same, now, tree};

fn deleted(ground: &Ground, arguments: &[&str]) -> Vec<LogDeletion> {
    let text = ground.cli(["log", "--deleted", "--json"].iter().chain(arguments)).ok();
    let report: LogReport = serde_json::from_str(&text).unwrap();
    assert_eq!(report.entries, [], "history tells of it");
    report.deletions
}

fn paths(ground: &Ground, list: &[LogDeletion]) -> Vec<String> {
    let relative = |deletion: &LogDeletion| {
        let path = Path::new(deletion.path.as_deref().expect("a path"));
        path.strip_prefix(ground.mount.path()).unwrap().to_str().unwrap().to_owned()
    };
    list.iter().map(relative).collect()
}

#[test]
fn removed_tree_is_told_with_who_and_how_it_comes_back() {
    require!(fuse, ext4, xfs, btrfs);
    for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs] {
        let ground = Ground::prepared(kind, |plain| {
            fs::create_dir_all(plain.join("a/b")).unwrap();
            fs::write(plain.join("a/b/it's"), "x".repeat(5_000)).unwrap();
            fs::write(plain.join("a/f"), "y").unwrap();
            fs::write(plain.join("other"), "z").unwrap();
        });
        let before = tree(&ground.at("a"));
        let moment = now();
        Run::new("rm").args(["-rf", "a"]).current_dir(ground.mount.path()).ok();
        fs::remove_file(ground.at("other")).unwrap();
        let found = deleted(&ground, &["a"]);
        let mut told = paths(&ground, &found);
        told.sort();
        assert_eq!(told, ["a", "a/b", "a/b/it's", "a/f"], "{}", kind.name());
        for deletion in &found {
            assert_eq!((deletion.command.as_str(), deletion.uid), ("rm", 0), "{deletion:?}");
            assert!(deletion.command_line.starts_with("rm -rf a"), "{deletion:?}");
            assert_eq!(deletion.state, DeletionState::Restorable, "{deletion:?}");
            assert_eq!(deletion.certainty, Some(VersionCertainty::Exact), "{deletion:?}");
            assert_eq!(deletion.restore, Some(RestoreWhen::BeforeDelete), "{deletion:?}");
        }
        let file = found.iter().find(|deletion| deletion.size == Some(5_000)).unwrap();
        assert_eq!((file.operation, file.kind), (LogOperation::Unlink, Some(PastKind::File)));
        assert_eq!(deleted(&ground, &["--since", &moment]).len(), 5);
        assert_eq!(paths(&ground, &deleted(&ground, &["-n", "1"])), ["other"]);
        assert_eq!(deleted(&ground, &["--by", "user:1"]), []);
        assert_eq!(deleted(&ground, &["--by", &format!("pid:{}", file.pid)]).len(), 4);

        // What is hinted at brings it back.
        let text = ground.cli(["log", "--deleted", "a"]);
        let hint = text.stderr.lines().find_map(|line| line.strip_prefix("hint: wsguard ")).unwrap();
        let command = hint.split(';').next().unwrap();
        assert_eq!(command, "restore a --before-delete");
        ground.cli(command.split(' ').chain(["--yes"])).ok();
        assert_same(&before, &tree(&ground.at("a")));
        assert!(deleted(&ground, &["a"]).iter().all(|found| found.state == DeletionState::Returned));
    }
}

#[test]
fn each_deletion_of_one_name_has_a_command_of_its_own() {
    require!(fuse, ext4);
    let ground = Ground::prepared(FsKind::Ext4, |plain| {
        fs::create_dir(plain.join("d")).unwrap();
        fs::write(plain.join("d/file"), "first").unwrap();
    });
    fs::remove_file(ground.at("d/file")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    fs::write(ground.at("d/file"), "second").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    fs::write(ground.at("d/new"), "third").unwrap();
    fs::rename(ground.at("d/new"), ground.at("d/file")).unwrap();
    let found = deleted(&ground, &["d/file"]);
    let [first, second] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((first.operation, second.operation), (LogOperation::Unlink, LogOperation::Replace));
    assert_eq!(second.restore, Some(RestoreWhen::BeforeDelete));
    let Some(RestoreWhen::At(time)) = &first.restore else { panic!("{first:?}") };
    let read = |arguments: &[&str]| ground.cli([&["restore", "d/file", "--stdout"], arguments].concat()).ok();
    assert_eq!(read(&["--before-delete"]), "second");
    assert_eq!(read(&["--at", time]), "first");
}

#[test]
fn what_was_not_kept_is_told_from_the_records() {
    require!(fuse, ext4);
    let ground = Ground::prepared(FsKind::Ext4, |_| {});
    fs::write(ground.at("fleeting"), "x").unwrap();
    fs::remove_file(ground.at("fleeting")).unwrap();
    let found = deleted(&ground, &[]);
    let [fleeting] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((fleeting.state, &fleeting.restore), (DeletionState::NotKept, &None));
    assert!(ground.cli(["log", "--deleted"]).stdout.contains("fleeting"));
}
