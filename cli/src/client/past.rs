//! Requests about directories and files as they were.

use wsguard_api::{PastListing, PastPiece, PastRequest};

use super::Client;
use crate::error::CliError;

impl Client {
    /// Asks what was in a directory, and what became of it.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn past_list(&self, request: &PastRequest) -> Result<PastListing, CliError> {
        self.post("/past/list", Some(request))
    }

    /// Asks for the beginning of a file as it was.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn past_read(&self, request: &PastRequest) -> Result<PastPiece, CliError> {
        self.post("/past/read", Some(request))
    }
}
