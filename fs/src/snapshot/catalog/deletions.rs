//! What was deleted, when and by whom.

use std::collections::HashMap;

use rusqlite::params;
use rustc_hash::FxBuildHasher;

use super::columns::{self, EVENT, Event};
use super::{CatalogError, Past, Then};
use crate::snapshot::record::{Cause, Named};
use crate::snapshot::sequence::Sequence;
use crate::sys::handle::FileHandle;

/// Deletions of one process that are further apart are not one burst.
const BURST_GAP_NS: u64 = 2_000_000_000;

/// A name that lost what it stood for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Deletion {
    /// The directory.
    pub(crate) parent: FileHandle,
    /// The name.
    pub(crate) name: Vec<u8>,
    /// What it stood for.
    pub(crate) before: Named,
    /// When, and who did it: it was removed, or something else was renamed over it.
    pub(crate) event: Event,
    /// The size of the inode then, if it was noted.
    pub(crate) size: Option<u64>,
    /// What the name stood for afterwards. If that is as now, and now it is what it was, the deletion failed or was
    /// undone.
    pub(crate) after: Then<Option<Named>>,
}

/// Deletions and overwrites of one process at one time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Burst {
    /// The first of them. How things were before the burst is at [`Sequence::before`] of its moment.
    pub(crate) first: Event,
    /// The last of them.
    pub(crate) last: Event,
    /// Names of files that were removed.
    pub(crate) unlinked: u64,
    /// Directories that were removed.
    pub(crate) directories: u64,
    /// Names over which something was renamed.
    pub(crate) replaced: u64,
    /// Files that were cut off.
    pub(crate) truncated: u64,
    /// What the store keeps of it takes so much at most.
    pub(crate) bytes: u64,
}

/// Only what had a path, or lay below it.
pub(crate) struct Below<'a> {
    /// The directories that had the path at one time or another.
    pub(crate) directories: Vec<FileHandle>,
    /// The entry of that name, in directories in which it had the path.
    pub(crate) entry: Option<(Vec<FileHandle>, Vec<u8>)>,
    /// Returns where a directory is now: the directory that contains it; `None` for the root or one that is gone.
    pub(crate) live_parent: &'a mut dyn FnMut(&FileHandle) -> Option<FileHandle>,
}

impl Below<'_> {
    fn is_of(&mut self, past: &Past, deletion: &Deletion) -> Result<bool, CatalogError> {
        let is_entry = self
            .entry
            .as_ref()
            .is_some_and(|(parents, name)| *name == deletion.name && parents.contains(&deletion.parent));
        Ok(is_entry || self.contains(past, &deletion.parent, deletion.event.at.before())?)
    }

    /// Returns whether `inode` lay below one of the directories at a moment, or was it.
    pub(super) fn contains(
        &mut self,
        past: &Past,
        inode: &FileHandle,
        moment: Sequence,
    ) -> Result<bool, CatalogError> {
        if self.directories.is_empty() {
            return Ok(false);
        }
        let trail = past.trail_at(inode, moment)?;
        if trail.names.iter().any(|(_, inode)| self.directories.contains(inode)) {
            return Ok(true);
        }
        // As deep as it was, it is no deeper now; a loop can only come from directories moving meanwhile.
        let mut place = Some(trail.top);
        for _ in 0..super::as_of::DEEPEST {
            match place {
                Some(directory) if self.directories.contains(&directory) => return Ok(true),
                // An ancestor that has moved since then was elsewhere, which the next step of the trail says.
                Some(directory) => place = self.parent_at(past, &directory, moment)?,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    fn parent_at(
        &mut self,
        past: &Past,
        directory: &FileHandle,
        moment: Sequence,
    ) -> Result<Option<FileHandle>, CatalogError> {
        match past.former_names(directory, moment)?.into_iter().next() {
            Some((parent, _)) => Ok(Some(parent)),
            None => Ok((self.live_parent)(directory)),
        }
    }
}

impl Past {
    /// Returns what was deleted after `since` and is wanted, latest first, at most `limit`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn deleted(
        &self,
        since: Sequence,
        mut below: Option<Below<'_>>,
        limit: usize,
        mut is_wanted: impl FnMut(&Self, &Deletion) -> Result<bool, CatalogError>,
    ) -> Result<Vec<Deletion>, CatalogError> {
        self.consistent(|| {
            let mut found = Vec::new();
            let mut end = i64::MAX;
            while found.len() < limit {
                let page = self.deletions_before(since, end)?;
                let Some(oldest) = page.last() else { break };
                end = oldest.event.at.to_i64();
                for mut deletion in page {
                    if let Some(below) = &mut below
                        && !below.is_of(self, &deletion)?
                    {
                        continue;
                    }
                    if !is_wanted(self, &deletion)? {
                        continue;
                    }
                    if found.len() == limit {
                        break;
                    }
                    deletion.after = self.name_at(&deletion.parent, &deletion.name, deletion.event.at)?;
                    found.push(deletion);
                }
            }
            Ok(found)
        })
    }

    /// Returns all deletions of the latest moments in `(since, end)`, some thousand; never half a moment's.
    fn deletions_before(&self, since: Sequence, end: i64) -> Result<Vec<Deletion>, CatalogError> {
        let sql = format!(
            "SELECT {EVENT}, name.parent, name.name, name.before, name.file_type, attributes.size
             FROM name
             JOIN entry ON entry.at = name.at
             LEFT JOIN attributes ON attributes.inode = name.before AND attributes.at = name.at
             WHERE name.is_lost = 1 AND name.before IS NOT NULL AND name.at < ?2 AND name.at >= ifnull(
                 (SELECT at FROM name WHERE is_lost = 1 AND at > ?1 AND at < ?2 ORDER BY at DESC LIMIT 1 OFFSET 1000),
                 ?1 + 1)
             ORDER BY name.at DESC, name.parent, name.name"
        );
        self.rows("read deletions", &sql, params![since, end], |row| {
            Ok(Deletion {
                event: columns::event(row, 0)?,
                parent: row.get(5)?,
                name: row.get(6)?,
                before: Named { inode: row.get(7)?, file_type: row.get(8)? },
                size: row.get::<_, Option<i64>>(9)?.map(i64::cast_unsigned),
                after: Then::AsNow,
            })
        })
    }

    /// Returns when a name last lost what it stood for, and what that was.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn last_deletion(
        &self,
        parent: &FileHandle,
        name: &[u8],
    ) -> Result<Option<(Event, Named)>, CatalogError> {
        self.last_event_of(parent, name, "AND is_lost = 1")
    }

    /// Returns the moment just before a name last lost what it stood for.
    ///
    /// # Errors
    /// If the file cannot be read.
    #[cfg_attr(not(test), expect(dead_code, reason = "a question that no command asks yet"))]
    pub(crate) fn moment_before_delete(
        &self,
        parent: &FileHandle,
        name: &[u8],
    ) -> Result<Option<Sequence>, CatalogError> {
        Ok(self.last_deletion(parent, name)?.map(|(event, _)| event.at.before()))
    }

    /// Returns what a name last stood for before it was deleted or moved away, and when that ended: the way into a
    /// directory that is gone.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn last_stood_for(
        &self,
        parent: &FileHandle,
        name: &[u8],
    ) -> Result<Option<(Event, Named)>, CatalogError> {
        self.last_event_of(parent, name, "")
    }

    /// Returns the directories that a name has stood for and does not any more.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn former_directories(
        &self,
        parent: &FileHandle,
        name: &[u8],
    ) -> Result<Vec<FileHandle>, CatalogError> {
        let sql = "SELECT DISTINCT before FROM name
                   WHERE parent = ?1 AND name = ?2 AND before IS NOT NULL AND file_type = ?3 ORDER BY at DESC";
        self.rows("read former directories", sql, params![parent, name, libc::S_IFDIR], |row| row.get(0))
    }

    fn last_event_of(
        &self,
        parent: &FileHandle,
        name: &[u8],
        condition: &str,
    ) -> Result<Option<(Event, Named)>, CatalogError> {
        let sql = format!(
            "SELECT {EVENT}, name.before, name.file_type FROM name JOIN entry ON entry.at = name.at
             WHERE name.parent = ?1 AND name.name = ?2 AND name.before IS NOT NULL {condition}
             ORDER BY name.at DESC LIMIT 1"
        );
        self.row("read what a name stood for", &sql, params![parent, name], |row| {
            let before = Named { inode: row.get(5)?, file_type: row.get(6)? };
            Ok((columns::event(row, 0)?, before))
        })
    }

    /// Returns the bursts of deletions and overwrites after `since`, latest first. What one process did is one burst as
    /// long as it never paused for more than two seconds.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn bursts(&self, since: Sequence) -> Result<Vec<Burst>, CatalogError> {
        let sql = format!("SELECT {EVENT}, lost, bytes FROM entry WHERE lost > 0 AND at > ?1 ORDER BY at");
        let mut finished = Vec::new();
        let mut running = HashMap::<(u32, u32), Burst, FxBuildHasher>::default();
        let read = || {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let mut rows = statement.query([since])?;
            while let Some(row) = rows.next()? {
                let event = columns::event(row, 0)?;
                let (lost, bytes) = (columns::unsigned(row, 5)?, columns::unsigned(row, 6)?);
                let key = (event.actor.uid, event.actor.pid);
                let burst = running.entry(key).or_insert_with(|| Burst::new(event));
                // Entries of one epoch are in order of their moments, which may differ a little from the clock's.
                if burst.last.time_ns.abs_diff(event.time_ns) > BURST_GAP_NS {
                    finished.push(std::mem::replace(burst, Burst::new(event)));
                }
                burst.add(event, lost, bytes);
            }
            finished.extend(running.into_values());
            Ok(finished)
        };
        let mut bursts: Vec<Burst> = read().map_err(self.failed("read bursts of deletions"))?;
        bursts.sort_unstable_by_key(|burst| std::cmp::Reverse((burst.last.at, burst.first.at)));
        Ok(bursts)
    }
}

impl Burst {
    fn new(first: Event) -> Self {
        Self { first, last: first, unlinked: 0, directories: 0, replaced: 0, truncated: 0, bytes: 0 }
    }

    fn add(&mut self, event: Event, lost: u64, bytes: u64) {
        self.last = event;
        self.bytes = self.bytes.saturating_add(bytes);
        match event.cause {
            Cause::Unlink => self.unlinked += lost,
            Cause::RemoveDirectory => self.directories += lost,
            Cause::Rename => self.replaced += lost,
            Cause::Truncate => self.truncated += 1,
            // Only those four count as losing something when they are folded.
            Cause::Create
            | Cause::Link
            | Cause::Write
            | Cause::SetAttributes
            | Cause::Map
            | Cause::Outside
            | Cause::History => {}
        }
    }
}
