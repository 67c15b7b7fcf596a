//! The index as its one writer sees it: names come, change, move and go, and the totals follow.
//!
//! Every operation says what is true of one name now; none depends on the ones before it, so a name can be told
//! of twice or in another order. [`Batch::commit`] makes a batch visible as a whole.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use rustc_hash::FxHashSet;
use wsguard_api::FileKind;

use super::store::{UsageError, failed};
use super::totals::{Pending, Totals, Turn, totals_of};
use super::{kind, rules, store};

/// Directories above each other at most; more is a loop.
const DEEPEST: usize = 100_000;

/// Samples of each hour are kept for so long, hours.
const HOURLY_HOURS: i64 = 48;

/// Samples of each day are kept for so long, hours.
const DAILY_HOURS: i64 = 92 * 24;

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) ino: u64,
    pub(crate) what: What,
    /// Bytes.
    pub(crate) size: u64,
    /// What the quota counts for it, bytes.
    pub(crate) charge: u64,
    /// Last change of the contents, seconds since 1970.
    pub(crate) mtime: i64,
}

/// The sorts of inodes that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    File,
    /// Symbolic links, sockets, FIFOs, devices: they count as inodes only.
    Special,
}

/// What became of a directory's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// It was there before.
    Known,
    /// It was elsewhere, and everything below came along.
    Moved,
    /// Nobody knew it; what is in it is not in the index yet.
    New,
    /// It cannot be where it was found: directories moved while they were looked at.
    Impossible,
}

/// The index, open for writing.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    connection: Connection,
    root: u64,
}

/// One name of a file.
#[derive(Clone, Debug)]
struct FileRow {
    id: i64,
    parent: u64,
    name: OsString,
    ino: u64,
    kind: i64,
    size: i64,
    charge: i64,
    mtime: i64,
    is_home: bool,
}

impl Index {
    /// Opens the index at `path` for the workspace whose directory has the number `root`. An index of another
    /// directory is emptied.
    pub(crate) fn open(path: &Path, root: u64) -> Result<Self, UsageError> {
        let mut connection = store::open(path)?;
        let known: Option<i64> = connection
            .query_row("SELECT ino FROM directory WHERE parent = 0", [], |row| row.get(0))
            .optional()
            .map_err(failed("find the root"))?;
        if known != Some(root.cast_signed()) {
            start_over(&mut connection, root).map_err(failed("start over"))?;
        }
        Ok(Self { path: path.to_path_buf(), connection, root })
    }

    /// Begins with an empty file if `error` says that this one is damaged; returns whether it did.
    pub(super) fn replace_if_damaged(&mut self, error: &UsageError) -> Result<bool, UsageError> {
        let UsageError::Database { source, .. } = error else { return Ok(false) };
        if !store::is_damaged(source) {
            return Ok(false);
        }
        // Closed before the file goes: closing removes files by their name.
        self.connection = Connection::open_in_memory().map_err(failed("close the file"))?;
        store::remove(&self.path)?;
        *self = Self::open(&self.path, self.root)?;
        Ok(true)
    }

    /// Returns the number of the workspace's directory.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    /// Returns a number that was noted under a name.
    pub(super) fn fact(&self, name: &str) -> Result<Option<i64>, UsageError> {
        fact(&self.connection, name).map_err(failed("read a note"))
    }

    /// Starts a batch; without [`Batch::commit`] nothing of it happens.
    pub(super) fn batch(&mut self, hour: i64) -> Result<Batch<'_>, UsageError> {
        let root = self.root;
        let tx = self.connection.transaction().map_err(failed("begin"))?;
        Ok(Batch { tx, root, hour, pending: Pending::default() })
    }

    /// Thins out samples: every hour of the last two days, one a day for a quarter, none older.
    pub(super) fn prune(&mut self, hour: i64) -> Result<(), UsageError> {
        let days_from = hour - HOURLY_HOURS;
        let mut delete = || {
            let tx = self.connection.transaction()?;
            tx.execute("DELETE FROM sample WHERE hour < ?1", [hour - DAILY_HOURS])?;
            tx.execute(
                "DELETE FROM sample WHERE hour < ?1 AND EXISTS \
                 (SELECT 1 FROM sample AS first WHERE first.directory = sample.directory \
                  AND first.hour >= sample.hour / 24 * 24 AND first.hour < sample.hour)",
                [days_from],
            )?;
            tx.commit()
        };
        delete().map_err(failed("thin out samples"))
    }

    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// Reads a noted number.
pub(super) fn fact(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection.query_row("SELECT value FROM fact WHERE name = ?1", [name], |row| row.get(0)).optional()
}

fn start_over(connection: &mut Connection, root: u64) -> rusqlite::Result<()> {
    let tx = connection.transaction()?;
    tx.execute_batch(
        "DELETE FROM directory; DELETE FROM file; DELETE FROM kind_total; DELETE FROM sample; \
         DELETE FROM fingerprint; DELETE FROM walked; DELETE FROM fact;",
    )?;
    tx.execute("INSERT INTO directory VALUES (?1, 0, x'', 0, 0, 1, 0, 0)", [root.cast_signed()])?;
    tx.commit()
}

/// Changes that become visible together.
pub(super) struct Batch<'a> {
    tx: Transaction<'a>,
    root: u64,
    hour: i64,
    pending: Pending,
}

impl Batch<'_> {
    /// Makes everything visible.
    pub(super) fn commit(mut self) -> Result<(), UsageError> {
        self.apply()?;
        self.tx.commit().map_err(failed("commit"))
    }

    fn apply(&mut self) -> Result<(), UsageError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.pending.apply(&self.tx, self.hour).map_err(failed("add up directories"))
    }

    /// Returns where a directory is, relative to the root, or `None` if it is not known.
    pub(super) fn path_of(&self, directory: u64) -> Result<Option<PathBuf>, UsageError> {
        path_of(&self.tx, self.root, directory).map_err(failed("find a directory"))
    }

    /// Returns parent and name of a directory other than the root.
    pub(super) fn place_of(&self, directory: u64) -> Result<Option<(u64, OsString)>, UsageError> {
        self.tx
            .prepare_cached("SELECT parent, name FROM directory WHERE ino = ?1 AND parent <> 0")
            .and_then(|mut statement| statement.query_row([directory.cast_signed()], place).optional())
            .map_err(failed("find a directory"))
    }

    /// Returns every name of an inode.
    pub(super) fn names_of(&self, ino: u64) -> Result<Vec<(u64, OsString)>, UsageError> {
        let read = || -> rusqlite::Result<Vec<_>> {
            let mut statement = self.tx.prepare_cached("SELECT parent, name FROM file WHERE ino = ?1")?;
            statement.query_map([ino.cast_signed()], place)?.collect()
        };
        let mut names = read().map_err(failed("find an inode"))?;
        names.extend(self.place_of(ino)?);
        Ok(names)
    }

    /// Says what a name leads to.
    pub(super) fn put(&mut self, parent: u64, name: &OsStr, found: &Found) -> Result<Placed, UsageError> {
        match found.what {
            What::Directory => self.put_directory(parent, name, found.ino),
            What::File | What::Special => {
                self.put_file(parent, name, found)?;
                Ok(Placed::Known)
            }
        }
    }

    fn put_file(&mut self, parent: u64, name: &OsStr, found: &Found) -> Result<(), UsageError> {
        if let Some(directory) = self.directory_at(parent, name)? {
            self.remove_tree(directory)?;
        }
        // The number was a directory's before it was freed and used again.
        self.remove_tree(found.ino)?;
        let write = failed("keep a file");
        if let Some(former) = self.file_at(parent, name)?
            && former.ino != found.ino
        {
            self.remove_file(former.id)?;
        }
        self.tx
            .prepare_cached(
                "INSERT INTO file (parent, name, ino, kind, size, charge, mtime, home) \
                 VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0) ON CONFLICT (parent, name) DO NOTHING",
            )
            .and_then(|mut statement| {
                statement.execute((parent.cast_signed(), name.as_bytes(), found.ino.cast_signed()))
            })
            .map_err(write)?;
        self.settle(found.ino, Some(found))
    }

    /// Makes the rows of an inode say the same, with its first name as its home. `found` is what is known of it;
    /// without, the rows know.
    fn settle(&mut self, ino: u64, found: Option<&Found>) -> Result<(), UsageError> {
        let rows = self.files_of(ino)?;
        for (place, row) in rows.iter().enumerate() {
            let mut wanted = row.clone();
            wanted.is_home = place == 0;
            if let Some(found) = found {
                wanted.kind = kind::code(match found.what {
                    What::File => kind::of_name(&row.name),
                    What::Special | What::Directory => FileKind::Other,
                });
                wanted.size = clamped(found.size);
                wanted.charge = if found.what == What::File { clamped(found.charge) } else { 0 };
                wanted.mtime = found.mtime;
            }
            let is_same = (wanted.is_home, wanted.kind, wanted.size, wanted.charge, wanted.mtime)
                == (row.is_home, row.kind, row.size, row.charge, row.mtime);
            if is_same {
                continue;
            }
            self.weigh(Turn::Lost, row);
            self.weigh(Turn::Gained, &wanted);
            self.tx
                .prepare_cached(
                    "UPDATE file SET kind = ?2, size = ?3, charge = ?4, mtime = ?5, home = ?6 WHERE id = ?1",
                )
                .and_then(|mut statement| {
                    statement.execute((
                        wanted.id,
                        wanted.kind,
                        wanted.size,
                        wanted.charge,
                        wanted.mtime,
                        wanted.is_home,
                    ))
                })
                .map_err(failed("keep a file"))?;
        }
        Ok(())
    }

    fn weigh(&mut self, turn: Turn, row: &FileRow) {
        if row.is_home {
            self.pending.file(turn, row.parent, row.kind, row.charge, row.mtime);
        }
    }

    fn put_directory(&mut self, parent: u64, name: &OsStr, ino: u64) -> Result<Placed, UsageError> {
        let place = self.place_of(ino)?;
        if let Some((known_parent, known_name)) = &place
            && *known_parent == parent
            && known_name == name
        {
            return Ok(Placed::Known);
        }
        if ino == self.root || self.is_below(parent, ino)? {
            return Ok(Placed::Impossible);
        }
        if let Some(former) = self.directory_at(parent, name)? {
            self.remove_tree(former)?;
        }
        if let Some(former) = self.file_at(parent, name)? {
            self.remove_file(former.id)?;
        }
        for row in self.files_of(ino)? {
            self.remove_file(row.id)?;
        }
        match self.place_of(ino)? {
            Some((former, _)) => self.move_directory(ino, former, parent, name),
            None => self.new_directory(ino, parent, name),
        }
    }

    fn new_directory(&mut self, ino: u64, parent: u64, name: &OsStr) -> Result<Placed, UsageError> {
        if self.pending.is_gone(ino) {
            // The same number was another directory a moment ago, and its parents have not been told.
            self.apply()?;
        }
        self.tx
            .prepare_cached("INSERT INTO directory VALUES (?1, ?2, ?3, ?4, 0, 0, 0, 0)")
            .and_then(|mut statement| {
                statement.execute((
                    ino.cast_signed(),
                    parent.cast_signed(),
                    name.as_bytes(),
                    rules::marker(name),
                ))
            })
            .map_err(failed("keep a directory"))?;
        self.pending.own_inode(Turn::Gained, ino);
        Ok(Placed::New)
    }

    fn move_directory(
        &mut self,
        ino: u64,
        from: u64,
        parent: u64,
        name: &OsStr,
    ) -> Result<Placed, UsageError> {
        // What is noted of the tree must reach the parents that it had then.
        self.apply()?;
        let moved = failed("move a directory");
        let totals = totals_of(&self.tx, ino).map_err(&moved)?.unwrap_or_default();
        let kinds = self.kinds_of(ino).map_err(&moved)?;
        self.tx
            .prepare_cached("UPDATE directory SET parent = ?2, name = ?3, marker = ?4 WHERE ino = ?1")
            .and_then(|mut statement| {
                statement.execute((
                    ino.cast_signed(),
                    parent.cast_signed(),
                    name.as_bytes(),
                    rules::marker(name),
                ))
            })
            .map_err(&moved)?;
        self.pending.tree(Turn::Lost, from, totals, &kinds);
        self.pending.tree(Turn::Gained, parent, totals, &kinds);
        Ok(Placed::Moved)
    }

    fn kinds_of(&self, directory: u64) -> rusqlite::Result<Vec<(i64, i64, i64)>> {
        let mut statement =
            self.tx.prepare_cached("SELECT kind, bytes, inodes FROM kind_total WHERE directory = ?1")?;
        statement
            .query_map([directory.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect()
    }

    /// Says that a name leads nowhere. With a directory goes everything below it.
    pub(super) fn remove(&mut self, parent: u64, name: &OsStr) -> Result<(), UsageError> {
        if let Some(directory) = self.directory_at(parent, name)? {
            self.remove_tree(directory)?;
        }
        match self.file_at(parent, name)? {
            Some(row) => self.remove_file(row.id),
            None => Ok(()),
        }
    }

    fn remove_file(&mut self, id: i64) -> Result<(), UsageError> {
        // Read again: the removal of another name of the inode may have made this one its home.
        let Some(row) = self.files("id = ?1", id.cast_unsigned())?.pop() else { return Ok(()) };
        self.weigh(Turn::Lost, &row);
        self.tx
            .prepare_cached("DELETE FROM file WHERE id = ?1")
            .and_then(|mut statement| statement.execute([id]))
            .map_err(failed("remove a file"))?;
        if row.is_home { self.settle(row.ino, None) } else { Ok(()) }
    }

    /// Removes a directory and everything below it; nothing if there is none of that number.
    fn remove_tree(&mut self, top: u64) -> Result<(), UsageError> {
        if top == self.root || self.place_of(top)?.is_none() {
            return Ok(());
        }
        let mut ahead = vec![top];
        let mut seen = FxHashSet::default();
        while let Some(directory) = ahead.pop() {
            if !seen.insert(directory) {
                continue;
            }
            for row in self.files_in(directory)? {
                self.remove_file(row.id)?;
            }
            ahead.extend(self.directories_in(directory)?);
            self.remove_directory_row(directory)?;
        }
        Ok(())
    }

    fn remove_directory_row(&mut self, directory: u64) -> Result<(), UsageError> {
        let removed = failed("remove a directory");
        let Some((parent, _)) = self.place_of(directory)? else { return Ok(()) };
        let totals: Totals = totals_of(&self.tx, directory).map_err(&removed)?.unwrap_or_default();
        for table in ["directory WHERE ino", "kind_total WHERE directory", "sample WHERE directory"] {
            self.tx
                .prepare_cached(&format!("DELETE FROM {table} = ?1"))
                .and_then(|mut statement| statement.execute([directory.cast_signed()]))
                .map_err(&removed)?;
        }
        self.pending.gone(directory, parent, totals);
        Ok(())
    }

    /// Whether `directory` is `top` or below it.
    fn is_below(&self, directory: u64, top: u64) -> Result<bool, UsageError> {
        let mut next = directory;
        for _ in 0..DEEPEST {
            if next == top {
                return Ok(true);
            }
            match self.place_of(next)? {
                Some((parent, _)) => next = parent,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn directory_at(&self, parent: u64, name: &OsStr) -> Result<Option<u64>, UsageError> {
        self.tx
            .prepare_cached("SELECT ino FROM directory WHERE parent = ?1 AND name = ?2")
            .and_then(|mut statement| {
                statement
                    .query_row((parent.cast_signed(), name.as_bytes()), |row| row.get::<_, i64>(0))
                    .optional()
            })
            .map(|ino| ino.map(i64::cast_unsigned))
            .map_err(failed("find a name"))
    }

    fn file_at(&self, parent: u64, name: &OsStr) -> Result<Option<FileRow>, UsageError> {
        self.tx
            .prepare_cached(&format!("{FILE} WHERE parent = ?1 AND name = ?2"))
            .and_then(|mut statement| {
                statement.query_row((parent.cast_signed(), name.as_bytes()), file_row).optional()
            })
            .map_err(failed("find a name"))
    }

    fn files_of(&self, ino: u64) -> Result<Vec<FileRow>, UsageError> {
        self.files("ino = ?1 ORDER BY parent, name", ino)
    }

    fn files_in(&self, directory: u64) -> Result<Vec<FileRow>, UsageError> {
        self.files("parent = ?1", directory)
    }

    fn files(&self, condition: &str, value: u64) -> Result<Vec<FileRow>, UsageError> {
        let read = || -> rusqlite::Result<Vec<FileRow>> {
            let mut statement = self.tx.prepare_cached(&format!("{FILE} WHERE {condition}"))?;
            statement.query_map([value.cast_signed()], file_row)?.collect()
        };
        read().map_err(failed("find files"))
    }

    fn directories_in(&self, directory: u64) -> Result<Vec<u64>, UsageError> {
        let read = || -> rusqlite::Result<Vec<u64>> {
            let mut statement = self.tx.prepare_cached("SELECT ino FROM directory WHERE parent = ?1")?;
            statement
                .query_map([directory.cast_signed()], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))?
                .collect()
        };
        read().map_err(failed("find directories"))
    }
}

const FILE: &str = "SELECT id, parent, name, ino, kind, size, charge, mtime, home FROM file";

fn file_row(row: &Row<'_>) -> rusqlite::Result<FileRow> {
    Ok(FileRow {
        id: row.get(0)?,
        parent: row.get::<_, i64>(1)?.cast_unsigned(),
        name: OsString::from_vec(row.get(2)?),
        ino: row.get::<_, i64>(3)?.cast_unsigned(),
        kind: row.get(4)?,
        size: row.get(5)?,
        charge: row.get(6)?,
        mtime: row.get(7)?,
        is_home: row.get(8)?,
    })
}

fn place(row: &Row<'_>) -> rusqlite::Result<(u64, OsString)> {
    Ok((row.get::<_, i64>(0)?.cast_unsigned(), OsString::from_vec(row.get(1)?)))
}

/// Sizes above 8 EiB do not exist on a filesystem of Linux.
pub(super) fn clamped(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// Returns where a directory is, relative to the root.
pub(super) fn path_of(
    connection: &Connection,
    root: u64,
    directory: u64,
) -> rusqlite::Result<Option<PathBuf>> {
    let mut names = Vec::new();
    let mut next = directory;
    let mut statement = connection.prepare_cached("SELECT parent, name FROM directory WHERE ino = ?1")?;
    while next != root {
        let Some((parent, name)) = statement.query_row([next.cast_signed()], place).optional()? else {
            return Ok(None);
        };
        names.push(name);
        if names.len() > DEEPEST {
            return Ok(None);
        }
        next = parent;
    }
    Ok(Some(names.iter().rev().collect()))
}
