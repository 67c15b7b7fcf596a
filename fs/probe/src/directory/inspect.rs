//! Looking at the files of a checkpoint, and collecting what is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::folder::Folder;
use super::{Checkpoint, Framework, Member};
use crate::coverage::Coverage;
use crate::evidence::Evidence;
use crate::format::{Format, probe_file};
use crate::name::read_name;
use crate::report::{Facts, FileReport, Need};
use crate::source::{Moment, Tree};
use crate::verdict::State;
use crate::window::{Budget, Limits, Window};

/// JSON files of a checkpoint are parsed up to this size, in bytes.
const MAX_JSON: u64 = 4 << 20;
/// JSON that is not named so.
const ORBAX_JSON: &[&str] = &["_METADATA", "_CHECKPOINT_METADATA", "_sharding"];

pub(super) struct Inspector<'a> {
    pub(super) tree: &'a dyn Tree,
    pub(super) limits: Limits,
    pub(super) root: &'a Folder,
}

impl Inspector<'_> {
    pub(super) fn probe(&self, folder: &Folder, name: &str) -> Option<FileReport> {
        let path = folder.path_of(name);
        let coverage = self.coverage(folder, name);
        let file = self.tree.open(&path).ok()?;
        Some(probe_file(name, file.as_ref(), coverage, self.limits))
    }

    fn coverage(&self, folder: &Folder, name: &str) -> Coverage {
        let entry = folder.files.get(name);
        entry.map(|entry| self.tree.coverage(&folder.path_of(name), entry)).unwrap_or_default()
    }

    /// Reads a small file whole.
    pub(super) fn read(&self, folder: &Folder, name: &str, limit: u64) -> Option<Vec<u8>> {
        self.with_window(folder, name, |window| {
            if window.size() > limit { None } else { window.read(0, window.size()).ok() }
        })
    }

    pub(super) fn read_json(&self, folder: &Folder, name: &str) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.read(folder, name, MAX_JSON)?).ok()
    }

    pub(super) fn with_window<T>(
        &self,
        folder: &Folder,
        name: &str,
        look: impl FnOnce(Window<'_>) -> Option<T>,
    ) -> Option<T> {
        let file = self.tree.open(&folder.path_of(name)).ok()?;
        let size = file.size().ok()?;
        look(Window::new(file.as_ref(), &Budget::new(self.limits), size))
    }

    fn find_from<'f>(&'f self, folder: &'f Folder, path: &str) -> Option<(&'f Folder, &'f str)> {
        if let Some(target) = folder.links.get(path) {
            // A link may lead out of the directory of the checkpoint but not out of the tree.
            return self.root.find(&relative_to(&folder.path, target, &self.root.path)?);
        }
        folder.find(Path::new(path))
    }
}

/// Resolves a relative path against a directory without looking at anything; `None` when it leaves the root.
pub(super) fn relative_to(directory: &Path, target: &Path, root: &Path) -> Option<PathBuf> {
    let mut full: Vec<_> = directory.strip_prefix(root).ok()?.components().collect();
    for part in target.components() {
        match part {
            Component::Normal(_) => full.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                full.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(full.iter().collect())
}

/// A checkpoint in the making.
pub(super) struct Unit {
    pub(super) framework: Framework,
    pub(super) state: State,
    pub(super) evidence: Vec<Evidence>,
    pub(super) members: Vec<Member>,
    pub(super) step: Option<u64>,
    pub(super) epoch: Option<u64>,
    pub(super) metrics: BTreeMap<String, f64>,
    pub(super) best: Option<String>,
    seen: BTreeSet<PathBuf>,
}

impl Unit {
    pub(super) fn new(framework: Framework) -> Self {
        Self {
            framework,
            state: State::Complete,
            evidence: Vec::new(),
            members: Vec::new(),
            step: None,
            epoch: None,
            metrics: BTreeMap::new(),
            best: None,
            seen: BTreeSet::new(),
        }
    }

    pub(super) fn note(&mut self, evidence: Evidence) {
        self.evidence.push(evidence);
    }

    /// Says why it is not complete.
    pub(super) fn fault(&mut self, state: State, evidence: Evidence) {
        self.state = self.state.and(state);
        self.evidence.push(evidence);
    }

    pub(super) fn require(&mut self, folder: &Folder, name: &str) {
        if !folder.has(name) && !folder.links.contains_key(name) {
            self.fault(State::Torn, Evidence::FileMissing { name: name.to_owned() });
        }
    }

    /// Adds a file and judges it; returns the verdict of one whose format is known.
    pub(super) fn add(
        &mut self,
        inspector: &Inspector<'_>,
        folder: &Folder,
        name: &str,
    ) -> Option<FileReport> {
        let entry = folder.files.get(name)?;
        let path = folder.path_of(name);
        if !self.seen.insert(path.clone()) {
            return None;
        }
        let coverage = inspector.coverage(folder, name);
        let is_json =
            name.ends_with(".json") && Format::of_name(name).is_none() || ORBAX_JSON.contains(&name);
        let report = if has_no_structure(name) || is_json { None } else { inspector.probe(folder, name) };
        let report = report.filter(|report| report.format != Format::Unrecognised);
        let mut state = report.as_ref().map_or(State::Complete, |report| report.state);
        if is_json && entry.size <= MAX_JSON && inspector.read_json(folder, name).is_none() {
            state = State::Torn;
        }
        if coverage.open_writers > 0 {
            state = State::InProgress;
        } else if matches!(coverage.written, crate::coverage::Written::Holes(_)) {
            state = State::Torn;
        }
        if state != State::Complete {
            self.fault(state, Evidence::FileNotComplete { name: name.to_owned(), state });
            self.evidence.extend(report.iter().flat_map(|report| report.evidence.last().cloned()));
        }
        self.members.push(Member {
            path,
            size: entry.size,
            identity: entry.identity,
            modified: entry.modified,
            format: report.as_ref().map(|report| report.format),
            state,
        });
        for need in report.iter().flat_map(|report| &report.needs) {
            self.add_need(inspector, folder, need);
        }
        report
    }

    /// Adds a file that another one refers to.
    pub(super) fn add_need(&mut self, inspector: &Inspector<'_>, folder: &Folder, need: &Need) {
        let name = need.path.clone();
        if !Path::new(&name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        {
            return self.fault(State::Unknown, Evidence::NameOutside { name });
        }
        let plain = name.trim_start_matches("./");
        let Some((place, leaf)) = inspector.find_from(folder, plain) else {
            let is_link = folder.links.contains_key(plain);
            return if is_link {
                self.fault(State::Unknown, Evidence::NameOutside { name });
            } else {
                self.fault(State::Torn, Evidence::FileMissing { name });
            };
        };
        let size = place.files.get(leaf).map_or(0, |entry| entry.size);
        if size < need.at_least {
            self.fault(State::Torn, Evidence::FileShort { name, size, expected: need.at_least });
        }
        self.add(inspector, place, leaf);
    }

    /// Adds every file below a directory. Directories in it that are checkpoints of their own kind are judged as such.
    pub(super) fn add_all(&mut self, inspector: &Inspector<'_>, folder: &Folder) {
        for name in folder.files.keys() {
            self.add(inspector, folder, name);
        }
        for (name, target) in &folder.links {
            let place = relative_to(&folder.path, target, &inspector.root.path);
            match place.as_ref().and_then(|path| inspector.root.find(path)) {
                Some((place, leaf)) => drop(self.add(inspector, place, leaf)),
                None => self.fault(State::Unknown, Evidence::NameOutside { name: name.clone() }),
            }
        }
        for below in folder.folders.values() {
            match super::units::recognise(inspector, below, Some(folder)) {
                Some(unit) => self.absorb(unit),
                None => self.add_all(inspector, below),
            }
        }
    }

    /// Adds every file below a directory, whatever the directories in it are.
    pub(super) fn add_files(&mut self, inspector: &Inspector<'_>, folder: &Folder) {
        folder.walk(&mut |below| {
            for name in below.files.keys() {
                self.add(inspector, below, name);
            }
        });
    }

    /// Takes over what a file says about the training.
    pub(super) fn facts(&mut self, facts: &Facts) {
        self.step = facts.step.or(self.step);
        self.epoch = facts.epoch.or(self.epoch);
        self.metrics.extend(facts.metrics.clone());
        self.best = facts.best.clone().or(self.best.take());
    }

    /// Takes another one in as a part.
    pub(super) fn absorb(&mut self, other: Self) {
        self.state = self.state.and(other.state);
        self.evidence.extend(other.evidence);
        for member in other.members {
            if self.seen.insert(member.path.clone()) {
                self.members.push(member);
            }
        }
        self.step = self.step.or(other.step);
        self.epoch = self.epoch.or(other.epoch);
    }

    pub(super) fn into_checkpoint(mut self, path: PathBuf, name: &str) -> Checkpoint {
        let named = read_name(name);
        if let (Some(in_name), Some(content)) = (named.step, self.step)
            && in_name != content
            && matches!(self.framework, Framework::HfTrainer | Framework::Megatron)
        {
            self.fault(State::Torn, Evidence::StepDiffers { name: in_name, content });
        }
        self.members.sort_by(|a, b| a.path.cmp(&b.path));
        let mut counted = BTreeSet::new();
        let counts = self.members.iter().filter(|member| counted.insert(member.identity));
        let bytes = counts.fold(0_u64, |sum, member| sum.saturating_add(member.size));
        let mut metrics = named.metrics.clone();
        metrics.extend(self.metrics);
        Checkpoint {
            framework: self.framework,
            directory: path.parent().unwrap_or(Path::new("")).to_owned(),
            path,
            template: named.template.clone(),
            run: 0,
            is_singleton: named.is_singleton(),
            step: named.step.or(self.step),
            epoch: named.epoch.or(self.epoch),
            metrics,
            state: self.state,
            evidence: self.evidence,
            bytes,
            modified: self.members.iter().map(|member| member.modified).max().unwrap_or(Moment::default()),
            members: self.members,
            pointed_by: Vec::new(),
            best: self.best,
        }
    }
}

/// Files whose content follows from others only.
fn has_no_structure(name: &str) -> bool {
    let is_shard = name.contains(".data-") && name.contains("-of-");
    name.ends_with(".distcp") || name.ends_with(".onnx.data") || is_shard || name == ".metadata"
}
