use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What usage is counted for. Every allocation lands on all four levels that a workspace has, or on none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ScopeRef {
    /// One backing filesystem.
    Pool {
        /// A directory on it, as an administrator named it; absolute.
        path: PathBuf,
    },
    /// All workspaces of a group's members together.
    Group {
        /// The group of the policy (not of the operating system).
        name: String,
    },
    /// All workspaces of one owner together.
    User {
        /// The owner.
        uid: u32,
    },
    /// One workspace.
    Project {
        /// The workspace's id.
        id: String,
    },
}

/// What a limit can be set for: a scope, or the scopes that have none of their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum PolicyTarget {
    /// As [`ScopeRef::Pool`].
    Pool {
        /// A directory on it; absolute.
        path: PathBuf,
    },
    /// As [`ScopeRef::Group`].
    Group {
        /// Its name.
        name: String,
    },
    /// As [`ScopeRef::User`].
    User {
        /// The owner.
        uid: u32,
    },
    /// As [`ScopeRef::Project`].
    Project {
        /// The workspace's id.
        id: String,
    },
    /// Each member of a group; `default` stands for everybody.
    EachUser {
        /// The group.
        group: String,
    },
    /// Each workspace of each member of a group; `default` stands for everybody.
    EachProject {
        /// The group.
        group: String,
    },
}

/// Whether a scope is counted and enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaMode {
    /// Neither counted against nor enforced.
    Off,
    /// Counted and reported, never refused.
    Track,
    /// Refused at the limit.
    #[default]
    Enforce,
}

/// What a writer gets at the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaErrno {
    /// `EDQUOT`, "Disk quota exceeded".
    #[default]
    Edquot,
    /// `ENOSPC`, for programs that know nothing else.
    Enospc,
}

/// More room for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boost {
    /// Added to soft and hard limit of bytes.
    #[serde(default)]
    pub bytes: u64,
    /// Added to soft and hard limit of inodes.
    #[serde(default)]
    pub inodes: u64,
    /// When it ends, RFC 3339.
    pub until: String,
    /// Why it was given.
    pub reason: String,
    /// The uid that gave it.
    pub by: u32,
}

/// The limits in force for one scope. What is absent is unlimited; 0 allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// From here on the grace period runs.
    pub bytes_soft: Option<u64>,
    /// Never passed.
    pub bytes_hard: Option<u64>,
    /// As `bytes_soft`, for inodes.
    pub inodes_soft: Option<u64>,
    /// As `bytes_hard`, for inodes.
    pub inodes_hard: Option<u64>,
    /// How long the soft limit may be passed; 7 days if absent.
    pub grace_seconds: Option<u64>,
    /// Whether it is enforced.
    pub mode: QuotaMode,
    /// What a writer gets.
    pub errno: QuotaErrno,
    /// Kept below `bytes_hard` for small files; `min(64 MiB, 1 % of bytes_hard)` if absent.
    pub headroom_bytes: Option<u64>,
    /// Boosts that have not ended.
    pub boosts: Vec<Boost>,
}
