//! The time line: now, snapshots, and the moments before deletions, newest first.

use jiff::Timestamp;
use wsguard_api::{RestoreWhen, Snapshot, SnapshotList, SnapshotSafety, UndoBurst, UndoList};

use crate::output::{count, printable};

/// What names a moment as long as the program runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MomentKey {
    /// The present.
    Now,
    /// A snapshot, by its number.
    Snapshot(u32),
    /// Just before a burst of deletions, by its id.
    BeforeBurst(String),
}

impl MomentKey {
    /// Returns it as the daemon takes it; `None` for now.
    pub(crate) fn when(&self) -> Option<RestoreWhen> {
        match self {
            Self::Now => None,
            Self::Snapshot(id) => Some(RestoreWhen::Snapshot(id.to_string())),
            Self::BeforeBurst(id) => Some(RestoreWhen::BeforeBurst(id.clone())),
        }
    }
}

/// A moment that can be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// What names it.
    pub(crate) key: MomentKey,
    /// When it was; `None`: now.
    pub(crate) at: Option<Timestamp>,
    /// A character for it: `o` a snapshot, `*` one that is held, `!` one of which something is missing, `x` a deletion.
    pub(crate) mark: char,
    /// What it is, harmless.
    pub(crate) label: String,
    /// More about it, harmless; may be empty.
    pub(crate) more: String,
}

/// Returns the moments, newest first, beginning with now.
pub(crate) fn time_line(snapshots: &SnapshotList, deletions: &UndoList) -> Vec<Moment> {
    let mut moments: Vec<Moment> = snapshots.items.iter().map(of_snapshot).collect();
    moments.extend(deletions.items.iter().map(of_burst));
    // Stable: of two at the same time the later snapshot comes first.
    moments.reverse();
    moments.sort_by_key(|moment| std::cmp::Reverse(moment.at));
    let now =
        Moment { key: MomentKey::Now, at: None, mark: ' ', label: "now".to_owned(), more: String::new() };
    moments.insert(0, now);
    moments
}

fn of_snapshot(snapshot: &Snapshot) -> Moment {
    let is_doubtful = matches!(snapshot.safety, SnapshotSafety::Degraded | SnapshotSafety::Incomplete);
    let label = match &snapshot.name {
        Some(name) => format!("#{} {}", snapshot.id, printable(name)),
        None => format!("#{} {}", snapshot.id, printable(&snapshot.reason)),
    };
    let mut more = Vec::new();
    if snapshot.name.is_some() {
        more.push(printable(&snapshot.reason).into_owned());
    }
    if snapshot.held {
        more.push("held".to_owned());
    }
    match snapshot.safety {
        SnapshotSafety::Degraded => more.push("damaged".to_owned()),
        SnapshotSafety::Incomplete => more.push("incomplete".to_owned()),
        SnapshotSafety::Sealed
        | SnapshotSafety::Durable
        | SnapshotSafety::Uploaded
        | SnapshotSafety::Verified => {}
    }
    if let Some(note) = &snapshot.note {
        more.push(printable(note).into_owned());
    }
    let mark = match (is_doubtful, snapshot.held) {
        (true, _) => '!',
        (false, true) => '*',
        (false, false) => 'o',
    };
    Moment {
        key: MomentKey::Snapshot(snapshot.id),
        at: snapshot.at.parse().ok().or(Some(Timestamp::MIN)),
        mark,
        label,
        more: more.join(", "),
    }
}

fn of_burst(burst: &UndoBurst) -> Moment {
    let lost = burst.files + burst.directories;
    let label = match (lost, burst.replaced, burst.truncated) {
        (0, 0, cut) => format!("{} cut off", count(cut, "file")),
        (0, replaced, _) => format!("{} replaced", count(replaced, "file")),
        (lost, ..) => format!("{lost} deleted"),
    };
    let mut more = Vec::new();
    if !burst.command.is_empty() {
        more.push(format!("by {}", printable(&burst.command)));
    }
    more.extend(burst.paths.first().map(|path| match path.rsplit_once('/') {
        Some((_, name)) => printable(name).into_owned(),
        None => printable(path).into_owned(),
    }));
    if let Some(job) = burst.undone_by {
        more.push(format!("undone by restore {job}"));
    }
    Moment {
        key: MomentKey::BeforeBurst(burst.id.clone()),
        at: burst.at.parse().ok().or(Some(Timestamp::MIN)),
        mark: 'x',
        label: format!("before {label}"),
        more: more.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browse::samples;

    #[test]
    fn the_time_line_is_newest_first_and_begins_now() {
        let moments = time_line(&samples::snapshots(), &samples::deletions());
        let labels: Vec<&str> = moments.iter().map(|moment| moment.label.as_str()).collect();
        assert_eq!(
            labels,
            ["now", "#3 auto", "before 2 deleted", "#2 before \\u{1b}[31mrefactoring", "#1 burst"]
        );
        let marks: String = moments.iter().map(|moment| moment.mark).collect();
        assert_eq!(marks, " ox*!");
        assert_eq!(moments[3].key.when(), Some(RestoreWhen::Snapshot("2".into())));
    }
}
