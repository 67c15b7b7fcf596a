use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{PastKind, RestoreWhen, VersionCertainty};

/// Asks what happened in workspaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogRequest {
    /// Only what concerns this path or lies below it: absolute, without `..`; it need not exist any more. Every
    /// workspace that the caller may see if absent.
    pub path: Option<PathBuf>,
    /// Only what these did.
    pub by: Option<LogBy>,
    /// Only from this moment on, RFC 3339.
    pub since: Option<String>,
    /// Only deletions, and files that a rename replaced.
    pub deleted: bool,
    /// Entries at most, the newest ones; 0 means 100.
    pub limit: u32,
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "value")]
pub enum LogBy {
    /// A process.
    Pid(u32),
    /// A user.
    Uid(u32),
    /// A container, by the beginning of its id: at least one hexadecimal digit.
    Container(String),
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogOperation {
    /// A regular file came into being; what its creator wrote at once is counted here.
    Create,
    /// A directory came into being.
    MakeDirectory,
    /// A symbolic link came into being.
    MakeSymlink,
    /// A FIFO, socket or device came into being.
    MakeNode,
    /// A file got another name.
    Link,
    /// A name moved.
    Rename,
    /// Two names changed places; told once for each.
    Exchange,
    /// A rename took the name over; what had it before is gone from there.
    Replace,
    /// A file's name went.
    Unlink,
    /// A directory went.
    RemoveDirectory,
    /// Bytes were written.
    Write,
    /// The size was set.
    Truncate,
    /// Space was allocated, freed or zeroed.
    Allocate,
    /// Bytes were copied in from another file.
    CopyRange,
    /// Mode, owner or times were set.
    SetAttributes,
    /// An extended attribute or an ACL was set or removed.
    SetExtendedAttribute,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When, RFC 3339 with microseconds.
    pub at: String,
    /// The workspace's name.
    pub workspace: String,
    /// What.
    pub operation: LogOperation,
    /// The path at that moment, absolute below the workspace's mount point; names that are not UTF-8 are shown
    /// lossily. Absent if it could not be found out.
    pub path: Option<String>,
    /// The path afterwards, of a rename or exchange.
    pub to_path: Option<String>,
    /// The inode, as `ls -i` shows it.
    pub inode: u64,
    /// Where what was written begins: the smallest range that holds all of it.
    pub start: u64,
    /// Where it ends, exclusive; the new size of a truncation.
    pub end: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Change of what the file is charged, bytes; negative where space was freed.
    pub delta_bytes: i64,
    /// The filesystem uid that did it.
    pub uid: u32,
    /// The process; 0 if it has no pid here.
    pub pid: u32,
    /// Its command name; empty if it is not known.
    pub command: String,
    /// Its arguments, shortened.
    pub command_line: String,
    /// The whole id of its container.
    pub container: Option<String>,
}

/// Something that was deleted, or over which something else was renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDeletion {
    /// When, RFC 3339 with microseconds.
    pub at: String,
    /// The workspace's name.
    pub workspace: String,
    /// How: `unlink`, `remove-directory` or `replace`.
    pub operation: LogOperation,
    /// What it was; absent if only the records know of it.
    pub kind: Option<PastKind>,
    /// As [`LogEntry::path`].
    pub path: Option<String>,
    /// The size of the file then, bytes, if it is known.
    pub size: Option<u64>,
    /// The filesystem uid that did it.
    pub uid: u32,
    /// The process; 0 if it has no pid here.
    pub pid: u32,
    /// Its command name; empty if it is not known.
    pub command: String,
    /// Its arguments, shortened.
    pub command_line: String,
    /// The whole id of its container.
    pub container: Option<String>,
    /// Whether it can be had back.
    pub state: DeletionState,
    /// How well what can be had back is known; absent if that was not looked at: of an answer, the newest thousand files are.
    pub certainty: Option<VersionCertainty>,
    /// As of when a restore of `path` brings it back; absent if it cannot be restored, or not by that path.
    pub restore: Option<RestoreWhen>,
}

/// Whether something that was deleted can be had back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeletionState {
    /// Yes.
    Restorable,
    /// It is there again.
    Returned,
    /// What is kept of it is damaged or lost.
    Damaged,
    /// It was given up for lack of space or because of its age, or was never kept, as files that live for moments only.
    NotKept,
}

/// A time of which records are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogGap {
    /// The workspace's name.
    pub workspace: String,
    /// Everything before is there, RFC 3339.
    pub from: String,
    /// Everything after is there.
    pub to: String,
    /// How many records are missing, if that is known.
    pub records: Option<u64>,
    /// Why.
    pub reason: String,
}

/// How far back a history reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBeginning {
    /// The workspace's name.
    pub workspace: String,
    /// What happened up to this moment was removed because of its age or number, RFC 3339.
    pub removed_up_to: String,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// RFC 3339.
    pub generated_at: String,
    /// Oldest first.
    pub entries: Vec<LogEntry>,
    /// What was asked for with [`LogRequest::deleted`] in workspaces that keep history, oldest first; `entries` has that of
    /// the others alone.
    #[serde(default)]
    pub deletions: Vec<LogDeletion>,
    /// When records are missing, oldest first; the newest twenty of each workspace.
    pub gaps: Vec<LogGap>,
    /// Of the workspaces whose oldest records are gone.
    pub beginnings: Vec<LogBeginning>,
}

/// Who writes at this moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// RFC 3339.
    pub generated_at: String,
    /// Those in which something happens, by name.
    pub workspaces: Vec<TopWorkspace>,
}

/// One workspace in which something happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopWorkspace {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Fastest first. Shown until ten seconds after their last change, or as long as they have files open for
    /// writing.
    pub writers: Vec<TopWriter>,
    /// Files open for writing, the fastest and then the largest 200.
    pub open_files: Vec<TopFile>,
    /// All files open for writing.
    pub open_file_count: u64,
}

/// A process that writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopWriter {
    /// Filesystem uid.
    pub uid: u32,
    /// The process; 0 if it has no pid here.
    pub pid: u32,
    /// Its command name; empty if it is not known.
    pub command: String,
    /// Its arguments, shortened.
    pub command_line: String,
    /// The whole id of its container.
    pub container: Option<String>,
    /// Bytes written a second, over the last three seconds.
    pub bytes_per_second: f64,
    /// Changes a second: names, sizes, attributes; the writes to one open file count once a second.
    pub changes_per_second: f64,
    /// Bytes written since it is shown.
    pub bytes: u64,
    /// Files that it has open for writing.
    pub open_files: u64,
}

/// A file that is open for writing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopFile {
    /// As [`LogEntry::path`].
    pub path: Option<String>,
    /// Filesystem uid of the process that opened it.
    pub uid: u32,
    /// That process.
    pub pid: u32,
    /// Its command name.
    pub command: String,
    /// The whole id of its container.
    pub container: Option<String>,
    /// Bytes written through this open.
    pub bytes: u64,
    /// Bytes a second at the last look.
    pub bytes_per_second: f64,
    /// Whole seconds that it is open.
    pub open_seconds: u64,
}
