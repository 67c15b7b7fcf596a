use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whether the past of a workspace is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum HistoryState {
    /// It is, and can be asked about.
    On,
    /// It is kept; what was kept before is being opened.
    Starting,
    /// Nothing that is deleted or overwritten is kept, or nobody can look at it.
    Off {
        /// Why, in one line.
        reason: String,
    },
}

/// The past of a workspace in numbers, as of a few seconds ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryStatus {
    /// Whether it is kept.
    pub state: HistoryState,
    /// Snapshots.
    pub snapshots: u64,
    /// When the newest automatic one was taken, RFC 3339.
    pub last_automatic: Option<String>,
    /// What all objects take of the disk at most, bytes.
    pub stored_bytes: u64,
    /// What of it no snapshot needs, bytes.
    pub trash_bytes: u64,
    /// What history may take, bytes.
    pub budget_bytes: u64,
    /// Changes whose pre-image could not be kept, since the worker started.
    pub lost: u64,
    /// Objects that are damaged.
    pub damaged: u64,
}

/// How safe a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotSafety {
    /// It survives the death of every process.
    Sealed,
    /// It survives a power cut.
    Durable,
    /// There is a copy off this machine.
    Uploaded,
    /// That copy was read back.
    Verified,
    /// Something of it is damaged.
    Degraded,
    /// Something of it could not be kept.
    Incomplete,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its number, of its workspace alone.
    pub id: u32,
    /// When it was taken, RFC 3339.
    pub at: String,
    /// Why: `manual`, `auto`, `before-restore`, `burst`, `container`, `rotation` or `service`.
    pub reason: String,
    /// The name that was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Who asked for it; root's, the daemon's, is 0.
    pub uid: u32,
    /// Retention does not delete it.
    pub held: bool,
    /// How safe it is.
    pub safety: SnapshotSafety,
    /// Why retention keeps it; empty if it goes soon.
    pub kept_because: Vec<String>,
    /// What only it needs, bytes: what deleting it gives back. A clone counts as if it shared nothing.
    pub unique_bytes: u64,
    /// What others need as well, bytes.
    pub shared_bytes: u64,
}

/// Answers `GET /snapshots`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotList {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// RFC 3339.
    pub generated_at: String,
    /// The workspace's id.
    pub workspace: String,
    /// Its name.
    pub name: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Oldest first.
    pub items: Vec<Snapshot>,
    /// All objects, bytes.
    pub stored_bytes: u64,
    /// What no snapshot needs, bytes.
    pub trash_bytes: u64,
    /// What nobody needs and is about to go, bytes.
    pub garbage_bytes: u64,
    /// What history may take, bytes.
    pub budget_bytes: u64,
    /// From when on every moment can be shown, RFC 3339; absent if nothing has been let go yet.
    pub trash_since: Option<String>,
    /// Why nothing is deleted at the moment.
    pub paused: Option<String>,
}

/// Body of `POST /snapshots`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// The workspace, or something in it.
    pub path: PathBuf,
    /// A name.
    #[serde(default)]
    pub name: Option<String>,
    /// Free text.
    #[serde(default)]
    pub note: Option<String>,
    /// Retention must not delete it.
    #[serde(default)]
    pub hold: bool,
    /// Answer only when it survives a power cut.
    #[serde(default)]
    pub sync: bool,
}

/// Answers `POST /snapshots`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotTaken {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace's name.
    pub workspace: String,
    /// The number.
    pub id: u32,
    /// RFC 3339.
    pub at: String,
    /// How safe it is.
    pub safety: SnapshotSafety,
}

/// What to do with snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotAction {
    /// Delete them.
    Remove,
    /// Never delete them by retention.
    Hold,
    /// Let retention delete them.
    Unhold,
}

/// Body of `POST /snapshots/change`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotChange {
    /// The workspace, or something in it.
    pub path: PathBuf,
    /// Numbers or names.
    pub ids: Vec<String>,
    /// What to do.
    pub action: SnapshotAction,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answers `POST /snapshots/change`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotChanged {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace's name.
    pub workspace: String,
    /// The numbers.
    pub ids: Vec<u32>,
    /// What deleting them gives back in a while, bytes; 0 for the other actions.
    pub frees_bytes: u64,
}

/// How something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceKind {
    /// It is there later only.
    Added,
    /// It was there earlier only.
    Removed,
    /// It is elsewhere.
    Renamed,
    /// Another file has the name.
    Replaced,
    /// Its bytes were written to.
    Modified,
    /// Mode, owner, times or extended attributes were set.
    Attributes,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDifference {
    /// How.
    pub kind: DifferenceKind,
    /// Where it is later, or was earlier if it is there no more; relative to the workspace, shown lossily.
    pub path: String,
    /// Where it was, of what was renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// It is a directory.
    pub is_directory: bool,
}

/// Answers `GET /snapshots/diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace's name.
    pub workspace: String,
    /// The earlier snapshot.
    pub earlier: u32,
    /// The later one; absent: now.
    pub later: Option<u32>,
    /// By path.
    pub items: Vec<SnapshotDifference>,
    /// So many more were found.
    pub left_out: u64,
}

/// How well it is known what a file held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VersionCertainty {
    /// Bit for bit.
    Exact,
    /// Stores through a shared mapping may have changed it at about that time.
    Fuzzy,
    /// It was changed past the mount; what it was is not known.
    ChangedOutside,
    /// What was kept is damaged or missing.
    Damaged,
}

/// A version of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileVersion {
    /// From when it was so, RFC 3339; absent if that is not known.
    pub since: Option<String>,
    /// Until when; absent: it is so now.
    pub until: Option<String>,
    /// Its bytes; absent for what is no regular file.
    pub size: Option<u64>,
    /// When it was written, RFC 3339.
    pub modified: Option<String>,
    /// What ended it: `write`, `truncate`, `unlink`, `rename` and so on.
    pub ended_by: Option<String>,
    /// Whose process ended it.
    pub uid: Option<u32>,
    /// That process, in the host's numbers.
    pub pid: Option<u32>,
    /// Its command, if it was recorded.
    pub command: Option<String>,
    /// Where the file was then, relative to the workspace, if elsewhere.
    pub path: Option<String>,
    /// Snapshots that show it.
    pub snapshots: Vec<u32>,
    /// The moment at which it can be had, for `restore`; absent for the present version.
    pub moment: Option<u64>,
    /// How well it is known.
    pub certainty: VersionCertainty,
}

/// Answers `GET /versions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace's name.
    pub workspace: String,
    /// What was asked for, relative to the workspace.
    pub path: String,
    /// It is there now.
    pub exists: bool,
    /// Newest first.
    pub items: Vec<FileVersion>,
}

/// A day, week, month or so in `retention preview`: one snapshot and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionRow {
    /// The snapshot.
    pub id: u32,
    /// When it was taken, in the zone that retention counts in: `2030-01-31 09:00`.
    pub at: String,
    /// Why it was taken.
    pub reason: String,
    /// Why it stays; empty if it goes.
    pub kept_because: Vec<String>,
}

/// Answers `GET /retention/preview`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPreview {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace's name.
    pub workspace: String,
    /// The zone whose hours and days count.
    pub zone: String,
    /// Newest first.
    pub items: Vec<RetentionRow>,
    /// What goes with those that go and the trash that is too old, bytes.
    pub frees_bytes: u64,
    /// From when on the trash would be kept, RFC 3339.
    pub trash_since: Option<String>,
    /// Why nothing is deleted at the moment.
    pub paused: Option<String>,
}

/// Body of `POST /verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// The workspace, or something in it.
    pub path: PathBuf,
    /// Read every object and compare it with its hash.
    #[serde(default)]
    pub deep: bool,
}

/// A damaged object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedObject {
    /// Its number, hexadecimal: its name in the store.
    pub object: String,
    /// What is wrong, for people.
    pub damage: String,
    /// Where the file is or was, relative to the workspace, if that can be found out.
    pub path: Option<String>,
    /// Snapshots that need it.
    pub snapshots: Vec<u32>,
}

/// Answers `POST /verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace's name.
    pub workspace: String,
    /// Objects that were looked at.
    pub objects: u64,
    /// Bytes that were read and compared.
    pub bytes: u64,
    /// Parts of objects that have no hash yet.
    pub unhashed: u64,
    /// What is wrong.
    pub damaged: Vec<DamagedObject>,
}
