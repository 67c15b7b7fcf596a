//! A tree as it is at one moment, in memory: what is compared with a snapshot later.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::{
        ffi::OsStringExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

/// One entry: everything that a user can see of it but its inode number, its blocks and when it was read last.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    content: Vec<u8>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Other names of the inode in the tree.
    same_as: Vec<PathBuf>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, mode, owner, links, size, modified, changed, .. } = self;
        write!(
            f,
            "{kind} {mode:o} {owner:?} links {links} size {size} mtime {modified:?} ctime {changed:?}"
        )?;
        let attributes: Vec<_> = self
            .attributes
            .iter()
            .map(|(name, value)| (String::from_utf8_lossy(name), value.len()))
            .collect();
        write!(f, " attributes {attributes:?} same as {:?}", self.same_as)
    }
}

/// Every entry of a tree by its path from the top, the top itself as "".
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Picture(BTreeMap<PathBuf, Entry>);

impl Picture {
    /// Looks at the tree below `top`.
    pub(crate) fn of(top: &Path) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        let mut inodes: HashMap<u64, Vec<PathBuf>> = HashMap::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(relative) = pending.pop() {
            let path = if relative.as_os_str().is_empty() { top.to_path_buf() } else { top.join(&relative) };
            let told = |error: io::Error| io::Error::new(error.kind(), format!("{relative:?}: {error}"));
            let meta = fs::symlink_metadata(&path).map_err(told)?;
            if meta.is_dir() {
                for entry in fs::read_dir(&path)? {
                    pending.push(relative.join(entry?.file_name()));
                }
            } else {
                inodes.entry(meta.ino()).or_default().push(relative.clone());
            }
            let entry = Entry::of(&path, &meta).map_err(told)?;
            entries.insert(relative, entry);
        }
        for mut names in inodes.into_values() {
            names.sort();
            for name in &names {
                let entry = entries.get_mut(name).expect("it was inserted above");
                entry.same_as = names.iter().filter(|other| *other != name).cloned().collect();
            }
        }
        Ok(Self(entries))
    }

    /// Returns the first differences, in words; none if there are none.
    pub(crate) fn differences(&self, found: &Self) -> Vec<String> {
        let mut all = Vec::new();
        for (path, entry) in &self.0 {
            match found.0.get(path) {
                None => all.push(format!("{path:?} is missing: {entry:?}")),
                Some(other) if other != entry => {
                    let place = entry.content.iter().zip(&other.content).position(|(a, b)| a != b);
                    let content = match place {
                        Some(place) => format!(", content differs from byte {place} on"),
                        None if entry.content != other.content => ", content has another length".to_owned(),
                        None => String::new(),
                    };
                    all.push(format!("{path:?}: expected {entry:?}\n    found {other:?}{content}"));
                }
                Some(_) => {}
            }
        }
        let more = found.0.keys().filter(|path| !self.0.contains_key(*path));
        all.extend(more.map(|path| format!("{path:?} should not be there")));
        all.truncate(5);
        all
    }

    /// Returns how many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Entry {
    fn of(path: &Path, meta: &Metadata) -> io::Result<Self> {
        let kind = meta.file_type();
        let mut content = Vec::new();
        let kind = if kind.is_dir() {
            "directory"
        } else if kind.is_symlink() {
            content = fs::read_link(path)?.into_os_string().into_vec();
            "link"
        } else if kind.is_fifo() {
            "fifo"
        } else if kind.is_file() {
            File::open(path)?.read_to_end(&mut content)?;
            "file"
        } else {
            "other"
        };
        Ok(Self {
            kind,
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            // What a directory's links count is its filesystem's own affair.
            links: if kind == "directory" { 0 } else { meta.nlink() },
            size: if kind == "directory" { 0 } else { meta.size() },
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            content,
            attributes: attributes(path)?,
            same_as: Vec::new(),
        })
    }
}

fn attributes(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0_u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 65_536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        found.insert(name.to_vec(), value[..length].to_vec());
    }
    Ok(found)
}
