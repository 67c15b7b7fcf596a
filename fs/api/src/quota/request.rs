use serde::{Deserialize, Serialize};

use super::policy::QuotaPlan;

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestState {
    /// Nobody has decided.
    Pending,
    /// It was granted.
    Approved,
    /// It was not.
    Denied,
}

/// More room that somebody asked for from inside a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoostRequest {
    /// Its number.
    pub id: u64,
    /// The workspace's id.
    pub workspace: String,
    /// Its name at that moment.
    pub name: String,
    /// Its owner.
    pub owner_uid: u32,
    /// Who wrote the line: the filesystem uid, 0 for a container's root.
    pub by_uid: u32,
    /// The command that wrote it; empty if it is not known.
    pub command: String,
    /// Bytes more.
    pub bytes: u64,
    /// Inodes more.
    pub inodes: u64,
    /// For how long, seconds.
    pub seconds: u64,
    /// Why, in the user's own words.
    pub reason: String,
    /// When it was made, RFC 3339.
    pub at: String,
    /// Where it stands.
    pub state: RequestState,
    /// When it was decided, RFC 3339.
    pub decided_at: Option<String>,
    /// Who decided.
    pub decided_by: Option<u32>,
    /// What the administrator said.
    pub answer: Option<String>,
}

/// Requests, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoostRequestList {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// Those that the caller may see.
    pub items: Vec<BoostRequest>,
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Give the boost.
    Approve,
    /// Do not.
    Deny,
}

/// Decides a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoostDecision {
    /// What.
    pub verdict: Verdict,
    /// What the user is told. A denial needs it.
    #[serde(default)]
    pub reason: Option<String>,
    /// Give so many bytes instead of those that were asked for.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Give it for so many seconds instead.
    #[serde(default)]
    pub seconds: Option<u64>,
    /// Only tell what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoostAnswer {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The request as it stands now.
    pub request: BoostRequest,
    /// What an approval changes.
    pub plan: Option<QuotaPlan>,
}
