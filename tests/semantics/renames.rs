//! rename(2) and renameat2(2).

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::ground::{Ground, on_every_filesystem};

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    renameat_with(CWD, from, CWD, to, flags)
}

fn atomic_replace_never_shows_a_partial_file(ground: &Ground) {
    let path = ground.mounted.join("state");
    let temporary = ground.mounted.join("state.tmp");
    let version = |number: usize| format!("{number:08}").repeat(2000 + number * 7);
    fs::write(&path, version(0)).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&path).unwrap();
                let number: usize = text[..8].parse().unwrap();
                assert!(text == version(number), "version {number} is torn: {} bytes", text.len());
                assert!(number >= last, "version {number} after {last}");
                last = number;
                reads += 1;
            }
            reads
        });
        for number in 1..=200 {
            let mut file = File::create(&temporary).unwrap();
            file.write_all(version(number).as_bytes()).unwrap();
            drop(file);
            fs::rename(&temporary, &path).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert_ne!(reader.join().unwrap(), 0);
    });
    assert!(fs::read_to_string(ground.backing.join("state")).unwrap() == version(200));
    assert!(!ground.backing.join("state.tmp").exists());
}

fn rename_noreplace_keeps_the_target(ground: &Ground) {
    let (from, to) = (ground.mounted.join("from"), ground.mounted.join("to"));
    fs::write(&from, "from").unwrap();
    fs::write(&to, "to").unwrap();
    assert_eq!(rename_with(&from, &to, RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(fs::read(&to).unwrap(), b"to");
    assert_eq!(fs::read(&from).unwrap(), b"from");
    fs::remove_file(&to).unwrap();
    rename_with(&from, &to, RenameFlags::NOREPLACE).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"from");
    assert!(!from.exists());
}

fn rename_exchange_swaps_both(ground: &Ground) {
    let (file, directory) = (ground.mounted.join("file"), ground.mounted.join("directory"));
    fs::write(&file, "content").unwrap();
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("inner"), "inner").unwrap();
    let (file_inode, directory_inode) =
        (fs::metadata(&file).unwrap().ino(), fs::metadata(&directory).unwrap().ino());
    rename_with(&file, &directory, RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::metadata(&directory).unwrap().ino(), file_inode);
    assert_eq!(fs::metadata(&file).unwrap().ino(), directory_inode);
    assert_eq!(fs::read(&directory).unwrap(), b"content");
    assert_eq!(fs::read(ground.backing.join("file/inner")).unwrap(), b"inner");
    let missing = ground.mounted.join("missing");
    assert_eq!(rename_with(&file, &missing, RenameFlags::EXCHANGE), Err(Errno::NOENT));
    let both = RenameFlags::EXCHANGE | RenameFlags::NOREPLACE;
    assert_eq!(rename_with(&file, &directory, both), Err(Errno::INVAL));
}

/// Overlay filesystems (Docker inside a workspace) need this flag; without it they refuse the mount as upper layer.
fn rename_whiteout_leaves_a_whiteout(ground: &Ground) {
    let (from, to) = (ground.mounted.join("from"), ground.mounted.join("to"));
    fs::write(&from, "moved").unwrap();
    match rename_with(&from, &to, RenameFlags::WHITEOUT) {
        // btrfs has it since 6.0, tmpfs and ext4 and xfs for long.
        Err(error) if ground.is_native() => assert_eq!(error, Errno::INVAL),
        result => {
            result.unwrap();
            assert_eq!(fs::read(&to).unwrap(), b"moved");
            for view in [&ground.mounted, &ground.backing] {
                let whiteout = fs::symlink_metadata(view.join("from")).unwrap();
                assert!(whiteout.file_type().is_char_device());
                assert_eq!(whiteout.rdev(), 0);
            }
            fs::remove_file(&from).unwrap();
        }
    }
}

fn open_file_survives_being_renamed_and_replaced(ground: &Ground) {
    let (old, new) = (ground.mounted.join("old"), ground.mounted.join("new"));
    fs::write(&old, "old content").unwrap();
    fs::write(&new, "new content").unwrap();
    let mut replaced = OpenOptions::new().read(true).append(true).open(&old).unwrap();
    let mut moved = OpenOptions::new().read(true).append(true).open(&new).unwrap();
    fs::rename(&new, &old).unwrap();
    replaced.write_all(b" kept").unwrap();
    moved.write_all(b" moved").unwrap();
    let mut text = vec![0; 16];
    replaced.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(text, b"old content kept");
    assert_eq!(replaced.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read(&old).unwrap(), b"new content moved");
    assert_eq!(fs::read(ground.backing.join("old")).unwrap(), b"new content moved");
}

fn impossible_renames_give_the_right_errno(ground: &Ground) {
    let root = &ground.mounted;
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("file"), "").unwrap();
    let rename = |from: &str, to: &str| rename_with(&root.join(from), &root.join(to), RenameFlags::empty());
    assert_eq!(rename("a", "a/b/c"), Err(Errno::INVAL));
    // POSIX allows both; xfs says EEXIST.
    assert!(matches!(rename("empty", "a"), Err(Errno::NOTEMPTY | Errno::EXIST)));
    assert_eq!(rename("file", "a"), Err(Errno::ISDIR));
    assert_eq!(rename("a", "file"), Err(Errno::NOTDIR));
    assert_eq!(rename("missing", "x"), Err(Errno::NOENT));
    assert_eq!(rename("file", "file/x"), Err(Errno::NOTDIR));
    assert_eq!(rename("a", "empty"), Ok(()));
    assert!(root.join("empty/b").is_dir());
    fs::hard_link(root.join("file"), root.join("link")).unwrap();
    assert_eq!(rename("file", "link"), Ok(()), "two names of one inode: nothing to do");
    assert!(root.join("file").exists() && root.join("link").exists());
}

fn moved_directory_keeps_its_tree(ground: &Ground) {
    let root = &ground.mounted;
    fs::create_dir_all(root.join("from/deep/er")).unwrap();
    fs::create_dir(root.join("other")).unwrap();
    fs::write(root.join("from/deep/er/file"), "x").unwrap();
    let parent_links = fs::metadata(ground.backing.join("other")).unwrap().nlink();
    fs::rename(root.join("from/deep"), root.join("other/deep")).unwrap();
    assert_eq!(fs::read(root.join("other/deep/er/file")).unwrap(), b"x");
    assert!(!root.join("from/deep").exists());
    let up = fs::metadata(root.join("other/deep/..")).unwrap().ino();
    assert_eq!(up, fs::metadata(root.join("other")).unwrap().ino());
    let expected = fs::metadata(ground.backing.join("other")).unwrap().nlink();
    assert!(expected == parent_links || expected == parent_links + 1);
    assert_eq!(fs::metadata(root.join("other")).unwrap().nlink(), expected);
}

on_every_filesystem!(
    atomic_replace_never_shows_a_partial_file,
    rename_noreplace_keeps_the_target,
    rename_exchange_swaps_both,
    rename_whiteout_leaves_a_whiteout,
    open_file_survives_being_renamed_and_replaced,
    impossible_renames_give_the_right_errno,
    moved_directory_keeps_its_tree,
);
