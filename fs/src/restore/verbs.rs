//! Restoring by one line of text, for whoever has no command at hand: `undo`, `restore PATH`, `restore PATH at TIME`,
//! `snapshot`, `snapshot NAME`.

use std::path::{Component, Path, PathBuf};

use jiff::{Span, Timestamp};
use wsguard_api::{RestoreConflict, RestoreJob, RestoreRequest, RestoreWhen};

use super::jobs::Wanted;
use super::{Ground, Jobs, RestoreError};
use crate::snapshot::{Actor, SnapshotNote, SnapshotReason};

/// A line that was understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Line {
    /// Take the last deletion back.
    Undo,
    /// Bring a path back, relative to the workspace.
    Restore {
        /// The path.
        path: PathBuf,
        /// As of when.
        when: RestoreWhen,
    },
    /// Take a snapshot.
    Snapshot {
        /// Its name.
        name: Option<String>,
    },
}

/// What came of it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Answer {
    /// A restore has begun.
    Begun(Box<RestoreJob>),
    /// A snapshot was taken, with this number.
    Snapshot(u32),
}

/// Longest line that is understood, bytes: a path and a few words.
const MOST_BYTES: usize = 8192;
/// Longest name of a snapshot, bytes.
const MOST_NAME_BYTES: usize = 128;

impl Line {
    /// Understands a line; `now` is the moment that spans count back from.
    ///
    /// # Errors
    /// `Invalid` with what can be written instead.
    pub(crate) fn parse(text: &str, now: Timestamp) -> Result<Self, RestoreError> {
        let wrong = |what: String| {
            RestoreError::Invalid(format!(
                "{what}; write `undo`, `restore PATH`, `restore PATH at TIME` or `snapshot NAME`"
            ))
        };
        let text = text.trim();
        if text.len() > MOST_BYTES || text.contains(['\n', '\0']) {
            return Err(wrong("the line is too long or is several".to_owned()));
        }
        let (verb, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        match verb {
            "undo" if rest.is_empty() => Ok(Self::Undo),
            "snapshot" if rest.len() > MOST_NAME_BYTES || rest.chars().any(char::is_control) => {
                Err(wrong(format!("a name has at most {MOST_NAME_BYTES} bytes, all printable")))
            }
            "snapshot" => Ok(Self::Snapshot { name: Some(rest.to_owned()).filter(|name| !name.is_empty()) }),
            "restore" if !rest.is_empty() => {
                // The last ` at ` with a time behind it; a path may have one as well.
                let timed =
                    rest.rsplit_once(" at ").and_then(|(path, at)| Some((path, moment(at.trim(), now)?)));
                let (path, when) = match timed {
                    Some((path, at)) => (path.trim(), RestoreWhen::At(at.to_string())),
                    None => (rest, RestoreWhen::BeforeDelete),
                };
                let path =
                    relative(path).ok_or_else(|| wrong(format!("{path:?} leads out of the workspace")))?;
                Ok(Self::Restore { path, when })
            }
            _ => Err(wrong(format!("{text:?} cannot be understood"))),
        }
    }

    /// Does it, on behalf of `uid`.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub(crate) fn run(&self, jobs: &Jobs, ground: &Ground, uid: u32) -> Result<Answer, RestoreError> {
        match self {
            Self::Undo => {
                let job = jobs.start_undo(ground, uid, None, RestoreConflict::KeepBoth)?;
                Ok(Answer::Begun(Box::new(job)))
            }
            Self::Restore { path, when } => {
                let request = RestoreRequest { when: when.clone(), ..RestoreRequest::default() };
                let wanted = Wanted { paths: vec![path.clone()], to: None, request };
                Ok(Answer::Begun(Box::new(jobs.start(ground, uid, &wanted)?)))
            }
            Self::Snapshot { name } => {
                let note = SnapshotNote {
                    reason: SnapshotReason::Manual,
                    name: name.clone(),
                    note: None,
                    is_held: false,
                };
                let ended = ground.archive.take_snapshot(ground.backing(), Actor { uid, pid: 0 }, note)?;
                Ok(Answer::Snapshot(ended.epoch.0))
            }
        }
    }
}

/// Returns a path below the workspace: relative, or absolute as a container sees it below `/workspace`.
fn relative(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let path = path.strip_prefix("/workspace").unwrap_or(path);
    let mut found = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => found.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(found)
}

fn moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(span) = text.parse::<Span>() {
        let zoned = now.to_zoned_datetime(jiff::tz::TimeZone::system());
        let before = if span.is_negative() { zoned.checked_add(span) } else { zoned.checked_sub(span) };
        return before.ok().map(|before| before.timestamp());
    }
    let in_zone = |at: jiff::civil::DateTime| {
        at.to_zoned_datetime(jiff::tz::TimeZone::system()).ok().map(|at| at.timestamp())
    };
    text.parse::<Timestamp>().ok().or_else(|| text.parse().ok().and_then(in_zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Line, RestoreError> {
        Line::parse(text, "2030-01-31T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn verbs_are_understood() {
        let restore = |path: &str, when| Line::Restore { path: path.into(), when };
        assert_eq!(parse(" undo\n").unwrap(), Line::Undo);
        assert_eq!(parse("snapshot").unwrap(), Line::Snapshot { name: None });
        assert_eq!(
            parse("snapshot before tuning").unwrap(),
            Line::Snapshot { name: Some("before tuning".into()) }
        );
        assert_eq!(parse("restore a b/c").unwrap(), restore("a b/c", RestoreWhen::BeforeDelete));
        assert_eq!(parse("restore /workspace/d").unwrap(), restore("d", RestoreWhen::BeforeDelete));
        let at = RestoreWhen::At("2030-01-31T10:00:00Z".into());
        assert_eq!(parse("restore d at 2h ago").unwrap(), restore("d", at.clone()));
        assert_eq!(parse("restore meet at noon at 2h").unwrap(), restore("meet at noon", at));
        assert_eq!(
            parse("restore meet at noon").unwrap(),
            restore("meet at noon", RestoreWhen::BeforeDelete)
        );
    }

    #[test]
    fn what_is_not_understood_or_leads_out_is_refused() {
        let long = "restore ".to_owned() + &"x".repeat(10_000);
        for wrong in
            ["", "rm -rf /", "undo all", "restore", "restore ../x", "restore /etc", "undo\nundo", &long]
        {
            assert!(matches!(parse(wrong), Err(RestoreError::Invalid(_))), "{wrong}");
        }
    }
}
