//! What a command can fail with, how it is told, and the exit code that follows from it.

use std::fmt;
use std::io;

use serde::Serialize;
use wsguard_api::{ApiError, ErrorCode, SCHEMA_VERSION};

/// The exit codes of every command.
///
/// 6 is kept for "no capacity" of the commands that queue for it; none of today's does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// Done as asked.
    Success,
    /// An I/O error or a bug.
    Failure,
    /// The command line asks for something that cannot be.
    Usage,
    /// The named directory or workspace does not exist.
    NotFound,
    /// It exists already, is busy or is in another's way.
    Conflict,
    /// A policy forbids it.
    Denied,
    /// No daemon answers, or the kernel lacks something.
    Unavailable,
    /// It took longer than allowed.
    TimedOut,
    /// The caller's uid may not do this.
    Permission,
    /// `doctor` found problems.
    Verification,
    /// Some files could not be restored.
    Partial,
    /// Ended by Ctrl-C; the shell makes this code from the signal.
    Interrupted,
}

impl ExitStatus {
    /// Every status, by code.
    pub const ALL: [Self; 12] = [
        Self::Success,
        Self::Failure,
        Self::Usage,
        Self::NotFound,
        Self::Conflict,
        Self::Denied,
        Self::Unavailable,
        Self::TimedOut,
        Self::Permission,
        Self::Verification,
        Self::Partial,
        Self::Interrupted,
    ];

    /// Returns the number that the process exits with.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Denied => 5,
            Self::Unavailable => 7,
            Self::TimedOut => 8,
            Self::Permission => 9,
            Self::Verification => 10,
            Self::Partial => 11,
            Self::Interrupted => 130,
        }
    }

    /// Returns what the number means, for help texts and the reference.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Success => "done",
            Self::Failure => "an I/O error or a bug",
            Self::Usage => "wrong usage, or a request that cannot be",
            Self::NotFound => "directory or workspace not found",
            Self::Conflict => "exists already, or is in use",
            Self::Denied => "denied by policy",
            Self::Unavailable => "daemon or kernel feature unavailable",
            Self::TimedOut => "timed out",
            Self::Permission => "not permitted for this user",
            Self::Verification => "problems found",
            Self::Partial => "only in part: something failed or is damaged",
            Self::Interrupted => "interrupted",
        }
    }
}

impl From<ErrorCode> for ExitStatus {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::InvalidRequest => Self::Usage,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::Conflict => Self::Conflict,
            ErrorCode::Denied => Self::Denied,
            ErrorCode::Permission => Self::Permission,
            ErrorCode::Unavailable => Self::Unavailable,
            ErrorCode::TimedOut => Self::TimedOut,
            ErrorCode::Internal => Self::Failure,
        }
    }
}

/// An error as a person and a program read it: what failed, why, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    code: ErrorCode,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl CliError {
    /// Makes an error without causes and hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// Makes an error out of an I/O error; the code follows from its kind.
    pub fn io(message: impl Into<String>, source: &io::Error) -> Self {
        let code = match source.kind() {
            io::ErrorKind::NotFound => ErrorCode::NotFound,
            io::ErrorKind::PermissionDenied => ErrorCode::Permission,
            io::ErrorKind::TimedOut => ErrorCode::TimedOut,
            _ => ErrorCode::Internal,
        };
        Self::new(code, message).because(source.to_string())
    }

    /// Adds one more reason, nearest first.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the code to branch on.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Returns the status that the process exits with.
    pub fn exit_status(&self) -> ExitStatus {
        self.code.into()
    }

    /// Returns the reasons, nearest first.
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    /// Returns what to do next.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns the object that `--json` prints.
    pub fn report(&self) -> ErrorReport<'_> {
        ErrorReport {
            schema: SCHEMA_VERSION,
            code: self.code,
            exit_code: self.exit_status().code(),
            message: &self.message,
            causes: &self.causes,
            hint: self.hint.as_deref(),
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<ApiError> for CliError {
    fn from(error: ApiError) -> Self {
        Self { code: error.code, message: error.message, causes: Vec::new(), hint: error.hint }
    }
}

/// An error as `--json` prints it: the fields of [`ApiError`] and what the process adds to them.
#[derive(Debug, Serialize)]
pub struct ErrorReport<'a> {
    schema: u32,
    code: ErrorCode,
    exit_code: u8,
    message: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    causes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_unique_and_ascending() {
        let codes: Vec<u8> = ExitStatus::ALL.iter().map(|status| status.code()).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
    }

    #[test]
    fn api_error_keeps_its_hint_and_gets_the_documented_exit_code() {
        let error = CliError::from(ApiError::new(ErrorCode::Conflict, "already guarded").with_hint("see ls"));
        assert_eq!(error.exit_status().code(), 4);
        assert_eq!(error.hint(), Some("see ls"));
    }
}
