//! Keeping a history small: the oldest records go first, by age and then by size.

use rusqlite::Connection;

use super::Bounds;

/// Part of the records that goes at once when the file is too large, so that it is not done for every batch.
const PORTION: u64 = 10;

/// Removes records until the file is within its bounds; returns how many.
pub(super) fn prune(connection: &mut Connection, bounds: Bounds, now_us: i64) -> rusqlite::Result<u64> {
    let age = i64::try_from(bounds.max_age.as_micros()).unwrap_or(i64::MAX);
    let mut removed = remove(connection, Removal::OlderThan(now_us.saturating_sub(age)))?;
    while used_bytes(connection)? > bounds.max_bytes {
        let portion = remove(connection, Removal::Oldest)?;
        if portion == 0 {
            break;
        }
        removed += portion;
    }
    if removed > 0 {
        // Gives the pages back to the filesystem; a statement that returns rows has to be read to its end.
        let mut vacuum = connection.prepare("PRAGMA incremental_vacuum")?;
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(removed)
}

enum Removal {
    OlderThan(i64),
    Oldest,
}

fn remove(connection: &mut Connection, what: Removal) -> rusqlite::Result<u64> {
    let transaction = connection.transaction()?;
    let bounds = transaction.query_row("SELECT min(id), max(id) FROM record", [], |row| {
        Ok(row.get::<_, Option<i64>>(0)?.zip(row.get::<_, Option<i64>>(1)?))
    })?;
    let Some((first, last)) = bounds else { return Ok(0) };
    let up_to = match what {
        // Clocks may have been set back, so that times are not in the order of the rows.
        Removal::OlderThan(at_us) => transaction.query_row(
            "SELECT coalesce((SELECT id - 1 FROM record WHERE at_us >= ?1 ORDER BY id LIMIT 1), ?2)",
            [at_us, last],
            |row| row.get(0),
        )?,
        Removal::Oldest => first + (last - first) / PORTION.cast_signed(),
    };
    if up_to < first {
        return Ok(0);
    }
    transaction.execute(
        "UPDATE standing SET pruned_us = (SELECT at_us FROM record WHERE id <= ?1 ORDER BY id DESC LIMIT 1)",
        [up_to],
    )?;
    let removed = transaction.execute("DELETE FROM record WHERE id <= ?1", [up_to])?;
    transaction.execute("DELETE FROM gap WHERE to_us <= (SELECT pruned_us FROM standing)", [])?;
    transaction.execute("DELETE FROM process WHERE id NOT IN (SELECT DISTINCT process FROM record)", [])?;
    transaction.execute(
        "DELETE FROM directory WHERE id NOT IN (SELECT directory FROM record WHERE directory IS NOT NULL
             UNION SELECT to_directory FROM record WHERE to_directory IS NOT NULL)",
        [],
    )?;
    transaction.commit()?;
    Ok(removed as u64)
}

/// Bytes of the file without free pages.
fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    Ok(u64::try_from(pages.saturating_mul(pragma("page_size")?)).unwrap_or(0))
}
