//! A walk's findings on their way into the index.
//!
//! They are kept beside what is shown and replace it in one transaction, so an answer never sees half a walk.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{OptionalExtension, Transaction};
use rustc_hash::FxHashMap;
use rustix::fs::{FileType, Stat};
use wsguard_api::FileKind;

use super::index::{Index, clamped};
use super::store::{UsageError, failed};
use super::totals::{Peaks, SAMPLED_BYTES, Totals};
use super::walker::Visitor;
use super::{kind, rules};

/// Names that are kept in memory before they are written.
const CHUNK: usize = 4_096;

/// Kind of a directory in the table of what was walked.
const DIRECTORY: i64 = -1;

/// Name of the note of when the last walk was complete, seconds since 1970.
pub(super) const WALKED_AT: &str = "walked_at";

/// Name of the note of how much the last walk could not read.
pub(super) const UNREADABLE: &str = "unreadable";

/// Name of the note of the hour in which growth was first watched.
pub(super) const BEGAN: &str = "began_hour";

struct Walked {
    parent: u64,
    name: OsString,
    ino: u64,
    kind: i64,
    size: i64,
    charge: i64,
    mtime: i64,
}

/// Takes the names of one walk.
pub(crate) struct Filler {
    index: Arc<Mutex<Index>>,
    chunk: Vec<Walked>,
    counted: Arc<AtomicU64>,
}

impl Filler {
    /// Begins; what an interrupted walk has left is dropped. `counted` shows how far it is.
    ///
    /// # Errors
    /// If the index cannot be written.
    pub(crate) fn begin(index: Arc<Mutex<Index>>, counted: Arc<AtomicU64>) -> Result<Self, UsageError> {
        index.lock().connection().execute("DELETE FROM walked", []).map_err(failed("begin a walk"))?;
        counted.store(0, Ordering::Relaxed);
        Ok(Self { index, chunk: Vec::new(), counted })
    }

    fn write(&mut self) -> Result<(), UsageError> {
        let chunk = std::mem::take(&mut self.chunk);
        self.counted.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        let mut index = self.index.lock();
        let mut insert = || {
            let tx = index.connection().transaction()?;
            {
                let mut statement =
                    tx.prepare_cached("INSERT INTO walked VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
                for row in &chunk {
                    statement.execute((
                        row.parent.cast_signed(),
                        row.name.as_bytes(),
                        row.ino.cast_signed(),
                        row.kind,
                        row.size,
                        row.charge,
                        row.mtime,
                    ))?;
                }
            }
            tx.commit()
        };
        insert().map_err(failed("keep what was walked"))
    }

    /// Replaces what the index shows by what was walked. Names that changed during the walk must be looked at
    /// again afterwards. `unreadable` is what the walk left out.
    ///
    /// # Errors
    /// If the index cannot be written; it shows what it did before.
    pub(crate) fn finish(mut self, now: Timestamp, unreadable: u64) -> Result<(), UsageError> {
        self.write()?;
        let mut index = self.index.lock();
        let root = index.root();
        let mut replace = || {
            let tx = index.connection().transaction()?;
            replace_contents(&tx, root, now.as_second() / 3600)?;
            tx.execute("INSERT OR REPLACE INTO fact VALUES (?1, ?2)", (WALKED_AT, now.as_second()))?;
            tx.execute("INSERT OR REPLACE INTO fact VALUES (?1, ?2)", (UNREADABLE, clamped(unreadable)))?;
            tx.execute("INSERT OR IGNORE INTO fact VALUES (?1, ?2)", (BEGAN, now.as_second() / 3600))?;
            tx.commit()
        };
        replace().map_err(failed("put what was walked in place"))
    }
}

impl Visitor for Filler {
    fn visit(
        &mut self,
        directory: u64,
        ino: u64,
        name: &OsStr,
        stat: &Stat,
        charge: u64,
    ) -> Result<(), UsageError> {
        let (kind, charge) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => (DIRECTORY, 0),
            FileType::RegularFile => (kind::code(kind::of_name(name)), charge),
            _ => (kind::code(FileKind::Other), 0),
        };
        self.chunk.push(Walked {
            parent: directory,
            name: name.to_owned(),
            ino,
            kind,
            size: clamped(u64::try_from(stat.st_size).unwrap_or(0)),
            charge: clamped(charge),
            mtime: stat.st_mtime,
        });
        if self.chunk.len() >= CHUNK { self.write() } else { Ok(()) }
    }
}

#[derive(Default)]
struct Node {
    parent: u64,
    own: Totals,
    kinds: BTreeMap<i64, (i64, i64)>,
}

fn replace_contents(tx: &Transaction<'_>, root: u64, hour: i64) -> rusqlite::Result<()> {
    let before = totals_before(tx)?;
    tx.execute_batch("DELETE FROM directory; DELETE FROM file; DELETE FROM kind_total;")?;
    tx.execute("INSERT INTO directory VALUES (?1, 0, x'', 0, 0, 1, 0, 0)", [root.cast_signed()])?;
    insert_directories(tx, root)?;
    // In the order of its index, so that pages fill up. A name that was walked twice was replaced meanwhile.
    tx.execute(
        "INSERT OR REPLACE INTO file (parent, name, ino, kind, size, charge, mtime, home) \
         SELECT parent, name, ino, kind, size, charge, mtime, 1 FROM walked WHERE kind >= 0 ORDER BY parent, name",
        [],
    )?;
    // A name that was a directory at one moment of the walk and a file at another is what the next look at it says.
    tx.execute(
        "DELETE FROM file WHERE EXISTS \
         (SELECT 1 FROM directory WHERE directory.parent = file.parent AND directory.name = file.name) \
         OR ino IN (SELECT ino FROM directory)",
        [],
    )?;
    tx.execute(
        "UPDATE file SET home = 0 WHERE ino IN (SELECT ino FROM file GROUP BY ino HAVING count(*) > 1) \
         AND EXISTS (SELECT 1 FROM file AS other WHERE other.ino = file.ino \
                     AND (other.parent, other.name) < (file.parent, file.name))",
        [],
    )?;
    tx.execute("DELETE FROM walked", [])?;
    let mut nodes = read_nodes(tx)?;
    let order = breadth_first(&nodes, root);
    remove_unreachable(tx, &mut nodes, &order)?;
    for directory in order.iter().rev() {
        add_to_parent(&mut nodes, *directory);
    }
    write_nodes(tx, &nodes)?;
    if !before.is_empty() {
        sample_differences(tx, root, &before, &nodes, hour)?;
    }
    tx.execute("DELETE FROM sample WHERE directory NOT IN (SELECT ino FROM directory)", [])?;
    tx.execute("DELETE FROM fingerprint WHERE ino NOT IN (SELECT ino FROM file)", [])?;
    Ok(())
}

/// Returns bytes and inodes of every directory, or nothing if there was no walk before.
fn totals_before(tx: &Transaction<'_>) -> rusqlite::Result<FxHashMap<u64, (i64, i64)>> {
    let walked: Option<i64> =
        tx.query_row("SELECT value FROM fact WHERE name = ?1", [WALKED_AT], |row| row.get(0)).optional()?;
    if walked.is_none() {
        return Ok(FxHashMap::default());
    }
    let mut statement = tx.prepare("SELECT ino, bytes, inodes FROM directory")?;
    statement
        .query_map([], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), (row.get(1)?, row.get(2)?))))?
        .collect()
}

fn insert_directories(tx: &Transaction<'_>, root: u64) -> rusqlite::Result<()> {
    let mut read = tx.prepare("SELECT ino, parent, name FROM walked WHERE kind = ?1")?;
    let mut insert = tx.prepare("INSERT OR REPLACE INTO directory VALUES (?1, ?2, ?3, ?4, 0, 1, 0, 0)")?;
    let mut rows = read.query([DIRECTORY])?;
    while let Some(row) = rows.next()? {
        let (ino, parent): (i64, i64) = (row.get(0)?, row.get(1)?);
        let name: Vec<u8> = row.get(2)?;
        if ino != root.cast_signed() {
            insert.execute((ino, parent, &name, rules::marker(OsStr::from_bytes(&name))))?;
        }
    }
    Ok(())
}

fn read_nodes(tx: &Transaction<'_>) -> rusqlite::Result<FxHashMap<u64, Node>> {
    let mut nodes: FxHashMap<u64, Node> = FxHashMap::default();
    let mut directories = tx.prepare("SELECT ino, parent FROM directory")?;
    let mut rows = directories.query([])?;
    while let Some(row) = rows.next()? {
        let parent = row.get::<_, i64>(1)?.cast_unsigned();
        let own = Totals { inodes: 1, ..Totals::default() };
        nodes.insert(row.get::<_, i64>(0)?.cast_unsigned(), Node { parent, own, kinds: BTreeMap::new() });
    }
    let mut files = tx.prepare(
        "SELECT parent, kind, sum(charge), count(*), max(mtime), max(charge) FROM file WHERE home = 1 \
         GROUP BY parent, kind",
    )?;
    let mut rows = files.query([])?;
    while let Some(row) = rows.next()? {
        // Files of a directory that is unknown are removed with it below.
        let Some(node) = nodes.get_mut(&row.get::<_, i64>(0)?.cast_unsigned()) else { continue };
        let (bytes, inodes): (i64, i64) = (row.get(2)?, row.get(3)?);
        node.own.bytes += bytes;
        node.own.inodes += inodes;
        node.own.peaks.newest = node.own.peaks.newest.max(row.get(4)?);
        node.own.peaks.largest = node.own.peaks.largest.max(row.get(5)?);
        node.kinds.insert(row.get(1)?, (bytes, inodes));
    }
    Ok(nodes)
}

fn breadth_first(nodes: &FxHashMap<u64, Node>, root: u64) -> Vec<u64> {
    let mut children: FxHashMap<u64, Vec<u64>> = FxHashMap::default();
    for (ino, node) in nodes {
        children.entry(node.parent).or_default().push(*ino);
    }
    let mut order = vec![root];
    let mut next = 0;
    while let Some(directory) = order.get(next).copied() {
        order.extend(children.remove(&directory).unwrap_or_default());
        next += 1;
    }
    order
}

/// Directories that moved during the walk may be left without a parent; the look after it finds them again.
fn remove_unreachable(
    tx: &Transaction<'_>,
    nodes: &mut FxHashMap<u64, Node>,
    order: &[u64],
) -> rusqlite::Result<()> {
    if order.len() < nodes.len() {
        let reachable: rustc_hash::FxHashSet<u64> = order.iter().copied().collect();
        let lost: Vec<u64> = nodes.keys().copied().filter(|ino| !reachable.contains(ino)).collect();
        for ino in lost {
            nodes.remove(&ino);
            tx.execute("DELETE FROM directory WHERE ino = ?1", [ino.cast_signed()])?;
        }
    }
    tx.execute("DELETE FROM file WHERE parent NOT IN (SELECT ino FROM directory)", [])?;
    Ok(())
}

fn add_to_parent(nodes: &mut FxHashMap<u64, Node>, directory: u64) {
    let Some(node) = nodes.get(&directory) else { return };
    let (parent, own, kinds) = (node.parent, node.own, node.kinds.clone());
    let Some(above) = nodes.get_mut(&parent) else { return };
    above.own.bytes += own.bytes;
    above.own.inodes += own.inodes;
    above.own.peaks = Peaks {
        newest: above.own.peaks.newest.max(own.peaks.newest),
        largest: above.own.peaks.largest.max(own.peaks.largest),
    };
    for (kind, (bytes, inodes)) in kinds {
        let by_kind = above.kinds.entry(kind).or_default();
        by_kind.0 += bytes;
        by_kind.1 += inodes;
    }
}

fn write_nodes(tx: &Transaction<'_>, nodes: &FxHashMap<u64, Node>) -> rusqlite::Result<()> {
    let mut update =
        tx.prepare("UPDATE directory SET bytes = ?2, inodes = ?3, newest = ?4, largest = ?5 WHERE ino = ?1")?;
    let mut insert = tx.prepare("INSERT INTO kind_total VALUES (?1, ?2, ?3, ?4)")?;
    for (directory, node) in nodes {
        let ino = directory.cast_signed();
        let own = &node.own;
        update.execute((ino, own.bytes, own.inodes, own.peaks.newest, own.peaks.largest))?;
        for (kind, (bytes, inodes)) in &node.kinds {
            insert.execute((ino, kind, bytes, inodes))?;
        }
    }
    Ok(())
}

/// What grew while nobody watched grew in this hour, as far as anybody knows.
fn sample_differences(
    tx: &Transaction<'_>,
    root: u64,
    before: &FxHashMap<u64, (i64, i64)>,
    nodes: &FxHashMap<u64, Node>,
    hour: i64,
) -> rusqlite::Result<()> {
    let mut insert = tx.prepare("INSERT OR IGNORE INTO sample VALUES (?1, ?2, ?3, ?4)")?;
    for (directory, node) in nodes {
        let (bytes, inodes) = before.get(directory).copied().unwrap_or_default();
        let is_same = (bytes, inodes) == (node.own.bytes, node.own.inodes);
        let is_small = bytes.max(node.own.bytes) < SAMPLED_BYTES && *directory != root;
        if !is_same && !is_small {
            insert.execute((directory.cast_signed(), hour, bytes, inodes))?;
        }
    }
    Ok(())
}
