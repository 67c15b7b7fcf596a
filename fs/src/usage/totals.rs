//! What changed in directories since their totals were last written, and how it reaches their parents.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Transaction};
use rustc_hash::FxHashMap;

/// Directories that never held so much are not sampled: growth below it is noise, and there are many of them.
pub(super) const SAMPLED_BYTES: i64 = 1 << 20;

/// Depth at which climbing stops: the index holds a loop, and the next walk repairs it.
const DEEPEST: u32 = 100_000;

/// The two values of a directory that are maxima, not sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Peaks {
    pub(super) newest: i64,
    pub(super) largest: i64,
}

impl Peaks {
    fn raise(&mut self, other: Self) {
        self.newest = self.newest.max(other.newest);
        self.largest = self.largest.max(other.largest);
    }
}

/// Totals of a directory, all of it and everything below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) bytes: i64,
    pub(super) inodes: i64,
    pub(super) peaks: Peaks,
}

/// Something that came into a directory or went.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turn {
    Gained,
    Lost,
}

impl Turn {
    fn sign(self) -> i64 {
        match self {
            Self::Gained => 1,
            Self::Lost => -1,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Delta {
    bytes: i64,
    inodes: i64,
    /// Bytes and inodes by kind.
    kinds: BTreeMap<i64, (i64, i64)>,
    gained: Peaks,
    lost: Peaks,
}

/// A directory whose row is gone but whose loss its parents have not been told of.
#[derive(Clone, Copy, Debug)]
struct Gone {
    parent: u64,
    totals: Totals,
}

/// Changes that are collected for one transaction.
#[derive(Debug, Default)]
pub(super) struct Pending {
    deltas: FxHashMap<u64, Delta>,
    gone: FxHashMap<u64, Gone>,
}

impl Pending {
    /// Notes a file's whole weight.
    pub(super) fn file(&mut self, turn: Turn, directory: u64, kind: i64, charge: i64, mtime: i64) {
        let delta = self.deltas.entry(directory).or_default();
        let sign = turn.sign();
        delta.bytes += sign * charge;
        delta.inodes += sign;
        let by_kind = delta.kinds.entry(kind).or_default();
        by_kind.0 += sign * charge;
        by_kind.1 += sign;
        delta.peaks(turn).raise(Peaks { newest: mtime, largest: charge });
    }

    /// Notes that the directory itself is there or no longer there: it counts one inode.
    pub(super) fn own_inode(&mut self, turn: Turn, directory: u64) {
        self.deltas.entry(directory).or_default().inodes += turn.sign();
    }

    /// Notes a whole tree that moved from one parent to another.
    pub(super) fn tree(&mut self, turn: Turn, parent: u64, totals: Totals, kinds: &[(i64, i64, i64)]) {
        let delta = self.deltas.entry(parent).or_default();
        let sign = turn.sign();
        delta.bytes += sign * totals.bytes;
        delta.inodes += sign * totals.inodes;
        for (kind, bytes, inodes) in kinds {
            let by_kind = delta.kinds.entry(*kind).or_default();
            by_kind.0 += sign * bytes;
            by_kind.1 += sign * inodes;
        }
        delta.peaks(turn).raise(totals.peaks);
    }

    /// Notes that the row of a directory was deleted; it had these totals.
    pub(super) fn gone(&mut self, directory: u64, parent: u64, totals: Totals) {
        self.own_inode(Turn::Lost, directory);
        self.gone.insert(directory, Gone { parent, totals });
    }

    /// Whether a directory of that number has gone in this transaction.
    pub(super) fn is_gone(&self, directory: u64) -> bool {
        self.gone.contains_key(&directory)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.deltas.is_empty()
    }

    /// Writes everything noted to the directories and their parents, deepest first. `hour` is when, in hours since
    /// 1970, for the samples.
    pub(super) fn apply(&mut self, tx: &Transaction<'_>, hour: i64) -> rusqlite::Result<()> {
        let mut deltas = std::mem::take(&mut self.deltas);
        let gone = std::mem::take(&mut self.gone);
        for (directory, parent) in deepest_first(tx, &deltas, &gone)? {
            let Some(delta) = deltas.remove(&directory) else { continue };
            let (before, after) = match gone.get(&directory) {
                Some(gone) => (gone.totals, Totals::default()),
                None => {
                    let Some(before) = totals_of(tx, directory)? else { continue };
                    let after = delta.applied_to(before, tx, directory)?;
                    write(tx, directory, after)?;
                    write_kinds(tx, directory, &delta.kinds)?;
                    sample(tx, directory, parent, before, after, hour)?;
                    (before, after)
                }
            };
            if parent != 0 {
                deltas.entry(parent).or_default().take_from_child(&delta, before, after);
            }
        }
        Ok(())
    }
}

impl Delta {
    fn peaks(&mut self, turn: Turn) -> &mut Peaks {
        match turn {
            Turn::Gained => &mut self.gained,
            Turn::Lost => &mut self.lost,
        }
    }

    fn applied_to(&self, before: Totals, tx: &Transaction<'_>, directory: u64) -> rusqlite::Result<Totals> {
        // A peak that came and went within the batch is in both, so it is looked up like one that was there.
        let mut peaks = before.peaks;
        peaks.raise(self.gained);
        if self.lost.largest > 0 && self.lost.largest >= peaks.largest {
            peaks.largest = largest_of(tx, directory)?;
        }
        if self.lost.newest != 0 && self.lost.newest >= peaks.newest {
            peaks.newest = newest_of(tx, directory)?;
        }
        Ok(Totals { bytes: before.bytes + self.bytes, inodes: before.inodes + self.inodes, peaks })
    }

    fn take_from_child(&mut self, child: &Self, before: Totals, after: Totals) {
        self.bytes += child.bytes;
        self.inodes += child.inodes;
        for (kind, (bytes, inodes)) in &child.kinds {
            let by_kind = self.kinds.entry(*kind).or_default();
            by_kind.0 += bytes;
            by_kind.1 += inodes;
        }
        let (old, new) = (before.peaks, after.peaks);
        if new.largest >= old.largest {
            self.gained.largest = self.gained.largest.max(new.largest);
        } else {
            self.lost.largest = self.lost.largest.max(old.largest);
            self.gained.largest = self.gained.largest.max(new.largest);
        }
        if new.newest < old.newest {
            self.lost.newest = self.lost.newest.max(old.newest);
        }
        self.gained.newest = self.gained.newest.max(new.newest);
    }
}

/// Returns every touched directory and all that are above one, each with its parent, children before parents.
fn deepest_first(
    tx: &Transaction<'_>,
    deltas: &FxHashMap<u64, Delta>,
    gone: &FxHashMap<u64, Gone>,
) -> rusqlite::Result<Vec<(u64, u64)>> {
    let mut found: FxHashMap<u64, (u64, u32)> = FxHashMap::default();
    let mut statement = tx.prepare_cached("SELECT parent FROM directory WHERE ino = ?1")?;
    for start in deltas.keys() {
        let mut chain = Vec::new();
        let mut next = *start;
        let depth = loop {
            if let Some((_, depth)) = found.get(&next) {
                break *depth;
            }
            if next == 0 || chain.len() as u32 >= DEEPEST {
                break 0;
            }
            let parent = match gone.get(&next) {
                Some(gone) => Some(gone.parent),
                None => statement
                    .query_row([next.cast_signed()], |row| row.get::<_, i64>(0))
                    .optional()?
                    .map(i64::cast_unsigned),
            };
            let Some(parent) = parent else { break 0 };
            chain.push((next, parent));
            next = parent;
        };
        for (above, (directory, parent)) in (1..).zip(chain.into_iter().rev()) {
            found.insert(directory, (parent, depth + above));
        }
    }
    let mut order: Vec<(u64, u64, u32)> =
        found.into_iter().map(|(directory, (parent, depth))| (directory, parent, depth)).collect();
    order.sort_unstable_by_key(|(directory, _, depth)| (std::cmp::Reverse(*depth), *directory));
    Ok(order.into_iter().map(|(directory, parent, _)| (directory, parent)).collect())
}

/// Returns the totals of a directory as they were last written.
pub(super) fn totals_of(tx: &Transaction<'_>, directory: u64) -> rusqlite::Result<Option<Totals>> {
    tx.prepare_cached("SELECT bytes, inodes, newest, largest FROM directory WHERE ino = ?1")?
        .query_row([directory.cast_signed()], |row| {
            Ok(Totals {
                bytes: row.get(0)?,
                inodes: row.get(1)?,
                peaks: Peaks { newest: row.get(2)?, largest: row.get(3)? },
            })
        })
        .optional()
}

fn write(tx: &Transaction<'_>, directory: u64, totals: Totals) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE directory SET bytes = ?2, inodes = ?3, newest = ?4, largest = ?5 WHERE ino = ?1",
    )?
    .execute((
        directory.cast_signed(),
        totals.bytes,
        totals.inodes,
        totals.peaks.newest,
        totals.peaks.largest,
    ))?;
    Ok(())
}

fn write_kinds(
    tx: &Transaction<'_>,
    directory: u64,
    kinds: &BTreeMap<i64, (i64, i64)>,
) -> rusqlite::Result<()> {
    for (kind, (bytes, inodes)) in kinds {
        if (*bytes, *inodes) == (0, 0) {
            continue;
        }
        tx.prepare_cached(
            "INSERT INTO kind_total VALUES (?1, ?2, ?3, ?4) ON CONFLICT (directory, kind) \
             DO UPDATE SET bytes = bytes + ?3, inodes = inodes + ?4",
        )?
        .execute((directory.cast_signed(), kind, bytes, inodes))?;
        tx.prepare_cached("DELETE FROM kind_total WHERE directory = ?1 AND kind = ?2 AND inodes = 0")?
            .execute((directory.cast_signed(), kind))?;
    }
    Ok(())
}

/// Keeps what a directory held before the first change of an hour: the value at the hour's start.
fn sample(
    tx: &Transaction<'_>,
    directory: u64,
    parent: u64,
    before: Totals,
    after: Totals,
    hour: i64,
) -> rusqlite::Result<()> {
    let is_root = parent == 0;
    let is_same = before.bytes == after.bytes && before.inodes == after.inodes;
    if is_same || !is_root && before.bytes.max(after.bytes) < SAMPLED_BYTES {
        return Ok(());
    }
    tx.prepare_cached("INSERT OR IGNORE INTO sample VALUES (?1, ?2, ?3, ?4)")?.execute((
        directory.cast_signed(),
        hour,
        before.bytes,
        before.inodes,
    ))?;
    Ok(())
}

fn largest_of(tx: &Transaction<'_>, directory: u64) -> rusqlite::Result<i64> {
    tx.prepare_cached(
        "SELECT max( \
            ifnull((SELECT max(charge) FROM file WHERE parent = ?1 AND home = 1), 0), \
            ifnull((SELECT max(largest) FROM directory WHERE parent = ?1), 0))",
    )?
    .query_row([directory.cast_signed()], |row| row.get(0))
}

fn newest_of(tx: &Transaction<'_>, directory: u64) -> rusqlite::Result<i64> {
    tx.prepare_cached(
        "SELECT max( \
            ifnull((SELECT max(mtime) FROM file WHERE parent = ?1 AND home = 1), 0), \
            ifnull((SELECT max(newest) FROM directory WHERE parent = ?1), 0))",
    )?
    .query_row([directory.cast_signed()], |row| row.get(0))
}
