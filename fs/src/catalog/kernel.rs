//! Which workspaces the filesystem below limits.

use rusqlite::types::Type;
use rusqlite::{Row, params};

use super::{Catalog, CatalogError, failed};

/// How far a change has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelState {
    /// It is being set: after a crash it is undone.
    Installing,
    /// Set.
    On,
    /// It is being taken away, which ends once nobody writes past the worker any more.
    Removing,
}

/// What is noted of one workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelRow {
    /// Its id.
    pub(crate) workspace: String,
    /// How far it is.
    pub(crate) state: KernelState,
    /// The limit that the filesystem had before, bytes.
    pub(crate) before: Option<u64>,
}

impl KernelState {
    fn word(self) -> &'static str {
        match self {
            Self::Installing => "installing",
            Self::On => "on",
            Self::Removing => "removing",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Installing, Self::On, Self::Removing].into_iter().find(|state| state.word() == word)
    }
}

impl Catalog {
    /// Returns every workspace that the filesystem below limits, or did until now.
    ///
    /// # Errors
    /// Also when a row holds something that this version does not know.
    pub(crate) fn kernel_rows(&self) -> Result<Vec<KernelRow>, CatalogError> {
        let read = || {
            let sql = "SELECT workspace, state, before_bytes FROM quota_kernel ORDER BY workspace";
            self.connection.prepare(sql)?.query_map([], row)?.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(failed("read the limits of the kernel"))
    }

    /// Notes one; on disk when it returns.
    ///
    /// # Errors
    /// Nothing is noted then.
    pub(crate) fn put_kernel_row(&self, row: &KernelRow) -> Result<(), CatalogError> {
        let sql = "INSERT INTO quota_kernel VALUES (?1, ?2, ?3)
                   ON CONFLICT (workspace) DO UPDATE SET state = ?2, before_bytes = ?3";
        let KernelRow { workspace, state, before } = row;
        let before = before.map(u64::cast_signed);
        let stored = self.connection.execute(sql, params![workspace, state.word(), before]);
        stored.map(drop).map_err(failed("store a limit of the kernel"))
    }

    /// Forgets one.
    ///
    /// # Errors
    /// It stays then.
    pub(crate) fn remove_kernel_row(&self, workspace: &str) -> Result<(), CatalogError> {
        let removed = self.connection.execute("DELETE FROM quota_kernel WHERE workspace = ?1", [workspace]);
        removed.map(drop).map_err(failed("forget a limit of the kernel"))
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<KernelRow> {
    let word: String = row.get(1)?;
    let state = KernelState::parse(&word).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(1, Type::Text, format!("unknown state {word:?}").into())
    })?;
    let before: Option<i64> = row.get(2)?;
    Ok(KernelRow { workspace: row.get(0)?, state, before: before.map(i64::cast_unsigned) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::record;

    #[test]
    fn a_limit_is_noted_until_its_workspace_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::open(dir.path()).unwrap().catalog;
        let workspace = record("w1");
        catalog.put(&workspace).unwrap();
        let mut row =
            KernelRow { workspace: "w1".to_owned(), state: KernelState::Installing, before: Some(u64::MAX) };
        catalog.put_kernel_row(&row).unwrap();
        row.state = KernelState::On;
        row.before = None;
        catalog.put_kernel_row(&row).unwrap();
        // Storing the workspace again must not take it along.
        catalog.put(&workspace).unwrap();
        drop(catalog);
        let mut catalog = Catalog::open(dir.path()).unwrap().catalog;
        assert_eq!(catalog.kernel_rows().unwrap(), [row]);
        catalog.forget(&workspace, jiff::Timestamp::now()).unwrap();
        assert_eq!(catalog.kernel_rows().unwrap(), []);
    }

    #[test]
    fn an_unknown_workspace_or_state_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap().catalog;
        let row = KernelRow { workspace: "w9".to_owned(), state: KernelState::On, before: None };
        assert!(catalog.put_kernel_row(&row).is_err());
        assert_eq!(catalog.kernel_rows().unwrap(), []);
    }
}
