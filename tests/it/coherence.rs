//! Edits below the mount become visible through it within a second.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::Duration,
};

use harness::{GuardMount, require, wait_for, wait_until};
use wsguard_api::Coherence;

/// The promise is one second; the rest is this machine's scheduling.
const VISIBLE_WITHIN: Duration = Duration::from_millis(1500);

fn watched_mount() -> GuardMount {
    let mount = GuardMount::builder().mount_prepared(|dir| {
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "old").unwrap();
    });
    wait_for("the watch to be set up", Duration::from_secs(10), || {
        match mount.daemon().workspace(&mount.workspace().id).coherence {
            Some(Coherence::Watched { directories }) if directories >= 2 => Some(()),
            _ => None,
        }
    });
    mount
}

#[test]
fn a_foreign_edit_is_seen_by_name_and_by_an_open_file() {
    require!(fuse);
    let mount = watched_mount();
    let guarded = mount.path().join("sub/file");
    let mut open = File::open(&guarded).unwrap();
    assert_eq!(fs::read_to_string(&guarded).unwrap(), "old");
    assert_eq!(fs::metadata(&guarded).unwrap().len(), 3);
    fs::write(mount.backing_path().join("sub/file"), "longer than before").unwrap();
    wait_until("the new size", VISIBLE_WITHIN, || fs::metadata(&guarded).unwrap().len() == 18);
    assert_eq!(fs::read_to_string(&guarded).unwrap(), "longer than before");
    let mut text = String::new();
    open.seek(SeekFrom::Start(0)).unwrap();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "longer than before");
}

#[test]
fn a_foreign_file_appears_after_its_absence_was_remembered() {
    require!(fuse);
    let mount = watched_mount();
    let guarded = mount.path().join("sub/later");
    assert!(!guarded.exists());
    fs::write(mount.backing_path().join("sub/later"), "here").unwrap();
    wait_until("the new file", VISIBLE_WITHIN, || guarded.exists());
    let names: Vec<_> =
        fs::read_dir(mount.path().join("sub")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().any(|name| name == "later"), "{names:?}");
}

#[test]
fn a_foreign_removal_is_seen() {
    require!(fuse);
    let mount = watched_mount();
    let guarded = mount.path().join("sub/file");
    assert!(guarded.exists());
    fs::remove_file(mount.backing_path().join("sub/file")).unwrap();
    wait_until("the file to be gone", VISIBLE_WITHIN, || !guarded.exists());
    assert_eq!(fs::read_dir(mount.path().join("sub")).unwrap().count(), 0);
}

#[test]
fn a_foreign_rename_is_seen_under_both_names() {
    require!(fuse);
    let mount = watched_mount();
    let ino = fs::metadata(mount.path().join("sub/file")).unwrap().ino();
    assert!(!mount.path().join("moved").exists());
    fs::rename(mount.backing_path().join("sub/file"), mount.backing_path().join("moved")).unwrap();
    wait_until("the new name", VISIBLE_WITHIN, || mount.path().join("moved").exists());
    wait_until("the old name to be gone", VISIBLE_WITHIN, || !mount.path().join("sub/file").exists());
    assert_eq!(fs::metadata(mount.path().join("moved")).unwrap().ino(), ino);
}

#[test]
fn foreign_attributes_are_seen() {
    require!(fuse);
    let mount = watched_mount();
    let guarded = mount.path().join("sub/file");
    assert_ne!(fs::metadata(&guarded).unwrap().mode() & 0o7777, 0o600);
    fs::set_permissions(mount.backing_path().join("sub/file"), fs::Permissions::from_mode(0o600)).unwrap();
    wait_until("the new mode", VISIBLE_WITHIN, || fs::metadata(&guarded).unwrap().mode() & 0o7777 == 0o600);
}

#[test]
fn a_directory_made_outside_is_watched_as_well() {
    require!(fuse);
    let mount = watched_mount();
    let (outside, guarded) = (mount.backing_path().join("new/deep"), mount.path().join("new/deep"));
    assert!(!guarded.exists());
    fs::create_dir_all(&outside).unwrap();
    wait_until("the new directory", VISIBLE_WITHIN, || guarded.is_dir());
    assert!(!guarded.join("file").exists());
    fs::write(outside.join("file"), "old").unwrap();
    wait_until("a file in it", VISIBLE_WITHIN, || guarded.join("file").exists());
    assert_eq!(fs::metadata(guarded.join("file")).unwrap().len(), 3);
    fs::write(outside.join("file"), "longer").unwrap();
    wait_until("its new size", VISIBLE_WITHIN, || fs::metadata(guarded.join("file")).unwrap().len() == 6);
}

#[test]
fn a_workspace_with_too_many_directories_stays_coherent_within_a_second() {
    require!(fuse);
    let daemon = harness::Daemon::builder().config("[watch]\nmax-directories = 4\n");
    let mount = GuardMount::builder().daemon(daemon).mount_prepared(|dir| {
        for index in 0..20 {
            fs::create_dir(dir.join(format!("d{index}"))).unwrap();
            fs::write(dir.join(format!("d{index}/file")), "old").unwrap();
        }
    });
    let id = &mount.workspace().id;
    wait_for("the watch to give up", Duration::from_secs(10), || {
        matches!(mount.daemon().workspace(id).coherence, Some(Coherence::ShortTtl { .. })).then_some(())
    });
    let guarded = mount.path().join("d19/file");
    assert_eq!(fs::metadata(&guarded).unwrap().len(), 3);
    fs::write(mount.backing_path().join("d19/file"), "longer").unwrap();
    wait_until("the new size", VISIBLE_WITHIN, || fs::metadata(&guarded).unwrap().len() == 6);
}
