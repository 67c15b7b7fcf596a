//! Series: which checkpoints were written by the same start of a training, and which lacks what its siblings have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::{Checkpoint, Framework};
use crate::evidence::Evidence;
use crate::name::read_name;
use crate::verdict::State;

/// Ages of a copied tree say nothing: within this many seconds all of a series is one run.
const COPIED_WITHIN_SECS: i64 = 2;

type Series = (PathBuf, String);

fn series(found: &[Checkpoint]) -> BTreeMap<Series, Vec<usize>> {
    let mut all: BTreeMap<Series, Vec<usize>> = BTreeMap::new();
    for (index, checkpoint) in found.iter().enumerate() {
        let key = (checkpoint.directory.clone(), checkpoint.template.clone());
        all.entry(key).or_default().push(index);
    }
    all
}

/// Numbers the runs of each series: a lower step that is younger than a higher one begins a new run.
pub(super) fn assign(found: &mut [Checkpoint]) {
    for mut members in series(found).into_values() {
        let order = |checkpoint: &Checkpoint| (checkpoint.step, checkpoint.epoch);
        members.sort_by_key(|&index| {
            found.get(index).map(|checkpoint| (checkpoint.modified, order(checkpoint)))
        });
        let age = |index: Option<&usize>| {
            index.and_then(|&index| found.get(index)).map(|found| found.modified.seconds)
        };
        let (oldest, youngest) = (age(members.first()), age(members.last()));
        let is_copied = youngest
            .zip(oldest)
            .is_none_or(|(youngest, oldest)| youngest.saturating_sub(oldest) < COPIED_WITHIN_SECS);
        let (mut run, mut highest) = (0, None);
        for index in members {
            let Some(checkpoint) = found.get_mut(index) else { continue };
            let place = order(checkpoint);
            if !is_copied && place != (None, None) && highest.is_some_and(|highest| place < highest) {
                run += 1;
                highest = None;
            }
            highest = highest.max(Some(place));
            checkpoint.run = run;
        }
    }
}

/// A directory without a file that all its siblings have is doubtful, whatever its markers say.
pub(super) fn compare_siblings(found: &mut [Checkpoint]) {
    for members in series(found).into_values() {
        let names: Vec<BTreeSet<String>> =
            members.iter().filter_map(|&index| found.get(index)).map(names_within).collect();
        for (place, &index) in members.iter().enumerate() {
            let Some(own) = names.get(place) else { continue };
            let mut others =
                names.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, names)| names);
            let Some(first) = others.next() else { continue };
            let common = others.fold(first.clone(), |common, names| &common & names);
            let Some(checkpoint) =
                found.get_mut(index).filter(|checkpoint| is_directory(checkpoint.framework))
            else {
                continue;
            };
            for name in common.difference(own) {
                checkpoint.state = checkpoint.state.and(State::Unknown);
                checkpoint.evidence.push(Evidence::FileMissing { name: name.clone() });
            }
        }
    }
}

fn is_directory(framework: Framework) -> bool {
    match framework {
        Framework::HfTrainer
        | Framework::HfModel
        | Framework::LightningDirectory
        | Framework::Accelerate
        | Framework::DeepSpeed
        | Framework::TorchDistributed
        | Framework::Megatron
        | Framework::Composite => true,
        // Names of Orbax' files are random, and the other ones are single files or know their shards.
        Framework::Orbax
        | Framework::Lightning
        | Framework::TensorFlow
        | Framework::Shards(_)
        | Framework::File(_) => false,
    }
}

/// Paths of the files that hold state, relative to the checkpoint. The number of the step itself may be in a name.
fn names_within(checkpoint: &Checkpoint) -> BTreeSet<String> {
    let relevant =
        checkpoint.members.iter().filter(|member| member.format.is_some() || is_part(&member.path));
    relevant
        .filter_map(|member| member.path.strip_prefix(&checkpoint.path).ok())
        .map(|path| {
            let text = path.to_string_lossy();
            match checkpoint.step {
                Some(step) if text.contains(&step.to_string()) && step > 9 => read_name(&text).template,
                _ => text.into_owned(),
            }
        })
        .collect()
}

fn is_part(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|extension| extension == "distcp")
}
