//! Why the catalog cannot be used.

use std::path::{Path, PathBuf};

/// Why the catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    /// There is no catalog, or it was never finished.
    #[error("there is no history catalog at {path}", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read; the log says what was in it.
    #[error("the history catalog {path} is damaged: {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another version wrote it.
    #[error(
        "{path} was written by a newer version (format {found}, this one knows {known}); install that version again",
        path = path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A reader keeps what should be written back.
    #[error("somebody reads an old state of {path}; try again when he has finished", path = path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be moved.
    #[error("cannot move the damaged history catalog {path} aside", path = path.display())]
    SetAside {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no such snapshot.
    #[error("there is no snapshot {epoch}")]
    NoSnapshot {
        /// What was asked for.
        epoch: u32,
    },
    /// The database does not do it.
    #[error("cannot {action} in the history catalog {path}", path = path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// Tells a file that makes no sense from a disk that does not work.
pub(super) fn classify(path: &Path, action: &'static str, source: rusqlite::Error) -> CatalogError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let is_damage = match &source {
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => true,
        other => matches!(other.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)),
    };
    match is_damage {
        true => {
            CatalogError::Damaged { path: path.to_path_buf(), reason: format!("cannot {action}: {source}") }
        }
        false => CatalogError::Database { path: path.to_path_buf(), action, source },
    }
}
