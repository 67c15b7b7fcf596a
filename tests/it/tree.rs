//! Everything that can be seen of a directory tree, for comparing two views of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

/// Entries named in the message of a failed comparison; the rest is counted.
const NAMED_DIFFERENCES: usize = 20;

/// Bytes of a file's content that such a message shows.
const SHOWN_CONTENT: usize = 60;

/// The entries of a tree by their paths relative to its root, which are bytes and need not be UTF-8.
pub(crate) type Tree = BTreeMap<Vec<u8>, Entry>;

/// What one entry looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    modified: (i64, i64),
    /// Content of a file, target of a link; empty for the rest.
    content: Vec<u8>,
    /// Names and values of the `user.*` attributes.
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads the tree below `root`, without `root` itself.
pub(crate) fn read(root: &Path) -> Tree {
    let mut entries = Tree::new();
    visit(root, root, &mut entries);
    entries
}

/// Panics unless all trees are the same, with what each of them shows of the entries that differ. Each has a name by
/// which the message calls it.
#[track_caller]
pub(crate) fn assert_same(trees: &[(&str, &Tree)]) {
    let report = differences(trees);
    assert!(report.is_empty(), "the trees differ:\n{report}");
}

fn differences(trees: &[(&str, &Tree)]) -> String {
    let paths: BTreeSet<&Vec<u8>> = trees.iter().flat_map(|(_, tree)| tree.keys()).collect();
    let (mut report, mut count) = (String::new(), 0);
    for path in paths {
        let entries: Vec<_> = trees.iter().map(|(_, tree)| tree.get(path)).collect();
        if entries.windows(2).all(|pair| pair[0] == pair[1]) {
            continue;
        }
        count += 1;
        if count > NAMED_DIFFERENCES {
            continue;
        }
        writeln!(report, "{}", path.escape_ascii()).unwrap();
        for ((name, _), entry) in trees.iter().zip(entries) {
            let shown = entry.map_or_else(|| "nothing".to_owned(), Entry::shown);
            writeln!(report, "    {name}: {shown}").unwrap();
        }
    }
    if count > NAMED_DIFFERENCES {
        writeln!(report, "and {} more", count - NAMED_DIFFERENCES).unwrap();
    }
    report
}

impl Entry {
    fn shown(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.content.hash(&mut hasher);
        let content = self.content[..self.content.len().min(SHOWN_CONTENT)].escape_ascii();
        let attributes: Vec<String> = self
            .attributes
            .iter()
            .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()))
            .collect();
        format!(
            "mode {:o}, owner {:?}, {} links, size {}, mtime {}.{:09}, content {:016x} \"{content}\", {attributes:?}",
            self.mode,
            self.owner,
            self.links,
            self.size,
            self.modified.0,
            self.modified.1,
            hasher.finish(),
        )
    }
}

fn visit(root: &Path, dir: &Path, entries: &mut Tree) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else if stat.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        // The size of a directory is the filesystem's own affair.
        let size = if stat.is_dir() { 0 } else { stat.size() };
        entries.insert(
            relative,
            Entry {
                mode: stat.mode(),
                owner: (stat.uid(), stat.gid()),
                links: stat.nlink(),
                size,
                modified: (stat.mtime(), stat.mtime_nsec()),
                content,
                attributes: if stat.is_symlink() { Vec::new() } else { attributes(&path) },
            },
        );
        if stat.is_dir() {
            visit(root, &path, entries);
        }
    }
}

fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0u8; 4096];
    let length = rustix::fs::listxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    let mut attributes: Vec<_> = names
        .map(|name| {
            let mut value = vec![0u8; 4096];
            let length = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect();
    attributes.sort();
    attributes
}

#[test]
fn a_comparison_names_the_entries_that_differ_in_anything() {
    let (one, other) = (harness::Scratch::new(), harness::Scratch::new());
    for dir in [one.path(), other.path()] {
        fs::create_dir(dir.join("same")).unwrap();
        for name in ["same/file", "touched", "longer", "linked"] {
            fs::write(dir.join(name), "text").unwrap();
        }
    }
    fs::write(one.path().join("only"), "").unwrap();
    fs::hard_link(one.path().join("linked"), one.path().join("again")).unwrap();
    // Everything has the same time but the one file.
    let script =
        "find \"$1\" \"$2\" -exec touch -d @1000000000 {} + && touch -d @1000000000.000000001 \"$2/touched\"";
    harness::Run::shell(script, [one.path(), other.path()]).ok();
    assert_eq!(differences(&[("one", &read(one.path())), ("itself", &read(one.path()))]), "");
    fs::write(other.path().join("longer"), "text and more").unwrap();

    let report = differences(&[("one", &read(one.path())), ("other", &read(other.path()))]);
    let named: Vec<&str> = report.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(named, ["again", "linked", "longer", "only", "touched"], "{report}");
    assert!(report.contains("other: nothing"), "{report}");
    assert!(report.contains("mtime 1000000000.000000001"), "{report}");
}
