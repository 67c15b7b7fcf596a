//! Requests about notices, users' requests and metrics.

use hyper::Method;
use wsguard_api::{
    API_PREFIX, BoostAnswer, BoostDecision, BoostRequestList, ErrorCode, NotifyReport, NotifyRequest,
};

use super::{Client, Failure, MOST_TRIES, RETRY_PAUSE, refusal};
use crate::error::CliError;

impl Client {
    /// Asks for what users ask for: what waits, or everything that is kept.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn boost_requests(&self, all: bool) -> Result<BoostRequestList, CliError> {
        self.get(&format!("/quota/requests?all={all}"))
    }

    /// Decides about a request.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn decide(&self, id: u64, decision: &BoostDecision) -> Result<BoostAnswer, CliError> {
        self.post(&format!("/quota/requests/{id}"), Some(decision))
    }

    /// Has a test notice sent and waits for what becomes of it.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn notify(&self, request: &NotifyRequest) -> Result<NotifyReport, CliError> {
        self.post("/quota/notify", Some(request))
    }

    /// Asks for the metrics, as text.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn metrics(&self) -> Result<String, CliError> {
        let path = format!("{API_PREFIX}/metrics");
        let mut tries = 1;
        let answer = loop {
            match self.exchange(Method::GET, &path, Vec::new()) {
                Ok(answer) => break answer,
                Err(Failure::CutOff(_)) if tries < MOST_TRIES => tries += 1,
                Err(failure) => return Err(failure.into()),
            }
            std::thread::sleep(RETRY_PAUSE);
        };
        if !answer.status.is_success() {
            return Err(refusal(&answer));
        }
        String::from_utf8(answer.body.into()).map_err(|source| {
            CliError::new(ErrorCode::Internal, "cannot understand the daemon's answer")
                .because(source.to_string())
        })
    }
}
