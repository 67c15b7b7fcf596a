use serde::{Deserialize, Serialize};

/// What went wrong, as a program reads it. The CLI's exit code and the HTTP status both follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request itself is malformed or asks for something that cannot be.
    InvalidRequest,
    /// The named directory or workspace does not exist.
    NotFound,
    /// The thing exists already, is busy or is in another's way.
    Conflict,
    /// A policy forbids it.
    Denied,
    /// The caller's uid may not do this.
    Permission,
    /// The kernel, the backing filesystem or the daemon's own state does not allow it now.
    Unavailable,
    /// It took longer than allowed.
    TimedOut,
    /// A bug or an I/O error that nobody asked for.
    Internal,
}

impl ErrorCode {
    /// Returns the HTTP status that carries this code.
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Denied | Self::Permission => 403,
            Self::Unavailable => 503,
            Self::TimedOut => 504,
            Self::Internal => 500,
        }
    }
}

/// An error with the numbers and the next step, ready to be shown to a person.
///
/// `message` says what was attempted and why it failed; `hint` says what to do next. Both are lower case,
/// one line, without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// The code to branch on.
    pub code: ErrorCode,
    /// What was attempted and why it failed.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ApiError {
    /// Makes an error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}
