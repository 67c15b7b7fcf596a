//! A database in WAL mode, one transaction an insert.

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;

use crate::{
    measure::{Measurement, time_operations},
    site::Site,
};

const DATABASE: &str = "bench.db";

/// Removes the database and the two files beside it.
pub(crate) fn remove(site: &Site) -> Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        site.remove_file(&format!("{DATABASE}{suffix}"))?;
    }
    Ok(())
}

/// Inserts rows of 120 bytes, each committed to the write-ahead log (`synchronous = NORMAL`).
pub(crate) fn insert(site: &Site) -> Result<Measurement> {
    let database = Connection::open(site.root.join(DATABASE)).context("cannot open the database")?;
    let mode: String = database.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    ensure!(mode == "wal", "the database is in {mode} mode instead of wal");
    database.execute_batch(
        "PRAGMA synchronous = NORMAL; CREATE TABLE metric (step INTEGER PRIMARY KEY, body BLOB)",
    )?;
    let mut statement = database.prepare("INSERT INTO metric (step, body) VALUES (?1, ?2)")?;
    let body = &site.material.block[..120];
    time_operations(site.scale().operations, site.scale().budget, |index| {
        statement.execute((index as i64, body)).context("cannot insert a row").map(drop)
    })
}
