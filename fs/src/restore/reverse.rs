//! The reversal of a restore: every path that it changed as it was in the snapshot before.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::RestoreError;
use super::ledger::{Deed, Line, Root, StoredPath};
use super::plan::Planner;
use crate::snapshot::Sequence;

/// Plans it, from the ledger of the restore. `was_interrupted`: a line may be missing of what was done just before,
/// so that what it found as it should be is looked at as well.
pub(super) fn plan(
    planner: &mut Planner<'_>,
    lines: &[Line],
    moment: Sequence,
    was_interrupted: bool,
) -> Result<(), RestoreError> {
    let is_wanted = |line: &&Line| line.deed.is_change() || (was_interrupted && line.deed == Deed::Unchanged);
    let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
    let mut parents: BTreeSet<PathBuf> = BTreeSet::new();
    for line in lines.iter().filter(is_wanted) {
        let path = line.path.path();
        if let Some(parent) = path.parent() {
            parents.insert(parent.to_path_buf());
        }
        paths.insert(path);
    }
    let root = |path: &PathBuf| Root {
        from: StoredPath::new(path),
        to: StoredPath::new(path),
        moment: moment.to_i64(),
        is_single: true,
    };
    let view = planner.ground.view(moment)?;
    let (existed, new): (Vec<PathBuf>, Vec<PathBuf>) = {
        let mut existed = Vec::new();
        let mut new = Vec::new();
        for path in paths {
            if view.resolve(&path)?.is_some() { existed.push(path) } else { new.push(path) }
        }
        (existed, new)
    };
    // What is new goes first, what lies deepest before its directory.
    for path in new.iter().rev() {
        planner.root(&root(path))?;
    }
    for path in &existed {
        planner.root(&root(path))?;
    }
    // The times of the directories, which all of that changes.
    for parent in parents.iter().filter(|parent| !existed.contains(parent) && !new.contains(parent)) {
        planner.root(&root(parent))?;
    }
    Ok(())
}
