//! Requests for more room, and what became of them.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};
use wsguard_api::{BoostRequest, RequestState};

use super::quota::{NewAudit, all, insert_audit, moment, unknown};
use super::{Catalog, CatalogError, failed};

/// Decided requests that are kept; older ones go when new ones come.
const KEPT: i64 = 1_000;

const COLUMNS: &str = "id, workspace, name, owner_uid, by_uid, command, bytes, inodes, seconds, reason, at_us, \
                       state, decided_us, decided_by, answer";

impl Catalog {
    /// Stores a request and returns its number; the one that it has is ignored.
    pub(crate) fn add_request(&mut self, request: &BoostRequest, at: Timestamp) -> Result<u64, CatalogError> {
        let mut write = || {
            let transaction = self.connection.transaction()?;
            transaction.execute(
                "INSERT INTO boost_request (workspace, name, owner_uid, by_uid, command, bytes, inodes, seconds, \
                 reason, at_us, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'pending')",
                params![
                    request.workspace,
                    request.name,
                    request.owner_uid,
                    request.by_uid,
                    request.command,
                    request.bytes.cast_signed(),
                    request.inodes.cast_signed(),
                    request.seconds.cast_signed(),
                    request.reason,
                    at.as_microsecond(),
                ],
            )?;
            let id = transaction.last_insert_rowid();
            transaction
                .execute("DELETE FROM boost_request WHERE state <> 'pending' AND id <= ?1", [id - KEPT])?;
            transaction.commit()?;
            Ok(id.cast_unsigned())
        };
        write().map_err(failed("store a request"))
    }

    /// Returns the requests that are kept, newest first: all, or those that wait.
    pub(crate) fn requests(&self, only_pending: bool) -> Result<Vec<BoostRequest>, CatalogError> {
        let condition = if only_pending { "WHERE state = 'pending'" } else { "" };
        let sql = format!("SELECT {COLUMNS} FROM boost_request {condition} ORDER BY id DESC");
        all(&self.connection, &sql, row).map_err(failed("read the requests"))
    }

    /// Returns one request.
    pub(crate) fn request(&self, id: u64) -> Result<Option<BoostRequest>, CatalogError> {
        let sql = format!("SELECT {COLUMNS} FROM boost_request WHERE id = ?1");
        self.connection.query_row(&sql, [id.cast_signed()], row).optional().map_err(failed("read a request"))
    }

    /// Stores what was decided about a request, and the audit, both or neither.
    pub(crate) fn decide_request(
        &mut self,
        id: u64,
        state: RequestState,
        answer: Option<&str>,
        audit: &NewAudit<'_>,
    ) -> Result<(), CatalogError> {
        let mut write = || {
            let transaction = self.connection.transaction()?;
            transaction.execute(
                "UPDATE boost_request SET state = ?2, decided_us = ?3, decided_by = ?4, answer = ?5 WHERE id = ?1",
                params![id.cast_signed(), word(state), audit.at.as_microsecond(), audit.uid, answer],
            )?;
            insert_audit(&transaction, audit)?;
            transaction.commit()
        };
        write().map_err(failed("store a decision"))
    }
}

fn word(state: RequestState) -> &'static str {
    match state {
        RequestState::Pending => "pending",
        RequestState::Approved => "approved",
        RequestState::Denied => "denied",
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<BoostRequest> {
    let unsigned = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let decided = row.get::<_, Option<i64>>(12)?.map(|at| moment(12, at)).transpose()?;
    Ok(BoostRequest {
        id: unsigned(0)?,
        workspace: row.get(1)?,
        name: row.get(2)?,
        owner_uid: row.get(3)?,
        by_uid: row.get(4)?,
        command: row.get(5)?,
        bytes: unsigned(6)?,
        inodes: unsigned(7)?,
        seconds: unsigned(8)?,
        reason: row.get(9)?,
        at: moment(10, row.get(10)?)?.to_string(),
        state: match row.get::<_, String>(11)?.as_str() {
            "pending" => RequestState::Pending,
            "approved" => RequestState::Approved,
            "denied" => RequestState::Denied,
            other => return Err(unknown(11, other)),
        },
        decided_at: decided.map(|at| at.to_string()),
        decided_by: row.get(13)?,
        answer: row.get(14)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> BoostRequest {
        BoostRequest {
            id: 0,
            workspace: "w1".into(),
            name: "bert".into(),
            owner_uid: 1,
            by_uid: 2,
            command: "sh".into(),
            bytes: 200 << 30,
            inodes: 0,
            seconds: 604_800,
            reason: "paper".into(),
            at: "1970-01-01T00:00:00Z".into(),
            state: RequestState::Pending,
            decided_at: None,
            decided_by: None,
            answer: None,
        }
    }

    #[test]
    fn request_and_its_decision_survive_reopening_and_are_audited() {
        let dir = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::open(dir.path()).unwrap().catalog;
        let id = catalog.add_request(&request(), Timestamp::UNIX_EPOCH).unwrap();
        drop(catalog);
        let mut catalog = Catalog::open(dir.path()).unwrap().catalog;
        assert_eq!(catalog.requests(true).unwrap(), [BoostRequest { id, ..request() }]);
        let change = wsguard_api::QuotaChange {
            subject: "project:w1".into(),
            field: "request".into(),
            before: None,
            after: Some("denied".into()),
        };
        let changes = [change];
        let audit =
            NewAudit { at: Timestamp::UNIX_EPOCH, uid: Some(7), reason: Some("full"), changes: &changes };
        catalog.decide_request(id, RequestState::Denied, Some("full"), &audit).unwrap();
        let decided = catalog.request(id).unwrap().unwrap();
        assert_eq!((decided.state, decided.decided_by), (RequestState::Denied, Some(7)));
        assert_eq!(decided.answer.as_deref(), Some("full"));
        assert_eq!(catalog.audit(1).unwrap()[0].field, "request");
        assert!(catalog.requests(true).unwrap().is_empty());
        assert_eq!((catalog.requests(false).unwrap().len(), catalog.request(id + 1).unwrap()), (1, None));
    }
}
