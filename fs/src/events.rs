//! What operators and owners may want to know: one line of JSON each in `<state>/events.jsonl`.
//!
//! Written at once and in order, by threads that serve no requests; a crash may tear the last line, which is then
//! skipped. The file is renamed to `events.jsonl.1` when it is large, so that two of them are all there ever is. The
//! newest events are kept in memory as well, where those who follow them find them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::warn;
use wsguard_api::{Event, EventKind};

/// The file's name below the state directory.
const FILE: &str = "events.jsonl";

/// Events that are kept in memory.
const KEPT: usize = 2_000;

/// From this size on the file is renamed and a new one begun, bytes.
const LARGE: u64 = 4 << 20;

/// Longest message, bytes: a line stays short enough to be written at once.
const LONGEST_MESSAGE: usize = 2_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct EventLog {
    path: PathBuf,
    state: Mutex<State>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    kept: VecDeque<Event>,
    last_id: u64,
    /// Everything with a greater id is in `kept`.
    forgotten: u64,
    file: Option<File>,
    bytes: u64,
    has_complained: bool,
}

/// Whom an event concerns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Concerned<'a> {
    /// Its name; `None` if it concerns all that the owner has.
    pub(crate) name: Option<&'a str>,
    /// Who may see it beside root.
    pub(crate) owner_uid: u32,
}

/// Events after another one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Oldest first.
    pub(crate) events: Vec<Event>,
    /// To go on after.
    pub(crate) next: u64,
    /// Some may be missing before the first.
    pub(crate) has_gap: bool,
}

impl EventLog {
    /// Reads what happened before and goes on after it. A file that cannot be read or written costs the past, or what
    /// happens while no daemon runs, but never an event of now.
    pub(crate) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let mut kept = VecDeque::new();
        for file in [older(&path), path.clone()] {
            match std::fs::read(&file) {
                Ok(text) => read_into(&mut kept, &text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => warn!(path = %file.display(), error = %error, "earlier events cannot be read"),
            }
        }
        let last_id = kept.back().map_or(0, |event| event.id);
        let forgotten = if kept.len() < KEPT { 0 } else { kept.front().map_or(0, |event| event.id - 1) };
        let state = State { kept, last_id, forgotten, file: None, bytes: 0, has_complained: false };
        Self { path, state: Mutex::new(state), newest: watch::Sender::new(last_id) }
    }

    /// Tells that something happened. Writes to the disk: not for threads that serve requests.
    pub(crate) fn tell(&self, kind: EventKind, concerned: Option<Concerned<'_>>, message: &str) {
        self.tell_of(Timestamp::now(), kind, concerned, message);
    }

    /// As [`Self::tell`], of something that happened at `at`, a moment ago.
    pub(crate) fn tell_of(
        &self,
        at: Timestamp,
        kind: EventKind,
        concerned: Option<Concerned<'_>>,
        message: &str,
    ) {
        let now = Timestamp::now();
        let mut state = self.state.lock();
        // Its time in microseconds, so that numbers go on ascending over restarts also when the file is lost.
        let id = u64::try_from(now.as_microsecond()).unwrap_or(0).max(state.last_id + 1);
        let event = Event {
            id,
            at: at.to_string(),
            kind,
            workspace: concerned.and_then(|concerned| concerned.name).map(str::to_owned),
            owner_uid: concerned.map(|concerned| concerned.owner_uid),
            message: shortened(message),
        };
        state.append(&self.path, &event);
        state.last_id = id;
        state.keep(event);
        self.newest.send_replace(id);
    }

    /// Returns the events after `after` that `sees` allows.
    pub(crate) fn after(&self, after: u64, sees: impl Fn(&Event) -> bool) -> Page {
        let state = self.state.lock();
        let events = state.kept.iter().filter(|event| event.id > after && sees(event)).cloned().collect();
        Page { events, next: state.last_id.max(after), has_gap: after < state.forgotten }
    }

    /// Returns the newest `count` events that `sees` allows.
    pub(crate) fn last(&self, count: usize, sees: impl Fn(&Event) -> bool) -> Page {
        let state = self.state.lock();
        let mut events: Vec<Event> =
            state.kept.iter().rev().filter(|event| sees(event)).take(count).cloned().collect();
        events.reverse();
        Page { events, next: state.last_id, has_gap: false }
    }

    /// Returns something that changes with every event.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

impl State {
    fn keep(&mut self, event: Event) {
        if self.kept.len() == KEPT
            && let Some(oldest) = self.kept.pop_front()
        {
            self.forgotten = oldest.id;
        }
        self.kept.push_back(event);
    }

    fn append(&mut self, path: &Path, event: &Event) {
        match self.try_append(path, event) {
            Ok(()) => self.has_complained = false,
            Err(error) => {
                // Opened again at the next one.
                self.file = None;
                if !std::mem::replace(&mut self.has_complained, true) {
                    warn!(path = %path.display(), error = %error, "events are kept in memory only");
                }
            }
        }
    }

    fn try_append(&mut self, path: &Path, event: &Event) -> std::io::Result<()> {
        if self.file.is_some() && self.bytes >= LARGE {
            std::fs::rename(path, older(path))?;
            self.file = None;
        }
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut options = std::fs::OpenOptions::new();
                let file = options.append(true).read(true).create(true).mode(0o600).open(path)?;
                self.bytes = file.metadata()?.len();
                if self.bytes > 0 && !ends_with_newline(&file, self.bytes)? {
                    // A line that a crash tore must not take this one with it.
                    line.insert(0, b'\n');
                }
                self.file.insert(file)
            }
        };
        file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

fn ends_with_newline(file: &File, length: u64) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut last = [0];
    file.read_exact_at(&mut last, length - 1)?;
    Ok(last == *b"\n")
}

fn read_into(kept: &mut VecDeque<Event>, text: &[u8]) {
    for line in text.split(|byte| *byte == b'\n') {
        // Torn by a crash, or of a version with kinds that this one does not know.
        let Ok(event) = serde_json::from_slice::<Event>(line) else { continue };
        if kept.back().is_some_and(|last| last.id >= event.id) {
            continue;
        }
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event);
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

fn shortened(message: &str) -> String {
    let end = (0..=LONGEST_MESSAGE.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    message.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Concerned<'_> = Concerned { name: Some("bert"), owner_uid: 1000 };

    fn messages(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.message.as_str()).collect()
    }

    #[test]
    fn events_are_found_after_each_other_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path());
        log.tell(EventKind::Mounted, Some(ALICE), "first");
        let page = log.after(0, |_| true);
        assert_eq!(messages(&page.events), ["first"]);
        log.tell(EventKind::DaemonStarted, None, "second");
        assert_eq!(messages(&log.after(page.next, |_| true).events), ["second"]);
        drop(log);
        let log = EventLog::open(dir.path());
        log.tell(EventKind::Unmounted, Some(ALICE), "third");
        let all = log.after(0, |_| true);
        assert_eq!(messages(&all.events), ["first", "second", "third"]);
        assert!(all.events.windows(2).all(|pair| pair[0].id < pair[1].id) && !all.has_gap);
        assert_eq!(all.events[0].owner_uid, Some(1000));
        assert_eq!(messages(&log.last(2, |event| event.owner_uid.is_some()).events), ["first", "third"]);
    }

    #[test]
    fn torn_line_costs_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        EventLog::open(dir.path()).tell(EventKind::Mounted, None, "kept");
        let file = dir.path().join(FILE);
        let mut text = std::fs::read(&file).unwrap();
        let torn = text.len() / 2;
        text.extend_from_within(..torn);
        std::fs::write(&file, text).unwrap();
        EventLog::open(dir.path()).tell(EventKind::Mounted, None, "after the crash");
        let all = EventLog::open(dir.path()).after(0, |_| true);
        assert_eq!(messages(&all.events), ["kept", "after the crash"]);
    }

    #[test]
    fn file_is_replaced_when_it_is_large_and_memory_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path());
        let message = "m".repeat(LONGEST_MESSAGE * 2);
        for _ in 0..KEPT + 500 {
            log.tell(EventKind::Mounted, None, &message);
        }
        let size = |path: &Path| std::fs::metadata(path).unwrap().len();
        let file = dir.path().join(FILE);
        assert!(size(&older(&file)) >= LARGE && size(&file) < LARGE + 3_000);
        let page = log.after(0, |_| true);
        assert_eq!(page.events.len(), KEPT);
        assert!(page.has_gap);
        assert!(!log.after(page.events[0].id, |_| true).has_gap);
    }

    #[test]
    fn somebody_who_waits_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path());
        let mut newest = log.watch();
        newest.mark_unchanged();
        log.tell(EventKind::Mounted, None, "x");
        assert!(newest.has_changed().unwrap());
    }

    #[test]
    fn directory_that_cannot_be_written_keeps_events_in_memory() {
        let log = EventLog::open(Path::new("/nonexistent"));
        log.tell(EventKind::Mounted, None, "x");
        assert_eq!(log.after(0, |_| true).events.len(), 1);
    }

    #[test]
    fn long_message_is_cut_between_characters() {
        assert!(shortened(&"ä".repeat(3_000)).len() <= LONGEST_MESSAGE);
        assert_eq!(shortened("short"), "short");
    }
}
