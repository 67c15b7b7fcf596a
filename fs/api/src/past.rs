use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{ExactBytes, RestoreWhen, VersionCertainty, exact};

/// Body of `POST /past/list` and `POST /past/read`: something as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastRequest {
    /// An absolute path in a workspace.
    #[serde(with = "exact::path")]
    pub path: PathBuf,
    /// As of when; `None`: now. [`RestoreWhen::BeforeDelete`] is not taken.
    #[serde(default)]
    pub when: Option<RestoreWhen>,
    /// Entries of a list (10,000 at most) or bytes of a file (1 MiB at most); 0 means as many as that.
    #[serde(default)]
    pub limit: u32,
}

/// What something in a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PastKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO, socket or device.
    Other,
}

/// What became of something since then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PastChange {
    /// It is there, of the same size and time. Of a directory: it has the same names; what lies below may differ.
    Same,
    /// Size or time differ, or the name stands for something else. Of a directory: names came or went.
    Changed,
    /// Mode or owner differ, and nothing else.
    Attributes,
    /// The name is not there any more. All else that is told of it is as it was.
    Deleted,
    /// It was not there then. All else that is told of it is as it is now.
    New,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastEntry {
    /// The name.
    pub name: ExactBytes,
    /// What it was.
    pub kind: PastKind,
    /// Its size then, bytes; `None` if that is lost.
    pub size: Option<u64>,
    /// When it was written, RFC 3339; `None` if that is lost.
    pub modified: Option<String>,
    /// What became of it since then.
    pub change: PastChange,
    /// How well it is known; `None` if it was not looked at, because it is no regular file or too many are.
    pub certainty: Option<VersionCertainty>,
}

/// Answers `POST /past/list`: a directory then, and what is in its place now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastListing {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace's name.
    pub workspace: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The directory, relative to the workspace.
    #[serde(with = "exact::path")]
    pub path: PathBuf,
    /// It was there then.
    pub existed: bool,
    /// It is there now.
    pub exists: bool,
    /// Directories first, then by name.
    pub entries: Vec<PastEntry>,
    /// So many more are there.
    pub left_out: u64,
}

/// Answers `POST /past/read`: the beginning of a file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastPiece {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace's name.
    pub workspace: String,
    /// What it was.
    pub kind: PastKind,
    /// Its size, bytes.
    pub size: u64,
    /// When it was written, RFC 3339.
    pub modified: String,
    /// How well it is known. What was changed past the mount or is damaged comes without bytes.
    pub certainty: VersionCertainty,
    /// The first bytes of a regular file, the target of a symbolic link.
    pub bytes: ExactBytes,
}
