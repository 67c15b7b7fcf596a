//! The versions of a file.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Query, State};
use wsguard_api::{ApiError, ErrorCode, FileVersion, SCHEMA_VERSION, VersionCertainty, VersionReport};

use super::routes::{Answer, Caller, Context, Shared, look_up, parameters};
use super::snapshots::{PathQuery, Subject, failed};
use crate::error_chain::one_line;
use crate::snapshot::{
    ArchiveError, Cause, Certainty, Epoch, Event, Named, Past, Places, Sequence, Version, View,
};
use crate::sys::handle::FileHandle;
use crate::tracker::history::file_of;
use crate::tracker::history::reader::{Entry, Question, ask};
use crate::workspaces::{Viewer, shown_time};

/// Records that are searched for the commands of processes.
const MOST_RECORDS: usize = 5_000;
/// History and records have the same clock, read at slightly different moments.
const SAME_TIME_NS: u64 = 5_000_000_000;

/// Answers `GET /versions`.
pub(super) async fn get_versions(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<PathQuery>, QueryRejection>,
) -> Answer<VersionReport> {
    let (viewer, query) = (peer.viewer()?, parameters(query)?);
    let answer = move || versions(&shared, viewer, &query.path);
    Ok(Json(look_up("the look for versions", answer).await?))
}

fn versions(shared: &Shared, viewer: Viewer, path: &Path) -> Result<VersionReport, ApiError> {
    let subject = Subject::find(shared, viewer, path)?;
    let relative = subject.place.relative.clone();
    let Some(name) = relative.file_name() else {
        let message = format!("{} is a workspace, not a file", path.display());
        return Err(ApiError::new(ErrorCode::InvalidRequest, message).with_hint("name a file in it"));
    };
    let mut search = Search::new(&subject).map_err(|error| failed(&error))?;
    let found = search.all(&relative, name).map_err(|error| failed(&error))?;
    let Some((exists, mut items)) = found.filter(|(_, items)| !items.is_empty()) else {
        let message = format!("nothing is known of {}", path.display());
        return Err(ApiError::new(ErrorCode::NotFound, message)
            .with_hint("`wsguard log PATH` shows what happened to it, also before history was kept"));
    };
    let question = Question { path: relative.clone(), limit: MOST_RECORDS, ..Question::default() };
    match ask(&file_of(shared.recorder.directory(), &subject.place.id), &question) {
        Ok(answer) => items.iter_mut().for_each(|item| item.version.command = command(&answer.entries, item)),
        // Who it was is then known by number only.
        Err(error) => tracing::warn!(error = %one_line(&error), "records of changes cannot be read"),
    }
    items.sort_by_key(|item| std::cmp::Reverse(item.until));
    Ok(VersionReport {
        schema: SCHEMA_VERSION,
        workspace: subject.place.name.clone(),
        path: relative.to_string_lossy().into_owned(),
        exists,
        items: items.into_iter().map(|item| item.version).collect(),
    })
}

fn command(entries: &[Entry], item: &Item) -> Option<String> {
    let (pid, time_ns) = item.ended_by?;
    let near = |entry: &&Entry| {
        entry.process.pid == pid && entry.at_us.saturating_mul(1_000).abs_diff(time_ns) <= SAME_TIME_NS
    };
    entries.iter().find(near).map(|entry| entry.process.command.clone()).filter(|command| !command.is_empty())
}

/// Size and time of a version, as far as they are known, and how well it is known.
type Looked = (Option<(u64, i64)>, VersionCertainty);

struct Item {
    version: FileVersion,
    until: Sequence,
    ended_by: Option<(u32, i64)>,
}

struct Search<'a> {
    subject: &'a Subject,
    snapshots: Vec<Epoch>,
    trash_start: Sequence,
    now: View<'a>,
}

impl<'a> Search<'a> {
    fn new(subject: &'a Subject) -> Result<Self, ArchiveError> {
        let past = subject.archive.read()?;
        let snapshots = past.snapshots()?.into_iter().map(|snapshot| snapshot.epoch).collect();
        let trash_start = past.trash_start()?;
        drop(past);
        let now = View::at(&subject.archive, subject.fs.backing(), Epoch::LAST.end())?;
        Ok(Self { subject, snapshots, trash_start, now })
    }

    /// Returns whether the file is there now, and its versions; `None` if no directory of that path is known.
    fn all(&mut self, path: &Path, name: &OsStr) -> Result<Option<(bool, Vec<Item>)>, ArchiveError> {
        let past = self.subject.archive.read()?;
        let Some(parent) = self.directory(&past, path.parent().unwrap_or(Path::new("")))? else {
            return Ok(None);
        };
        let present = self.now.lookup(&parent, name)?;
        let mut items = Vec::new();
        let mut seen = HashSet::new();
        for named in past.versions_of_name(&parent, name.as_bytes(), present)? {
            for version in &named.versions {
                items.extend(self.item(&named.named, version, (named.since, named.until), None)?);
            }
            // What it was before it got this name: a file that was renamed.
            if seen.insert(named.named.inode.to_bytes()) {
                self.earlier(&past, &named.named, named.since, &mut items)?;
            }
        }
        Ok(Some((present.is_some(), items)))
    }

    /// Finds a directory by its path: the one that is there now or, where there is none, the last that was.
    fn directory(&self, past: &Past, path: &Path) -> Result<Option<FileHandle>, ArchiveError> {
        let mut found = self.now.root();
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let named = match self.now.lookup(&found, name)? {
                Some(named) => Some(named),
                None => past.last_named(&found, name.as_bytes())?,
            };
            match named {
                Some(named) => found = named.inode,
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    fn earlier(
        &self,
        past: &Past,
        named: &Named,
        since: Option<Event>,
        items: &mut Vec<Item>,
    ) -> Result<(), ArchiveError> {
        let Some(since) = since else { return Ok(()) };
        for version in past.versions_of(&named.inode)? {
            let Some(until) = version.until.filter(|until| until.at <= since.at) else { continue };
            let mut places = Places::at(self.subject.fs.backing(), until.at.before());
            let Some(place) = places.of(past, &named.inode)? else { continue };
            let path = Some(place.to_string_lossy().into_owned());
            items.extend(self.item(named, &version, (None, None), path)?);
        }
        Ok(())
    }

    /// Returns a version as clients see it; `None` if it is not kept any more.
    fn item(
        &self,
        named: &Named,
        version: &Version,
        (since, until): (Option<Event>, Option<Event>),
        path: Option<String>,
    ) -> Result<Option<Item>, ArchiveError> {
        let later = |one: Option<Event>, other: Option<Event>| match (one, other) {
            (Some(one), Some(other)) => Some(if one.at >= other.at { one } else { other }),
            (one, other) => one.or(other),
        };
        let earlier = |one: Option<Event>, other: Option<Event>| match (one, other) {
            (Some(one), Some(other)) => Some(if one.at <= other.at { one } else { other }),
            (one, other) => one.or(other),
        };
        let (since, until) = (later(version.since, since), earlier(version.until, until));
        let from = since.map_or(Sequence::ZERO, |since| since.at);
        let to = until.map_or(Epoch::LAST.end(), |until| until.at);
        let snapshots: Vec<Epoch> =
            self.snapshots.iter().copied().filter(|epoch| (from..to).contains(&epoch.end())).collect();
        // Under another name, and nobody knows since when: the snapshots that show it cannot be told.
        let snapshots = if path.is_some() && since.is_none() { Vec::new() } else { snapshots };
        let moment = match until {
            None => None,
            Some(until) if until.at.before() >= self.trash_start => Some(until.at.before()),
            Some(_) => match snapshots.last() {
                Some(epoch) => Some(epoch.end()),
                None => return Ok(None),
            },
        };
        let Some((attributes, certainty)) = self.look_at(named, version, moment)? else {
            return Ok(None);
        };
        let is_file = named.file_type == libc::S_IFREG;
        let shown = FileVersion {
            since: since.map(|event| shown_time(event.time_ns)),
            until: until.map(|event| shown_time(event.time_ns)),
            size: attributes.filter(|_| is_file).map(|attributes| attributes.0),
            modified: attributes.map(|attributes| shown_time(attributes.1)),
            ended_by: until.map(|event| verb(event.cause).to_owned()),
            uid: until.map(|event| event.actor.uid),
            pid: until.map(|event| event.actor.pid).filter(|pid| *pid != 0),
            command: None,
            path,
            snapshots: snapshots.iter().map(|epoch| epoch.0).collect(),
            moment: moment.map(|moment| moment.to_i64().cast_unsigned()),
            certainty,
        };
        let ended_by = until.map(|event| (event.actor.pid, event.time_ns));
        Ok(Some(Item { version: shown, until: to, ended_by }))
    }

    /// Returns size and time of a version, and how well it is known; `None` if it is gone.
    fn look_at(
        &self,
        named: &Named,
        version: &Version,
        moment: Option<Sequence>,
    ) -> Result<Option<Looked>, ArchiveError> {
        if version.kept.iter().any(|row| row.is_damaged) {
            let known = version.attributes.map(|attributes| (attributes.size, attributes.modified_ns));
            return Ok(Some((known, VersionCertainty::Damaged)));
        }
        let look = || -> Result<_, ArchiveError> {
            let (archive, backing) = (&self.subject.archive, self.subject.fs.backing());
            let view = View::at(archive, backing, moment.unwrap_or(Epoch::LAST.end()))?;
            let (attributes, certainty) = view.attributes(&named.inode)?;
            let certainty = match (named.file_type == libc::S_IFREG, moment) {
                (true, Some(_)) => view.certainty(&view.open(&named.inode)?)?,
                (true, None) => Certainty::Exact,
                (false, _) => certainty,
            };
            Ok((attributes.size, attributes.modified_ns, certainty))
        };
        match look() {
            Ok((size, modified_ns, certainty)) => {
                let certainty = match certainty {
                    Certainty::Exact => VersionCertainty::Exact,
                    Certainty::Fuzzy => VersionCertainty::Fuzzy,
                    Certainty::ChangedOutside => VersionCertainty::ChangedOutside,
                };
                Ok(Some((Some((size, modified_ns)), certainty)))
            }
            // Let go meanwhile, or nothing was kept of it: temporary files.
            Err(ArchiveError::NotKept | ArchiveError::Log(rustix::io::Errno::STALE)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn verb(cause: Cause) -> &'static str {
    match cause {
        Cause::Create => "create",
        Cause::Link => "link",
        Cause::Unlink | Cause::RemoveDirectory => "delete",
        Cause::Rename => "rename",
        Cause::Write => "write",
        Cause::Truncate => "truncate",
        Cause::SetAttributes => "attributes",
        Cause::Map => "mapping",
        Cause::Outside => "outside",
        Cause::History => "history",
    }
}
