//! A guarded workspace in which things are lost, and what a tree looks like to the byte.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{Backing, FsKind, GuardMount, Output, Run};
use wsguard_api::{Ownership, RestoreJob, UndoList};

/// What there is to know of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    device: u64,
    links: u64,
    /// Content or target.
    bytes: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path with the same inode.
    first_name: PathBuf,
}

/// A tree, the top included.
pub(crate) type Tree = BTreeMap<PathBuf, Known>;

/// Reads everything below `top`.
pub(crate) fn tree(top: &Path) -> Tree {
    let mut found = Tree::new();
    let mut inodes = BTreeMap::new();
    let mut pending = vec![top.to_path_buf()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let relative = path.strip_prefix(top).expect("below the top").to_path_buf();
        if meta.is_dir() {
            let mut names: Vec<PathBuf> =
                fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            pending.extend(names.into_iter().rev());
        }
        let bytes = match meta.file_type() {
            kind if kind.is_file() => fs::read(&path).unwrap(),
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let first_name = if meta.is_dir() {
            relative.clone()
        } else {
            inodes.entry(meta.ino()).or_insert(relative.clone()).clone()
        };
        found.insert(
            relative,
            Known {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                modified: (meta.mtime(), meta.mtime_nsec()),
                device: meta.rdev(),
                links: if meta.is_dir() { 0 } else { meta.nlink() },
                bytes,
                xattrs: xattrs(&path),
                first_name,
            },
        );
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0_u8; 65_536];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return BTreeMap::new() };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0_u8; 65_536];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

/// Says where two trees differ.
#[track_caller]
pub(crate) fn assert_same(before: &Tree, after: &Tree) {
    for (path, known) in before {
        match after.get(path) {
            None => panic!("{path:?} is missing"),
            Some(found) => assert!(found == known, "{path:?}:\n was {known:?}\n is  {found:?}"),
        }
    }
    let new: Vec<&PathBuf> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(new.is_empty(), "{new:?} appeared");
}

/// A workspace with a daemon of its own.
pub(crate) struct Ground {
    pub(crate) mount: GuardMount,
}

impl Ground {
    /// On a filesystem of this kind, with plain files that were there before.
    pub(crate) fn prepared(kind: FsKind, prepare: impl FnOnce(&Path)) -> Self {
        let mount = GuardMount::builder()
            .backing(Backing::on(kind))
            .ownership(Ownership::Preserve)
            .name("project")
            .deadline(Duration::from_secs(600))
            .mount_prepared(prepare);
        Self { mount }
    }

    pub(crate) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount.path().join(name)
    }

    /// Runs `wsguard` in the workspace.
    pub(crate) fn cli<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        let arguments: Vec<OsString> = arguments.into_iter().map(|text| text.as_ref().to_owned()).collect();
        self.mount
            .daemon()
            .command()
            .current_dir(self.mount.path())
            .args(arguments)
            .timeout(Duration::from_secs(300))
            .output()
    }

    /// Runs a restore to its end.
    #[track_caller]
    pub(crate) fn job(&self, arguments: &[&str], code: i32) -> RestoreJob {
        let text = self.cli(arguments.iter().chain(&["--json"])).expect_code(code).stdout;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{text}"))
    }

    /// Runs a restore that may fail, and returns its exit code and everything that it says.
    pub(crate) fn job_failed(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.cli(arguments);
        (output.code, format!("{}{}", output.stdout, output.stderr))
    }

    pub(crate) fn undo_list(&self) -> UndoList {
        serde_json::from_str(&self.cli(["undo", "--list", "--json"]).ok()).unwrap()
    }

    /// Returns the preserve store's directory.
    pub(crate) fn store(&self) -> PathBuf {
        let all = self.mount.backing().path().join(".wsguard");
        all.join(&self.mount.workspace().id)
    }

    /// Returns the paths of all objects that hold exactly these bytes.
    pub(crate) fn objects_with(&self, bytes: &[u8]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for dir in fs::read_dir(self.store().join("objects")).unwrap() {
            for object in fs::read_dir(dir.unwrap().path()).unwrap() {
                let path = object.unwrap().path();
                if path.is_file() && fs::read(&path).unwrap() == bytes {
                    found.push(path);
                }
            }
        }
        found
    }
}

/// The moment of this call, for `--at`; what follows is later by any clock.
pub(crate) fn now() -> String {
    std::thread::sleep(Duration::from_millis(30));
    let moment = Run::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%NZ"]).ok().trim().to_owned();
    std::thread::sleep(Duration::from_millis(30));
    moment
}
