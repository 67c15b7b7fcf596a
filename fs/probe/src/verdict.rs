//! The state of a file or checkpoint.

use std::fmt;

/// What can be said about a file or a whole checkpoint. Ordered from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Structurally whole, nobody writes, and nothing says that bytes are missing.
    Complete,
    /// Neither whole nor broken as far as could be seen. Never to be treated as complete, nor as rubbish.
    Unknown,
    /// Somebody is still writing.
    InProgress,
    /// Nobody writes any more and something is missing.
    Torn,
}

impl State {
    /// Returns the worse of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.max(other)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Complete => "complete",
            Self::Unknown => "unknown",
            Self::InProgress => "in progress",
            Self::Torn => "torn",
        })
    }
}
