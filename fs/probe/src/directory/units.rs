//! Directories that are checkpoints: one recogniser for each framework, markers first.
//!
//! What each requires is in `fs/doc/CHECKPOINTS.md`.

use std::collections::BTreeSet;

use super::Framework;
use super::folder::Folder;
use super::inspect::{Inspector, Unit};
use super::parts::check_distributed;
use crate::evidence::Evidence;
use crate::format::{Format, torch};
use crate::name::read_name;
use crate::verdict::State;

type Recogniser = fn(&Inspector<'_>, &Folder, Option<&Folder>) -> Option<Unit>;

const RECOGNISERS: &[Recogniser] =
    &[orbax, megatron, deepspeed, accelerate, hf_trainer, distributed, hf_model, composite];

pub(super) fn recognise(inspector: &Inspector<'_>, folder: &Folder, parent: Option<&Folder>) -> Option<Unit> {
    RECOGNISERS.iter().find_map(|recogniser| recogniser(inspector, folder, parent))
}

fn template(folder: &Folder) -> String {
    read_name(&folder.name).template
}

fn is_weights(name: &str) -> bool {
    let stem = ["model", "pytorch_model", "adapter_model", "diffusion_pytorch_model"];
    let suffix = [".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json", ".h5", ".msgpack"];
    stem.iter().any(|stem| name.starts_with(stem)) && suffix.iter().any(|suffix| name.ends_with(suffix))
}

fn has_distributed(folder: &Folder) -> bool {
    folder.has(".metadata") || folder.any(|name| name.ends_with(".distcp"))
}

/// Shards like `model-00002-of-00005.safetensors` need their index; returns whether there are any weights.
fn require_weights(unit: &mut Unit, folder: &Folder) {
    let has_parts = folder.folders.values().any(|below| has_distributed(below) || holds_states(below));
    let weights: Vec<&String> =
        folder.files.keys().chain(folder.links.keys()).filter(|name| is_weights(name)).collect();
    if weights.is_empty() && !has_parts {
        unit.fault(State::Torn, Evidence::NothingRecognised);
    }
    let is_shard = |name: &str| name.contains("-of-");
    let has_index = weights.iter().any(|name| name.ends_with(".index.json"));
    if weights.iter().any(|name| is_shard(name)) && !has_index {
        unit.fault(State::Torn, Evidence::MarkerMissing { name: "*.index.json".into() });
    }
}

fn holds_states(folder: &Folder) -> bool {
    folder.any(|name| name.contains("mp_rank_") && name.ends_with("_model_states.pt"))
}

fn hf_trainer(inspector: &Inspector<'_>, folder: &Folder, _: Option<&Folder>) -> Option<Unit> {
    const STATE: &str = "trainer_state.json";
    const INCOMPLETE: &str = "checkpoint-is-incomplete.txt";
    let template = template(folder);
    let is_staging = template == "tmp-checkpoint-*";
    let marks = [STATE, INCOMPLETE, "training_args.bin", "optimizer.pt", "rng_state.pth"];
    let has_content = marks.iter().any(|name| folder.has(name)) || folder.any(is_weights);
    if !(is_staging || template == "checkpoint-*") || !has_content {
        return None;
    }
    let mut unit = Unit::new(Framework::HfTrainer);
    unit.add_all(inspector, folder);
    if is_staging {
        unit.fault(State::Torn, Evidence::UnfinishedMarker { name: folder.name.clone() });
    }
    if folder.has(INCOMPLETE) {
        unit.fault(State::Torn, Evidence::UnfinishedMarker { name: INCOMPLETE.into() });
    }
    require_weights(&mut unit, folder);
    let saves_model_only = inspector
        .with_window(folder, "training_args.bin", |window| torch::flag_of_object(window, "save_only_model"));
    // Without the arguments, one file of the rest makes all of it needed.
    let is_with_rest =
        |name: &str| name == "optimizer.pt" || name == "scheduler.pt" || name.starts_with("rng_state");
    let is_sharded = folder.folders.values().any(|below| has_distributed(below) || holds_states(below));
    if saves_model_only != Some(true) && (saves_model_only.is_some() || folder.any(is_with_rest)) {
        if !is_sharded {
            unit.require(folder, "optimizer.pt");
        }
        unit.require(folder, "scheduler.pt");
        require_ranks(&mut unit, folder, "rng_state", ".pth");
    }
    if !folder.has(STATE) {
        unit.fault(State::Torn, Evidence::MarkerMissing { name: STATE.into() });
        return Some(unit);
    }
    let Some(state) = inspector.read_json(folder, STATE) else { return Some(unit) };
    unit.note(Evidence::Marker { name: STATE.into() });
    unit.step = state.get("global_step").and_then(serde_json::Value::as_u64);
    if unit.step.is_none() {
        unit.fault(State::Torn, Evidence::EntryMissing { name: "global_step".into() });
    }
    unit.best = state.get("best_model_checkpoint").and_then(|best| best.as_str()).map(str::to_owned);
    let epoch = state.get("epoch").and_then(serde_json::Value::as_f64);
    unit.epoch = epoch.filter(|epoch| (0.0..1e9).contains(epoch)).map(|epoch| epoch as u64);
    let history = state.get("log_history").and_then(|history| history.as_array());
    for entry in history.into_iter().flatten() {
        if entry.get("step").and_then(serde_json::Value::as_u64) != unit.step {
            continue;
        }
        for (name, value) in entry.as_object().into_iter().flatten() {
            if name != "step"
                && name != "epoch"
                && let Some(value) = value.as_f64()
            {
                unit.metrics.insert(name.clone(), value);
            }
        }
    }
    Some(unit)
}

/// Files of ranks: one without a number, or one for each rank from 0 without a gap.
fn require_ranks(unit: &mut Unit, folder: &Folder, prefix: &str, suffix: &str) {
    let rank = |name: &str| {
        name.strip_prefix(prefix)?.strip_suffix(suffix).map(|rank| rank.trim_matches('_').to_owned())
    };
    let ranks: Vec<String> = folder.files.keys().filter_map(|name| rank(name)).collect();
    let numbers: BTreeSet<u64> = ranks.iter().filter_map(|rank| rank.parse().ok()).collect();
    if ranks.is_empty() {
        return unit.fault(State::Torn, Evidence::FileMissing { name: format!("{prefix}*{suffix}") });
    }
    let expected = numbers.last().map_or(0, |last| last.saturating_add(1));
    let found = numbers.len() as u64;
    if found < expected {
        unit.fault(State::Torn, Evidence::ShardsMissing { found, expected });
    } else {
        unit.note(Evidence::ShardsPresent { count: found.max(1) });
    }
}

fn accelerate(inspector: &Inspector<'_>, folder: &Folder, _: Option<&Folder>) -> Option<Unit> {
    let is_state = |name: &str| name.starts_with("random_states_") && name.ends_with(".pkl");
    let is_named =
        template(folder) == "checkpoint_*" && (folder.any(is_weights) || folder.has("optimizer.bin"));
    if !folder.any(is_state) && !is_named {
        return None;
    }
    let mut unit = Unit::new(Framework::Accelerate);
    unit.add_all(inspector, folder);
    require_weights(&mut unit, folder);
    require_ranks(&mut unit, folder, "random_states_", ".pkl");
    unit.note(Evidence::NoCommitMarker);
    Some(unit)
}

fn deepspeed(inspector: &Inspector<'_>, folder: &Folder, _: Option<&Folder>) -> Option<Unit> {
    let is_optimizer = |name: &str| name.contains("zero_pp_rank_") && name.ends_with("_optim_states.pt");
    if !holds_states(folder) && !folder.any(is_optimizer) {
        return None;
    }
    let mut unit = Unit::new(Framework::DeepSpeed);
    let is_model = |name: &str| name.contains("mp_rank_") && name.ends_with("_model_states.pt");
    unit.add_all(inspector, folder);
    let first = folder.files.keys().find(|name| is_model(name));
    let Some(first) = first else {
        unit.fault(State::Torn, Evidence::FileMissing { name: "mp_rank_00_model_states.pt".into() });
        return Some(unit);
    };
    let number = |key| inspector.with_window(folder, first, |window| torch::count_of_object(window, key));
    unit.step = number("global_steps");
    let (Some(data), Some(model)) = (number("dp_world_size"), number("mp_world_size")) else {
        let what = "a file of model states without the number of ranks".to_owned();
        unit.fault(State::Unknown, Evidence::Unsupported { what });
        return Some(unit);
    };
    let count =
        |condition: &dyn Fn(&str) -> bool| folder.files.keys().filter(|name| condition(name)).count() as u64;
    let (models, optimizers) = (count(&is_model), count(&is_optimizer));
    // With stage 3 the model states are split like the optimizer; without ZeRO there are no files of the latter.
    let is_split = folder.any(|name| is_model(name) && name.contains("zero_pp_rank_"));
    let ranks = data.saturating_mul(model);
    for (found, expected) in [(models, if is_split { ranks } else { model }), (optimizers, ranks)] {
        if found > 0 && found < expected {
            unit.fault(State::Torn, Evidence::ShardsMissing { found, expected });
        } else {
            unit.note(Evidence::ShardsPresent { count: found });
        }
    }
    if optimizers == 0 && inspector.with_window(folder, first, torch::has_optimizer) != Some(true) {
        unit.fault(State::Torn, Evidence::ShardsMissing { found: 0, expected: ranks });
    }
    Some(unit)
}

fn megatron(inspector: &Inspector<'_>, folder: &Folder, parent: Option<&Folder>) -> Option<Unit> {
    const TRACKER: &str = "latest_checkpointed_iteration.txt";
    const FILE: &str = "model_optim_rng.pt";
    let is_iteration = template(folder) == "iter_*" || folder.name == "release";
    let ranks: Vec<&Folder> =
        folder.folders.values().filter(|below| below.name.starts_with("mp_rank_")).collect();
    let is_distributed = folder.has("common.pt") || folder.has("metadata.json") && has_distributed(folder);
    if !is_iteration || (ranks.is_empty() && !is_distributed && !has_distributed(folder)) {
        return None;
    }
    let mut unit = Unit::new(Framework::Megatron);
    unit.add_all(inspector, folder);
    if ranks.is_empty() {
        check_distributed(&mut unit, inspector, folder);
        unit.require(folder, "common.pt");
        unit.require(folder, "metadata.json");
    }
    let mut grid: Vec<BTreeSet<u64>> = Vec::new();
    for rank in &ranks {
        unit.require(rank, FILE);
        let numbers =
            rank.name.trim_start_matches("mp_rank_").split('_').filter_map(|part| part.parse().ok());
        for (place, number) in numbers.enumerate() {
            if grid.len() <= place {
                grid.resize(place + 1, BTreeSet::new());
            }
            grid.get_mut(place).map(|seen| seen.insert(number));
        }
    }
    let sizes = grid.iter().map(|seen| seen.last().map_or(1, |last| last.saturating_add(1)));
    let expected = sizes.fold(1_u64, u64::saturating_mul);
    if !ranks.is_empty() && (ranks.len() as u64) < expected {
        unit.fault(State::Torn, Evidence::ShardsMissing { found: ranks.len() as u64, expected });
    }
    // The tracker is written after all ranks have saved; a rank that is missing at the end shows in nothing else.
    let tracker = parent.and_then(|parent| inspector.read(parent, TRACKER, 64));
    let tracker = tracker.map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    let latest = tracker.as_ref().and_then(|text| text.parse::<u64>().ok());
    let step = read_name(&folder.name).step;
    if tracker.as_deref() == Some("release")
        || latest.is_some_and(|latest| step.is_none_or(|step| step <= latest))
    {
        unit.note(Evidence::Marker { name: TRACKER.into() });
    } else {
        unit.fault(State::Unknown, Evidence::MarkerMissing { name: TRACKER.into() });
    }
    Some(unit)
}

fn distributed(inspector: &Inspector<'_>, folder: &Folder, _: Option<&Folder>) -> Option<Unit> {
    if !has_distributed(folder) {
        return None;
    }
    let is_lightning = folder.has("meta.pt") || folder.name.ends_with(".ckpt");
    let framework = if is_lightning { Framework::LightningDirectory } else { Framework::TorchDistributed };
    let mut unit = Unit::new(framework);
    check_distributed(&mut unit, inspector, folder);
    unit.add_all(inspector, folder);
    if is_lightning {
        unit.require(folder, "meta.pt");
        if let Some(report) = inspector.probe(folder, "meta.pt") {
            unit.step = report.facts.step;
            unit.epoch = report.facts.epoch;
            unit.metrics = report.facts.metrics;
            unit.best = report.facts.best;
        }
    }
    Some(unit)
}

fn orbax(inspector: &Inspector<'_>, folder: &Folder, _: Option<&Folder>) -> Option<Unit> {
    const METADATA: &str = "_CHECKPOINT_METADATA";
    let is_staging = folder.name.contains(".orbax-checkpoint-tmp");
    let is_item = |folder: &Folder| folder.has("_METADATA") || folder.has("manifest.ocdbt");
    let has_items = is_item(folder) || folder.folders.values().any(is_item);
    if !folder.has(METADATA) && !is_staging && !has_items {
        return None;
    }
    let mut unit = Unit::new(Framework::Orbax);
    unit.add_files(inspector, folder);
    if is_staging {
        unit.fault(State::Torn, Evidence::UnfinishedMarker { name: folder.name.clone() });
    }
    let mut staged = None;
    let mut items = 0_u64;
    folder.walk(&mut |below| {
        if below.name.contains(".orbax-checkpoint-tmp") && !std::ptr::eq(below, folder) {
            staged = Some(below.name.clone());
        }
        items += u64::from(is_item(below));
        let is_process = |name: &str| name.starts_with("ocdbt.process_");
        let is_store = is_process(&below.name) || below.folders.keys().any(|name| is_process(name));
        if is_store && !below.has("manifest.ocdbt") {
            unit.fault(State::Torn, Evidence::FileMissing { name: "manifest.ocdbt".into() });
        }
        if below.has("manifest.ocdbt") {
            super::ocdbt::check_manifest(&mut unit, inspector, below);
        }
        if below.has("manifest.ocdbt") && !below.name.starts_with("ocdbt.process_") {
            unit.require(below, "_METADATA");
        }
    });
    if let Some(name) = staged {
        unit.fault(State::Torn, Evidence::UnfinishedMarker { name });
    }
    if items == 0 {
        unit.fault(State::Torn, Evidence::NothingRecognised);
    }
    let metadata = inspector.read_json(folder, METADATA);
    let committed = metadata.as_ref().and_then(|metadata| metadata.get("commit_timestamp_nsecs"));
    if committed.is_some_and(serde_json::Value::is_number) {
        unit.note(Evidence::Marker { name: METADATA.into() });
    } else {
        unit.fault(State::Torn, Evidence::MarkerMissing { name: METADATA.into() });
    }
    let metrics = folder.folders.get("metrics").and_then(|below| inspector.read_json(below, "metrics"));
    let metrics = metrics.as_ref().and_then(|metrics| metrics.as_object());
    for (name, value) in metrics.into_iter().flatten() {
        if let Some(value) = value.as_f64() {
            unit.metrics.insert(name.clone(), value);
        }
    }
    Some(unit)
}

fn hf_model(inspector: &Inspector<'_>, folder: &Folder, _: Option<&Folder>) -> Option<Unit> {
    let is_configured = folder.has("config.json") || folder.has("adapter_config.json");
    if !is_configured || !folder.any(is_weights) {
        return None;
    }
    let mut unit = Unit::new(Framework::HfModel);
    // Directories beside the weights of an output directory are checkpoints of their own.
    for name in folder.files.keys().filter(|name| !name.starts_with("events.out")) {
        unit.add(inspector, folder, name);
    }
    require_weights(&mut unit, folder);
    unit.note(Evidence::NoCommitMarker);
    let holds_others =
        folder.folders.values().any(|below| recognise(inspector, below, Some(folder)).is_some());
    if holds_others {
        return None;
    }
    for below in folder.folders.values() {
        unit.add_all(inspector, below);
    }
    Some(unit)
}

/// A directory named after a step in which others keep their parts.
fn composite(inspector: &Inspector<'_>, folder: &Folder, _: Option<&Folder>) -> Option<Unit> {
    let template = template(folder);
    let known = ["step", "global_step", "iter", "epoch", "checkpoint", "ckpt"];
    let word = template.strip_suffix('*')?.trim_end_matches(['-', '_', '=']);
    if !known.contains(&word) || !holds_formats(folder) {
        return None;
    }
    let mut unit = Unit::new(Framework::Composite);
    unit.add_all(inspector, folder);
    unit.step = None;
    unit.note(Evidence::NoCommitMarker);
    Some(unit)
}

fn holds_formats(folder: &Folder) -> bool {
    let mut found = false;
    folder.walk(&mut |below| {
        found |= has_distributed(below);
        found |= below.any(|name| Format::of_name(name).is_some_and(|format| format != Format::ShardIndex));
    });
    found
}
