use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a file is, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// Weights and training states.
    Checkpoint,
    /// Tables, arrays, data bases.
    Data,
    /// Packed files and packages.
    Archive,
    /// Images, audio, video, documents.
    Media,
    /// Sources, texts, settings.
    Code,
    /// Compiled code.
    Binary,
    /// Logs.
    Log,
    /// Temporary and partial files.
    Temporary,
    /// Anything else, links and special files included.
    Other,
}

/// What a [`UsageEntry`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryType {
    /// A directory with everything below it.
    Directory,
    /// A file.
    File,
}

/// A file, or a directory with everything below it.
///
/// Bytes are what the quota charges, not the sizes. A file with several names counts once, at one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageEntry {
    /// Relative to the path that was asked about; names that are not UTF-8 are shown lossily.
    pub path: String,
    /// Which of both.
    pub entry: EntryType,
    /// Charged bytes.
    pub bytes: u64,
    /// Inodes, itself included.
    pub inodes: u64,
    /// When contents last changed, of the newest file below a directory, RFC 3339; absent if there is no file.
    pub changed_at: Option<String>,
}

/// What all files of one kind take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindUsage {
    /// The kind.
    pub kind: FileKind,
    /// Charged bytes.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

/// A directory that grew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// Relative to the path that was asked about.
    pub path: String,
    /// By how much since [`UsageReport::growth_since`], bytes; to within 1 MiB.
    pub bytes: i64,
    /// Inodes that came, less those that went.
    pub inodes: i64,
}

/// Caches that one rule finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUsage {
    /// The rule's id, as `wsguard clean` takes it.
    pub rule: String,
    /// What it finds.
    pub title: String,
    /// Directories.
    pub directories: u64,
    /// Charged bytes of all of them.
    pub bytes: u64,
    /// Inodes of all of them.
    pub inodes: u64,
    /// The largest, relative to the path that was asked about.
    pub largest: String,
}

/// Checkpoints that probably hold the same: same size, same name but for numbers, same beginning and end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duplicates {
    /// Size of each, bytes.
    pub size: u64,
    /// What would be free with only one of them, charged bytes.
    pub reclaimable_bytes: u64,
    /// Relative to the path that was asked about, oldest first.
    pub paths: Vec<String>,
}

/// How a workspace grew and where that leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// What the whole workspace takes now, charged bytes.
    pub used_bytes: u64,
    /// What is left before the tightest limit, bytes; absent while the workspace is not mounted.
    pub available_bytes: Option<u64>,
    /// Growth in the last 24 hours, bytes; absent if it has not been watched for an hour.
    pub last_day_bytes: Option<i64>,
    /// Growth in the last 7 days, bytes; absent if it has not been watched for a day.
    pub last_week_bytes: Option<i64>,
    /// The pace that the time below follows from, bytes a day: the faster of both.
    pub bytes_per_day: Option<i64>,
    /// Until nothing is left at that pace; absent if it does not grow or has not been watched for long enough.
    pub seconds_to_full: Option<u64>,
    /// What the newest checkpoint takes, charged bytes: the newest file that is named like one, with those that were
    /// written beside it within two minutes. Absent if there is none.
    #[serde(default)]
    pub checkpoint_bytes: Option<u64>,
}

/// How one workspace grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceForecast {
    /// The workspace's id.
    pub workspace: String,
    /// Its name.
    pub name: String,
    /// Where users see it.
    pub mount_point: PathBuf,
    /// How fresh the numbers are.
    pub state: IndexState,
    /// The numbers; absent before the first walk.
    pub forecast: Option<Forecast>,
    /// Directories that grew, fastest first, relative to the workspace.
    pub growing: Vec<Growth>,
    /// From when on growth is counted, RFC 3339.
    pub growth_since: Option<String>,
}

/// How workspaces grow, the one that is full first, first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForecastReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// RFC 3339.
    pub generated_at: String,
    /// Every workspace that the caller sees.
    pub items: Vec<WorkspaceForecast>,
}

/// How fresh the numbers are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum IndexState {
    /// Every change is in it within seconds.
    Current,
    /// It is as of the last walk and what was seen since; another walk is under way.
    Counting {
        /// Inodes counted so far.
        counted: u64,
    },
    /// Nobody watches: the workspace is not mounted.
    Unwatched,
}

/// Where the space of a workspace, or a directory in it, went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// RFC 3339.
    pub generated_at: String,
    /// The workspace's id.
    pub workspace: String,
    /// Its name.
    pub name: String,
    /// The directory that the numbers are of.
    pub path: PathBuf,
    /// How fresh they are.
    pub state: IndexState,
    /// When the last complete walk ended, RFC 3339.
    pub walked_at: Option<String>,
    /// Directories and files of the workspace that the last walk could not read: what is in them is not counted.
    #[serde(default)]
    pub unreadable: u64,
    /// Everything below the path, bytes.
    pub bytes: u64,
    /// Inodes, the directory itself included.
    pub inodes: u64,
    /// The largest entries in the directory itself, largest first.
    pub entries: Vec<UsageEntry>,
    /// Entries of it that are not among them.
    pub entries_left_out: u64,
    /// The largest files at any depth, largest first.
    pub largest_files: Vec<UsageEntry>,
    /// The largest trees and files in which nothing has changed for [`Self::cold_days`], largest first.
    pub coldest: Vec<UsageEntry>,
    /// Days without a change that make an entry cold.
    pub cold_days: u32,
    /// The search for cold entries ended early; there may be larger ones.
    pub coldest_is_partial: bool,
    /// By kind, largest first.
    pub kinds: Vec<KindUsage>,
    /// Directories that grew, fastest first; of a chain of directories with the same growth, the last.
    pub growing: Vec<Growth>,
    /// From when on growth is counted, RFC 3339: when it was first watched, if that is later than asked for.
    pub growth_since: Option<String>,
    /// Caches, largest first.
    pub caches: Vec<CacheUsage>,
    /// Checkpoints that are probably there twice, most space first.
    pub duplicates: Vec<Duplicates>,
    /// Checkpoints of one size that have not been compared yet.
    pub duplicates_unknown: u64,
    /// How the whole workspace grows.
    pub forecast: Forecast,
}

/// A rule of `wsguard clean`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanRule {
    /// How it is named.
    pub id: String,
    /// What it finds.
    pub title: String,
    /// Why that can go.
    pub why: String,
    /// Only where nothing has changed for so long, hours.
    pub idle_hours: u64,
}

/// Something that a rule found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanItem {
    /// Relative to [`CleanPlan::root`].
    pub path: String,
    /// Which of both.
    pub entry: EntryType,
    /// Inode number, shown by `stat` through the mount as well: what has another one now is not what was found.
    pub ino: u64,
    /// Of a file: seconds since 1970 when its contents last changed.
    pub mtime: i64,
    /// Of a file: its size, bytes.
    pub size: u64,
    /// What it takes, charged bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// The rule that found it.
    pub rule: String,
}

/// What could be removed, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanPlan {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// RFC 3339.
    pub generated_at: String,
    /// The workspace's id.
    pub workspace: String,
    /// Its name.
    pub name: String,
    /// Where users see the workspace: paths of items are below it.
    pub root: PathBuf,
    /// How fresh the numbers are.
    pub state: IndexState,
    /// The rules, in the order of the items.
    pub rules: Vec<CleanRule>,
    /// By rule, largest first.
    pub items: Vec<CleanItem>,
    /// Found, but not listed because their names are not UTF-8.
    pub unnamable: u64,
    /// Found, but left alone because somebody has them open for writing.
    pub in_use: u64,
}
