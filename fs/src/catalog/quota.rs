//! The quota policy, its grace clocks and its audit.

use std::path::PathBuf;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, Transaction, params};
use wsguard_api::{
    AuditEntry, Boost, Bound, Bounds, LimitSpec, PolicyRecord, PolicyTarget, QuotaChange, QuotaErrno,
    QuotaMode, ScopeRef,
};

use super::{Catalog, CatalogError, failed};

/// Changes that are kept; older ones go when new ones come.
const AUDIT_ROWS: i64 = 100_000;

/// The stored policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuotaRows {
    pub(crate) records: Vec<PolicyRecord>,
    pub(crate) members: Vec<(u32, String)>,
    pub(crate) boosts: Vec<(ScopeRef, Boost)>,
}

/// What a grace clock is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dimension {
    Bytes,
    Inodes,
}

/// A grace clock that runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GraceRow {
    pub(crate) scope: ScopeRef,
    pub(crate) dimension: Dimension,
    /// When the soft limit becomes a hard one.
    pub(crate) deadline: Timestamp,
}

/// Changes that are made together, for the audit.
#[derive(Clone, Debug)]
pub(crate) struct NewAudit<'a> {
    pub(crate) at: Timestamp,
    /// Who; `None` for the daemon itself.
    pub(crate) uid: Option<u32>,
    pub(crate) reason: Option<&'a str>,
    pub(crate) changes: &'a [QuotaChange],
}

impl Catalog {
    /// Reads the policy.
    ///
    /// # Errors
    /// Also when a row holds something that this version does not know.
    pub(crate) fn quota(&self) -> Result<QuotaRows, CatalogError> {
        let read = || -> rusqlite::Result<QuotaRows> {
            Ok(QuotaRows {
                records: all(&self.connection, "SELECT * FROM quota_limit ORDER BY kind, key", record)?,
                members: all(
                    &self.connection,
                    "SELECT uid, of_group FROM quota_member ORDER BY uid",
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )?,
                boosts: all(
                    &self.connection,
                    "SELECT kind, key, bytes, inodes, until_us, reason, by_uid FROM quota_boost ORDER BY id",
                    boost,
                )?,
            })
        };
        read().map_err(failed("read the quota policy"))
    }

    /// Replaces the policy and notes the changes, both or neither.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub(crate) fn put_quota(&mut self, rows: &QuotaRows, audit: &NewAudit<'_>) -> Result<(), CatalogError> {
        let mut write = || {
            let transaction = self.connection.transaction()?;
            transaction.execute_batch(
                "DELETE FROM quota_limit; DELETE FROM quota_member; DELETE FROM quota_boost",
            )?;
            for record in &rows.records {
                insert_record(&transaction, record)?;
            }
            for (uid, group) in &rows.members {
                transaction.execute("INSERT INTO quota_member VALUES (?1, ?2)", params![uid, group])?;
            }
            for (scope, boost) in &rows.boosts {
                insert_boost(&transaction, scope, boost)?;
            }
            insert_audit(&transaction, audit)?;
            transaction.commit()
        };
        write().map_err(failed("store the quota policy"))
    }

    /// Returns the latest changes, newest first.
    pub(crate) fn audit(&self, most: u32) -> Result<Vec<AuditEntry>, CatalogError> {
        let sql = format!(
            "SELECT id, at_us, uid, subject, field, before, after, reason FROM quota_audit \
             ORDER BY id DESC LIMIT {most}"
        );
        let entry = |row: &Row<'_>| {
            Ok(AuditEntry {
                id: row.get(0)?,
                at: moment(1, row.get(1)?)?.to_string(),
                uid: row.get(2)?,
                subject: row.get(3)?,
                field: row.get(4)?,
                before: row.get(5)?,
                after: row.get(6)?,
                reason: row.get(7)?,
            })
        };
        all(&self.connection, &sql, entry).map_err(failed("read the audit"))
    }

    /// Returns the grace clocks that ran when they were stored last.
    pub(crate) fn grace_clocks(&self) -> Result<Vec<GraceRow>, CatalogError> {
        let row = |row: &Row<'_>| {
            Ok(GraceRow {
                scope: scope(row.get(0)?, row.get(1)?)?,
                dimension: match row.get::<_, String>(2)?.as_str() {
                    "bytes" => Dimension::Bytes,
                    "inodes" => Dimension::Inodes,
                    other => return Err(unknown(2, other)),
                },
                deadline: moment(3, row.get(3)?)?,
            })
        };
        let sql = "SELECT kind, key, dimension, deadline_us FROM quota_grace ORDER BY kind, key, dimension";
        all(&self.connection, sql, row).map_err(failed("read the grace clocks"))
    }

    /// Replaces the grace clocks that run and notes the changes, both or neither.
    pub(crate) fn put_grace_clocks(
        &mut self,
        clocks: &[GraceRow],
        audit: &NewAudit<'_>,
    ) -> Result<(), CatalogError> {
        let mut write = || {
            let transaction = self.connection.transaction()?;
            transaction.execute("DELETE FROM quota_grace", [])?;
            for clock in clocks {
                let (kind, key) = scope_columns(&clock.scope);
                let dimension = match clock.dimension {
                    Dimension::Bytes => "bytes",
                    Dimension::Inodes => "inodes",
                };
                transaction.execute(
                    "INSERT INTO quota_grace VALUES (?1, ?2, ?3, ?4)",
                    params![kind, key, dimension, clock.deadline.as_microsecond()],
                )?;
            }
            insert_audit(&transaction, audit)?;
            transaction.commit()
        };
        write().map_err(failed("store the grace clocks"))
    }
}

pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    mut row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = connection.prepare(sql)?;
    statement.query_map([], |found| row(found))?.collect()
}

fn record(row: &Row<'_>) -> rusqlite::Result<PolicyRecord> {
    let bounds = |says: usize| -> rusqlite::Result<Option<Bounds>> {
        if !row.get::<_, bool>(says)? {
            return Ok(None);
        }
        let bound = |column: usize| number(row, column).map(|n| n.map_or(Bound::Unlimited, Bound::At));
        Ok(Some(Bounds { soft: bound(says + 1)?, hard: bound(says + 2)? }))
    };
    Ok(PolicyRecord {
        target: target(row.get(0)?, row.get(1)?)?,
        spec: LimitSpec {
            bytes: bounds(2)?,
            inodes: bounds(5)?,
            grace_seconds: number(row, 8)?,
            mode: match row.get::<_, Option<String>>(9)?.as_deref() {
                None => None,
                Some("off") => Some(QuotaMode::Off),
                Some("track") => Some(QuotaMode::Track),
                Some("enforce") => Some(QuotaMode::Enforce),
                Some(other) => return Err(unknown(9, other)),
            },
            errno: match row.get::<_, Option<String>>(10)?.as_deref() {
                None => None,
                Some("edquot") => Some(QuotaErrno::Edquot),
                Some("enospc") => Some(QuotaErrno::Enospc),
                Some(other) => return Err(unknown(10, other)),
            },
            headroom_bytes: number(row, 11)?,
        },
    })
}

fn insert_record(transaction: &Transaction<'_>, record: &PolicyRecord) -> rusqlite::Result<()> {
    let (kind, key) = target_columns(&record.target);
    let spec = &record.spec;
    let soft = |bounds: Option<Bounds>| bounds.and_then(|bounds| bounds.soft.number()).map(u64::cast_signed);
    let hard = |bounds: Option<Bounds>| bounds.and_then(|bounds| bounds.hard.number()).map(u64::cast_signed);
    transaction.execute(
        "INSERT INTO quota_limit VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            kind,
            key,
            spec.bytes.is_some(),
            soft(spec.bytes),
            hard(spec.bytes),
            spec.inodes.is_some(),
            soft(spec.inodes),
            hard(spec.inodes),
            spec.grace_seconds.map(u64::cast_signed),
            spec.mode.map(|mode| match mode {
                QuotaMode::Off => "off",
                QuotaMode::Track => "track",
                QuotaMode::Enforce => "enforce",
            }),
            spec.errno.map(|errno| match errno {
                QuotaErrno::Edquot => "edquot",
                QuotaErrno::Enospc => "enospc",
            }),
            spec.headroom_bytes.map(u64::cast_signed),
        ],
    )?;
    Ok(())
}

fn boost(row: &Row<'_>) -> rusqlite::Result<(ScopeRef, Boost)> {
    Ok((
        scope(row.get(0)?, row.get(1)?)?,
        Boost {
            bytes: row.get::<_, i64>(2)?.cast_unsigned(),
            inodes: row.get::<_, i64>(3)?.cast_unsigned(),
            until: moment(4, row.get(4)?)?.to_string(),
            reason: row.get(5)?,
            by: row.get(6)?,
        },
    ))
}

fn insert_boost(transaction: &Transaction<'_>, scope: &ScopeRef, boost: &Boost) -> rusqlite::Result<()> {
    let (kind, key) = scope_columns(scope);
    let until: Timestamp =
        boost.until.parse().map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    transaction.execute(
        "INSERT INTO quota_boost (kind, key, bytes, inodes, until_us, reason, by_uid) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            kind,
            key,
            boost.bytes.cast_signed(),
            boost.inodes.cast_signed(),
            until.as_microsecond(),
            boost.reason,
            boost.by
        ],
    )?;
    Ok(())
}

pub(super) fn insert_audit(transaction: &Transaction<'_>, audit: &NewAudit<'_>) -> rusqlite::Result<()> {
    for change in audit.changes {
        transaction.execute(
            "INSERT INTO quota_audit (at_us, uid, subject, field, before, after, reason) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                audit.at.as_microsecond(),
                audit.uid,
                change.subject,
                change.field,
                change.before,
                change.after,
                audit.reason
            ],
        )?;
    }
    transaction.execute(
        "DELETE FROM quota_audit WHERE id <= (SELECT max(id) FROM quota_audit) - ?1",
        [AUDIT_ROWS],
    )?;
    Ok(())
}

/// Numbers are stored signed; the policy refuses those that would not fit.
fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(i64::cast_unsigned))
}

fn target_columns(target: &PolicyTarget) -> (&'static str, String) {
    match target {
        PolicyTarget::Pool { path } => ("pool", path.to_string_lossy().into_owned()),
        PolicyTarget::Group { name } => ("group", name.clone()),
        PolicyTarget::User { uid } => ("user", uid.to_string()),
        PolicyTarget::Project { id } => ("project", id.clone()),
        PolicyTarget::EachUser { group } => ("each-user", group.clone()),
        PolicyTarget::EachProject { group } => ("each-project", group.clone()),
    }
}

fn target(kind: String, key: String) -> rusqlite::Result<PolicyTarget> {
    match kind.as_str() {
        "each-user" => Ok(PolicyTarget::EachUser { group: key }),
        "each-project" => Ok(PolicyTarget::EachProject { group: key }),
        _ => Ok(match scope(kind, key)? {
            ScopeRef::Pool { path } => PolicyTarget::Pool { path },
            ScopeRef::Group { name } => PolicyTarget::Group { name },
            ScopeRef::User { uid } => PolicyTarget::User { uid },
            ScopeRef::Project { id } => PolicyTarget::Project { id },
        }),
    }
}

fn scope_columns(scope: &ScopeRef) -> (&'static str, String) {
    match scope {
        ScopeRef::Pool { path } => ("pool", path.to_string_lossy().into_owned()),
        ScopeRef::Group { name } => ("group", name.clone()),
        ScopeRef::User { uid } => ("user", uid.to_string()),
        ScopeRef::Project { id } => ("project", id.clone()),
    }
}

fn scope(kind: String, key: String) -> rusqlite::Result<ScopeRef> {
    match kind.as_str() {
        "pool" => Ok(ScopeRef::Pool { path: PathBuf::from(key) }),
        "group" => Ok(ScopeRef::Group { name: key }),
        "user" => match key.parse() {
            Ok(uid) => Ok(ScopeRef::User { uid }),
            Err(_) => Err(unknown(1, &key)),
        },
        "project" => Ok(ScopeRef::Project { id: key }),
        other => Err(unknown(0, other)),
    }
}

pub(super) fn moment(column: usize, microseconds: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(microseconds)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, Box::new(error)))
}

pub(super) fn unknown(column: usize, value: &str) -> rusqlite::Error {
    let reason = format!("{value:?} is not a known value").into();
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> QuotaChange {
        QuotaChange {
            subject: "user:1".into(),
            field: "mode".into(),
            before: None,
            after: Some("off".into()),
        }
    }

    fn audit(changes: &[QuotaChange]) -> NewAudit<'_> {
        NewAudit { at: Timestamp::UNIX_EPOCH, uid: Some(7), reason: Some("because"), changes }
    }

    fn rows() -> QuotaRows {
        let full = LimitSpec {
            bytes: Some(Bounds { soft: Bound::Unlimited, hard: Bound::At(u64::MAX >> 1) }),
            inodes: Some(Bounds { soft: Bound::At(0), hard: Bound::Unlimited }),
            grace_seconds: Some(60),
            mode: Some(QuotaMode::Track),
            errno: Some(QuotaErrno::Enospc),
            headroom_bytes: Some(0),
        };
        let targets = [
            PolicyTarget::EachProject { group: "default".into() },
            PolicyTarget::EachUser { group: "students".into() },
            PolicyTarget::Group { name: "students".into() },
            PolicyTarget::Pool { path: "/data".into() },
            PolicyTarget::Project { id: "w1".into() },
            PolicyTarget::User { uid: u32::MAX },
        ];
        let record = |(index, target): (usize, PolicyTarget)| {
            let spec = if index % 2 == 0 { full.clone() } else { LimitSpec::default() };
            PolicyRecord { target, spec }
        };
        let boost = Boost {
            bytes: 1,
            inodes: 2,
            until: "2030-01-01T00:00:00Z".into(),
            reason: "paper".into(),
            by: 0,
        };
        QuotaRows {
            records: targets.into_iter().enumerate().map(record).collect(),
            members: vec![(1, "students".into()), (2, "staff".into())],
            boosts: vec![(ScopeRef::User { uid: 1 }, boost.clone()), (ScopeRef::User { uid: 1 }, boost)],
        }
    }

    #[test]
    fn policy_survives_reopening_and_replaces_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::open(dir.path()).unwrap().catalog;
        catalog.put_quota(&rows(), &audit(&[])).unwrap();
        drop(catalog);
        let mut catalog = Catalog::open(dir.path()).unwrap().catalog;
        assert_eq!(catalog.quota().unwrap(), rows());
        catalog.put_quota(&QuotaRows::default(), &audit(&[])).unwrap();
        assert_eq!(catalog.quota().unwrap(), QuotaRows::default());
    }

    #[test]
    fn audit_is_newest_first_and_bounded_by_the_question() {
        let dir = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::open(dir.path()).unwrap().catalog;
        let mut second = change();
        second.subject = "user:2".into();
        catalog.put_quota(&QuotaRows::default(), &audit(&[change(), second])).unwrap();
        let entries = catalog.audit(10).unwrap();
        let subjects: Vec<&str> = entries.iter().map(|entry| entry.subject.as_str()).collect();
        assert_eq!(subjects, ["user:2", "user:1"]);
        assert_eq!((entries[0].uid, entries[0].reason.as_deref()), (Some(7), Some("because")));
        assert_eq!(catalog.audit(1).unwrap().len(), 1);
    }

    #[test]
    fn grace_clocks_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let clock = GraceRow {
            scope: ScopeRef::User { uid: 1000 },
            dimension: Dimension::Inodes,
            deadline: Timestamp::from_second(1_900_000_000).unwrap(),
        };
        Catalog::open(dir.path())
            .unwrap()
            .catalog
            .put_grace_clocks(std::slice::from_ref(&clock), &audit(&[]))
            .unwrap();
        assert_eq!(Catalog::open(dir.path()).unwrap().catalog.grace_clocks().unwrap(), [clock]);
    }

    #[test]
    fn catalog_of_the_format_before_gets_the_tables_and_keeps_its_workspaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(super::super::CATALOG_FILE);
        super::super::schema::make_format_1(&Connection::open(&path).unwrap()).unwrap();
        let catalog = Catalog::open(dir.path()).unwrap().catalog;
        assert_eq!(catalog.workspaces().unwrap().len(), 1);
        assert_eq!(catalog.quota().unwrap(), QuotaRows::default());
    }
}
