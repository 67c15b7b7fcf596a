//! Answers from the index: no walk, and no more rows than an answer needs.
//!
//! Searches below a directory go from the largest subtree down and open only what can still be among the first,
//! so their cost grows with the answer, not with the tree.

use std::collections::{BinaryHeap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};
use wsguard_api::{
    CacheUsage, Duplicates, EntryType, FileKind, Forecast, Growth, IndexState, KindUsage, SCHEMA_VERSION,
    UsageEntry, UsageReport,
};

use super::filler::{BEGAN, UNREADABLE, WALKED_AT};
use super::forecast::{Past, forecast};
use super::index::{fact, path_of};
use super::store::{UsageError, failed, open_for_reading};
use super::{kind, rules};

/// Directories that the search for cold entries opens at most.
const COLD_OPENED: usize = 400;

/// Entries of one directory that the search for cold entries looks at, the largest first.
const COLD_LOOKED_AT: usize = 1_000;

/// Files smaller than this are no checkpoints worth comparing, bytes.
pub(super) const COMPARED_BYTES: i64 = 1 << 20;

/// Share of a directory's growth that a child must have to be named in its place, percent.
const CHILD_SHARE: i64 = 90;

/// Files of one checkpoint are written within this many seconds.
const WRITTEN_TOGETHER_SECS: i64 = 120;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsageQuery {
    /// Entries of each list at most.
    pub(crate) top: u32,
    /// Days for growth.
    pub(crate) days: u32,
    /// Days without a change that make an entry cold.
    pub(crate) cold_days: u32,
}

/// Whose usage it is, and what only the daemon knows.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) workspace: String,
    pub(crate) name: String,
    /// The path that was asked about, as users see it.
    pub(crate) path: PathBuf,
    /// Relative to the workspace.
    pub(crate) relative: PathBuf,
    pub(crate) state: IndexState,
    /// What is left before the tightest limit, bytes, if somebody knows.
    pub(crate) available_bytes: Option<u64>,
}

/// One open index, and the directory that is asked about.
pub(super) struct Reader {
    connection: Connection,
    pub(super) root: u64,
    pub(super) top: u64,
    /// Whether a directory is `top` or below it, and where, as far as it was looked up.
    below: std::cell::RefCell<HashMap<u64, Option<PathBuf>>>,
}

/// Answers `wsguard usage`.
///
/// # Errors
/// `Missing` before the first walk, `NoDirectory` for a path that was not there.
pub(crate) fn report(
    index: &Path,
    subject: Subject,
    query: UsageQuery,
    now: Timestamp,
) -> Result<UsageReport, UsageError> {
    let mut reader = Reader::open(index, &subject.relative)?;
    // One moment for all parts of the answer.
    reader.begin().map_err(failed("begin to read"))?;
    let read = failed("read usage");
    let walked = fact(&reader.connection, WALKED_AT).map_err(&read)?;
    if walked.is_none() {
        return Err(UsageError::Missing);
    }
    let hour = now.as_second() / 3600;
    let since = reader.growth_since(hour - i64::from(query.days) * 24).map_err(&read)?;
    let (coldest, coldest_is_partial) = reader.coldest(&query, now).map_err(&read)?;
    let (entries, entries_left_out) = reader.entries(query.top).map_err(&read)?;
    let (bytes, inodes) = reader.totals(reader.top).map_err(&read)?;
    let (duplicates, duplicates_unknown) = reader.duplicates(query.top).map_err(&read)?;
    Ok(UsageReport {
        schema: SCHEMA_VERSION,
        generated_at: now.to_string(),
        workspace: subject.workspace,
        name: subject.name,
        path: subject.path,
        state: subject.state,
        walked_at: walked.and_then(time),
        unreadable: fact(&reader.connection, UNREADABLE).map_err(&read)?.map_or(0, unsigned),
        bytes,
        inodes,
        entries,
        entries_left_out,
        largest_files: reader.largest_files(query.top).map_err(&read)?,
        coldest,
        cold_days: query.cold_days,
        coldest_is_partial,
        kinds: reader.kinds().map_err(&read)?,
        growing: reader.growing(since, query.top).map_err(&read)?,
        growth_since: time(since.saturating_mul(3600)),
        caches: reader.caches().map_err(&read)?,
        duplicates,
        duplicates_unknown,
        forecast: reader.forecast(hour, subject.available_bytes).map_err(&read)?,
    })
}

/// Returns how a whole workspace grows, which directories most, and since when that is counted.
///
/// # Errors
/// `Missing` before the first walk.
pub(crate) fn growth(
    index: &Path,
    query: UsageQuery,
    available_bytes: Option<u64>,
    now: Timestamp,
) -> Result<(Forecast, Vec<Growth>, Option<String>), UsageError> {
    let mut reader = Reader::open(index, Path::new(""))?;
    let read = failed("read growth");
    reader.begin().map_err(&read)?;
    if fact(&reader.connection, WALKED_AT).map_err(&read)?.is_none() {
        return Err(UsageError::Missing);
    }
    let hour = now.as_second() / 3600;
    let since = reader.growth_since(hour - i64::from(query.days) * 24).map_err(&read)?;
    let growing = reader.growing(since, query.top).map_err(&read)?;
    let forecast = reader.forecast(hour, available_bytes).map_err(&read)?;
    Ok((forecast, growing, time(since.saturating_mul(3600))))
}

fn time(seconds: i64) -> Option<String> {
    Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Directory(u64),
    File { parent: u64, name: Vec<u8>, mtime: i64 },
}

impl Reader {
    /// Opens the index and finds the directory at `relative`.
    pub(super) fn open(index: &Path, relative: &Path) -> Result<Self, UsageError> {
        let connection = open_for_reading(index)?;
        let root: Option<i64> = connection
            .query_row("SELECT ino FROM directory WHERE parent = 0", [], |row| row.get(0))
            .optional()
            .map_err(failed("find the root"))?;
        let root = root.ok_or(UsageError::Missing)?.cast_unsigned();
        let mut top = root;
        for component in relative.components() {
            let found: Option<i64> = connection
                .prepare_cached("SELECT ino FROM directory WHERE parent = ?1 AND name = ?2")
                .and_then(|mut statement| {
                    statement
                        .query_row((top.cast_signed(), component.as_os_str().as_bytes()), |row| row.get(0))
                        .optional()
                })
                .map_err(failed("find a directory"))?;
            let found = found.ok_or_else(|| UsageError::NoDirectory { path: relative.to_path_buf() })?;
            top = found.cast_unsigned();
        }
        let below = std::cell::RefCell::new(HashMap::from([(top, Some(PathBuf::new()))]));
        Ok(Self { connection, root, top, below })
    }

    pub(super) fn begin(&mut self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN")
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Returns where a directory is, relative to the one that is asked about, or `None` if it is not below it.
    pub(super) fn relative(&self, directory: u64) -> rusqlite::Result<Option<PathBuf>> {
        let mut chain: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut next = directory;
        let base = loop {
            if let Some(known) = self.below.borrow().get(&next) {
                break known.clone();
            }
            let place: Option<(i64, Vec<u8>)> = self
                .connection
                .prepare_cached("SELECT parent, name FROM directory WHERE ino = ?1")?
                .query_row([next.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((parent, name)) = place.filter(|_| chain.len() < 100_000) else { break None };
            chain.push((next, name));
            if parent == 0 {
                break None;
            }
            next = parent.cast_unsigned();
        };
        let mut path = base;
        let mut below = self.below.borrow_mut();
        for (ino, name) in chain.into_iter().rev() {
            if let Some(path) = &mut path {
                path.push(OsString::from_vec(name));
            }
            below.insert(ino, path.clone());
        }
        Ok(path)
    }

    fn totals(&self, directory: u64) -> rusqlite::Result<(u64, u64)> {
        self.connection.query_row(
            "SELECT bytes, inodes FROM directory WHERE ino = ?1",
            [directory.cast_signed()],
            |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))),
        )
    }

    fn directory_entry(&self, directory: u64) -> rusqlite::Result<UsageEntry> {
        let (bytes, inodes, newest): (i64, i64, i64) = self
            .connection
            .prepare_cached("SELECT bytes, inodes, newest FROM directory WHERE ino = ?1")?
            .query_row([directory.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(UsageEntry {
            path: self.shown(directory, None)?,
            entry: EntryType::Directory,
            bytes: unsigned(bytes),
            inodes: unsigned(inodes),
            changed_at: if newest == 0 { None } else { time(newest) },
        })
    }

    fn file_entry(&self, parent: u64, name: &[u8], bytes: i64, mtime: i64) -> rusqlite::Result<UsageEntry> {
        Ok(UsageEntry {
            path: self.shown(parent, Some(name))?,
            entry: EntryType::File,
            bytes: unsigned(bytes),
            inodes: 1,
            changed_at: time(mtime),
        })
    }

    fn shown(&self, directory: u64, name: Option<&[u8]>) -> rusqlite::Result<String> {
        let mut path = self.relative(directory)?.unwrap_or_default();
        if let Some(name) = name {
            path.push(std::ffi::OsStr::from_bytes(name));
        }
        Ok(path.to_string_lossy().into_owned())
    }

    /// The largest entries of the directory itself, and how many others there are.
    fn entries(&self, top: u32) -> rusqlite::Result<(Vec<UsageEntry>, u64)> {
        let parent = self.top.cast_signed();
        let mut entries = Vec::new();
        let mut directories = self
            .connection
            .prepare_cached("SELECT ino FROM directory WHERE parent = ?1 ORDER BY bytes DESC LIMIT ?2")?;
        let mut rows = directories.query((parent, top))?;
        while let Some(row) = rows.next()? {
            entries.push(self.directory_entry(row.get::<_, i64>(0)?.cast_unsigned())?);
        }
        let mut files = self.connection.prepare_cached(
            "SELECT name, charge, mtime FROM file WHERE parent = ?1 AND home = 1 ORDER BY charge DESC LIMIT ?2",
        )?;
        let mut rows = files.query((parent, top))?;
        while let Some(row) = rows.next()? {
            entries.push(self.file_entry(self.top, &row.get::<_, Vec<u8>>(0)?, row.get(1)?, row.get(2)?)?);
        }
        entries.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        entries.truncate(top as usize);
        let all: i64 = self.connection.query_row(
            "SELECT (SELECT count(*) FROM directory WHERE parent = ?1) + \
                    (SELECT count(*) FROM file WHERE parent = ?1 AND home = 1)",
            [parent],
            |row| row.get(0),
        )?;
        let left_out = unsigned(all).saturating_sub(entries.len() as u64);
        Ok((entries, left_out))
    }

    /// The largest files at any depth: the subtree with the largest file is opened first.
    fn largest_files(&self, top: u32) -> rusqlite::Result<Vec<UsageEntry>> {
        let mut heap: BinaryHeap<(i64, Node)> = BinaryHeap::from([(i64::MAX, Node::Directory(self.top))]);
        let mut found = Vec::new();
        let mut directories = self.connection.prepare_cached(
            "SELECT ino, largest FROM directory WHERE parent = ?1 AND largest > 0 ORDER BY largest DESC LIMIT ?2",
        )?;
        let mut files = self.connection.prepare_cached(
            "SELECT name, charge, mtime FROM file WHERE parent = ?1 AND home = 1 AND charge > 0 \
             ORDER BY charge DESC LIMIT ?2",
        )?;
        while let Some((bytes, node)) = heap.pop() {
            if found.len() >= top as usize {
                break;
            }
            match node {
                Node::File { parent, name, mtime } => {
                    found.push(self.file_entry(parent, &name, bytes, mtime)?);
                }
                Node::Directory(directory) => {
                    let mut rows = directories.query((directory.cast_signed(), top))?;
                    while let Some(row) = rows.next()? {
                        heap.push((row.get(1)?, Node::Directory(row.get::<_, i64>(0)?.cast_unsigned())));
                    }
                    let mut rows = files.query((directory.cast_signed(), top))?;
                    while let Some(row) = rows.next()? {
                        let node = Node::File { parent: directory, name: row.get(0)?, mtime: row.get(2)? };
                        heap.push((row.get(1)?, node));
                    }
                }
            }
        }
        Ok(found)
    }

    /// The largest trees and files that nobody changed for long: the largest subtree is looked at first, and opened
    /// only if something in it is newer.
    fn coldest(&self, query: &UsageQuery, now: Timestamp) -> rusqlite::Result<(Vec<UsageEntry>, bool)> {
        let before = now.as_second() - i64::from(query.cold_days) * 86_400;
        let mut heap: BinaryHeap<(i64, Node)> = BinaryHeap::from([(i64::MAX, Node::Directory(self.top))]);
        let (mut found, mut opened, mut is_partial) = (Vec::new(), 0, false);
        let mut directories = self.connection.prepare_cached(
            "SELECT ino, bytes FROM directory WHERE parent = ?1 AND bytes > 0 ORDER BY bytes DESC LIMIT ?2",
        )?;
        let mut files = self.connection.prepare_cached(
            "SELECT name, charge, mtime FROM file WHERE parent = ?1 AND home = 1 AND charge > 0 \
             ORDER BY charge DESC LIMIT ?2",
        )?;
        while let Some((bytes, node)) = heap.pop() {
            if found.len() >= query.top as usize {
                break;
            }
            let directory = match node {
                Node::File { parent, name, mtime } => {
                    found.push(self.file_entry(parent, &name, bytes, mtime)?);
                    continue;
                }
                Node::Directory(directory) => directory,
            };
            if directory != self.top && self.newest(directory)? < before {
                found.push(self.directory_entry(directory)?);
                continue;
            }
            if opened == COLD_OPENED {
                is_partial = true;
                break;
            }
            opened += 1;
            let mut looked_at = 0;
            let mut rows = directories.query((directory.cast_signed(), COLD_LOOKED_AT as i64))?;
            while let Some(row) = rows.next()? {
                heap.push((row.get(1)?, Node::Directory(row.get::<_, i64>(0)?.cast_unsigned())));
                looked_at += 1;
            }
            is_partial |= looked_at == COLD_LOOKED_AT;
            looked_at = 0;
            let mut rows = files.query((directory.cast_signed(), COLD_LOOKED_AT as i64))?;
            while let Some(row) = rows.next()? {
                looked_at += 1;
                let mtime: i64 = row.get(2)?;
                if mtime < before {
                    heap.push((row.get(1)?, Node::File { parent: directory, name: row.get(0)?, mtime }));
                }
            }
            is_partial |= looked_at == COLD_LOOKED_AT;
        }
        Ok((found, is_partial))
    }

    fn newest(&self, directory: u64) -> rusqlite::Result<i64> {
        self.connection
            .prepare_cached("SELECT newest FROM directory WHERE ino = ?1")?
            .query_row([directory.cast_signed()], |row| row.get(0))
    }

    fn kinds(&self) -> rusqlite::Result<Vec<KindUsage>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT kind, bytes, inodes FROM kind_total WHERE directory = ?1 ORDER BY bytes DESC, kind",
        )?;
        statement
            .query_map([self.top.cast_signed()], |row| {
                Ok(KindUsage {
                    kind: kind::from_code(row.get(0)?),
                    bytes: unsigned(row.get(1)?),
                    files: unsigned(row.get(2)?),
                })
            })?
            .collect()
    }

    /// From which hour on growth can be told, not before `wanted`.
    fn growth_since(&self, wanted: i64) -> rusqlite::Result<i64> {
        Ok(fact(&self.connection, BEGAN)?.map_or(wanted, |began| began.max(wanted)))
    }

    /// Directories that grew since an hour. A sample is what a directory held when its hour began, so the first one
    /// since then tells what it held at that time.
    fn growing(&self, since: i64, top: u32) -> rusqlite::Result<Vec<Growth>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT directory, min(hour), directory.bytes - sample.bytes, directory.inodes - sample.inodes, \
                    directory.parent \
             FROM sample JOIN directory ON directory.ino = sample.directory \
             WHERE hour >= ?1 GROUP BY sample.directory",
        )?;
        let mut grown: HashMap<u64, (i64, i64, u64)> = HashMap::new();
        let mut rows = statement.query([since])?;
        while let Some(row) = rows.next()? {
            let bytes: i64 = row.get(2)?;
            if bytes > 0 {
                let parent = row.get::<_, i64>(4)?.cast_unsigned();
                grown.insert(row.get::<_, i64>(0)?.cast_unsigned(), (bytes, row.get(3)?, parent));
            }
        }
        // A directory is named by the child that nearly all of its growth is in.
        let explained: std::collections::HashSet<u64> = grown
            .values()
            .filter(|(bytes, _, parent)| {
                grown.get(parent).is_some_and(|above| {
                    i128::from(*bytes) * 100 >= i128::from(above.0) * i128::from(CHILD_SHARE)
                })
            })
            .map(|(_, _, parent)| *parent)
            .collect();
        let mut order: Vec<(u64, (i64, i64, u64))> =
            grown.into_iter().filter(|(directory, _)| !explained.contains(directory)).collect();
        order.sort_unstable_by_key(|(directory, (bytes, ..))| (std::cmp::Reverse(*bytes), *directory));
        let mut found = Vec::new();
        for (directory, (bytes, inodes, _)) in order {
            if found.len() >= top as usize {
                break;
            }
            if let Some(path) = self.relative(directory)? {
                found.push(Growth { path: path.to_string_lossy().into_owned(), bytes, inodes });
            }
        }
        Ok(found)
    }

    /// What the whole workspace held when an hour began, or when watching began.
    fn used_at(&self, hour: i64, now: i64) -> rusqlite::Result<i64> {
        self.connection
            .prepare_cached(
                "SELECT bytes FROM sample WHERE directory = ?1 AND hour >= ?2 ORDER BY hour LIMIT 1",
            )?
            .query_row((self.root.cast_signed(), hour), |row| row.get(0))
            .optional()
            // No change since then.
            .map(|bytes| bytes.unwrap_or(now))
    }

    fn forecast(&self, hour: i64, available_bytes: Option<u64>) -> rusqlite::Result<Forecast> {
        let checkpoint_bytes = self.newest_checkpoint()?.map(unsigned);
        Ok(Forecast { checkpoint_bytes, ..forecast(self.past(hour)?, available_bytes) })
    }

    /// What the newest checkpoint of the workspace takes: one file, or several that were written together.
    fn newest_checkpoint(&self) -> rusqlite::Result<Option<i64>> {
        let checkpoint = kind::code(FileKind::Checkpoint);
        let newest: Option<(i64, i64)> = self
            .connection
            .query_row(
                "SELECT parent, mtime FROM file WHERE kind = ?1 AND home = 1 ORDER BY mtime DESC LIMIT 1",
                [checkpoint],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let Some((directory, mtime)) = newest else { return Ok(None) };
        self.connection.query_row(
            "SELECT sum(charge) FROM file WHERE parent = ?1 AND kind = ?2 AND home = 1 AND mtime >= ?3",
            (directory, checkpoint, mtime.saturating_sub(WRITTEN_TOGETHER_SECS)),
            |row| row.get(0),
        )
    }

    fn past(&self, hour: i64) -> rusqlite::Result<Past> {
        let used: i64 = self.connection.query_row(
            "SELECT bytes FROM directory WHERE ino = ?1",
            [self.root.cast_signed()],
            |row| row.get(0),
        )?;
        let began = fact(&self.connection, BEGAN)?.unwrap_or(hour);
        Ok(Past {
            used,
            day_ago: self.used_at((hour - 24).max(began), used)?,
            week_ago: self.used_at((hour - 7 * 24).max(began), used)?,
            hours: hour - began,
        })
    }

    /// Directories below the one that is asked about that a rule names; none of them within another.
    pub(super) fn marked(&self) -> rusqlite::Result<Vec<(u64, PathBuf, &'static rules::Rule)>> {
        let inside = path_of(&self.connection, self.root, self.top)?.unwrap_or_default();
        let mut statement = self.connection.prepare_cached("SELECT ino FROM directory WHERE marker <> 0")?;
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let ino = row.get::<_, i64>(0)?.cast_unsigned();
            let Some(path) = self.relative(ino)? else { continue };
            if let Some(rule) = rules::of_directory(&inside.join(&path)) {
                found.push((ino, path, rule));
            }
        }
        found.sort_by(|a, b| a.1.cmp(&b.1));
        let mut outermost: Vec<(u64, PathBuf, &'static rules::Rule)> = Vec::new();
        for candidate in found {
            if outermost.last().is_none_or(|(_, above, _)| !candidate.1.starts_with(above)) {
                outermost.push(candidate);
            }
        }
        Ok(outermost)
    }

    fn caches(&self) -> rusqlite::Result<Vec<CacheUsage>> {
        let mut by_rule: HashMap<&str, (CacheUsage, u64)> = HashMap::new();
        for (ino, path, rule) in self.marked()? {
            let (bytes, inodes) = self
                .connection
                .prepare_cached("SELECT bytes, inodes FROM directory WHERE ino = ?1")?
                .query_row([ino.cast_signed()], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))))?;
            let (usage, largest) = by_rule.entry(rule.id).or_insert_with(|| {
                let usage = CacheUsage {
                    rule: rule.id.to_owned(),
                    title: rule.title.to_owned(),
                    directories: 0,
                    bytes: 0,
                    inodes: 0,
                    largest: String::new(),
                };
                (usage, 0)
            });
            usage.directories += 1;
            usage.bytes += bytes;
            usage.inodes += inodes;
            if bytes >= *largest {
                *largest = bytes;
                usage.largest = path.to_string_lossy().into_owned();
            }
        }
        let mut caches: Vec<CacheUsage> = by_rule.into_values().map(|(usage, _)| usage).collect();
        caches.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.rule.cmp(&b.rule)));
        Ok(caches)
    }

    /// Checkpoints of one size, one series of names and one fingerprint; and how many wait for their fingerprint.
    fn duplicates(&self, top: u32) -> rusqlite::Result<(Vec<Duplicates>, u64)> {
        let mut statement = self.connection.prepare_cached(
            "SELECT file.parent, file.name, file.size, file.charge, fingerprint.hash \
             FROM file LEFT JOIN fingerprint ON fingerprint.ino = file.ino \
                 AND fingerprint.size = file.size AND fingerprint.mtime = file.mtime \
             WHERE file.kind IN (1, 7, 8) AND file.kind = ?1 AND file.home = 1 AND file.size IN \
                 (SELECT size FROM file WHERE kind IN (1, 7, 8) AND kind = ?1 AND size >= ?2 AND home = 1 \
                  GROUP BY size HAVING count(*) > 1) \
             ORDER BY file.size, file.mtime, file.name",
        )?;
        let mut rows = statement.query((kind::code(FileKind::Checkpoint), COMPARED_BYTES))?;
        let mut unknown = 0;
        let mut groups: HashMap<(i64, String, i64), (i64, Vec<String>)> = HashMap::new();
        while let Some(row) = rows.next()? {
            let Some(directory) = self.relative(row.get::<_, i64>(0)?.cast_unsigned())? else { continue };
            let name: Vec<u8> = row.get(1)?;
            let Some(hash) = row.get::<_, Option<i64>>(4)? else {
                unknown += 1;
                continue;
            };
            let pattern = kind::pattern(&String::from_utf8_lossy(&name));
            let (charge, paths) = groups.entry((row.get(2)?, pattern, hash)).or_default();
            *charge = row.get(3)?;
            let path = directory.join(std::ffi::OsStr::from_bytes(&name));
            paths.push(path.to_string_lossy().into_owned());
        }
        let mut found: Vec<Duplicates> = groups
            .into_iter()
            .filter(|(_, (_, paths))| paths.len() > 1)
            .map(|((size, ..), (charge, paths))| Duplicates {
                size: unsigned(size),
                reclaimable_bytes: unsigned(charge).saturating_mul(paths.len() as u64 - 1),
                paths,
            })
            .collect();
        found.sort_by(|a, b| {
            b.reclaimable_bytes.cmp(&a.reclaimable_bytes).then_with(|| a.paths.cmp(&b.paths))
        });
        found.truncate(top as usize);
        Ok((found, unknown))
    }
}
