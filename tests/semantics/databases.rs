//! SQLite, the most demanding ordinary program: shared memory, byte-range locks, fsync ordering and truncation at once.

use std::{path::Path, thread, time::Duration};

use rusqlite::{Connection, params};

use super::{
    child::{self, Role, Waiting},
    ground::{Ground, on_every_filesystem},
};

const WRITERS: u32 = 3;
const ROWS: u32 = 400;

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    connection
}

fn count(connection: &Connection) -> u32 {
    connection.query_row("SELECT count(*) FROM rows", [], |row| row.get(0)).unwrap()
}

fn assert_intact(path: &Path) {
    let connection = connect(path);
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok", "{}", path.display());
    assert_eq!(count(&connection), WRITERS * ROWS, "{}", path.display());
}

/// The role of a child: inserts its share of rows, one transaction each.
pub(crate) fn insert_rows(path: &Path, writer: u32) {
    let connection = connect(path);
    connection.pragma_update(None, "mmap_size", 64 << 20).unwrap();
    connection.pragma_update(None, "synchronous", "OFF").unwrap();
    for row in 0..ROWS {
        connection.execute("INSERT INTO rows VALUES (?1, ?2, zeroblob(600))", params![writer, row]).unwrap();
    }
}

/// Three writer processes and a reader share one database; every row is there, through the mount and below it.
fn share_database(ground: &Ground, journal: &str) {
    let path = ground.mounted.join("rows.db");
    let connection = connect(&path);
    let mode: String =
        connection.query_row(&format!("PRAGMA journal_mode={journal}"), [], |row| row.get(0)).unwrap();
    assert_eq!(mode, journal);
    connection.pragma_update(None, "mmap_size", 64 << 20).unwrap();
    connection.execute_batch("CREATE TABLE rows (writer INTEGER, row INTEGER, filler BLOB)").unwrap();

    let writers: Vec<Waiting> =
        (0..WRITERS).map(|writer| Waiting::spawn(Role::InsertRows, &path, writer)).collect();
    let running = thread::spawn(move || child::run_together(writers));
    let mut seen = 0;
    while !running.is_finished() {
        let now = count(&connection);
        assert!(now >= seen, "a reader saw {now} rows after {seen}");
        seen = now;
        thread::sleep(Duration::from_millis(2));
    }
    running.join().unwrap();
    drop(connection);
    assert_intact(&path);
    assert_intact(&ground.backing.join("rows.db"));
}

fn sqlite_wal_with_mmap_keeps_every_row(ground: &Ground) {
    share_database(ground, "wal");
}

fn sqlite_rollback_journal_keeps_every_row(ground: &Ground) {
    share_database(ground, "delete");
}

on_every_filesystem!(sqlite_wal_with_mmap_keeps_every_row, sqlite_rollback_journal_keeps_every_row);
