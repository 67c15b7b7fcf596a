//! Directories: listing, seeking, removing, deep trees.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs::{self, File},
    io::ErrorKind,
    mem::MaybeUninit,
    os::unix::ffi::OsStringExt,
    path::Path,
};

use harness::as_user;
use rustix::fs::{Dir, RawDir, SeekFrom, seek};

use super::ground::{Ground, on_every_filesystem};

fn fill(directory: &Path, count: usize) -> BTreeSet<OsString> {
    fs::create_dir(directory).unwrap();
    (0..count)
        .map(|number| {
            let name = format!("entry-{number:05}-{}", "n".repeat(number % 40));
            File::create(directory.join(&name)).unwrap();
            OsString::from(name)
        })
        .collect()
}

fn list(directory: &Path) -> Vec<OsString> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn listing_is_complete_and_without_repeats(ground: &Ground) {
    let directory = ground.mounted.join("many");
    let expected = fill(&directory, 3000);
    for view in [&directory, &ground.backing.join("many")] {
        let found = list(view);
        assert_eq!(found.len(), expected.len());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    }
    File::create(directory.join("late")).unwrap();
    assert!(list(&directory).contains(&OsString::from("late")), "a cached listing hides a new file");
    fs::remove_file(directory.join("late")).unwrap();
    assert_eq!(list(&directory).len(), expected.len());
}

/// What `rm -r` does: every entry that existed at the start is returned exactly once, however many are deleted meanwhile.
fn listing_stays_complete_while_deleting(ground: &Ground) {
    let directory = ground.mounted.join("many");
    let expected = fill(&directory, 3000);
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let name = entry.unwrap().file_name();
        fs::remove_file(directory.join(&name)).unwrap();
        assert!(found.insert(name));
    }
    assert_eq!(found, expected);
    fs::remove_dir(&directory).unwrap();
    assert!(!ground.backing.join("many").exists());
}

/// All entries from the descriptor's position on: the name and the position behind it.
fn read_from(directory: &File) -> Vec<(OsString, u64)> {
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut reader = RawDir::new(directory, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = entry.unwrap();
        let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
        entries.push((name, entry.next_entry_cookie()));
    }
    entries
}

/// telldir, seekdir and rewinddir are these positions.
fn positions_of_a_listing_can_be_returned_to(ground: &Ground) {
    let path = ground.mounted.join("many");
    let expected = fill(&path, 700);
    let directory = File::open(&path).unwrap();
    let all = read_from(&directory);
    assert_eq!(all.len(), expected.len() + 2, "`.` and `..` are listed");
    for at in [0, 1, 2, 100, 350, 698, 701] {
        seek(&directory, SeekFrom::Start(all[at].1)).unwrap();
        let rest: Vec<_> = read_from(&directory).into_iter().map(|(name, _)| name).collect();
        let wanted: Vec<_> = all[at + 1..].iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(rest, wanted, "after entry {at}");
    }
    File::create(path.join("new")).unwrap();
    seek(&directory, SeekFrom::Start(0)).unwrap();
    assert!(read_from(&directory).iter().any(|(name, _)| name == "new"), "rewinddir shows new entries");
    let mut stream = Dir::read_from(&directory).unwrap();
    stream.rewind();
    assert_eq!(stream.filter(|entry| entry.is_ok()).count(), expected.len() + 3);
}

fn only_empty_directories_are_removed(ground: &Ground) {
    let root = &ground.mounted;
    fs::create_dir_all(root.join("full/inner")).unwrap();
    File::create(root.join("file")).unwrap();
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    assert_eq!(errno(fs::remove_dir(root.join("full"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(root.join("file"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_file(root.join("full"))), libc::EISDIR);
    assert_eq!(errno(fs::remove_dir(root.join("missing"))), libc::ENOENT);
    assert_eq!(errno(fs::remove_dir(root.join("full/inner/."))), libc::EINVAL);
    assert_eq!(errno(fs::create_dir(root.join("full"))), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(root.join("file/x"))), libc::ENOTDIR);
    fs::remove_dir(root.join("full/inner")).unwrap();
    fs::remove_dir(root.join("full")).unwrap();
    assert!(!ground.backing.join("full").exists());
}

/// Runs in a thread with its own current directory.
fn removed_current_directory_is_empty_and_closed(ground: &Ground) {
    let path = ground.mounted.join("gone");
    fs::create_dir(&path).unwrap();
    as_user(0, 0, &[], || {
        env::set_current_dir(&path).unwrap();
        fs::remove_dir(&path).unwrap();
        assert_eq!(File::create("x").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(fs::create_dir("d").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(fs::metadata(".").unwrap().is_dir());
        assert!(env::current_dir().is_err());
        env::set_current_dir("..").unwrap();
        assert!(!Path::new("gone").exists());
    });
}

fn tree_of_depth_300_works(ground: &Ground) {
    const DEPTH: usize = 300;
    // Longer than PATH_MAX in total, so only relative steps reach the end.
    let name = "directory-name-of-some-length";
    as_user(0, 0, &[], || {
        env::set_current_dir(&ground.mounted).unwrap();
        for _ in 0..DEPTH {
            fs::create_dir(name).unwrap();
            env::set_current_dir(name).unwrap();
        }
        fs::write("bottom", "deep").unwrap();
        assert_eq!(fs::read("bottom").unwrap(), b"deep");
        fs::rename("bottom", "renamed").unwrap();
        fs::remove_file("renamed").unwrap();
        for _ in 0..DEPTH {
            env::set_current_dir("..").unwrap();
            fs::remove_dir(name).unwrap();
        }
        assert_eq!(fs::read_dir(".").unwrap().count(), 0);
    });
}

on_every_filesystem!(
    listing_is_complete_and_without_repeats,
    listing_stays_complete_while_deleting,
    positions_of_a_listing_can_be_returned_to,
    only_empty_directories_are_removed,
    removed_current_directory_is_empty_and_closed,
    tree_of_depth_300_works,
);
