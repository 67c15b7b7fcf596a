//! The past of a guarded directory, and what is being restored in it.

use super::Mounted;
use crate::restore::{Ground, Jobs};

impl Mounted {
    /// Returns the workspace and its past, to restore in it.
    ///
    /// # Errors
    /// Why it has no past, as a sentence.
    pub(crate) fn ground(&self) -> Result<Ground, String> {
        Ok(Ground { fs: self.session.filesystem().clone(), archive: self.session.archive()? })
    }

    /// Returns what is being restored in it.
    pub(crate) fn restores(&self) -> &Jobs {
        &self.restores
    }
}
