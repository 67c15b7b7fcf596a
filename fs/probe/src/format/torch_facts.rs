//! Step, epoch and metrics in the pickle of a torch file.

use super::torch::{element_width, storage_reference};
use crate::pickle::{Heap, Id, Node, Walk};
use crate::report::Findings;

const STEPS: &[&str] = &["global_step", "global_steps", "step", "iteration", "iter", "num_steps"];
const EPOCHS: &[&str] = &["epoch", "epochs"];
const METRICS: &[&str] =
    &["best_fitness", "val_loss", "loss", "best_acc", "best_acc1", "accuracy", "best_loss"];

/// Reads bytes of a storage by its key, as far as they are needed.
type Read<'a> = dyn Fn(&str, u64) -> Option<Vec<u8>> + 'a;

pub(super) fn collect(walk: &Walk, read: &Read<'_>, out: &mut Findings) {
    let heap = &walk.heap;
    let count = |keys: &[&str]| keys.iter().find_map(|key| heap.count(heap.lookup(walk.root, key)?));
    out.facts.step = count(STEPS);
    out.facts.epoch = count(EPOCHS);
    for key in METRICS {
        let value = heap.lookup(walk.root, key).and_then(|id| scalar(heap, id, read));
        if let Some(value) = value {
            out.metric(key, value);
        }
    }
    let version = heap.lookup(walk.root, "pytorch-lightning_version").and_then(|id| heap.text(id));
    out.facts.producer = version.map(|version| format!("lightning {version}"));
    if let Some(callbacks) = heap.lookup(walk.root, "callbacks") {
        for (_, state) in heap.pairs(callbacks) {
            model_checkpoint(heap, *state, read, out);
        }
    }
}

/// The state of Lightning's ModelCheckpoint callback.
fn model_checkpoint(heap: &Heap, state: Id, read: &Read<'_>, out: &mut Findings) {
    let best = heap.lookup(state, "best_model_path").and_then(|id| heap.text(id));
    if let Some(best) = best.filter(|path| !path.is_empty()) {
        out.facts.best = Some(best.to_owned());
    }
    let monitor = heap.lookup(state, "monitor").and_then(|id| heap.text(id));
    let score = heap.lookup(state, "current_score").and_then(|id| scalar(heap, id, read));
    if let (Some(monitor), Some(score)) = (monitor, score) {
        out.metric(monitor, score);
    }
}

/// A number, or a tensor of one element.
fn scalar(heap: &Heap, id: Id, read: &Read<'_>) -> Option<f64> {
    if let Some(value) = heap.number(id) {
        return Some(value);
    }
    let node = heap.get(id);
    let Node::Call { args, .. } = node else { return None };
    if heap.class_of(node)? != "torch._utils._rebuild_tensor_v2" {
        return None;
    }
    let [storage, offset, shape, ..] = heap.list(*args)? else { return None };
    let is_single = heap.list(*shape)?.iter().all(|&length| heap.count(length) == Some(1));
    let Node::Persistent(reference) = heap.get(*storage) else { return None };
    let (key, _) = storage_reference(heap, *reference)?;
    let class = heap.text(*heap.list(*reference)?.get(1)?)?.rsplit('.').next()?;
    let width = element_width(class)?;
    let start = heap.count(*offset)?.checked_mul(width)?;
    if !is_single || start > 1 << 16 {
        return None;
    }
    let bytes = read(key, start + width)?;
    let bytes = bytes.get(usize::try_from(start).ok()?..)?;
    match class {
        "FloatStorage" => Some(f64::from(f32::from_le_bytes(bytes.try_into().ok()?))),
        "DoubleStorage" => Some(f64::from_le_bytes(bytes.try_into().ok()?)),
        "LongStorage" => Some(i64::from_le_bytes(bytes.try_into().ok()?) as f64),
        _ => None,
    }
}
