//! Checkpoints in a tree: which files belong together, whether each is complete, and what points to it.
//!
//! Directories are recognised first, by what frameworks put in them; then groups of files by their prefix; then
//! single files. A directory that is a checkpoint is one unit with everything below it.

mod files;
mod folder;
mod inspect;
mod ocdbt;
mod parts;
mod pointers;
mod runs;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::evidence::Evidence;
use crate::format::Format;
use crate::name::{natural_order, read_name};
use crate::source::{Identity, Moment, Tree};
use crate::verdict::State;
use crate::window::Limits;

use folder::Folder;
use inspect::Inspector;
pub use pointers::{Pointer, PointerKind};

/// What wrote a checkpoint, as far as its layout tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Framework {
    /// `checkpoint-<step>/` of Hugging Face's Trainer.
    HfTrainer,
    /// A directory of `save_pretrained`.
    HfModel,
    /// A file of Lightning.
    Lightning,
    /// A directory of Lightning, for distributed models.
    LightningDirectory,
    /// `checkpoint_<i>/` of Accelerate.
    Accelerate,
    /// A tag directory of DeepSpeed.
    DeepSpeed,
    /// torch's distributed checkpoint, FSDP.
    TorchDistributed,
    /// A step directory of Orbax.
    Orbax,
    /// `<prefix>.index` and its shards.
    TensorFlow,
    /// `iter_<step>/` of Megatron-LM.
    Megatron,
    /// A directory of a step with checkpoints of others in it: verl, NeMo.
    Composite,
    /// An index with its shards, or shards that belong together.
    Shards(Format),
    /// One file.
    File(Format),
}

impl fmt::Display for Framework {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HfTrainer => f.write_str("HF Trainer"),
            Self::HfModel => f.write_str("HF model"),
            Self::Lightning | Self::LightningDirectory => f.write_str("Lightning"),
            Self::Accelerate => f.write_str("Accelerate"),
            Self::DeepSpeed => f.write_str("DeepSpeed"),
            Self::TorchDistributed => f.write_str("torch distributed"),
            Self::Orbax => f.write_str("Orbax"),
            Self::TensorFlow => f.write_str("TensorFlow"),
            Self::Megatron => f.write_str("Megatron-LM"),
            Self::Composite => f.write_str("several"),
            Self::Shards(format) => write!(f, "{format} shards"),
            Self::File(format) => write!(f, "{format}"),
        }
    }
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Relative to the root of the tree.
    pub path: PathBuf,
    /// Size in bytes.
    pub size: u64,
    /// Which file it is.
    pub identity: Identity,
    /// When it last changed.
    pub modified: Moment,
    /// What it is, where its format is known.
    pub format: Option<Format>,
    /// Its own verdict; of a format that cannot be judged, [`State::Complete`] when nothing speaks against it.
    pub state: State,
}

/// One logical checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What wrote it.
    pub framework: Framework,
    /// The directory, the file, or the common prefix of its files.
    pub path: PathBuf,
    /// The directory of its series.
    pub directory: PathBuf,
    /// The name of its series: its own with `*` for numbers.
    pub template: String,
    /// Counts starts of training in the same directory, from 0; later ones are newer.
    pub run: u32,
    /// Whether its name has no number, so that it is overwritten rather than rotated.
    pub is_singleton: bool,
    /// Optimizer steps done.
    pub step: Option<u64>,
    /// Epochs done.
    pub epoch: Option<u64>,
    /// Metrics by name.
    pub metrics: BTreeMap<String, f64>,
    /// The verdict.
    pub state: State,
    /// Why.
    pub evidence: Vec<Evidence>,
    /// Its files, by path.
    pub members: Vec<Member>,
    /// Bytes of its files, hard links counted once.
    pub bytes: u64,
    /// When its youngest file changed.
    pub modified: Moment,
    /// What points to it: links, tracker files, other checkpoints' notes.
    pub pointed_by: Vec<PathBuf>,
    /// Where it says the best one is.
    pub best: Option<String>,
}

/// What a tree holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Survey {
    /// All checkpoints: by series, run, step, epoch and age.
    pub checkpoints: Vec<Checkpoint>,
    /// All pointers, also those that dangle.
    pub pointers: Vec<Pointer>,
    /// Whether a limit was reached, so that there may be more.
    pub is_cut: bool,
}

impl Survey {
    /// Bytes of all checkpoints, files that several share counted once.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let mut seen = BTreeSet::new();
        let members = self.checkpoints.iter().flat_map(|checkpoint| &checkpoint.members);
        members.filter(|member| seen.insert(member.identity)).map(|member| member.size).sum()
    }
}

/// How to look.
#[derive(Debug, Clone, Copy, Default)]
pub struct SurveyOptions {
    /// Limits of each file and of the whole.
    pub limits: Limits,
    /// What is not whole but changed less than `quiet_secs` before this moment counts as being written.
    pub now: Option<Moment>,
    /// How long nothing must have changed, in seconds.
    pub quiet_secs: i64,
}

/// Finds all checkpoints below a directory of a tree. The empty path is the root.
///
/// Directories that cannot be listed are left out, and [`Survey::is_cut`] is set.
#[must_use]
pub fn survey(tree: &dyn Tree, directory: &Path, options: SurveyOptions) -> Survey {
    let (folder, is_cut) = Folder::load(tree, directory, options.limits);
    let inspector = Inspector { tree, limits: options.limits, root: &folder };
    let mut found = Vec::new();
    visit(&inspector, &folder, None, &mut found);
    runs::compare_siblings(&mut found);
    for checkpoint in &mut found {
        let since = options.now.map(|now| now.seconds.saturating_sub(checkpoint.modified.seconds));
        if checkpoint.state == State::Torn && since.is_some_and(|since| since < options.quiet_secs) {
            checkpoint.state = State::InProgress;
        }
    }
    runs::assign(&mut found);
    found.sort_by(|a, b| {
        (&a.directory, &a.template, a.run, a.step, a.epoch, a.modified)
            .cmp(&(&b.directory, &b.template, b.run, b.step, b.epoch, b.modified))
            .then_with(|| natural_order(&a.path.to_string_lossy(), &b.path.to_string_lossy()))
    });
    let pointers = pointers::connect(&inspector, &folder, &mut found);
    Survey { checkpoints: found, pointers, is_cut }
}

fn visit(inspector: &Inspector<'_>, folder: &Folder, parent: Option<&Folder>, found: &mut Vec<Checkpoint>) {
    if let Some(unit) = units::recognise(inspector, folder, parent) {
        found.push(finish(folder, unit));
        return;
    }
    found.extend(files::group(inspector, folder));
    for below in folder.folders.values() {
        visit(inspector, below, Some(folder), found);
    }
}

/// Turns what was found in a directory into a checkpoint.
fn finish(folder: &Folder, unit: inspect::Unit) -> Checkpoint {
    let named = read_name(&folder.name);
    let mut checkpoint = unit.into_checkpoint(folder.path.clone(), &folder.name);
    checkpoint.is_singleton = named.is_singleton();
    checkpoint
}
