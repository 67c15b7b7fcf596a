//! Who is charged for what a workspace holds.

use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::root::BackingRoot;
use crate::quota::Ledger;
use crate::session::{Accounting, Seat};

/// Who pays for a workspace's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payer {
    /// The owner of the directory.
    pub(crate) owner: u32,
    /// The group of users that the owner belongs to.
    pub(crate) group: Option<String>,
    /// How to count, if not as the filesystem suggests.
    pub(crate) accounting: Option<Accounting>,
    /// Bytes and inodes that it is taken to use when it is mounted, until it is counted.
    #[serde(skip)]
    pub(crate) assumed: (u64, u64),
}

impl Payer {
    /// Returns where the workspace `project`, whose files lie below `root`, sits in the ledger.
    ///
    /// # Errors
    /// As fstat(2).
    pub(super) fn seat(
        &self,
        ledger: &Arc<Ledger>,
        project: &str,
        root: &BackingRoot,
    ) -> Result<Seat, Errno> {
        Ok(Seat {
            ledger: ledger.clone(),
            project: project.to_owned(),
            owner: self.owner,
            group: self.group.clone(),
            pool: rustix::fs::fstat(&root.readable)?.st_dev,
            accounting: self.accounting,
            assumed: self.assumed,
        })
    }
}
