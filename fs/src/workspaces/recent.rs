//! What happened in each workspace lately, as text kept in memory for those who may not wait for a disk.
//!
//! The thread that looks up growth reads the histories as well: of a workspace that somebody looks at every two
//! seconds, of the others every ten, and only when something was stored since.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use parking_lot::Mutex;
use tracing::debug;

use super::pages::{change, printable, size};
use crate::error_chain::one_line;
use crate::tracker::Operation;
use crate::tracker::history::file_of;
use crate::tracker::history::reader::{Entry, Question, ask};

/// How old the text may become while somebody looks, and while nobody does.
const FRESH: Duration = Duration::from_secs(2);
const RESTING: Duration = Duration::from_secs(10);

/// From one look to the next, somebody still looks.
const WANTED: Duration = Duration::from_secs(30);

/// Changes that are shown, the newest.
const MOST: usize = 200;

/// Longest command line that is shown, characters.
const LONGEST_COMMAND: usize = 60;

/// When the files of a history were written last.
type Written = [Option<(SystemTime, u64)>; 2];

#[derive(Debug, Default)]
struct Kept {
    wanted: Option<Instant>,
    asked: Option<Instant>,
    written: Option<Written>,
    /// Oldest first.
    lines: Option<Arc<[(Timestamp, String)]>>,
    as_of: Option<Timestamp>,
}

impl Kept {
    fn is_due(&self) -> bool {
        let is_wanted = self.wanted.is_some_and(|at| at.elapsed() < WANTED);
        self.asked.is_none_or(|at| at.elapsed() >= if is_wanted { FRESH } else { RESTING })
    }
}

/// The latest texts, by workspace.
#[derive(Debug, Default)]
pub(super) struct RecentBoard(Mutex<BTreeMap<String, Kept>>);

impl RecentBoard {
    /// Returns what the file holds: a line for each change and each of `others`, oldest first.
    pub(super) fn page(&self, id: &str, others: Vec<(Timestamp, String)>) -> String {
        let (lines, as_of) = {
            let mut board = self.0.lock();
            let Some(kept) = board.get_mut(id) else { return NOTHING.to_owned() };
            kept.wanted = Some(Instant::now());
            (kept.lines.clone(), kept.as_of)
        };
        let (Some(lines), Some(as_of)) = (lines, as_of) else { return NOTHING.to_owned() };
        let mut all: Vec<(Timestamp, String)> = lines.iter().cloned().chain(others).collect();
        // Stable: changes stay in the order in which they happened, whatever the clock did.
        all.sort_by_key(|(at, _)| *at);
        let surplus = all.len().saturating_sub(MOST);
        let mut text: String =
            all.iter().skip(surplus).map(|(at, line)| format!("{at:.0} {line}\n")).collect();
        text.push_str(&format!("the latest changes as of {as_of:.0}; look again for newer ones\n"));
        text
    }

    /// Returns those of `mounted` whose texts are too old, and forgets all others.
    pub(super) fn due(&self, mounted: &[String]) -> Vec<String> {
        let mut board = self.0.lock();
        board.retain(|id, _| mounted.contains(id));
        mounted.iter().filter(|id| board.entry((*id).clone()).or_default().is_due()).cloned().collect()
    }

    /// Reads what happened, if something was stored since the last time.
    pub(super) fn renew(&self, id: &str, histories: &Path) {
        let file = file_of(histories, id);
        let written = [file.clone(), file.with_extension("sqlite-wal")].map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        });
        let is_same = self.0.lock().get(id).is_some_and(|kept| kept.written == Some(written));
        let lines = if is_same { None } else { lines_of(&file) };
        let mut board = self.0.lock();
        let Some(kept) = board.get_mut(id) else { return };
        kept.asked = Some(Instant::now());
        if let Some(lines) = lines {
            kept.lines = Some(lines.into());
            kept.written = Some(written);
        }
        if kept.written == Some(written) {
            kept.as_of = Some(Timestamp::now());
        }
    }
}

const NOTHING: &str = "the latest changes are not known yet; look again in a moment\n";

fn lines_of(file: &Path) -> Option<Vec<(Timestamp, String)>> {
    let question = Question { limit: MOST, ..Question::default() };
    match ask(file, &question) {
        Ok(answer) => Some(answer.entries.iter().map(line).collect()),
        Err(error) => {
            debug!(path = %file.display(), error = %one_line(&error), "latest changes cannot be read");
            None
        }
    }
}

fn line(entry: &Entry) -> (Timestamp, String) {
    let at = Timestamp::from_microsecond(entry.at_us).unwrap_or(Timestamp::UNIX_EPOCH);
    let name = |path: &Option<std::path::PathBuf>| match path {
        Some(path) if path.as_os_str().is_empty() => ".".to_owned(),
        Some(path) => printable(&path.to_string_lossy()),
        None => format!("inode {}", entry.node),
    };
    let mut text = format!("{} {}", what(entry.operation), name(&entry.path));
    if entry.to_path.is_some() {
        text.push_str(&format!(" to {}", name(&entry.to_path)));
    }
    match entry.operation {
        Operation::Write | Operation::CopyRange => text.push_str(&format!(", {}", size(entry.bytes))),
        Operation::Truncate => text.push_str(&format!(" to {}", size(entry.end))),
        _ => {}
    }
    if entry.delta_bytes != 0 {
        text.push_str(&format!(" ({})", change(entry.delta_bytes)));
    }
    let process = &entry.process;
    let command = Some(&process.command_line).filter(|line| !line.is_empty()).unwrap_or(&process.command);
    let command: String = printable(command).chars().take(LONGEST_COMMAND).collect();
    text.push_str(&format!(" by uid {}", entry.uid));
    if process.pid != 0 {
        text.push_str(&format!(", {command} (pid {}", process.pid));
        if let Some(container) = &process.container {
            let short: String = container.chars().take(12).collect();
            text.push_str(&format!(", container {}", printable(&short)));
        }
        text.push(')');
    }
    (at, text)
}

fn what(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "created",
        Operation::MakeDirectory => "made directory",
        Operation::MakeSymlink => "made link",
        Operation::MakeNode => "made node",
        Operation::Link => "linked",
        Operation::Rename => "renamed",
        Operation::Exchange => "exchanged",
        Operation::Replace => "replaced",
        Operation::Unlink => "deleted",
        Operation::RemoveDirectory => "removed directory",
        Operation::Write => "wrote",
        Operation::Truncate => "truncated",
        Operation::Allocate => "allocated in",
        Operation::CopyRange => "copied into",
        Operation::SetAttributes => "changed attributes of",
        Operation::SetExtendedAttribute => "changed extended attributes of",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown_until_it_was_read_and_requests_are_among_it() {
        let dir = tempfile::tempdir().unwrap();
        let board = RecentBoard::default();
        assert_eq!(board.page("w1", Vec::new()), NOTHING);
        assert_eq!(board.due(&["w1".to_owned()]), ["w1"]);
        assert_eq!(board.page("w1", Vec::new()), NOTHING);
        board.renew("w1", dir.path());
        assert!(board.due(&["w1".to_owned()]).is_empty(), "read a moment ago");
        let page = board.page("w1", vec![(Timestamp::UNIX_EPOCH, "request: x".to_owned())]);
        assert!(page.starts_with("1970-01-01T00:00:00Z request: x\nthe latest changes as of "), "{page}");
        board.due(&[]);
        assert_eq!(board.page("w1", Vec::new()), NOTHING, "forgotten");
    }
}
