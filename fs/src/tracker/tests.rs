use std::ffi::OsStr;
use std::time::{Duration, Instant};

use super::history::file_of;
use super::history::reader::{Question, ask};
use super::*;

const ALL: Question = Question {
    path: std::path::PathBuf::new(),
    by: None,
    since_us: None,
    deletions_only: false,
    limit: 1000,
};
const PATIENCE: Duration = Duration::from_secs(20);

fn recorder() -> (tempfile::TempDir, Recorder) {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { max_bytes: 1 << 30, max_age: Duration::from_secs(86_400) };
    let options = HistoryOptions { directory: dir.path().join("history"), bounds, is_on: true };
    (dir, Recorder::start(options).unwrap())
}

fn created(node: u64, parent: u64, name: &str) -> Record {
    Record::new(Operation::Create, node, 0, 0).at(parent, OsStr::new(name))
}

fn stored(recorder: &Recorder, workspace: &str) -> Vec<(Operation, Option<String>, u64)> {
    assert!(recorder.flush(PATIENCE));
    let answer = ask(&file_of(recorder.directory(), workspace), &ALL).unwrap();
    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    answer.entries.into_iter().map(|entry| (entry.operation, entry.path.map(path), entry.bytes)).collect()
}

#[derive(Default)]
struct Seen {
    records: Vec<u64>,
    lost: u64,
    outside: Vec<String>,
}

struct Watching(Arc<Mutex<Seen>>);

impl Follower for Watching {
    fn records(&mut self, batch: &[Record]) {
        self.0.lock().records.extend(batch.iter().map(|record| record.node));
    }

    fn lost(&mut self, records: u64) {
        self.0.lock().lost += records;
    }

    fn changed_outside(&mut self, change: OutsideChange<'_>) {
        self.0.lock().outside.push(format!("{change:?}"));
    }
}

#[test]
fn followers_and_history_get_everything_in_order() {
    let (_dir, recorder) = recorder();
    let tracker = recorder.tracker("w1");
    let seen = Arc::new(Mutex::new(Seen::default()));
    tracker.follow(Box::new(Watching(seen.clone())));
    for node in 10..1010 {
        tracker.record(created(node, 1, &format!("f{node}")));
    }
    tracker.changed_outside(OutsideChange::Anywhere);
    assert_eq!(seen.lock().outside, ["Anywhere"]);
    let rows = stored(&recorder, "w1");
    assert_eq!(rows.len(), 1000);
    assert_eq!(rows[999].1.as_deref(), Some("f1009"));
    assert_eq!(seen.lock().records, (10..1010).collect::<Vec<_>>());
    assert_eq!(seen.lock().lost, 0);
}

#[test]
fn directory_is_located_while_it_exists_and_named_after_it_is_gone() {
    let (_dir, recorder) = recorder();
    let tracker = recorder.tracker("w1");
    let exists = Arc::new(AtomicBool::new(true));
    let there = exists.clone();
    tracker.set_locate(Box::new(move |node| {
        let is_there = there.load(Ordering::SeqCst);
        match node {
            5 => is_there.then(|| (1, OsStr::new("outer").into())),
            6 => is_there.then(|| (5, OsStr::new("inner").into())),
            _ => None,
        }
    }));
    let unlink = |node, name| Record::new(Operation::Unlink, node, 0, 0).at(6, OsStr::new(name));
    tracker.record(unlink(20, "a"));
    exists.store(false, Ordering::SeqCst);
    tracker.record(unlink(21, "b"));
    tracker.record(Record::new(Operation::RemoveDirectory, 6, 0, 0).at(5, OsStr::new("inner")));
    let paths: Vec<_> = stored(&recorder, "w1").into_iter().map(|(_, path, _)| path.unwrap()).collect();
    assert_eq!(paths, ["outer/inner/a", "outer/inner/b", "outer/inner"]);
}

#[test]
fn written_file_that_is_gone_at_once_is_named_by_its_deletion() {
    let (_dir, recorder) = recorder();
    let tracker = recorder.tracker("w1");
    let tally = tracker.open_for_writing(30, None, 0, 0);
    tally.wrote(0, 500, 4096);
    drop(tally);
    tracker.record(Record::new(Operation::Unlink, 30, 0, 0).at(1, OsStr::new("short")));
    assert_eq!(
        stored(&recorder, "w1"),
        [(Operation::Write, Some("short".to_owned()), 500), (Operation::Unlink, Some("short".to_owned()), 0)]
    );
}

#[test]
fn open_file_is_in_the_history_and_in_the_activity_while_it_is_open() {
    let (_dir, recorder) = recorder();
    let tracker = recorder.tracker("w1");
    let pid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
    tracker.record(created(40, 1, "big"));
    let tally = tracker.open_for_writing(40, Some(1), 7, pid);
    tally.wrote(0, 1000, 0);
    assert_eq!(stored(&recorder, "w1").last(), Some(&(Operation::Write, Some("big".to_owned()), 1000)));
    tally.wrote(1000, 234, 0);
    let deadline = Instant::now() + PATIENCE;
    let activity = loop {
        assert!(Instant::now() < deadline);
        match recorder.activity().pop() {
            Some(activity) if activity.open_files.first().is_some_and(|file| file.bytes == 1234) => {
                break activity;
            }
            Some(_) | None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert_eq!(activity.workspace, "w1");
    let file = &activity.open_files[0];
    assert_eq!(file.path.as_deref(), Some(std::path::Path::new("big")));
    assert_eq!((file.uid, file.pid), (7, std::process::id()));
    assert_eq!(activity.open_file_count, 1);
    drop(tally);
    let bytes: u64 = stored(&recorder, "w1").iter().map(|(_, _, bytes)| bytes).sum();
    assert_eq!(bytes, 1234);
}

#[test]
fn stop_stores_what_is_left_and_leaves_no_gap() {
    let (dir, recorder) = recorder();
    let tracker = recorder.tracker("w1");
    tracker.record(created(10, 1, "f"));
    let tally = tracker.open_for_writing(10, Some(1), 0, 0);
    tally.wrote(0, 77, 0);
    recorder.stop();
    let answer = ask(&file_of(&dir.path().join("history"), "w1"), &ALL).unwrap();
    assert_eq!(answer.entries.iter().map(|entry| entry.bytes).sum::<u64>(), 77);
    let bounds = Bounds { max_bytes: 1 << 30, max_age: Duration::from_secs(86_400) };
    let again =
        Recorder::start(HistoryOptions { directory: dir.path().join("history"), bounds, is_on: true })
            .unwrap();
    again.tracker("w1").record(created(11, 1, "g"));
    assert!(again.flush(PATIENCE));
    assert_eq!(ask(&file_of(again.directory(), "w1"), &ALL).unwrap().gaps, []);
    again.stop();
}

#[test]
fn interrupted_recording_is_a_gap() {
    let (_dir, recorder) = recorder();
    let tracker = recorder.tracker("w1");
    tracker.record(created(10, 1, "f"));
    assert!(recorder.flush(PATIENCE));
    tracker.note_interrupted("somebody died");
    assert!(recorder.flush(PATIENCE));
    let gaps = ask(&file_of(recorder.directory(), "w1"), &ALL).unwrap().gaps;
    let reasons: Vec<_> = gaps.iter().map(|gap| gap.reason.as_str()).collect();
    assert_eq!(reasons, ["somebody died"]);
}

#[test]
fn disk_that_takes_nothing_loses_records_but_not_their_number() {
    let (dir, recorder) = recorder();
    let history = dir.path().join("history");
    // A directory in the place of the file cannot be opened, whoever asks.
    std::fs::create_dir(file_of(&history, "w1")).unwrap();
    let tracker = recorder.tracker("w1");
    let seen = Arc::new(Mutex::new(Seen::default()));
    tracker.follow(Box::new(Watching(seen.clone())));
    tracker.record(created(10, 1, "lost"));
    assert!(recorder.flush(PATIENCE));
    assert_eq!(seen.lock().records, [10], "followers do not depend on the disk");
    std::fs::remove_dir(file_of(&history, "w1")).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let answer = loop {
        assert!(Instant::now() < deadline, "tried again after a while");
        tracker.record(created(11, 1, "kept"));
        assert!(recorder.flush(PATIENCE));
        let answer = ask(&file_of(&history, "w1"), &ALL).unwrap();
        if !answer.entries.is_empty() {
            break answer;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(answer.gaps[0].records.is_some_and(|records| records >= 1), "{:?}", answer.gaps);
}

#[test]
fn workspace_that_nobody_serves_is_let_go() {
    let (_dir, recorder) = recorder();
    let tracker = recorder.tracker("w1");
    let waiting = Arc::downgrade(&tracker);
    drop(tracker);
    let deadline = Instant::now() + PATIENCE;
    while waiting.strong_count() > 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    recorder.tracker("w1").record(created(10, 1, "f"));
    assert_eq!(stored(&recorder, "w1").len(), 1);
}
