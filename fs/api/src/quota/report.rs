use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::policy::{QuotaField, Usage};
use super::scope::{Limits, PolicyTarget, ScopeRef};

/// How a scope stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaState {
    /// Below every limit.
    Ok,
    /// At a soft limit, and the clock has not started yet.
    Soft,
    /// Over a soft limit, the clock runs.
    Grace,
    /// The grace period is over: nothing may grow.
    Expired,
    /// Uses more than the hard limit: nothing may grow.
    Over,
    /// The numbers are upper bounds until a recount is done.
    Estimated,
    /// Nothing is mounted; the numbers are from the last unmount.
    Unmounted,
    /// Nothing is known.
    Unknown,
}

/// One scope: limits, use and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaRow {
    /// Which.
    pub scope: ScopeRef,
    /// The workspace's name, for a project.
    pub name: Option<String>,
    /// The owner, for a user or a project.
    pub owner_uid: Option<u32>,
    /// The group that the owner or the scope belongs to.
    pub group: Option<String>,
    /// The directory of a project.
    pub dir: Option<PathBuf>,
    /// A project that is mounted at this moment.
    pub is_mounted: bool,
    /// What is used; absent if nothing is known.
    pub used: Option<Usage>,
    /// Reserved for operations under way and for open sparse files.
    pub reserved: Usage,
    /// The limits in force, without boosts added.
    pub limits: Limits,
    /// Where each part of the limits comes from; a part that nobody set is missing.
    pub sources: Vec<LimitSource>,
    /// The hard limit of bytes with boosts.
    pub bytes_hard: Option<u64>,
    /// The soft limit of bytes with boosts.
    pub bytes_soft: Option<u64>,
    /// The hard limit of inodes with boosts.
    pub inodes_hard: Option<u64>,
    /// The soft limit of inodes with boosts.
    pub inodes_soft: Option<u64>,
    /// When the grace period for bytes ends, RFC 3339; absent while no clock runs.
    pub bytes_grace_until: Option<String>,
    /// As `bytes_grace_until`, for inodes.
    pub inodes_grace_until: Option<String>,
    /// Where it stands.
    pub state: QuotaState,
    /// Operations that were refused since the daemon started.
    pub refused: u64,
    /// How a mounted project is counted; absent for everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counting: Option<Counting>,
}

/// What the bytes of a file are, for quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountingMode {
    /// Blocks allocated on the disk.
    Allocated,
    /// Blocks allocated on the disk, but never more than the size: the filesystem allocates ahead.
    AllocatedToSize,
    /// The size in whole blocks: the filesystem's blocks come late, or say little.
    Logical,
    /// What the filesystem's own quota counts, which also enforces the limit.
    Kernel,
}

/// How a project is counted, and when that was done anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counting {
    /// The rule.
    pub accounting: AccountingMode,
    /// The last recount; absent until one is done after the mount.
    pub last_recount: Option<LastRecount>,
}

/// What the last recount of a project found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRecount {
    /// When it ended, RFC 3339.
    pub at: String,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// What the files came to.
    pub counted: Usage,
    /// Counted less what the counters said, bytes. The first count after a mount, after a crash or after edits below the
    /// mount is there to find a difference.
    pub drift_bytes: i64,
    /// As `drift_bytes`, for inodes.
    pub drift_inodes: i64,
}

/// Where one part of a scope's limits comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitSource {
    /// Which part.
    pub field: QuotaField,
    /// The level of the policy that says it.
    pub target: PolicyTarget,
}

/// Every scope that the caller may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// RFC 3339.
    pub generated_at: String,
    /// The caller sees everything and may change it.
    pub is_admin: bool,
    /// Pools, groups, users, then projects.
    pub items: Vec<QuotaRow>,
}

/// One level that was looked at for one part of a scope's limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainStep {
    /// Which part.
    pub field: QuotaField,
    /// The level.
    pub target: PolicyTarget,
    /// What it says; absent if it says nothing.
    pub says: Option<String>,
    /// This one counts.
    pub wins: bool,
}

/// Why a path has the limits that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// What was asked about.
    pub path: PathBuf,
    /// The scopes that it is charged to, project first.
    pub scopes: Vec<ExplainedScope>,
    /// The scope of those that leaves the least room for bytes, with that room; absent if all are unlimited.
    pub binding_bytes: Option<Binding>,
    /// As `binding_bytes`, for inodes.
    pub binding_inodes: Option<Binding>,
}

/// One scope and how its limits came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedScope {
    /// Limits and use.
    pub row: QuotaRow,
    /// Every level that was looked at, strongest first for each field.
    pub steps: Vec<ExplainStep>,
}

/// The scope that is full first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Which.
    pub scope: ScopeRef,
    /// What is left, bytes or inodes; 0 if it is full or over.
    pub left: u64,
}

/// One change that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Counts up; never used twice.
    pub id: i64,
    /// When, RFC 3339.
    pub at: String,
    /// Who, as the kernel knows it; absent for what the daemon did by itself.
    pub uid: Option<u32>,
    /// What it was about, as [`super::QuotaChange::subject`].
    pub subject: String,
    /// As [`super::QuotaChange::field`].
    pub field: String,
    /// Before.
    pub before: Option<String>,
    /// After.
    pub after: Option<String>,
    /// Why, as given.
    pub reason: Option<String>,
}

/// The latest changes, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditList {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The changes.
    pub items: Vec<AuditEntry>,
}

/// Asks for a recount of one workspace, which also corrects its counters, or for a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// Its id or name; it has to be mounted.
    pub workspace: String,
    /// Compare the counters with the usage index instead of counting, which corrects nothing.
    #[serde(default)]
    pub is_sample: bool,
}

/// What a recount found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the files come to.
    pub counted: Usage,
    /// Counted less what the counters said, bytes.
    pub drift_bytes: i64,
    /// Counted less what the counters said, inodes.
    pub drift_inodes: i64,
    /// How long it took, milliseconds.
    pub elapsed_ms: u64,
    /// Nothing was counted: the numbers are those of the usage index.
    #[serde(default)]
    pub is_sample: bool,
}
