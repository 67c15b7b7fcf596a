//! Groups of files in a directory that is no checkpoint itself: prefixes first, then single files.

use std::collections::{BTreeMap, BTreeSet};

use super::folder::Folder;
use super::inspect::{Inspector, Unit};
use super::{Checkpoint, Framework};
use crate::evidence::Evidence;
use crate::format::Format;
use crate::verdict::State;

pub(super) fn group(inspector: &Inspector<'_>, folder: &Folder) -> Vec<Checkpoint> {
    let mut found = Vec::new();
    let mut taken = BTreeSet::new();
    for (prefix, unit) in prefixes(inspector, folder) {
        taken.extend(unit.members.iter().map(|member| member.path.clone()));
        found.push(unit.into_checkpoint(folder.path.join(&prefix), &prefix));
    }
    // Files that need others come first, so that those are not taken for checkpoints of their own.
    let (needy, plain): (Vec<_>, Vec<_>) = folder
        .files
        .keys()
        .partition(|name| matches!(Format::of_name(name), Some(Format::ShardIndex | Format::Onnx)));
    for name in needy.into_iter().chain(plain) {
        if taken.contains(&folder.path_of(name)) || !may_be_checkpoint(name) {
            continue;
        }
        let Some(unit) = single(inspector, folder, name) else { continue };
        taken.extend(unit.members.iter().map(|member| member.path.clone()));
        found.push(unit.into_checkpoint(folder.path_of(name), name));
    }
    found
}

/// Whether content should be looked at: names that formats have, names without an extension, and staged files.
fn may_be_checkpoint(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    Format::of_name(name).is_some()
        || name.starts_with(".tmp")
        || match extension.as_deref() {
            None => true,
            Some(extension) => matches!(extension, "json" | "txt" | "model" | "bin" | "tmp"),
        }
}

fn single(inspector: &Inspector<'_>, folder: &Folder, name: &str) -> Option<Unit> {
    let is_usual = matches!(name.rsplit_once('.'), Some((_, "json" | "txt")) | None);
    let mut unit = Unit::new(Framework::File(Format::Unrecognised));
    if is_usual && Format::of_name(name).is_none() {
        // Most files of these names are something else: look before it becomes a unit.
        let report = inspector.probe(folder, name)?;
        if report.format == Format::Unrecognised {
            return None;
        }
        unit.facts(&report.facts);
    }
    let report = unit.add(inspector, folder, name).or_else(|| inspector.probe(folder, name))?;
    if report.format == Format::Unrecognised {
        return None;
    }
    unit.facts(&report.facts);
    let is_lightning =
        report.facts.producer.as_ref().is_some_and(|producer| producer.starts_with("lightning"));
    unit.framework = match report.format {
        _ if is_lightning => Framework::Lightning,
        Format::ShardIndex => Framework::Shards(if name.contains("safetensors") {
            Format::Safetensors
        } else {
            Format::TorchZip
        }),
        format => Framework::File(format),
    };
    if report.state == State::Complete {
        unit.evidence.extend(report.evidence);
    }
    if name.starts_with(".tmp") || name.ends_with(".tmp") {
        unit.fault(State::Torn, Evidence::UnfinishedMarker { name: name.to_owned() });
    }
    let shard =
        name.rsplit_once("-of-").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    if shard && matches!(report.format, Format::Safetensors | Format::TorchZip) {
        unit.fault(State::Torn, Evidence::MarkerMissing { name: "*.index.json".into() });
    }
    Some(unit)
}

/// Names of one prefix: TensorFlow's index with its data, and split GGUF files.
fn prefixes(inspector: &Inspector<'_>, folder: &Folder) -> Vec<(String, Unit)> {
    let mut tensorflow: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut gguf: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for name in folder.files.keys() {
        if let Some(prefix) = name.strip_suffix(".index") {
            tensorflow.entry(prefix).or_default().push(name);
        } else if let Some((prefix, rest)) = name.split_once(".data-")
            && rest.contains("-of-")
        {
            tensorflow.entry(prefix).or_default().push(name);
        } else if let Some(stem) = name.strip_suffix(".gguf")
            && let Some((head, count)) = stem.rsplit_once("-of-")
            && let Some((prefix, _)) = head.rsplit_once('-')
        {
            gguf.entry((prefix, count)).or_default().push(name);
        }
    }
    let mut found = Vec::new();
    for (prefix, names) in tensorflow {
        let index = format!("{prefix}.index");
        let mut unit = Unit::new(Framework::TensorFlow);
        if !folder.has(&index) {
            unit.fault(State::Torn, Evidence::MarkerMissing { name: index });
        } else {
            unit.note(Evidence::Marker { name: index });
        }
        for name in names {
            unit.add(inspector, folder, name);
        }
        found.push((prefix.to_owned(), unit));
    }
    for ((prefix, count), names) in gguf {
        let mut unit = Unit::new(Framework::Shards(Format::Gguf));
        let expected = count.parse().unwrap_or(0);
        for name in &names {
            unit.add(inspector, folder, name);
        }
        let found_now = names.len() as u64;
        if found_now == expected {
            unit.note(Evidence::ShardsPresent { count: expected });
        } else {
            unit.fault(State::Torn, Evidence::ShardsMissing { found: found_now, expected });
        }
        found.push((prefix.to_owned(), unit));
    }
    found
}
