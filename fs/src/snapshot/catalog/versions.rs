//! The versions of a file.

use std::collections::BTreeMap;

use rusqlite::params;

use super::as_of::{CONTENT, content_row};
use super::columns::{self, EVENT, Event};
use super::{CatalogError, ContentRow, Past};
use crate::snapshot::record::{Attributes, Cause, Named, Span};
use crate::snapshot::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

/// A state of a file's content that history can still show, or the one that is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    /// What made it; `None` if that is not known any more.
    pub(crate) since: Option<Event>,
    /// What ended it; `None`: it is the present one.
    pub(crate) until: Option<Event>,
    /// The attributes at its end; `None`: as now.
    pub(crate) attributes: Option<Attributes>,
    /// What was kept of it when it ended. A whole object is all of it; ranges are what was overwritten, the rest is in
    /// the next version.
    pub(crate) kept: Vec<ContentRow>,
}

/// What a name stood for at one time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NamedVersions {
    /// What it stood for.
    pub(crate) named: Named,
    /// When the name became this; `None` if that is not known any more.
    pub(crate) since: Option<Event>,
    /// When it became something else; `None`: it still is.
    pub(crate) until: Option<Event>,
    /// The versions of the inode in this time, oldest first.
    pub(crate) versions: Vec<Version>,
}

impl Version {
    /// Returns whether one object holds all of it.
    #[cfg_attr(not(test), expect(dead_code, reason = "a question that no command asks yet"))]
    pub(crate) fn is_whole(&self) -> bool {
        self.kept.iter().any(|kept| kept.span == Span::Whole)
    }

    /// Returns the moment at which it can be read.
    #[cfg_attr(not(test), expect(dead_code, reason = "a question that no command asks yet"))]
    pub(crate) fn moment(&self) -> Option<Sequence> {
        self.until.map(|until| until.at.before())
    }

    fn overlaps(&self, since: Option<Event>, until: Option<Event>) -> bool {
        let begins = |event: Option<Event>| event.map_or(Sequence::ZERO, |event| event.at);
        let ends = |event: Option<Event>| event.map_or(i64::MAX, |event| event.at.to_i64());
        begins(self.since).to_i64() < ends(until) && begins(since).to_i64() < ends(self.until)
    }
}

impl Past {
    /// Returns the versions of an inode, oldest first; the last one is the inode as it is now, whether it has a name or
    /// lies in the store. Writes of one epoch make one version.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn versions_of(&self, inode: &FileHandle) -> Result<Vec<Version>, CatalogError> {
        self.consistent(|| {
            let mut ends: BTreeMap<Sequence, (Event, Vec<ContentRow>)> = BTreeMap::new();
            for event in self.size_changes(inode)? {
                ends.entry(event.at).or_insert_with(|| (event, Vec::new()));
            }
            for kept in self.content_of(inode)? {
                match ends.get_mut(&kept.at) {
                    Some((_, list)) => list.push(kept),
                    None => {
                        let event = self.event(kept.at)?;
                        ends.insert(kept.at, (event, vec![kept]));
                    }
                }
            }
            let mut versions = Vec::with_capacity(ends.len() + 1);
            let mut since = None;
            for (event, kept) in ends.into_values() {
                let attributes = self.attributes_at(inode, event.at.before())?;
                versions.push(Version { since, until: Some(event), attributes, kept });
                since = Some(event);
            }
            // What was taken into the store or has lost its last name is no present version.
            let is_gone = versions.last().is_some_and(Version::ends_its_inode);
            if !is_gone {
                let attributes = self.attributes_at(inode, since.map_or(Sequence::ZERO, |event| event.at))?;
                versions.push(Version { since, until: None, attributes, kept: Vec::new() });
            }
            Ok(versions)
        })
    }

    /// Returns what a name stood for, oldest first, with the versions of each. `now` is what it stands for at present;
    /// only the file system knows.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn versions_of_name(
        &self,
        parent: &FileHandle,
        name: &[u8],
        now: Option<Named>,
    ) -> Result<Vec<NamedVersions>, CatalogError> {
        self.consistent(|| {
            let sql = format!(
                "SELECT {EVENT}, name.before, name.file_type FROM name JOIN entry ON entry.at = name.at
                 WHERE name.parent = ?1 AND name.name = ?2 ORDER BY name.at"
            );
            let changes = self.rows("read what a name stood for", &sql, params![parent, name], |row| {
                Ok((columns::event(row, 0)?, columns::named(row, 5)?))
            })?;
            let mut found = Vec::new();
            let mut since = None;
            let all = changes.into_iter().map(|(event, before)| (Some(event), before));
            for (until, named) in all.chain([(None, now)]) {
                if let Some(named) = named {
                    let mut versions = self.versions_of(&named.inode)?;
                    versions.retain(|version| version.overlaps(since, until));
                    found.push(NamedVersions { named, since, until, versions });
                }
                since = until;
            }
            Ok(found)
        })
    }

    /// Returns what is kept of a file, in order.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn content_of(&self, inode: &FileHandle) -> Result<Vec<ContentRow>, CatalogError> {
        let sql = format!("SELECT {CONTENT} FROM content WHERE inode = ?1 ORDER BY at, offset, object");
        self.rows("read content", &sql, [inode], content_row)
    }

    /// Returns what is said of objects, in the order of their numbers and beginning after `after`: for the background
    /// that hashes, checks and compares with the store. The rows of an object are not divided.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn objects_after(
        &self,
        after: Option<crate::snapshot::record::ObjectId>,
        objects: usize,
    ) -> Result<Vec<ContentRow>, CatalogError> {
        let sql = format!(
            "SELECT {CONTENT} FROM content WHERE object IN
                 (SELECT DISTINCT object FROM content WHERE object > ?1 ORDER BY object LIMIT ?2)
             ORDER BY object, at, offset"
        );
        let after = after.map_or(-1, |object| object.0.cast_signed());
        let objects = i64::try_from(objects).unwrap_or(i64::MAX);
        self.rows("read objects", &sql, params![after, objects], content_row)
    }

    /// Returns what was preserved and is not known to be damaged, if it was noted later than in an epoch or at or after a
    /// time within that epoch or an earlier one. Looks at every row of content.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn preserved_since(
        &self,
        (epoch, time_ns): (Epoch, i64),
    ) -> Result<Vec<ContentRow>, CatalogError> {
        let sql = format!(
            "SELECT {CONTENT} FROM content WHERE is_damaged = 0 AND (at > ?1
                 OR NOT EXISTS (SELECT 1 FROM entry WHERE entry.at = content.at AND entry.time_ns < ?2))
             ORDER BY object, at, offset"
        );
        self.rows("read what was preserved last", &sql, params![epoch.end(), time_ns], content_row)
    }

    fn size_changes(&self, inode: &FileHandle) -> Result<Vec<Event>, CatalogError> {
        let sql = format!(
            "SELECT {EVENT} FROM attributes JOIN entry ON entry.at = attributes.at
             WHERE attributes.inode = ?1 AND entry.cause IN (?2, ?3) AND attributes.mode & ?4 = ?5
             ORDER BY attributes.at"
        );
        let values = params![inode, Cause::Write, Cause::Truncate, libc::S_IFMT, libc::S_IFREG];
        self.rows("read attributes", &sql, values, |row| columns::event(row, 0))
    }

    fn event(&self, at: Sequence) -> Result<Event, CatalogError> {
        let sql = format!("SELECT {EVENT} FROM entry WHERE at = ?1");
        self.row("read an entry", &sql, [at], |row| columns::event(row, 0))?.ok_or_else(|| {
            CatalogError::Damaged { path: self.path.clone(), reason: format!("there is no entry for {at:?}") }
        })
    }
}

impl Version {
    fn ends_its_inode(&self) -> bool {
        let is_taken = |kept: &ContentRow| kept.origin == crate::snapshot::record::Origin::TakenAway;
        self.kept.iter().any(is_taken)
    }
}
