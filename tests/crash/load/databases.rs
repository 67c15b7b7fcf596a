use std::{path::Path, thread, time::Duration};

use rusqlite::{Connection, params};

use super::{Work, ok};

const WRITERS: u32 = 2;

fn connect(path: &Path) -> Connection {
    let connection = ok("open the database", Connection::open(path));
    ok("set a timeout", connection.busy_timeout(Duration::from_secs(60)));
    connection
}

fn count(connection: &Connection, writer: u32) -> i64 {
    let query = "SELECT count(*) FROM rows WHERE writer = ?1";
    ok("count", connection.query_row(query, [writer], |row| row.get(0)))
}

/// SQLite with a write-ahead log: what is committed is there, and the database is intact.
pub(super) fn committed_rows_stay(work: &Work) {
    let path = work.mounted.join("rows.db");
    let connection = connect(&path);
    let mode: String =
        ok("set the journal", connection.query_row("PRAGMA journal_mode=wal", [], |row| row.get(0)));
    assert_eq!(mode, "wal");
    ok("create", connection.execute_batch("CREATE TABLE rows (writer INTEGER, row INTEGER, filler BLOB)"));
    let committed: Vec<i64> = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn({
                    let path = &path;
                    move || insert(work, path, writer)
                })
            })
            .collect();
        let mut seen = 0;
        while work.goes_on() {
            let now = (0..WRITERS).map(|writer| count(&connection, writer)).sum();
            assert!(now >= seen, "a reader saw {now} rows after {seen}");
            seen = now;
            thread::sleep(Duration::from_millis(20));
        }
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    drop(connection);
    for path in work.both("rows.db") {
        let connection = connect(&path);
        let verdict: String =
            ok("check", connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)));
        assert_eq!(verdict, "ok", "{}", path.display());
        for (writer, rows) in (0..WRITERS).zip(&committed) {
            assert_eq!(count(&connection, writer), *rows, "{}", path.display());
        }
    }
}

fn insert(work: &Work, path: &Path, writer: u32) -> i64 {
    let connection = connect(path);
    ok("map", connection.pragma_update(None, "mmap_size", 64 << 20));
    let mut row = 0;
    while work.goes_on() {
        let statement = "INSERT INTO rows VALUES (?1, ?2, zeroblob(600))";
        ok("insert", connection.execute(statement, params![writer, row]));
        row += 1;
        thread::sleep(Duration::from_millis(1));
    }
    row
}
