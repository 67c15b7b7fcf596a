//! What points to checkpoints: links, tracker files, and notes in other checkpoints.

use std::path::{Path, PathBuf};

use super::Checkpoint;
use super::folder::Folder;
use super::inspect::{Inspector, relative_to};

/// What kind of pointer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PointerKind {
    /// A symbolic link.
    Link,
    /// A file whose text names a checkpoint: `latest`, `latest_checkpointed_iteration.txt`, TensorFlow's `checkpoint`.
    Tracker,
    /// A checkpoint's note on which one is the best.
    Best,
}

/// Something that names a checkpoint. Removing its target would leave it dangling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// Where it is: a link, a file, or a checkpoint.
    pub path: PathBuf,
    /// What kind it is.
    pub kind: PointerKind,
    /// What it names, as written.
    pub target: String,
    /// The checkpoint it names.
    pub resolved: Option<PathBuf>,
    /// Whether what it names is neither a checkpoint nor anything else in the tree. A path out of the tree is not
    /// looked at and does not count.
    pub is_dangling: bool,
}

/// Tracker files are small, in bytes.
const MAX_TRACKER: u64 = 64 << 10;

/// Finds all pointers and notes them at the checkpoints they name.
pub(super) fn connect(inspector: &Inspector<'_>, root: &Folder, found: &mut [Checkpoint]) -> Vec<Pointer> {
    let mut pointers = Vec::new();
    root.walk(&mut |folder| {
        for (name, target) in &folder.links {
            pointers.push(link(root, folder, name, target, found));
        }
        for name in folder.files.keys() {
            pointers.extend(tracker(inspector, root, folder, name, found));
        }
    });
    for checkpoint in found.iter() {
        if let Some(best) = &checkpoint.best {
            pointers.push(note(checkpoint, best, found));
        }
    }
    for pointer in &pointers {
        let target = pointer.resolved.as_ref();
        for checkpoint in found.iter_mut().filter(|checkpoint| Some(&checkpoint.path) == target) {
            if !checkpoint.pointed_by.contains(&pointer.path) {
                checkpoint.pointed_by.push(pointer.path.clone());
            }
        }
    }
    pointers
}

/// The checkpoint that is at a path, or has a file there.
fn at<'a>(found: &'a [Checkpoint], path: &Path) -> Option<&'a Checkpoint> {
    found.iter().find(|checkpoint| {
        checkpoint.path == path
            || path.starts_with(&checkpoint.path)
            || checkpoint.members.iter().any(|member| member.path == path)
    })
}

fn exists(root: &Folder, path: &Path) -> bool {
    let mut folder = root;
    for part in path.components() {
        let Some(name) = part.as_os_str().to_str() else { return false };
        match folder.folders.get(name) {
            Some(below) => folder = below,
            None => return folder.has(name) || folder.links.contains_key(name),
        }
    }
    true
}

fn link(root: &Folder, folder: &Folder, name: &str, target: &Path, found: &[Checkpoint]) -> Pointer {
    let inside = relative_to(&folder.path, target, &root.path);
    let resolved = inside.as_ref().and_then(|inside| at(found, &root.path.join(inside)));
    let own = folder.path.join(name);
    // A link to itself resolves to nothing, though its name exists.
    let is_self = inside.as_ref().is_some_and(|inside| root.path.join(inside) == own);
    Pointer {
        kind: PointerKind::Link,
        target: target.to_string_lossy().into_owned(),
        resolved: resolved.filter(|_| !is_self).map(|checkpoint| checkpoint.path.clone()),
        is_dangling: inside.is_some_and(|inside| is_self || !exists(root, &inside)),
        path: own,
    }
}

fn tracker(
    inspector: &Inspector<'_>,
    root: &Folder,
    folder: &Folder,
    name: &str,
    found: &[Checkpoint],
) -> Vec<Pointer> {
    let is_megatron = name.ends_with("checkpointed_iteration.txt");
    let is_tensorflow = name == "checkpoint";
    if !is_megatron && !is_tensorflow && name != "latest" && name != "latest_universal" {
        return Vec::new();
    }
    let Some(text) = inspector.read(folder, name, MAX_TRACKER) else { return Vec::new() };
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let targets: Vec<String> = if is_tensorflow {
        let lines = text.lines().filter(|line| line.contains("model_checkpoint_path"));
        lines.filter_map(|line| Some(line.split('"').nth(1)?.to_owned())).collect()
    } else if is_megatron && let Ok(iteration) = text.parse::<u64>() {
        let name = |template: &str| folder.folders.contains_key(template);
        let plain = format!("global_step_{iteration}");
        vec![if name(&plain) { plain } else { format!("iter_{iteration:07}") }]
    } else {
        vec![text]
    };
    let mut pointers = Vec::new();
    for target in targets {
        let inside = relative_to(&folder.path, Path::new(&target), &root.path);
        let full = inside.as_ref().map(|inside| root.path.join(inside));
        let resolved = full.as_ref().filter(|_| !target.is_empty()).and_then(|full| at(found, full));
        let resolved = resolved.map(|checkpoint| checkpoint.path.clone());
        let is_there = inside.as_ref().is_some_and(|inside| exists(root, inside)) && !target.is_empty();
        pointers.push(Pointer {
            path: folder.path_of(name),
            kind: PointerKind::Tracker,
            is_dangling: resolved.is_none() && !is_there && inside.is_some(),
            resolved,
            target,
        });
    }
    pointers
}

/// A note may be absolute, as the path was inside a container: only its last name can be compared.
fn note(checkpoint: &Checkpoint, best: &str, found: &[Checkpoint]) -> Pointer {
    let last = Path::new(best).file_name();
    let sibling = last.map(|name| checkpoint.directory.join(name));
    let resolved = sibling.as_ref().and_then(|path| found.iter().find(|other| &other.path == path));
    Pointer {
        path: checkpoint.path.clone(),
        kind: PointerKind::Best,
        target: best.to_owned(),
        resolved: resolved.map(|other| other.path.clone()),
        is_dangling: resolved.is_none(),
    }
}
