//! torch's distributed checkpoints: `.metadata` says which bytes of which file hold what.

use std::collections::BTreeMap;

use super::folder::Folder;
use super::inspect::{Inspector, Unit};
use crate::evidence::Evidence;
use crate::pickle::{self, Node};
use crate::report::Need;
use crate::verdict::State;

/// Checks the extents of `.metadata`, the file that commits the save.
pub(super) fn check_distributed(unit: &mut Unit, inspector: &Inspector<'_>, folder: &Folder) {
    const METADATA: &str = ".metadata";
    if !folder.has(METADATA) {
        return unit.fault(State::Torn, Evidence::MarkerMissing { name: METADATA.into() });
    }
    unit.add(inspector, folder, METADATA);
    let walked = inspector.with_window(folder, METADATA, |window| {
        let mut cursor = window.cursor(0);
        let walk = pickle::walk(&mut cursor, inspector.limits);
        Some(walk.map(|walk| (walk, cursor.left())))
    });
    let walk = match walked {
        Some(Ok((walk, 0))) => walk,
        Some(Ok((_, left))) => {
            let what = format!("{left} bytes follow the pickle in {METADATA:?}");
            return unit.fault(State::Torn, Evidence::Malformed { what });
        }
        Some(Err(flaw)) => return unit.fault(flaw.state, flaw.evidence),
        None => {
            let error = format!("{METADATA:?} cannot be opened");
            return unit.fault(State::Unknown, Evidence::Unreadable { error });
        }
    };
    let mut needs: BTreeMap<String, u64> = BTreeMap::new();
    for node in walk.heap.nodes() {
        let is_place =
            walk.heap.class_of(node) == Some("torch.distributed.checkpoint.filesystem._StorageInfo");
        let Some(state) = walk.heap.state_of(node).filter(|_| is_place && matches!(node, Node::Call { .. }))
        else {
            continue;
        };
        let count = |key: &str| walk.heap.count(walk.heap.lookup(state, key)?);
        let path = walk.heap.lookup(state, "relative_path").and_then(|id| walk.heap.text(id));
        let (Some(path), Some(offset), Some(length)) = (path, count("offset"), count("length")) else {
            continue;
        };
        let known = needs.entry(path.to_owned()).or_default();
        *known = offset.saturating_add(length).max(*known);
    }
    if needs.is_empty() {
        let what = format!("{METADATA:?} that names no file");
        return unit.fault(State::Unknown, Evidence::Unsupported { what });
    }
    unit.note(Evidence::Marker { name: METADATA.into() });
    unit.note(Evidence::ShardsPresent { count: needs.len() as u64 });
    for (path, at_least) in needs {
        unit.add_need(inspector, folder, &Need { path, at_least });
    }
}
