use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One build of wsguard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// `major.minor.patch`.
    pub version: String,
    /// What tells two builds of one version apart: when its file was written, RFC 3339.
    pub build: String,
    /// Where its file was when it was opened; another one may be there by now.
    pub path: PathBuf,
}

/// Asks the daemon to go on with another program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// The program's file, absolute; where the daemon's own was started from if absent.
    #[serde(default)]
    pub binary: Option<PathBuf>,
}

/// The switch begins now. What becomes of it is told by [`crate::DaemonStatus::upgrades`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeAccepted {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// As [`UpgradeEvent::number`].
    pub number: u64,
    /// What ran until now.
    pub from: Program,
    /// What runs next.
    pub to: Program,
    /// For how long the switch can take at most, back to the old program included, milliseconds.
    pub limit_ms: u64,
}

/// How far a switch to another program has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum UpgradeOutcome {
    /// It is under way.
    Switching,
    /// The new program serves every mount.
    Done {
        /// The first worker that ran it.
        generation: u64,
        /// For how long requests waited, milliseconds; absent if nothing was mounted.
        stall_ms: Option<u64>,
    },
    /// The new program did not come up, and the old one serves on.
    Failed {
        /// Why, in one line.
        reason: String,
    },
    /// The new program came up, but its workers died one after the other; the old one serves on.
    RolledBack {
        /// Why, in one line.
        reason: String,
    },
}

/// A switch to another program, as this keeper did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeEvent {
    /// Counted from 1.
    pub number: u64,
    /// When the switch began, RFC 3339.
    pub at: String,
    /// What ran before.
    pub from: Program,
    /// What was to run after it.
    pub to: Program,
    /// How it ended.
    pub outcome: UpgradeOutcome,
}
