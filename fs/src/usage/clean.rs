//! What `wsguard clean` could remove, from the index. Nothing is removed here.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use wsguard_api::{CleanItem, CleanPlan, EntryType, FileKind, IndexState, SCHEMA_VERSION};

use super::query::Reader;
use super::rules::{self, RULES, Rule};
use super::store::{UsageError, failed};
use super::{index::fact, kind};

/// Whose plan it is.
#[derive(Clone, Debug)]
pub(crate) struct CleanSubject {
    pub(crate) workspace: String,
    pub(crate) name: String,
    /// Where users see the workspace.
    pub(crate) root: PathBuf,
    /// The directory to clean, relative to the workspace.
    pub(crate) relative: PathBuf,
    pub(crate) state: IndexState,
}

struct Finder<'a> {
    reader: Reader,
    relative: &'a Path,
    now: i64,
    items: Vec<(usize, CleanItem)>,
    unnamable: u64,
    in_use: u64,
}

/// Answers `wsguard clean`. `is_written` tells of an inode whether somebody has it open for writing.
///
/// # Errors
/// `Missing` before the first walk, `NoDirectory` for a path that was not there.
pub(crate) fn plan(
    index: &Path,
    subject: CleanSubject,
    is_written: &dyn Fn(u64) -> bool,
    now: Timestamp,
) -> Result<CleanPlan, UsageError> {
    let mut reader = Reader::open(index, &subject.relative)?;
    let read = failed("look for what can be cleaned up");
    reader.begin().map_err(&read)?;
    if fact(reader.connection(), super::filler::WALKED_AT).map_err(&read)?.is_none() {
        return Err(UsageError::Missing);
    }
    let mut finder = Finder {
        reader,
        relative: &subject.relative,
        now: now.as_second(),
        items: Vec::new(),
        unnamable: 0,
        in_use: 0,
    };
    finder.find(is_written).map_err(&read)?;
    let Finder { mut items, unnamable, in_use, .. } = finder;
    items.sort_by(|(a_rule, a), (b_rule, b)| {
        a_rule.cmp(b_rule).then_with(|| b.bytes.cmp(&a.bytes)).then_with(|| a.path.cmp(&b.path))
    });
    let used: Vec<usize> = items.iter().map(|(rule, _)| *rule).collect();
    let rules = RULES.iter().enumerate().filter(|(place, _)| used.contains(place));
    Ok(CleanPlan {
        schema: SCHEMA_VERSION,
        generated_at: now.to_string(),
        workspace: subject.workspace,
        name: subject.name,
        root: subject.root,
        state: subject.state,
        rules: rules.map(|(_, rule)| rule.wire()).collect(),
        items: items.into_iter().map(|(_, item)| item).collect(),
        unnamable,
        in_use,
    })
}

impl Finder<'_> {
    fn find(&mut self, is_written: &dyn Fn(u64) -> bool) -> rusqlite::Result<()> {
        let marked = self.reader.marked()?;
        for (ino, path, rule) in &marked {
            let (bytes, inodes, newest): (i64, i64, i64) = self
                .reader
                .connection()
                .prepare_cached("SELECT bytes, inodes, newest FROM directory WHERE ino = ?1")?
                .query_row([ino.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            if !self.is_idle(rule, newest) || self.is_top(path) {
                continue;
            }
            self.add(rule, path, |path| CleanItem {
                path,
                entry: EntryType::Directory,
                ino: *ino,
                mtime: 0,
                size: 0,
                bytes: u64::try_from(bytes).unwrap_or(0),
                inodes: u64::try_from(inodes).unwrap_or(0),
                rule: rule.id.to_owned(),
            });
        }
        let caches: std::collections::HashSet<PathBuf> =
            marked.into_iter().map(|(_, path, _)| path).collect();
        for kind in [FileKind::Log, FileKind::Temporary] {
            self.find_files(kind, &caches, is_written)?;
        }
        Ok(())
    }

    fn find_files(
        &mut self,
        wanted: FileKind,
        caches: &std::collections::HashSet<PathBuf>,
        is_written: &dyn Fn(u64) -> bool,
    ) -> rusqlite::Result<()> {
        let rows: Vec<(i64, Vec<u8>, i64, i64, i64, i64)> = self
            .reader
            .connection()
            .prepare_cached(
                "SELECT parent, name, ino, size, charge, mtime FROM file \
                 WHERE kind IN (1, 7, 8) AND kind = ?1 AND home = 1",
            )?
            .query_map([kind::code(wanted)], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (parent, name, ino, size, charge, mtime) in rows {
            let name = OsString::from_vec(name);
            let Some(rule) = rules::of_file(wanted, &name) else { continue };
            if !self.is_idle(rule, mtime) {
                continue;
            }
            let Some(directory) = self.reader.relative(parent.cast_unsigned())? else { continue };
            if directory.ancestors().any(|above| caches.contains(above)) {
                continue;
            }
            if is_written(ino.cast_unsigned()) {
                self.in_use += 1;
                continue;
            }
            self.add(rule, &directory.join(&name), |path| CleanItem {
                path,
                entry: EntryType::File,
                ino: ino.cast_unsigned(),
                mtime,
                size: u64::try_from(size).unwrap_or(0),
                bytes: u64::try_from(charge).unwrap_or(0),
                inodes: 1,
                rule: rule.id.to_owned(),
            });
        }
        Ok(())
    }

    fn is_idle(&self, rule: &Rule, newest: i64) -> bool {
        newest <= self.now - rule.idle_hours * 3600
    }

    /// The directory that was asked about is not removed itself.
    fn is_top(&self, path: &Path) -> bool {
        path.as_os_str().is_empty()
    }

    fn add(&mut self, rule: &Rule, path: &Path, item: impl FnOnce(String) -> CleanItem) {
        let whole = self.relative.join(path);
        match (whole.to_str(), RULES.iter().position(|known| known.id == rule.id)) {
            (Some(path), Some(place)) => self.items.push((place, item(path.to_owned()))),
            _ => self.unnamable += 1,
        }
    }
}
