//! A tree with everything in it, and what can be seen of a tree.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File, Permissions},
    io::Write,
    os::{
        fd::AsFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink},
        },
    },
    path::{Path, PathBuf},
};

use harness::{Backing, FsKind, GuardMount, Run, require};
use rustix::{
    fs::{FileType, Mode, SeekFrom, XattrFlags, lgetxattr, llistxattr, lsetxattr, mknodat, seek},
    io::Errno,
};
use wsguard_api::Ownership;

pub(crate) const USER: u32 = 4_001;
pub(crate) const GROUP: u32 = 4_002;
pub(crate) const STRANGER: u32 = 4_009;

pub(crate) const EVERY_FILESYSTEM: [FsKind; 3] = [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs];

/// Runs a check on each filesystem that can be made here.
pub(crate) fn on_every_filesystem(check: impl Fn(&GuardMount)) {
    require!(fuse, ext4, xfs, btrfs);
    for kind in EVERY_FILESYSTEM {
        eprintln!("on {}", kind.name());
        check(&guarded(Backing::on(kind)));
    }
}

pub(crate) fn guarded(backing: Backing) -> GuardMount {
    GuardMount::builder().backing(backing).ownership(Ownership::Preserve).mount()
}

/// Takes a snapshot of this name by mkdir(2) and returns the directory as it is shown there.
pub(crate) fn take(dir: &Path, name: &str) -> PathBuf {
    let shown = dir.join(".snapshots").join(name);
    fs::create_dir(&shown).unwrap();
    shown
}

/// What stat(2) and everything else tell of one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    modified: (i64, i64),
    changed: Option<(i64, i64)>,
    device: u64,
    attributes: BTreeMap<OsString, Vec<u8>>,
    target: Option<PathBuf>,
    content: Vec<u8>,
    data: Vec<(u64, u64)>,
    /// The first name of the same inode.
    same_as: PathBuf,
}

impl Seen {
    /// Drops what depends on names elsewhere and on the filesystem that holds a copy.
    pub(crate) fn forget_links_and_holes(&mut self) {
        self.links = 0;
        self.data = Vec::new();
        // How xfs keeps an ACL, which it shows to root as well.
        self.attributes.retain(|name, _| !name.as_bytes().starts_with(b"trusted.SGI_ACL_"));
    }
}

/// Returns everything below a directory by relative path, itself included.
pub(crate) fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let (mut found, mut first_names) = (BTreeMap::new(), BTreeMap::new());
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let path = root.join(&relative);
        let metadata = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        if metadata.is_dir() {
            let names = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap());
            let mut names: Vec<_> = names
                .map(|entry| {
                    let name = relative.join(entry.file_name());
                    let ino = rustix::fs::lstat(entry.path()).unwrap().st_ino;
                    assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), ino, "d_ino of {name:?}");
                    name
                })
                .collect();
            names.sort_unstable_by(|one, other| other.cmp(one));
            pending.extend(names);
        }
        let same_as = first_names.entry(metadata.ino()).or_insert_with(|| relative.clone()).clone();
        let is_file = metadata.is_file();
        let seen = Seen {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            links: metadata.nlink(),
            size: if metadata.is_dir() { 0 } else { metadata.size() },
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: Some((metadata.ctime(), metadata.ctime_nsec())),
            device: metadata.rdev(),
            attributes: attributes(&path),
            target: metadata.is_symlink().then(|| fs::read_link(&path).unwrap()),
            content: if is_file { fs::read(&path).unwrap() } else { Vec::new() },
            data: if is_file { data(&File::open(&path).unwrap()) } else { Vec::new() },
            same_as,
        };
        found.insert(relative, seen);
    }
    found
}

/// As [`seen`], without what a copy cannot have.
pub(crate) fn seen_by_copies(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut found = seen(root);
    found.values_mut().for_each(|seen| seen.changed = None);
    found
}

pub(crate) fn assert_same(shown: &BTreeMap<PathBuf, Seen>, expected: &BTreeMap<PathBuf, Seen>, what: &str) {
    let names = |tree: &BTreeMap<PathBuf, Seen>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(shown), names(expected), "{what}");
    for (name, expected) in expected {
        let shown = &shown[name];
        assert!(shown.content == expected.content, "content of {name:?} {what}");
        let empty = |seen: &Seen| Seen { content: Vec::new(), ..seen.clone() };
        assert_eq!(empty(shown), empty(expected), "{name:?} {what}");
    }
}

fn attributes(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0_u8; 4_096];
    let length = llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let name = OsString::from_vec(name.to_vec());
            let mut value = vec![0_u8; 65_536];
            let length = lgetxattr(path, &name, &mut value[..]).unwrap();
            (name, value[..length].to_vec())
        })
        .collect()
}

/// Where a file has data.
fn data(file: &File) -> Vec<(u64, u64)> {
    let (mut found, mut offset) = (Vec::new(), 0);
    loop {
        match seek(file.as_fd(), SeekFrom::Data(offset)) {
            Ok(start) => {
                let end = seek(file.as_fd(), SeekFrom::Hole(start)).unwrap();
                found.push((start, end));
                offset = end;
            }
            Err(error) => {
                assert_eq!(error, Errno::NXIO);
                return found;
            }
        }
    }
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u64).wrapping_mul(2_654_435_761).to_le_bytes()[2] ^ seed).collect()
}

fn acl(permissions: u16) -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 6, u32::MAX),
        (0x02, permissions, STRANGER),
        (0x04, 4, u32::MAX),
        (0x10, 6, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// Gives a stranger these rights, and everybody else in no class any.
pub(crate) fn set_acl(path: &Path, permissions: u16) {
    lsetxattr(path, "system.posix_acl_access", &acl(permissions), XattrFlags::empty()).unwrap();
}

pub(crate) fn odd_name() -> OsString {
    OsString::from_vec(b"odd \xff\xfe\nname".to_vec())
}

/// Makes a tree of every kind of file.
pub(crate) fn make(root: &Path) {
    let at = |name: &str| root.join(name);
    for dir in ["dir", "dir/sub", "dir/sub/deep", "other", "empty", "gone"] {
        fs::create_dir(at(dir)).unwrap();
    }
    fs::write(at("dir/small"), "small").unwrap();
    fs::write(at("dir/empty-file"), "").unwrap();
    fs::write(at("dir/large"), pattern(1, 3 << 20)).unwrap();
    fs::write(at("dir/replaced"), pattern(2, 300_000)).unwrap();
    fs::write(at("dir/truncated"), pattern(3, 1 << 20)).unwrap();
    fs::write(at("dir/grown"), pattern(4, 100_001)).unwrap();
    fs::write(at("dir/untouched"), pattern(5, 200_000)).unwrap();
    fs::write(at("dir/sub/deep/file"), "deep").unwrap();
    fs::write(at("gone/file"), pattern(6, 70_000)).unwrap();
    fs::write(root.join("dir").join(odd_name()), "odd").unwrap();
    let sparse = File::create(at("dir/sparse")).unwrap();
    sparse.set_len(16 << 20).unwrap();
    sparse.write_all_at(&pattern(7, 65_536), 0).unwrap();
    sparse.write_all_at(&pattern(8, 131_072), 8 << 20).unwrap();
    let holes = File::create(at("dir/sparse-untouched")).unwrap();
    holes.set_len(4 << 20).unwrap();
    holes.write_all_at(&pattern(9, 65_536), 1 << 20).unwrap();
    fs::write(at("dir/linked"), "linked").unwrap();
    fs::hard_link(at("dir/linked"), at("other/linked-too")).unwrap();
    fs::hard_link(at("dir/linked"), at("other/linked-three")).unwrap();
    symlink("small", at("dir/link")).unwrap();
    symlink("/nowhere/at/all", at("dir/dangling")).unwrap();
    mknodat(rustix::fs::CWD, at("dir/fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    fs::write(at("dir/mine"), "secret").unwrap();
    chown(at("dir/mine"), Some(USER), Some(GROUP)).unwrap();
    fs::set_permissions(at("dir/mine"), Permissions::from_mode(0o600)).unwrap();
    fs::write(at("dir/listed"), "by ACL").unwrap();
    set_acl(&at("dir/listed"), 4);
    lsetxattr(at("dir/small"), "user.colour", b"red", XattrFlags::empty()).unwrap();
    lsetxattr(at("dir/sub"), "user.big", &pattern(10, 1_500), XattrFlags::empty()).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    File::options().write(true).open(at("dir/untouched")).unwrap().set_modified(old).unwrap();
    Run::new("sync").arg("-f").arg(root).ok();
}

/// Changes and deletes nearly everything that [`make`] has made.
pub(crate) fn change(root: &Path) {
    let at = |name: &str| root.join(name);
    let write = |name: &str| File::options().write(true).open(at(name)).unwrap();
    write("dir/large").write_all_at(&pattern(99, 300_000), 1_000_001).unwrap();
    fs::write(at("new"), pattern(98, 300_000)).unwrap();
    fs::rename(at("new"), at("dir/replaced")).unwrap();
    write("dir/truncated").set_len(70_000).unwrap();
    write("dir/truncated").set_len(300_000).unwrap();
    File::options().append(true).open(at("dir/grown")).unwrap().write_all(&pattern(97, 5_000)).unwrap();
    write("dir/sparse").write_all_at(&pattern(96, 4_096), 4 << 20).unwrap();
    write("dir/sparse").set_len(8 << 20).unwrap();
    fs::write(at("dir/linked"), "written through one name").unwrap();
    fs::remove_file(at("other/linked-too")).unwrap();
    fs::hard_link(at("dir/untouched"), at("other/new-link")).unwrap();
    fs::remove_file(at("dir/link")).unwrap();
    symlink("large", at("dir/link")).unwrap();
    fs::remove_file(at("dir/fifo")).unwrap();
    fs::create_dir(at("dir/fifo")).unwrap();
    fs::remove_file(root.join("dir").join(odd_name())).unwrap();
    chown(at("dir/mine"), Some(0), Some(0)).unwrap();
    fs::set_permissions(at("dir/mine"), Permissions::from_mode(0o644)).unwrap();
    set_acl(&at("dir/listed"), 0);
    lsetxattr(at("dir/small"), "user.colour", b"blue", XattrFlags::empty()).unwrap();
    rustix::fs::lremovexattr(at("dir/sub"), "user.big").unwrap();
    fs::write(at("dir/empty-file"), "no more").unwrap();
    fs::rename(at("dir/sub"), at("other/moved")).unwrap();
    fs::remove_dir_all(at("gone")).unwrap();
    fs::remove_dir(at("empty")).unwrap();
    fs::write(at("empty"), "a file now").unwrap();
    fs::rename(at("dir"), at("renamed")).unwrap();
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_unstable();
    names
}

pub(crate) fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Errno {
    Errno::from_io_error(&result.unwrap_err()).unwrap()
}

/// Reads an extended attribute of ours.
pub(crate) fn told(path: &Path, name: &str) -> String {
    let mut value = vec![0; 4_096];
    let length = lgetxattr(path, name, &mut value[..]).unwrap();
    String::from_utf8(value[..length].to_vec()).unwrap()
}

pub(crate) fn is_fifo(path: &Path) -> bool {
    fs::symlink_metadata(path).unwrap().file_type().is_fifo()
}

pub(crate) fn as_text(name: &OsStr) -> String {
    String::from_utf8(name.as_bytes().to_vec()).unwrap()
}
